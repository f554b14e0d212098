"""One row a fault: what the client sees, what the upstream sees, and what is billed."""

import asyncio
import json
from typing import Any

import pytest
import uvloop
from fault_upstream import CALLS, TOOLS, FaultUpstream
from gateway_world import (
    ALL,
    GUESSED,
    HASTY,
    PATIENT,
    THREE,
    USED,
    Loop,
    Outcome,
    ask,
    carry_out,
    outgoing,
    run,
)

from coterie.experts.openai import OpenAIExpert
from coterie.gateway.attempts import AttemptOptions
from coterie.gateway.entries import Tokens
from coterie.gateway.failures import UpstreamError
from coterie.gateway.retries import Deadline
from coterie.gateway.upstream import HttpUpstream

WELL = [
    # fault, streamed, text, billed
    ("ok", True, ALL, USED),
    ("ok", False, ALL, USED),
    ("json-for-stream", True, ALL, USED),
    ("stream-for-json", False, ALL, USED),
    ("wrong-content-type", True, ALL, USED),
    ("wrong-content-type", False, ALL, USED),
    ("crlf", True, ALL, USED),
    ("split-utf8", True, "naïve 日本 🙂 ", None),
    ("no-done", True, ALL, USED),
    ("no-done-cut", True, ALL, USED),
    ("no-finish", True, ALL, USED),
    ("malformed-event", True, ALL, USED),
    ("bad-utf8-event", True, ALL, USED),
    ("role-frames", True, ALL, USED),
    ("usage-in-last-choice", True, ALL, USED),
    ("usage-in-every-chunk", True, ALL, USED),
    ("usage-null", True, "hi", USED),
    ("usage-absent", True, ALL, GUESSED),
    ("usage-odd", True, ALL, GUESSED),
    ("filter-at-end", True, THREE, USED),
    ("filter-at-once", True, "", USED),
]


@pytest.mark.parametrize(("model", "stream", "text", "billed"), WELL)
def test_an_odd_answer_is_still_an_answer(
    model: str, stream: bool, text: str, billed: Tokens | None
) -> None:
    result = ask(model, stream=stream)
    assert (result.kind, result.text, result.asked) == ("", text, [model])
    assert [attempt.kind for attempt in result.attempts] == [""]
    assert billed is None or result.billed == billed
    assert b"[DONE]" not in result.body
    assert b'"choices": []' not in result.body  # the usage chunk, which the client did not ask for


def test_who_says_nothing_leaves_time_for_another() -> None:
    result = ask("hang", "ok", stream=False, seconds=0.6)
    assert (result.kind, result.text, result.asked) == ("", ALL, ["hang", "ok"])
    assert [attempt.kind for attempt in result.attempts] == ["timeout_first", ""]
    alone = ask("hang", stream=False, seconds=0.3)
    assert (alone.kind, alone.asked) == ("deadline", ["hang"])


BAD = [
    # fault, streamed, kind, status, requests seen by the upstream
    ("refused", True, "refused", 502, 0),
    ("reset-before-headers", True, "reset", 502, 3),
    ("reset-before-headers", False, "reset", 502, 3),
    ("reset-after-headers", False, "cut", 502, 3),
    ("hang", True, "timeout_first", 504, 1),
    ("hang", False, "timeout_first", 504, 1),
    ("slow-headers", False, "timeout_first", 504, 1),
    ("hang-after-headers", True, "timeout_first", 504, 1),
    ("slow-drip", False, "timeout_first", 504, 1),
    ("truncated-json", False, "malformed", 502, 3),
    ("short-length", False, "malformed", 502, 3),
    ("long-length", False, "cut", 502, 3),
    ("no-http", False, "malformed", 502, 3),
    ("cut-stream-for-json", False, "cut", 502, 3),
    ("empty-stream", True, "cut", 502, 3),
    ("only-role", True, "cut", 502, 3),
    ("only-done", True, "cut", 502, 3),
    ("gigantic-answer", False, "wrong_shape", 502, 1),
    ("compressed", False, "wrong_shape", 502, 1),
    ("redirect", False, "redirect", 502, 1),
    ("html-200", True, "wrong_shape", 502, 1),
    ("html-200", False, "wrong_shape", 502, 1),
    ("html-502", False, "http_5xx", 502, 3),
    ("no-choices", False, "wrong_shape", 502, 1),
    ("no-choices", True, "wrong_shape", 502, 1),
    ("error-200", False, "http_5xx", 502, 3),
    ("error-200", True, "http_5xx", 502, 3),
    ("quota-200", False, "quota", 429, 1),
    ("error-first", True, "http_5xx", 502, 3),
    ("quota-first", True, "quota", 429, 1),
    ("quota", False, "quota", 429, 1),
    ("400", False, "bad_request", 400, 1),
    ("401", False, "auth", 502, 1),
    ("404", False, "missing", 502, 1),
    ("500", False, "http_5xx", 502, 3),
    ("503", False, "overloaded", 503, 3),
    ("429", False, "rate_limited", 429, 3),
    ("429-hour", False, "rate_limited", 429, 1),
    ("too-long", False, "context_length", 400, 1),
    ("filtered", False, "content_filter", 400, 1),
]


