"""What the dashboard shows, read from its pages and its JSON without a browser."""

import asyncio
import contextlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dashboard_world import ask, client_of, gateway_of, plain, put, serve_some, words_of
from log_world import entry, records, texts

import coterie.gateway.dashboard
from coterie.gateway.dashboard import site
from coterie.gateway.dashboard.nodes import element, render, table
from coterie.gateway.dashboard.watch import watch
from coterie.gateway.drift import DriftMonitor
from coterie.gateway.entries import Attempt, Candidate, Tokens
from coterie.gateway.ledger import Ledger, Spend
from coterie.gateway.observing import Memory, Observing
from coterie.gateway.shadow import Shadow
from coterie.policies import Utility
from coterie.routers.neighbors import KNN
from coterie.types import Call, Query

STYLE = (Path(coterie.gateway.dashboard.__file__).parent / "dashboard.css").read_text()
SCRIPT = (Path(coterie.gateway.dashboard.__file__).parent / "dashboard.js").read_text()


class Outline(HTMLParser):
    """Tags, ids and labels of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.unlabelled: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found.append((tag, given))
        labelled = "label" in self.open or given.get("id") == "price"
        if tag in ("input", "select", "textarea") and not labelled:
            self.unlabelled.append(str(given))
        if tag not in ("input", "meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_shows_traffic_experts_and_keys_without_any_script(tmp_path: Path) -> None:
    with gateway_of(tmp_path) as gateway:
        client = client_of(gateway)
        ask(client, "What is 1 plus 2?")
        ask(client, "no", model="nobody")
        text = plain(client.get("/").text)
    assert re.search(r"auto\s+ann\s+utility\s+200", text)
    assert "404 model_not_found" in text
    assert re.search(r"ann\s+healthy\s+remote", text)
    assert "no key yet" in text


def test_the_page_is_well_formed_labelled_and_has_landmarks(tmp_path: Path) -> None:
    with gateway_of(tmp_path) as gateway:
        outline = Outline(client_of(gateway).get("/").text)
    tags = [tag for tag, _ in outline.found]
    assert outline.open == []
    assert outline.unlabelled == []
    assert {"main", "nav", "header", "h1", "h2"} <= set(tags)
    ids = [given["id"] for _, given in outline.found if "id" in given]
    assert len(ids) == len(set(ids))
    assert all(given["aria-labelledby"] in ids for tag, given in outline.found if tag == "section")


def test_traffic_is_filtered_by_expert_and_by_outcome(tmp_path: Path) -> None:
    with gateway_of(tmp_path) as gateway:
        put(gateway, entry(1, "a", "ann", 1.0), entry(2, "b", "bob", 1.0, status=502, error="cut"))
        client = client_of(gateway)

        def rows(query: str) -> str:
            return words_of(client.get(f"/dashboard/api/traffic?{query}").json())

        assert "ann" in rows("expert=ann")
        assert "bob" not in rows("expert=ann")
        assert "502 cut" in rows("status=failed")
        assert "ann" not in rows("status=failed")
        assert "no request matches" in rows("status=429")
        assert "bob" in plain(client.get("/?status=502").text)


def test_what_is_unusual_about_a_request_is_marked(tmp_path: Path) -> None:
    tries = [Attempt("bob", "reset", 502), Attempt("ann", tokens=Tokens(1, 1, estimated=True))]
    odd = entry(1, "a", "ann", 0.1, attempts=tries, shadow="bob", composition="recruit")
    with gateway_of(tmp_path) as gateway:
        put(gateway, odd)
        shown = words_of(client_of(gateway).get("/dashboard/api/traffic").json())
    for mark in ("explored", "1 failed try", "shadow: bob", "recruit"):
        assert mark in shown


def test_a_decision_shows_candidates_what_barred_whom_attempts_and_what_flips_it(
    tmp_path: Path,
) -> None:
    evidence = {"willingness_to_pay": 3.0, "flips_at": 1.25, "flips_to": "bob"}
    candidates = [
        Candidate("ann", 0.9, 0.05, 4.0),
        Candidate("bob", 0.6, 0.1, 2.0),
        Candidate("cid", 0.1, 0.1, 1.0, "lacks vision"),
    ]
    tries = [Attempt("bob", "timeout_first", 504, 1.5), Attempt("ann", seconds=0.5)]
    made = entry(
        1, "a", "ann", 1.0, evidence=evidence, candidates=candidates, attempts=tries,
        constraints={"session": {"expert": "ann", "saves": 0.5}}, shadow="cid",
    )  # fmt: skip
    with gateway_of(tmp_path) as gateway:
        put(gateway, made)
        client = client_of(gateway)
        shown = words_of(client.get(f"/dashboard/api/decisions/{made.id}").json())
        page = client.get(f"/dashboard/decisions/{made.id}")
    for text in (
        "lacks vision", "timeout_first", "At a willingness to pay of 1.25 it would be bob.",
        "would have asked cid", "expert: ann, saves: 0.5", "0.900, 0.802 to 0.998",
    ):  # fmt: skip
        assert text in shown
    assert "lacks vision" in plain(page.text)


def test_an_unknown_decision_is_a_404(tmp_path: Path) -> None:
    with gateway_of(tmp_path) as gateway:
        client = client_of(gateway)
        assert client.get("/dashboard/api/decisions/req_none").status_code == 404
        assert client.get("/dashboard/decisions/req_none").status_code == 404


def test_spending_is_summed_by_day_key_and_expert_with_the_savings_interval(
    tmp_path: Path,
) -> None:
    with gateway_of(tmp_path) as gateway:
        client = client_of(gateway)
        serve_some(client, 24)
        shown = words_of(client.get("/dashboard/api/spending").json())
    assert "Spend by day (UTC)" in shown
    assert "without a key 24 0" in shown
    assert "Paired bootstrap over the latest 24 requests" in shown
    assert re.search(r"saved against always-best -?[\d.]+ % 95 %: -?[\d.]+ % to", shown)


def test_all_pages_share_one_look_at_the_whole_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "REST", 1e6)
    asked: list[str] = []
    with gateway_of(tmp_path) as gateway:
        sums = gateway.ledger.spend

        async def spend(by: str, since: float = 0.0) -> list[Spend]:
            asked.append(by)
            return await sums(by, since)

        monkeypatch.setattr(gateway.ledger, "spend", spend)
        shown = site.Dashboard(gateway)

        async def pages() -> None:
            await asyncio.gather(*[shown._nodes("spending", {}) for _ in range(5)])

        asyncio.run(pages())
    assert asked == ["day", "key", "expert"]


def test_an_expert_that_fails_is_shown_as_left_alone_with_its_failures(tmp_path: Path) -> None:
    def broken(call: Call) -> str:
        raise RuntimeError("down")

    answers = {"ann": broken, "bob": lambda call: "bob", "cid": lambda call: "cid"}
    with gateway_of(tmp_path, answers) as gateway:
        client = client_of(gateway)
        for _ in range(6):
            ask(client, model="ann")
        shown = words_of(client.get("/dashboard/api/experts").json())
    assert "left alone" in shown
    assert "try again now" in shown
    assert re.search(r"ann left alone, [\d.]+ s remote \w+ \d", shown)


def test_a_gateway_without_a_router_says_why_there_is_no_plane(tmp_path: Path) -> None:
    with gateway_of(tmp_path, routed=False) as gateway:
        client = client_of(gateway)
        assert "No router is fitted" in plain(client.get("/").text)
        assert client.get("/dashboard/api/plane").status_code == 404
        assert "cid" in client.get("/").text


def test_the_page_and_its_script_name_nothing_outside(tmp_path: Path) -> None:
    with gateway_of(tmp_path) as gateway:
        page = client_of(gateway).get("/").text
    given = [text or "" for _, a in Outline(page).found for n, text in a.items() if n in
             ("href", "src", "action", "data-source")]  # fmt: skip
    assert all(text.startswith(("/", "#", "data:image/svg")) for text in given)
    assert not any(text.startswith("//") for text in given)
    assert re.findall(r"https?://[^\"']+", SCRIPT) == ["http://www.w3.org/2000/svg"]
    assert "url(" not in STYLE
    assert "innerHTML" not in SCRIPT


def test_nodes_render_as_html_and_encode_as_json() -> None:
    node = element("p", "a < b", element("b", "&"), None, class_='x"y', hidden=False)
    assert render(node) == '<p class="x&quot;y">a &lt; b<b>&amp;</b></p>'
    assert json.loads(_encoded(node)) == ["p", {"class": 'x"y'}, ["a < b", ["b", {}, ["&"]]]]
    assert "nothing yet" in render(table("t", ("a", "b"), [], 1))


def _encoded(node: Any) -> bytes:
    from coterie.gateway.pages import respond

    return bytes(respond(node).body)


def colours(scheme: str) -> dict[str, str]:
    """The variables of a colour scheme."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.S)
    found = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks]
    return found[0] if scheme == "light" else {**found[0], **found[1]}


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


