"""Endpoints other than chat, connections, and answers whose shape has to be changed."""

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from fault_upstream import CALLS, FAULTS, REPORT, USAGE, Exchange, FaultUpstream, chunk, event
from gateway_world import outgoing, texts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coterie.experts.openai import OpenAIExpert
from coterie.gateway.entries import Tokens
from coterie.gateway.events import ChatTally, Malformed
from coterie.gateway.failures import UpstreamError
from coterie.gateway.replies import Reply
from coterie.gateway.retries import Deadline
from coterie.gateway.shapes import to_chunks, to_whole
from coterie.gateway.upstream import HttpUpstream, Outgoing, Timeouts
from coterie.gateway.wire import decode_fields

EMBEDDED = {"object": "list", "data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 3}}
SPENT = {"input_tokens": 5, "output_tokens": 2}


def response(type: str, **more: Any) -> bytes:
    return b"event: " + type.encode() + b"\n" + event({"type": type, **more})


CREATED = response("response.created", response={"id": "r", "status": "in_progress"})
TEXT = response("response.output_text.delta", delta="hi")
OUTPUT = [{"type": "message", "content": [{"type": "output_text", "text": "hi"}]}]
ANSWERED = {"id": "r", "model": "served", "status": "completed", "output": OUTPUT, "usage": SPENT}
COMPLETED = response("response.completed", response=ANSWERED)
FAILED = response(
    "response.failed",
    response={"status": "failed", "error": {"code": "rate_limit_exceeded", "message": "slow"}},
)


def written(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": finish}
    return event({"object": "text_completion", "model": "served", "choices": [choice]})


async def exchange(
    path: str, stream: bool, *answers: bytes, body: Any = None, times: int = 1, **fields: Any
) -> tuple[Reply, bytes, list[Any]]:
    """The reply of an upstream that sends these events, or this body, to each of some requests."""

    async def send(x: Exchange) -> None:
        await (x.json(body) if body is not None else x.events(*answers))

    FAULTS["test"] = send
    async with FaultUpstream() as server:
        upstream = HttpUpstream(OpenAIExpert("far", server.url, "test"), Timeouts.of(2.0))
        try:
            for _ in range(times):
                reply = await upstream.open(outgoing(stream, path, **fields), Deadline(5))
                said = b"".join([part async for part in reply.events()])
        finally:
            await upstream.close()
        return reply, said, server.log


def test_responses_pass_with_their_event_lines() -> None:
    reply, said, log = asyncio.run(exchange("/responses", True, CREATED, TEXT, COMPLETED))
    assert said == CREATED + TEXT + COMPLETED
    assert (reply.tokens, reply.finish, log[0].path) == (Tokens(5, 2), "stop", "/v1/responses")
    assert "stream_options" not in log[0].body


def test_a_whole_response_passes_as_it_is() -> None:
    body = asyncio.run(exchange("/responses", False, body=ANSWERED))
    assert (body[0].body, body[0].tokens) == (json.dumps(ANSWERED).encode(), Tokens(5, 2))


def test_a_response_streamed_although_it_was_to_be_whole_is_made_whole() -> None:
    reply, _, _ = asyncio.run(exchange("/responses", False, CREATED, TEXT, COMPLETED))
    assert json.loads(reply.body or b"") == ANSWERED


@pytest.mark.parametrize(
    ("answers", "kind"),
    [((CREATED, FAILED), "rate_limited"), ((CREATED, TEXT, FAILED), "rate_limited"),
     ((CREATED, TEXT), "cut")],
)  # fmt: skip
def test_a_response_that_fails_is_a_failure(answers: tuple[bytes, ...], kind: str) -> None:
    with pytest.raises(UpstreamError) as error:
        asyncio.run(exchange("/responses", True, *answers))
    assert error.value.failure.kind == kind


def test_a_whole_response_that_failed_is_a_failure() -> None:
    failed = {"status": "failed", "output": [], "error": {"code": "server_error", "message": "x"}}
    with pytest.raises(UpstreamError, match="far: x"):
        asyncio.run(exchange("/responses", False, body=failed))


def test_embeddings_pass_as_they_are() -> None:
    reply, _, log = asyncio.run(exchange("/embeddings", False, body=EMBEDDED))
    assert (reply.body, reply.tokens) == (json.dumps(EMBEDDED).encode(), Tokens(3, 0))
    assert log[0].path == "/v1/embeddings"


def test_texts_are_streamed_and_counted() -> None:
    parts = [written("a "), written("b "), written("", "stop"), REPORT]
    reply, said, log = asyncio.run(exchange("/completions", True, *parts))
    assert (said, reply.tokens) == (b"".join(parts[:3]), Tokens(7, 10))
    assert log[0].body["stream_options"] == {"include_usage": True}


def test_a_whole_text_becomes_a_stream() -> None:
    choice = {"index": 0, "text": "a b", "finish_reason": "stop", "logprobs": None}
    body = {"object": "text_completion", "choices": [choice], "usage": USAGE}
    reply, said, _ = asyncio.run(exchange("/completions", True, body=body))
    first, last = [json.loads(part[6:])["choices"][0] for part in said.split(b"\n\n") if part]
    assert (first["text"], first["finish_reason"]) == ("a b", None)
    assert (last["text"], last["finish_reason"], reply.tokens) == ("", "stop", Tokens(7, 10))


def test_defaults_of_the_pool_give_way_to_the_client() -> None:
    async def main() -> dict[str, Any]:
        async with FaultUpstream() as server:
            options = {"temperature": 1, "seed": 3, "choices": ["A"]}
            upstream = HttpUpstream(OpenAIExpert("far", server.url, "ok", options=options))
            out = Outgoing("/chat/completions", decode_fields(b'{"temperature":0,"messages":[]}'))
            await upstream.open(out, Deadline(5))
            await upstream.close()
            return server.log[0].body

    assert asyncio.run(main()) == {"temperature": 0, "seed": 3, "messages": [], "model": "ok"}


@pytest.mark.parametrize(
    ("pool", "client", "paid", "sent"),
    [
        ({}, {}, 50, {"max_tokens": 50}),
        ({"max_tokens": 80}, {}, 50, {"max_tokens": 50}),
        ({"max_completion_tokens": 20}, {}, 50, {"max_completion_tokens": 20}),
        ({"max_tokens": 80}, {}, None, {"max_tokens": 80}),
        ({"max_completion_tokens": 80}, {"max_tokens": 7}, None, {"max_tokens": 7}),
        ({"max_tokens": 80}, {"max_tokens": None}, 50, {"max_tokens": 50}),
        ({}, {"max_output_tokens": 7}, 50, {"max_output_tokens": 7, "max_tokens": 50}),
    ],
)
def test_an_answer_is_never_longer_than_what_is_paid_for(
    pool: dict[str, int], client: dict[str, Any], paid: int | None, sent: dict[str, int]
) -> None:
    async def main() -> dict[str, Any]:
        async with FaultUpstream() as server:
            upstream = HttpUpstream(OpenAIExpert("far", server.url, "ok", options=pool))
            await upstream.open(replace(outgoing(False, **client), bound=paid), Deadline(5))
            await upstream.close()
            return server.log[0].body

    body = asyncio.run(main())
    assert {name: value for name, value in body.items() if name.startswith("max_")} == sent


@pytest.mark.parametrize(("fields", "count"), [({}, 24), ({"max_tokens": 5}, 5)])
def test_an_estimated_answer_is_not_longer_than_its_bound(
    fields: dict[str, int], count: int
) -> None:
    said = [written("characteristically ")] * 5 + [written("", "length")]
    reply, _, _ = asyncio.run(exchange("/completions", True, *said, **fields))
    assert reply.tokens is not None
    assert (reply.tokens.completion, reply.tokens.estimated) == (count, True)


def test_headers_that_may_be_forwarded_are_and_the_key_is_added(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAR_KEY", "sesame")

    async def main() -> dict[str, str]:
        async with FaultUpstream() as server:
            expert = OpenAIExpert("far", server.url, "ok", api_key_env="FAR_KEY")
            upstream = HttpUpstream(expert)
            out = outgoing(False)
            out.headers = {"traceparent": "00-1"}
            await upstream.open(out, Deadline(5))
            await upstream.close()
            return server.log[0].headers

    headers = asyncio.run(main())
    assert (headers["traceparent"], headers["authorization"]) == ("00-1", "Bearer sesame")


async def count_connections(stream: bool, requests: int) -> int:
    """How many connections a server with keep-alive sees."""
    connections = 0
    body = json.dumps({"choices": [{"message": {"content": "x"}}]}).encode()
    said = chunk({"content": "x"}) + chunk(finish="stop") + b"data: [DONE]\n\n"

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with suppress(asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
            if stream:
                writer.write(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n")
                writer.write(b"%x\r\n%s\r\n" % (len(said), said))
                await asyncio.sleep(0.01)  # the end comes after [DONE]
                writer.write(b"0\r\n\r\n")
            else:
                writer.write(b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    upstream = HttpUpstream(OpenAIExpert("far", url, "m"))
    for _ in range(requests):
        reply = await upstream.open(outgoing(stream), Deadline(5))
        assert [part async for part in reply.events()] != [] or not stream
        await reply.aclose()
        await asyncio.sleep(0.2)
    await upstream.close()
    server.close()
    await asyncio.sleep(0.05)
    return connections


@pytest.mark.parametrize("stream", [True, False])
def test_connections_are_used_again(stream: bool) -> None:
    assert asyncio.run(count_connections(stream, 3)) == 1


message = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.text(min_size=1) | st.none()},
    optional={
        "reasoning_content": st.text(min_size=1),
        "refusal": st.text(min_size=1),
        "tool_calls": st.just(CALLS),
    },
)
reasons = st.sampled_from(["stop", "length", "tool_calls"])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(message, reasons), min_size=1, max_size=3))
def test_an_answer_made_into_chunks_and_back_is_the_same(
    answers: list[tuple[dict[str, Any], str]],
) -> None:
    choices = [
        {"index": index, "message": message, "finish_reason": reason}
        for index, (message, reason) in enumerate(answers)
    ]
    whole: dict[str, Any] = {
        "id": "x",
        "object": "chat.completion",
        "model": "m",
        "choices": choices,
    }
    whole["usage"] = USAGE
    frames = to_chunks(json.dumps(whole).encode(), wants_usage=True)
    assert json.loads(to_whole(b"".join(frames))) == whole
    tally = ChatTally(wants_usage=True)
    assert b"".join(map(tally.feed, frames)) == b"".join(frames)
    assert (tally.complete, tally.tokens) == (True, Tokens(7, 10))


@given(st.binary(max_size=300) | st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["choices", "delta", "index", "message", "tool_calls",
                                       "function", "logprobs", "content"]), inner, max_size=5),
    max_leaves=20,
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_answer_breaks_the_conversions(body: bytes) -> None:
    for change in (to_whole, lambda body: to_chunks(body, True)):
        try:
            change(body)
            change(b"data: " + body)
        except Malformed:
            pass


def test_log_probabilities_of_chunks_are_joined() -> None:
    parts = [
        event(
            {"choices": [{"delta": {"content": text}, "logprobs": {"content": [{"token": text}]}}]}
        )
        for text in "ab"
    ]
    (choice,) = json.loads(to_whole(b"".join(parts)))["choices"]
    assert choice["logprobs"]["content"] == [{"token": "a"}, {"token": "b"}]
    assert texts(json.dumps({"choices": [choice]}).encode()) == "ab"
