"""Who may see and change the gateway from a browser, and what a foreign page cannot do."""

import re
from pathlib import Path

import pytest
from dashboard_world import EVIL, JSON, ask, change, client_of, gateway_of, put, token_of, words_of
from log_world import entry
from starlette.testclient import TestClient

from coterie.gateway.entries import Attempt, Candidate
from coterie.gateway.logins import LASTS, TRIES, Logins
from coterie.gateway.wire import ApiError

KEY = "correct horse battery staple"
SEEN = (
    "/dashboard/api/status", "/dashboard/api/traffic", "/dashboard/api/spending",
    "/dashboard/api/experts", "/dashboard/api/keys", "/dashboard/api/plane",
    "/dashboard/api/decisions/x", "/dashboard/decisions/x", "/",
)  # fmt: skip
CHANGED = (
    "/dashboard/api/policy", "/dashboard/api/keys/create", "/dashboard/api/keys/revoke",
    "/dashboard/api/experts/reset", "/dashboard/api/reload", "/dashboard/api/logout",
)  # fmt: skip


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTERIE_ADMIN_KEY", KEY)


def log_in(client: TestClient, key: str = KEY) -> object:
    return client.post("/dashboard/login", data={"key": key})


@pytest.mark.usefixtures("admin")
def test_without_a_login_there_is_nothing_but_the_form(tmp_path: Path) -> None:
    with gateway_of(tmp_path) as gateway:
        client = client_of(gateway)
        assert {client.get(path).status_code for path in SEEN} == {401}
        assert {client.post(path, json={}).status_code for path in CHANGED} == {401}
        page = client.get("/").text
        assert 'action="/dashboard/login"' in page
        assert "three" not in page
        assert client.get("/metrics").status_code == 401


@pytest.mark.usefixtures("admin")
def test_a_login_sets_a_cookie_that_scripts_and_other_sites_cannot_use(tmp_path: Path) -> None:
    with gateway_of(tmp_path) as gateway:
        client = client_of(gateway)
        answer = client.post("/dashboard/login", data={"key": KEY})
        told = answer.headers["set-cookie"]
        assert answer.status_code == 303
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(told.split("; "))
        assert KEY not in told
        assert "horse" not in told
        assert client.get("/").status_code == 200
        assert client.get("/dashboard/api/keys").status_code == 200
        assert change(client, "keys/create", {"name": "x"}).status_code == 200


@pytest.mark.usefixtures("admin")
def test_a_logout_ends_the_session_also_where_its_cookie_was_copied(tmp_path: Path) -> None:
    with gateway_of(tmp_path) as gateway:
        client, thief = client_of(gateway), client_of(gateway)
        log_in(client)
        thief.cookies.update(client.cookies)
        # each client has an application of its own over the same gateway
        assert thief.get("/").status_code == 200
        assert change(client, "logout", {}).status_code == 200
        assert client.get("/").status_code == 401
        assert thief.get("/").status_code == 401


@pytest.mark.usefixtures("admin")
def test_a_wrong_key_is_refused_and_many_wrong_keys_are_slowed_down(tmp_path: Path) -> None:
    with gateway_of(tmp_path) as gateway:
        client = client_of(gateway)
        codes = [client.post("/dashboard/login", data={"key": "no"}).status_code for _ in range(11)]
        assert codes == [401] * TRIES + [429]
        assert client.get("/").status_code == 401


@pytest.mark.usefixtures("admin")
def test_a_program_with_the_key_needs_no_page_and_an_inference_key_is_none(tmp_path: Path) -> None:
    with gateway_of(tmp_path) as gateway:
        client = client_of(gateway)
        mine = {"authorization": f"Bearer {KEY}"}
        made = client.post("/dashboard/api/keys/create", json={"name": "x"}, headers=mine)
        secret = made.json()["secret"]
        other = {"authorization": f"Bearer {secret}"}
        assert client.get("/dashboard/api/keys", headers=other).status_code == 401
        assert client.get("/v1/models", headers=other).status_code == 200


def test_sessions_end_after_their_time_and_with_another_key_or_process() -> None:
    now = [1000.0]
    logins = Logins(lambda: now[0])
    session = logins.begin(KEY, KEY)
    assert logins.valid(session, KEY)
    assert not logins.valid(session, KEY + "x")
    assert not Logins(lambda: now[0]).valid(session, KEY)
    longer = session.replace(session.split(".")[0], "9999999999")
    assert not logins.valid(longer, KEY)
    now[0] += LASTS
    assert not logins.valid(session, KEY)


@pytest.mark.parametrize("session", ["", ".", "..", "a.b.c", "9" * 400 + ".x.y", "\udcff.é.ü"])
def test_a_session_that_was_made_up_is_none(session: str) -> None:
    assert not Logins().valid(session, KEY)
    with pytest.raises(ApiError, match="wrong"):
        Logins().begin("", "")


def test_a_page_under_a_foreign_name_sees_and_changes_nothing(tmp_path: Path) -> None:
    with gateway_of(tmp_path) as gateway:
        token = token_of(client_of(gateway).get("/").text)
        evil = client_of(gateway, "evil.example:8000")  # a name that was pointed here
        headers = {"x-coterie-token": token, **JSON}
        assert {evil.get(path).status_code for path in SEEN} == {403}
        assert {evil.post(p, content="{}", headers=headers).status_code for p in CHANGED} == {403}
        assert evil.get("/dashboard/dashboard.js").status_code == 403
        assert "token" not in evil.get("/").text.lower().replace("not served", "")


