"""What is changed from the dashboard, and what it refuses."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from dashboard_world import (
    JSON,
    ask,
    change,
    client_of,
    gateway_of,
    plain,
    serve_some,
    token_of,
    words_of,
)

from coterie.gateway.dashboard import site
from coterie.gateway.entries import Team
from coterie.gateway.routing import Named
from coterie.policies import Recruit, Utility
from coterie.types import Call


def test_a_key_is_made_shown_once_used_and_revoked(tmp_path: Path) -> None:
    with gateway_of(tmp_path) as gateway:
        client = client_of(gateway)
        limits = {"name": "ci", "budget": 5, "period": "day", "rpm": 60, "experts": ["ann"]}
        made = change(client, "keys/create", limits).json()
        listed = client.get("/dashboard/api/keys").text
        assert made["secret"] not in listed
        assert made["prefix"] in listed
        assert "budget 5 day, 60 requests/min" in words_of(json.loads(listed))
        client.headers["authorization"] = f"Bearer {made['secret']}"
        assert ask(client).json()["model"] == "ann"
        assert change(client, "keys/revoke", {"id": made["id"]}).status_code == 200
        assert ask(client).status_code == 401
        assert "revoked" in words_of(client.get("/dashboard/api/keys").json())


def test_what_a_key_spent_is_shown_against_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "REST", 0)
    with gateway_of(tmp_path) as gateway:
        client = client_of(gateway)
        made = change(client, "keys/create", {"name": "ci", "budget": 0.02}).json()
        client.headers["authorization"] = f"Bearer {made['secret']}"
        assert ask(client, model="ann").status_code == 200
        shown = words_of(client.get("/dashboard/api/keys").json())
        spent = words_of(client.get("/dashboard/api/spending").json())
    assert "ci 1 0" in spent
    assert "0.0000" in shown
    assert "0.1 %" in shown


def test_teams_are_listed_with_their_budgets(tmp_path: Path) -> None:
    with gateway_of(tmp_path) as gateway:
        client = client_of(gateway)
        made = change(client, "keys/create", {"name": "x", "team": "lab"})
        assert made.status_code == 409
        assert "no team 'lab'" in made.json()["error"]["message"]
        asyncio.run(gateway.ledger.put_team(Team("lab", 7.0, "month")))
        assert change(client, "keys/create", {"name": "x", "team": "lab"}).status_code == 200
        assert "lab budget 7 month 0" in words_of(client.get("/dashboard/api/keys").json())


NO_KEYS: list[tuple[dict[str, Any], str]] = [
    ({}, "expected a name"),
    ({"name": "x", "budget": "5"}, "budget must be a number"),
    ({"name": "x", "budget": -1}, "at least 0"),
    ({"name": "x", "rpm": 1.5}, "rpm must be a number"),
    ({"name": "x", "rpm": True}, "rpm must be a number"),
    ({"name": "x", "period": "year"}, "expected one of total, day, month"),
    ({"name": "x", "expires": "soon"}, "date like"),
    ({"name": "x", "experts": "ann"}, "list of names"),
    ({"name": "x", "digest": "00"}, "no such field: digest"),
    ({"name": 5}, "name must be a text"),
]


def test_a_key_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with gateway_of(tmp_path, routed=False) as gateway:
        client = client_of(gateway)
        for fields, why in NO_KEYS:
            answer = change(client, "keys/create", fields)
            assert answer.status_code in (400, 409), fields
            assert why in answer.json()["error"]["message"]
        assert "no key yet" in words_of(client.get("/dashboard/api/keys").json())


def test_two_keys_of_one_name_are_refused(tmp_path: Path) -> None:
    with gateway_of(tmp_path, routed=False) as gateway:
        client = client_of(gateway)
        assert change(client, "keys/create", {"name": "x"}).status_code == 200
        assert "already" in change(client, "keys/create", {"name": "x"}).json()["error"]["message"]
        assert change(client, "keys/revoke", {"id": "key_none"}).status_code == 409


def test_a_willingness_to_pay_is_tried_first_and_applied_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with gateway_of(tmp_path) as gateway:
        client = client_of(gateway)
        serve_some(client, 24)
        found = client.get("/dashboard/api/plane?position=0").json()
        told = words_of(found["words"])
        assert "auto now utility at 10" in told
        assert "requests that go to another expert 100.0 %" in told
        assert ask(client).json()["model"] == "ann"  # nothing changed yet
        with caplog.at_level(logging.WARNING, "coterie.gateway"):
            done = change(client, "policy", {"willingness_to_pay": found["price"]})
        assert done.status_code == 200
        assert "auto: utility at 10 → utility at" in caplog.text
        assert ask(client).json()["model"] == "cid"
        status = words_of(client.get("/dashboard/api/status").json())
        assert "1 changes made here" in status
        assert client.get("/dashboard/api/plane").json()["position"] == found["position"]


def test_an_infinite_willingness_to_pay_is_null(tmp_path: Path) -> None:
    with gateway_of(tmp_path) as gateway:
        client = client_of(gateway)
        found = client.get("/dashboard/api/plane?position=9999").json()
        assert (found["price"], found["shown"]) == (None, "∞")
        assert change(client, "policy", {"willingness_to_pay": None}).status_code == 200
        default = gateway.live.services.routing.default
        assert default is not None
        assert default.policy == Utility()


def test_a_willingness_to_pay_that_is_none_changes_nothing(tmp_path: Path) -> None:
    with gateway_of(tmp_path) as gateway:
        client = client_of(gateway)
        before = gateway.live.services.routing.default
        prices: list[Any] = ["1", -1, True, [], "nan"]
        for price in prices:
            assert change(client, "policy", {"willingness_to_pay": price}).status_code == 400
        assert change(client, "policy", {}).status_code == 400
        assert gateway.live.services.routing.default is before


def test_a_policy_that_minds_no_price_gives_way_to_the_plug_in_rule(tmp_path: Path) -> None:
    with gateway_of(tmp_path) as gateway:
        routing = gateway.live.services.routing
        routing.default = Named("recruit", Recruit(2), "recruit")
        client = client_of(gateway)
        told = words_of(client.get("/dashboard/api/plane?position=60").json()["words"])
        assert "auto now recruit auto then utility at" in told
        assert change(client, "policy", {"willingness_to_pay": 3.0}).status_code == 200
        assert routing.default == Named("utility", Utility(3.0), "single")


def test_a_reload_reads_the_file_and_a_refusal_is_shown(tmp_path: Path) -> None:
    with gateway_of(tmp_path) as gateway:
        client = client_of(gateway)
        path = tmp_path / "pool.toml"
        text = path.read_text()
        change(client, "policy", {"willingness_to_pay": 0.0})
        assert change(client, "reload", {}).status_code == 200
        default = gateway.live.services.routing.default
        assert default is not None
        assert default.policy == Utility(10.0)
        path.write_text(text.replace("'utility'", "'no-such-policy'"))
        refused = change(client, "reload", {})
        assert refused.status_code == 409
        assert "no-such-policy" in refused.json()["error"]["message"]
        shown = plain(client.get("/").text)
        assert "The last reload was refused" in shown
        assert "no-such-policy" in shown
        path.write_text(text)
        assert change(client, "reload", {}).status_code == 200
        assert "refused:" not in plain(client.get("/").text)


def test_a_breaker_is_closed_so_that_the_next_request_passes(tmp_path: Path) -> None:
    well = [False]

    def shaky(call: Call) -> str:
        if not well[0]:
            raise RuntimeError("down")
        return "up again"

    with gateway_of(tmp_path, {"ann": shaky}, routed=False) as gateway:
        client = client_of(gateway)
        assert change(client, "experts/reset", {"expert": "ann"}).status_code == 404
        for _ in range(6):
            ask(client, model="ann")
        breaker = gateway.live.services.attempts.deployments["ann"].breaker
        assert breaker.state == "open"
        well[0] = True
        assert change(client, "experts/reset", {"expert": "ann"}).status_code == 200
        assert breaker.state == "closed"
        assert ask(client, model="ann").status_code == 200


def test_a_body_that_is_no_object_is_a_400(tmp_path: Path) -> None:
    with gateway_of(tmp_path, routed=False) as gateway:
        client = client_of(gateway)
        headers = {"x-coterie-token": token_of(client.get("/").text), **JSON}
        for body in (b"[]", b"null", b"{", b"[" * 5000, b'"x"', b"\xff"):
            answer = client.post("/dashboard/api/reload", content=body, headers=headers)
            assert answer.status_code == 400, body