@pytest.mark.parametrize(("model", "stream", "kind", "status", "requests"), BAD)
def test_a_failure_before_the_answer_keeps_its_status(
    model: str, stream: bool, kind: str, status: int, requests: int
) -> None:
    times = HASTY if kind == "timeout_first" else PATIENT
    result = ask(model, stream=stream, largest=1 << 20, times=times)
    assert (result.kind, result.status, result.late) == (kind, status, False)
    assert len(result.log) == requests
    assert result.body == b""
    assert {attempt.kind for attempt in result.attempts} == {kind}
    assert "<" not in result.message


LATE = [
    ("reset-mid-stream", "cut"),
    ("truncated-stream", "cut"),
    ("hang-mid-stream", "stall"),
    ("pings-mid-stream", "stall"),
    ("error-mid-stream", "http_5xx"),
]


@pytest.mark.parametrize(("model", "kind"), LATE)
def test_a_stream_that_breaks_is_never_a_success(model: str, kind: str) -> None:
    result = ask(model, times=HASTY if kind == "stall" else PATIENT)
    assert (result.kind, result.late, result.text) == (kind, True, THREE)
    assert [attempt.kind for attempt in result.attempts] == [kind]
    assert result.billed == Tokens(10, 4, estimated=True)


@pytest.mark.parametrize("model", ["hang", "hang-after-headers", "hang-mid-stream", "slow-drip"])
def test_an_upstream_that_is_given_up_is_told(model: str) -> None:
    result = ask(model, stream=model != "slow-drip", times=HASTY)
    assert result.log[0].left


@pytest.mark.parametrize(
    ("model", "stream"),
    [
        ("refused", True),
        ("reset-before-headers", False),
        ("hang", True),
        ("truncated-json", False),
        ("only-role", True),
        ("redirect", False),
        ("html-200", True),
        ("error-200", False),
        ("quota-first", True),
        ("401", False),
        ("404", False),
        ("500", True),
        ("429", False),
        ("429-hour", True),
    ],
)
def test_another_expert_answers_instead(model: str, stream: bool) -> None:
    times = HASTY if model == "hang" else PATIENT
    result = ask(model, "ok", stream=stream, times=times)
    assert (result.kind, result.text, result.expert) == ("", ALL, "ok")
    assert result.attempts[-1].expert == "ok"
    assert result.asked.count(model) <= 2


def deltas(body: bytes) -> list[dict[str, Any]]:
    chunks = [json.loads(event[6:]) for event in body.split(b"\n\n") if event]
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


@pytest.mark.parametrize("model", ["parallel-tools", "same-tool-ids", "tool-in-one-delta"])
def test_tool_calls_pass_as_they_are(model: str) -> None:
    calls = [call for delta in deltas(ask(model).body) for call in delta.get("tool_calls", ())]
    expected = TOOLS[: len(calls)]
    if model == "same-tool-ids":
        expected = [{**call, "id": "same"} for call in expected]
    assert calls == expected
    assert len(calls) == (1 if model == "tool-in-one-delta" else 2)


def test_tool_calls_of_a_whole_answer_become_deltas_with_their_places() -> None:
    result = ask("tools-json-for-stream")
    (delta,) = [delta for delta in deltas(result.body) if "tool_calls" in delta]
    assert delta["tool_calls"] == TOOLS
    assert json.loads(result.body.split(b"\n\n")[-2][6:])["choices"][0]["finish_reason"]


def test_tool_calls_of_a_stream_become_whole_ones() -> None:
    message = json.loads(ask("parallel-tools", stream=False).body)["choices"][0]["message"]
    assert message["tool_calls"] == CALLS


def test_fields_that_nobody_knows_pass_byte_for_byte() -> None:
    body = ask("unknown-fields").body
    assert b'"vendor": {"b": 1, "a": [1.5, null]}' in body
    assert b'"service_tier": "x"' in body