def test_a_foreign_page_changes_nothing_even_with_the_token(tmp_path: Path) -> None:
    with gateway_of(tmp_path, routed=False) as gateway:
        client = client_of(gateway)
        for origin in ("http://evil.example", "null", "http://127.0.0.1:9999"):
            answer = change(client, "keys/create", {"name": "x"}, origin=origin)
            assert answer.status_code == 403
            assert client.get("/dashboard/api/keys", headers={"origin": origin}).status_code == 403
        assert change(client, "keys/create", {"name": "x"}).status_code == 200


def test_a_change_needs_the_pages_token_and_json(tmp_path: Path) -> None:
    with gateway_of(tmp_path) as gateway:
        client = client_of(gateway)
        for path in CHANGED:
            assert client.post(path, content="{}", headers=JSON).status_code == 403
            wrong = {"x-coterie-token": "0" * 64, **JSON}
            assert client.post(path, content="{}", headers=wrong).status_code == 403
            assert client.get(path).status_code in (404, 405)
        token = token_of(client.get("/").text)
        form = {"x-coterie-token": token, "content-type": "text/plain"}
        assert client.post(CHANGED[1], content='{"name":"x"}', headers=form).status_code == 415
        assert client.get("/dashboard/api/keys").text.count("sk-co-") == 0


@pytest.mark.usefixtures("admin")
def test_the_token_of_another_session_does_not_count(tmp_path: Path) -> None:
    with gateway_of(tmp_path) as gateway:
        one, two = client_of(gateway), client_of(gateway)
        log_in(one)
        log_in(two)
        token = token_of(one.get("/").text)
        headers = {"x-coterie-token": token, **JSON}
        assert two.post(CHANGED[4], content="{}", headers=headers).status_code == 403
        assert one.post(CHANGED[4], content="{}", headers=headers).status_code == 200


def test_from_afar_without_an_administrators_key_it_is_closed(tmp_path: Path) -> None:
    with gateway_of(tmp_path, host="0.0.0.0") as gateway:
        client = client_of(gateway)
        assert client.get("/").status_code == 403
        assert "COTERIE_ADMIN_KEY" in client.get("/").text
        assert client.get("/dashboard/api/keys").status_code == 403


def test_every_answer_is_sealed(tmp_path: Path) -> None:
    paths = ("/", "/dashboard/api/keys", "/dashboard/dashboard.js", "/dashboard/decisions/x")
    with gateway_of(tmp_path, routed=False) as gateway:
        answers = [client_of(gateway).get(path).headers for path in paths]
    for headers in answers:
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "*" not in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"


def test_no_page_has_script_or_style_of_its_own_in_it(tmp_path: Path) -> None:
    with gateway_of(tmp_path) as gateway:
        page = client_of(gateway).get("/").text
    assert re.findall(r"<script[^>]*>[^<]+", page) == []
    assert "<style" not in page
    assert re.findall(r"\s(?:on\w+|style)=", page) == []


def test_foreign_texts_are_texts_wherever_they_are_shown(tmp_path: Path) -> None:
    told = entry(
        1, EVIL, "ann", 0.1, error=EVIL, decided=EVIL, expert=EVIL, policy=EVIL, session=EVIL,
        reason=EVIL, shadow=EVIL, composition=EVIL, status=502, team=EVIL,
        candidates=[Candidate(EVIL, 0.5, 0.1, 1.0, EVIL)],
        attempts=[Attempt(EVIL, EVIL)], constraints={EVIL: EVIL}, key=EVIL,
        evidence={"flips_at": 1.0, "flips_to": EVIL, "nearest": [{EVIL: EVIL}]},
    )  # fmt: skip
    told.asked = EVIL
    answers = {EVIL: lambda call: EVIL, "bob": lambda call: "b"}
    with gateway_of(tmp_path, answers, routed=False) as gateway:
        put(gateway, told)
        gateway.trouble = EVIL
        client = client_of(gateway)
        ask(client, EVIL, model=EVIL)
        gateway.ledger.add_feedback(told.id, 0.5, EVIL, EVIL)
        assert change(client, "keys/create", {"name": EVIL, "experts": [EVIL]}).status_code == 200
        pages = [client.get(path).text for path in ("/", f"/dashboard/decisions/{told.id}")]
    for page in pages:
        assert EVIL not in page
        assert "<script>" not in page
        assert "<img" not in page
        assert page.count("&lt;script&gt;alert(2)&lt;/script&gt;") >= 5


def test_json_answers_are_never_taken_for_pages(tmp_path: Path) -> None:
    with gateway_of(tmp_path) as gateway:
        put(gateway, entry(1, EVIL, "ann", 0.1, expert=EVIL))
        answer = client_of(gateway).get("/dashboard/api/traffic")
    assert answer.headers["content-type"] == "application/json"
    assert EVIL in words_of(answer.json())


def test_a_path_of_a_decision_cannot_leave_its_place(tmp_path: Path) -> None:
    strange = entry(1, "a", "ann", 1.0)
    strange.id = "../../evil?x=\"><b>'"
    with gateway_of(tmp_path) as gateway:
        put(gateway, strange)
        page = client_of(gateway).get("/").text
    assert 'href="/dashboard/decisions/..%2F..%2Fevil%3Fx%3D%22%3E%3Cb%3E%27"' in page
