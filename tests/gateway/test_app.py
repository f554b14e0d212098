"""What a client of the gateway sees, and what the log says of it afterwards."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from served_world import QUALITY, Visit, World, serving, write_pool

from coterie.gateway.asked import Asked
from coterie.gateway.keys import make_key
from coterie.gateway.routing import Plan


def run(path: Path, main: Callable[[World], Awaitable[None]], **changes: Any) -> None:
    async def inside() -> None:
        async with serving(path, **changes) as world:
            await main(world)

    asyncio.run(asyncio.wait_for(inside(), 10))


def test_an_answer_says_who_gave_it_why_and_what_it_cost(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        answer = await world.ask(headers={"x-request-id": "mine"})
        assert (answer.status, answer.text) == (200, "ann says so")
        assert answer.json["model"] == answer.headers["x-coterie-model"] == "ann"
        assert answer.headers["x-request-id"] == "mine"
        assert answer.headers["x-coterie-policy"] == "utility"
        assert answer.headers["x-coterie-attempts"] == "1"
        (row,) = await world.log()
        assert row.id == answer.headers["x-coterie-decision-id"]
        assert float(answer.headers["x-coterie-cost"]) == row.cost > 0
        assert (row.status, row.expert, row.asked) == (200, "ann", "auto")
        assert row.tokens.completion == answer.json["usage"]["completion_tokens"]

    run(write_pool(tmp_path), main)


def test_a_stream_has_the_headers_of_one_and_ends_with_done(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        answer = await world.ask(stream=True)
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.text.strip() == "ann says so"
        assert answer.events[-1] == "[DONE]"
        (row,) = await world.log()
        assert (row.status, row.stream, row.first_token > 0) == (200, True, True)

    run(write_pool(tmp_path), main)


def test_a_stream_that_breaks_says_so_inside_and_has_no_done(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        answer = await world.ask("ann", stream=True)
        assert answer.status == 200
        assert answer.events[-1]["error"]["message"] == "ann: broke"
        assert answer.ended
        (row,) = await world.log()
        assert (row.status, row.error) == (502, "reset")
        assert row.attempts[-1].kind == "reset"
        assert row.tokens.completion > 0

    run(write_pool(tmp_path, {"ann": {"breaks": 2}}, quality=None), main)


def test_whole_answers_are_never_cut_ones(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        answer = await world.ask("ann")
        assert (answer.status, answer.error["message"]) == (502, "ann: broke")
        assert answer.headers["x-should-retry"] == "false"
        assert answer.headers["x-coterie-attempts"] == "1"
        assert answer.headers["x-coterie-fallbacks"] == "0"

    path = write_pool(tmp_path, {"ann": {"breaks": 2}}, quality=None, gateway={"retries": 0})
    run(path, main)


def test_the_next_expert_answers_where_the_first_fails_before_a_word(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        for stream in (False, True):
            answer = await world.ask(stream=stream)
            assert (answer.status, answer.text.strip()) == (200, "bob says so")
            assert answer.headers["x-coterie-model"] == "bob"
            assert answer.headers["x-coterie-fallbacks"] == "1"
        row = (await world.log())[0]
        assert (row.decided, row.expert) == ("ann", "bob")
        assert [one.kind for one in row.attempts] == ["reset", ""]

    run(write_pool(tmp_path, {"ann": {"breaks": 0}, "bob": {}}, gateway={"retries": 0}), main)


def test_a_stream_counts_the_attempt_that_it_comes_from(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        answer = await world.ask(stream=True)
        assert answer.headers["x-coterie-model"] == "bob"
        assert answer.headers["x-coterie-attempts"] == "2"

    run(write_pool(tmp_path, {"ann": {"breaks": 0}, "bob": {}}, gateway={"retries": 0}), main)


def test_a_silent_stream_gets_comments_after_a_while(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        answer = await world.ask("ann", stream=True)
        beats = [chunk for chunk in answer.chunks if chunk.startswith(b":")]
        assert answer.chunks[: len(beats)] == beats
        assert len(beats) >= 2
        assert answer.text.strip() == "one"
        assert answer.events[-1] == "[DONE]"
        assert float(answer.headers["x-coterie-overhead-ms"]) < 50

    path = write_pool(
        tmp_path,
        {"ann": {"says": "one", "pause": 0.2}},
        quality=None,
        gateway={"heartbeat": 0.06},
    )
    run(path, main)


def test_a_failure_after_a_comment_arrives_in_the_stream(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        answer = await world.ask("ann", stream=True)
        assert answer.status == 200
        assert answer.chunks[0] == b": keep-alive\n\n"
        assert [event["error"]["message"] for event in answer.events] == ["ann: broke"]
        assert (await world.log())[0].status == 502

    path = write_pool(
        tmp_path,
        {"ann": {"pause": 0.1, "breaks": 0}},
        quality=None,
        gateway={"heartbeat": 0.03, "retries": 0},
    )
    run(path, main)


@pytest.mark.parametrize(
    ("stream", "seen"),
    [(False, 0), (True, 0), (True, 2)],
    ids=["whole", "before the first byte", "in mid-stream"],
)
def test_who_leaves_ends_the_call_and_is_logged(tmp_path: Path, stream: bool, seen: int) -> None:
    async def main(world: World) -> None:
        visit = world.visit("ann", stream=stream)
        going = asyncio.ensure_future(visit.run())
        while not world.expert("ann").calls:
            await asyncio.sleep(0.001)
        await visit.sees(seen)
        visit.leave()
        await going
        assert world.expert("ann").ended == ["left"]
        (row,) = await world.log()
        assert (row.status, row.error) == (499, "client_closed")
        assert row.attempts[-1].kind == "cancelled"
        assert row.tokens.estimated
        assert (row.tokens.completion > 0) == (seen > 0)
        assert world.gateway.live.services.meters.disconnects == 1
        assert world.gateway.live.services.meters.in_flight == 0

    says = "several words that take a while " * 20
    run(write_pool(tmp_path, {"ann": {"says": says, "pause": 0.02}}, quality=None), main)


def test_who_leaves_when_all_is_said_is_logged_once(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        visit = world.visit("ann", stream=True)
        told: list[Any] = []

        async def slow(message: Any) -> None:
            told.append(message)
            if message.get("body") == b"data: [DONE]\n\n":
                visit.leave()
                await asyncio.sleep(0.05)

        await world.app(visit.scope, visit._receive, slow)
        (row,) = await world.log()
        assert row.status == 200
        meters = world.gateway.live.services.meters
        assert sum(meters.requests.values()) == 1

    run(write_pool(tmp_path, quality=None), main)


def test_a_reservation_comes_back_when_the_client_leaves(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        secret = await new_key(world, budget=1000.0, concurrency=1)
        bearer = {"authorization": f"Bearer {secret}"}
        visit = world.visit("ann", bearer, stream=True)
        going = asyncio.ensure_future(visit.run())
        await visit.sees(1)
        busy = await world.ask("bob", bearer)
        assert (busy.status, busy.error["code"]) == (429, "rate_limit_exceeded")
        visit.leave()
        await going
        again = await world.ask("bob", bearer, max_tokens=10)
        assert again.status == 200

    slow = {"ann": {"says": "word " * 50, "pause": 0.02}, "bob": {}}
    run(write_pool(tmp_path, slow, quality=None), main)


async def new_key(world: World, **settings: Any) -> str:
    key, secret = make_key("tester", **settings)
    await world.gateway.ledger.put_key(key)
    await world.gateway.accounts.refresh()
    return secret


def test_while_draining_new_requests_are_sent_elsewhere(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        world.gateway.live.draining = True
        answer = await world.ask()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert answer.error["code"] == "overloaded"
        ready = await world.get("/health/ready")
        assert (ready.status, ready.json["why"]) == (503, "shutting down")

    run(write_pool(tmp_path), main)


def test_a_body_that_is_too_long_is_refused_before_it_is_held(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        told = {"content-length": "5000"}
        announced = Visit(world.app, [b"x" * 500] * 10, headers=told)
        assert (await announced.run()).status == 413
        assert announced.read == 0
        silent = Visit(world.app, [b"x" * 500] * 10)
        answer = await silent.run()
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")
        assert silent.read == 3

    run(write_pool(tmp_path, gateway={"max_body": "1 kB"}), main)


def test_compressed_bodies_and_bodies_that_never_end_are_refused(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        packed = await world.ask(headers={"content-encoding": "gzip"})
        assert (packed.status, packed.error["code"]) == (415, "unsupported_encoding")
        torn = Visit(world.app, [b'{"model":', b'"a', b""])
        torn.torn = True
        torn.leave()
        assert (await torn.run()).status == 499  # which nobody hears any more
        assert await world.log() == []
        assert world.gateway.live.services.meters.in_flight == 0

    run(write_pool(tmp_path), main)


def test_every_outcome_has_its_row(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        await world.ask("ann")
        await world.ask("bob", stream=True)
        await world.ask("nobody")
        await world.ask("ann", coterie={"region": "moon"})
        await world.ask("cid")
        rows = [(r.asked, r.status, r.error, r.tokens.total > 0) for r in await world.log()]
        assert sorted(rows) == sorted(
            [
                ("ann", 200, "", True),
                ("bob", 200, "", True),
                ("nobody", 404, "model_not_found", False),
                ("ann", 400, "no_eligible_expert", False),
                ("cid", 502, "reset", False),
            ]
        )
        assert world.gateway.live.services.meters.in_flight == 0

    path = write_pool(tmp_path, {"ann": {}, "bob": {}, "cid": {"breaks": 1}}, quality=None)
    run(path, main)


def test_a_fault_of_ours_is_an_answer_and_a_row_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(world: World) -> None:
        del world.gateway.live.services.upstreams["ann"]  # type: ignore[attr-defined]
        answer = await world.ask("ann")
        assert (answer.status, answer.error["code"]) == (500, "internal_error")
        row = (await world.log())[0]
        assert row.status == 500
        assert answer.error["message"] == f"internal server error (request {row.id})"
        (said,) = caplog.records
        assert row.id in said.getMessage()
        assert "KeyError: 'ann'" in caplog.text

    run(write_pool(tmp_path), main)


def test_the_traceback_of_a_fault_has_neither_prompts_nor_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(world: World) -> None:
        def plan(asked: Asked, *rest: object, **more: object) -> Plan:
            try:
                raise ValueError(f"no number in {asked.text!r}")
            except ValueError as error:
                raise LookupError(f"with Bearer sk-0123456789 {[asked.text]}") from error

        monkeypatch.setattr(world.gateway.live.services.routing, "plan", plan)
        messages = [{"role": "user", "content": "my secret\nprompt"}]
        answer = await world.ask(messages=messages)
        assert answer.status == 500
        assert "ValueError: no number in '...'" in caplog.text
        assert "LookupError: with Bearer *** ['...']" in caplog.text
        assert "raise LookupError" in caplog.text
        assert "secret" not in caplog.text

    run(write_pool(tmp_path), main)


def test_a_fault_of_a_page_is_logged_once_and_not_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(world: World) -> None:
        del world.gateway.live.services.routing.profiles  # what /v1/models reads
        answer = await world.get("/v1/models")
        (said,) = caplog.records
        assert (answer.status, "profiles" in answer.body.decode()) == (500, False)
        assert answer.error["message"].split()[-1].rstrip(")") in said.getMessage()
        assert "AttributeError" in caplog.text

    run(write_pool(tmp_path), main)


def test_feedback_is_for_ones_own_requests(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        mine, other = [{"authorization": f"Bearer {await new_key(world)}"} for _ in range(2)]
        id = (await world.ask(headers=mine)).headers["x-coterie-decision-id"]
        assert (await world.post("/v1/feedback", mine, id=id, score=0.5)).status == 200
        assert (await world.post("/v1/feedback", other, id=id, score=0.5)).status == 404
        assert (await world.post("/v1/feedback", id=id, score=0.5)).status == 401
        for score in (2, True, "good", None):
            answer = await world.post("/v1/feedback", mine, id=id, score=score)
            assert (answer.status, answer.error["param"]) == (400, "score")

    run(write_pool(tmp_path), main)


def test_models_are_those_that_the_key_may_ask(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        key = {"authorization": f"Bearer {await new_key(world, experts=('bob',))}"}
        names = [one["id"] for one in (await world.get("/v1/models", headers=key)).json["data"]]
        assert "auto" in names
        assert [name for name in names if name in ("ann", "bob", "cid")] == ["bob"]
        assert (await world.get("/v1/models/bob", headers=key)).json["id"] == "bob"
        assert (await world.get("/v1/models/ann", headers=key)).error["code"] == "model_not_found"
        assert (await world.ask(headers=key)).headers["x-coterie-model"] == "bob"

    run(write_pool(tmp_path), main)


@pytest.mark.parametrize("model", ["auto", "bob", "recruit:3"])
def test_no_list_of_models_leads_past_the_key(tmp_path: Path, model: str) -> None:
    async def main(world: World) -> None:
        key = {"authorization": f"Bearer {await new_key(world, experts=('bob',))}"}
        world.expert("bob").breaks = 0
        answer = await world.ask(model, key, models=["ann", "cid"])
        assert answer.status >= 400
        assert world.expert("ann").calls == world.expert("cid").calls == []

    run(write_pool(tmp_path, gateway={"retries": 0}), main)


def test_a_dry_run_decides_and_asks_nobody(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        words = [{"role": "user", "content": "count"}]
        answer = await world.post("/v1/route", model="auto", messages=words)
        told = answer.json
        assert told["experts"][0] == "ann"
        assert told["evidence"]["chosen"][0]["expert"] == "ann"
        assert [one["expert"] for one in told["candidates"]] == ["ann", "bob", "cid"]
        assert not any(world.expert(name).calls for name in ("ann", "bob", "cid"))
        assert await world.log() == []

    run(write_pool(tmp_path), main)


def test_ready_needs_a_router_that_decides_and_a_store_that_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(world: World) -> None:
        ready = await world.get("/health/ready")
        assert (ready.status, ready.json["self_test"]["expert"]) == (200, "ann")
        assert ready.json["router"]["fingerprint"]
        live = world.gateway.live
        live.accepting = lambda: False
        assert (await world.get("/health/ready")).json["why"] == "the store is down"
        assert (await world.ask()).status == 503
        live.accepting = lambda: True
        assert live.services.routing.router is not None
        del live.services.routing.router.experts_
        assert (await world.get("/health/ready")).status == 503
        assert (await world.get("/health/live")).status == 200

    run(write_pool(tmp_path), main)


def test_metrics_can_be_read_and_their_labels_are_few(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        key = {"authorization": f"Bearer {await new_key(world)}"}
        for number in range(5):
            await world.ask(f"model-{number}", key, user=f"user-{number}")
        await world.ask("ann", key)
        found = {}
        text = (await world.get("/metrics")).body.decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name, *sample.labels.values()] = sample.value
        assert found["coterie_requests_total", "ann", "2xx"] == 1
        assert found["coterie_requests_total", "none", "4xx"] == 5
        assert found["coterie_request_seconds_count",] == 6
        assert found["coterie_in_flight",] == 0
        assert "model-" not in text
        assert "user-" not in text

    run(write_pool(tmp_path), main)


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [
        ("/v1/nothing", "GET", 404, "unknown_url"),
        ("/v1/messages", "POST", 404, "unknown_url"),
        ("/v1/chat/completions", "GET", 405, "method_not_allowed"),
        ("/v1/feedback", "GET", 405, "method_not_allowed"),
        ("/v1/models/nobody", "GET", 404, "model_not_found"),
    ],
)
def test_every_path_fails_in_openais_shape(
    tmp_path: Path, path: str, method: str, status: int, code: str
) -> None:
    async def main(world: World) -> None:
        answer = await world.get(path, method)
        assert (answer.status, answer.error["code"]) == (status, code)
        assert answer.headers["content-type"] == "application/json"

    run(write_pool(tmp_path), main)


@pytest.mark.parametrize(
    "headers",
    [{"host": "evil.example"}, {"origin": "https://evil.example"}, {"host": ""}],
)
def test_pages_of_others_may_not_call(tmp_path: Path, headers: dict[str, str]) -> None:
    async def main(world: World) -> None:
        answer = await world.ask(headers=headers)
        assert (answer.status, answer.error["code"]) == (403, "forbidden")
        assert (await world.get("/v1/models", headers=headers)).status == 403
        assert (await world.get("/metrics", headers=headers)).status == 403

    run(write_pool(tmp_path), main)


def test_odd_bytes_in_headers_are_not_passed_on_and_break_nothing(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        odd = {"baggage": "\xff", "x-request-id": "\xff" * 9, "traceparent": "00-a-b-01"}
        answer = await world.ask(headers=odd)
        assert answer.status == 200
        assert answer.headers["x-request-id"] == answer.headers["x-coterie-decision-id"]

    run(write_pool(tmp_path), main)


def test_an_expert_that_was_drawn_by_chance_does_not_keep_the_conversation(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        for explore in (True, False):
            await world.ask(coterie={"explore": explore, "session": f"{explore}"})
            row = (await world.log())[0]
            assert row.explored == explore
            known = await world.gateway.ledger.get_session(row.session)
            assert (known is None) == explore

    run(write_pool(tmp_path, gateway={"explore": 1.0}), main)


@pytest.mark.parametrize("named", [False, True])
def test_a_conversation_stays_with_who_answered_it(tmp_path: Path, named: bool) -> None:
    async def main(world: World) -> None:
        headers = {"x-coterie-session": "mine"} if named else None
        world.expert("ann").breaks = 0
        assert (await world.ask(headers=headers)).headers["x-coterie-model"] == "bob"
        world.expert("ann").breaks = -1
        turns = [("user", "count"), ("assistant", "bob says so"), ("user", "go on")]
        messages = [{"role": role, "content": text} for role, text in turns]
        more: Any = {} if named else {"messages": messages}
        assert (await world.ask(headers=headers, **more)).headers["x-coterie-model"] == "bob"
        other = [{"role": "user", "content": "something else"}, *messages[1:]]
        assert (await world.ask(messages=other)).headers["x-coterie-model"] == "ann"

    near = {**QUALITY, "ann": 0.71, "bob": 0.7}
    run(write_pool(tmp_path, quality=near, gateway={"retries": 0}), main)