def test_usage_is_always_asked_for_and_shown_to_those_who_asked() -> None:
    asking = {"stream_options": {"include_usage": True, "odd": 1}}
    mine, others = ask("ok", fields=asking), ask("ok")
    assert mine.log[0].body["stream_options"] == {"odd": 1, "include_usage": True}
    assert others.log[0].body["stream_options"] == {"include_usage": True}
    assert mine.body.count(b'"usage"') == 1
    assert b'"usage"' not in others.body
    assert mine.billed == others.billed == USED


def test_usage_in_a_chunk_with_choices_is_left_alone() -> None:
    assert ask("usage-in-last-choice").body.count(b'"usage"') == 1
    assert ask("usage-in-every-chunk").body.count(b'"usage"') == 11


def test_a_key_that_an_upstream_repeats_is_masked() -> None:
    result = ask("401")
    assert "Incorrect API key provided: sk-***" in result.message
    assert (result.code, result.status) == ("invalid_api_key", 502)


@pytest.mark.parametrize(
    ("model", "least"), [("429-seconds", 1.0), ("429-float", 0.1), ("429-ms", 0.1), ("429-date", 0)]
)
def test_retry_after_is_waited_for(model: str, least: float) -> None:
    async def main() -> None:
        start = asyncio.get_running_loop().time()
        async with FaultUpstream() as server:
            await carry_out([model], outgoing(False), server.url, AttemptOptions(), result)
            result.log = server.log
        assert least <= asyncio.get_running_loop().time() - start < least + 1

    result = Outcome()
    run(main())
    assert (result.kind, result.asked) == ("", [model, model])


def test_an_hour_is_not_waited_for_and_the_client_is_told() -> None:
    result = ask("429-hour", stream=False)
    assert (result.code, result.asked) == ("rate_limit_exceeded", ["429-hour"])
    assert "slow down" in result.message


@pytest.mark.parametrize("model", ["500-burst", "503-burst", "reset-once"])
def test_a_short_trouble_is_not_seen_by_the_client(model: str) -> None:
    result = ask(model)
    assert (result.kind, result.text) == ("", ALL)
    assert [attempt.kind for attempt in result.attempts][-1] == ""


def test_a_refusal_is_not_routed_around() -> None:
    result = ask("filtered", "ok", stream=False)
    assert (result.kind, result.code, result.asked) == (
        "content_filter",
        "content_policy_violation",
        ["filtered"],
    )
    asked = ask("filter-at-once", "ok")
    assert (asked.finish, asked.expert) == ("content_filter", "filter-at-once")


@pytest.mark.parametrize("model", ["filtered", "filter-at-once"])
def test_a_refusal_is_routed_around_on_demand(model: str) -> None:
    result = ask(model, "ok", options=AttemptOptions(refusals=True))
    assert (result.expert, result.text) == ("ok", ALL)
    assert result.attempts[0].kind == "content_filter"


def test_the_model_that_answered_is_reported() -> None:
    async def main() -> str:
        async with FaultUpstream() as server:
            upstream = HttpUpstream(OpenAIExpert("far", server.url, "ok"))
            reply = await upstream.open(outgoing(False), Deadline())
            await upstream.close()
            return reply.model

    assert asyncio.run(main()) == "served"


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_endless_stream_ends_with_the_deadline(loop: Loop) -> None:
    result = ask("endless", seconds=0.3, loop=loop)
    assert (result.kind, result.late, result.log[0].left) == ("deadline", True, True)
    assert result.attempts[0].tokens is not None


def test_a_gigantic_event_is_not_held() -> None:
    result = ask("gigantic-event", largest_event=1 << 18)
    assert (result.kind, result.log[0].left) == ("wrong_shape", True)


def test_after_the_finish_nobody_waits_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coterie.gateway.streams.TAIL", 0.05)
    result = ask("no-done-hang")
    assert (result.kind, result.text, result.billed) == ("", ALL, GUESSED)


def test_bytes_of_the_client_reach_the_upstream() -> None:
    seen = ask("ok", stream=False, fields={"odd": [1.0, None], "max_tokens": 5}).log[0]
    assert b'"odd":[1.0, null]' in seen.raw
    assert (seen.model, seen.path) == ("ok", "/v1/chat/completions")
    assert seen.headers["accept-encoding"] == "identity"
    assert "cookie" not in seen.headers


def test_a_key_that_is_not_set_fails_over_without_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAR_KEY", raising=False)
    upstream = HttpUpstream(
        OpenAIExpert("far", "http://127.0.0.1:9/v1", "m", api_key_env="FAR_KEY")
    )
    with pytest.raises(UpstreamError, match="its key is not set"):
        asyncio.run(upstream.open(outgoing(False), Deadline()))