TEXTS = [
    ("ink", "paper"), ("ink", "tint"), ("muted", "paper"), ("muted", "tint"), ("accent", "paper"),
    ("accent", "tint"), ("on-accent", "accent"), ("good", "good-tint"), ("warn", "warn-tint"),
    ("bad", "bad-tint"), ("bad", "tint"),
]  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_a_contrast_of_at_least_4_5(scheme: str) -> None:
    known = colours(scheme)
    low = {pair for pair in TEXTS if contrast(known[pair[0]], known[pair[1]]) < 4.5}
    assert low == set()
    assert contrast(known["edge"], known["paper"]) >= 3  # borders of fields
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_either_store_knows_failures_and_pairs_of_cost_and_always_best(ledger: Ledger) -> None:
    ledger.write(entry(1, "a", "ann", 1.0, baseline=5.0))
    ledger.write(entry(2, "b", "bob", 1.0, baseline=3.0))
    ledger.write(entry(3, "c", "cid", 1.0, status=502))

    async def read() -> None:
        failed = await ledger.recent(10, failed=True)
        fine = await ledger.recent(10, failed=False, expert="ann")
        assert [one.expert for one in failed] == ["cid"]
        assert [one.expert for one in fine] == ["ann"]
        assert await ledger.pairs(0.0, 10) == [(2.0, 3.0), (4.0, 5.0)]
        assert await ledger.pairs(0.0, 1) == [(2.0, 3.0)]

    asyncio.run(read())


def test_drift_and_the_shadow_router_are_shown_where_they_are_switched_on() -> None:
    assert watch({"drift": None, "shadow": None}) == []
    monitor = DriftMonitor.fit(np.random.default_rng(0).normal(size=(300, 4)), window=64)
    shadow = Shadow(KNN().fit(records(20)), Utility())
    for text in texts(6):
        shadow.observe(Query.from_text(text, text), "ann")
    for _ in range(64):
        monitor.observe(np.full(4, 50.0))
    with contextlib.closing(shadow):
        observing = Observing(Memory(None), monitor, shadow)
        shown = plain(render(*watch(observing.state())))
    assert "drift alarm" in shown
    assert "64 of the last 64 requests" in shown
    assert "agrees on 50.0 % of 6 requests" in shown
    assert re.search(r"would have asked.*bob 3", shown)
