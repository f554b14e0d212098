"""Experts of this process speak OpenAI's language: whole answers, chunks, failures."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest
from served_world import Scripted

from coterie.experts.base import Expert
from coterie.experts.function import FunctionExpert
from coterie.gateway.entries import Tokens
from coterie.gateway.failures import UpstreamError
from coterie.gateway.locals import LocalUpstream
from coterie.gateway.replies import Outgoing, Reply
from coterie.gateway.retries import Deadline
from coterie.gateway.staging import Staging
from coterie.gateway.wire import decode_fields
from coterie.pool import Pool
from coterie.types import Call, Completion, Usage


def upstream(expert: Expert, **settings: Any) -> LocalUpstream:
    pool = Pool("p", {expert.name: expert})
    return LocalUpstream(expert, Staging(pool), **settings)


def outgoing(stream: bool = False, path: str = "/chat/completions", **fields: Any) -> Outgoing:
    given = {"messages": [{"role": "user", "content": "hello"}], **fields}
    body = decode_fields(json.dumps(given).encode())
    return Outgoing(path, body, stream, wants_usage="stream_options" in fields)


def opened(expert: Expert, out: Outgoing, **settings: Any) -> tuple[Reply, list[Any]]:
    """The reply, and what its events hold."""

    async def job() -> tuple[Reply, list[Any]]:
        reply = await upstream(expert, **settings).open(out, Deadline(5.0))
        frames = b"".join([event async for event in reply.events()])
        await reply.aclose()
        return reply, [json.loads(f[6:]) for f in frames.decode().split("\n\n") if f]

    return asyncio.run(job())


def failed(expert: Expert, out: Outgoing, seconds: float = 5.0) -> UpstreamError:
    async def job() -> None:
        reply = await upstream(expert).open(out, Deadline(seconds))
        async for _ in reply.events():
            pass

    with pytest.raises(UpstreamError) as caught:
        asyncio.run(asyncio.wait_for(job(), 5))
    return caught.value


def counted(call: Call) -> Completion:
    return Completion("f", "so it is", Usage(7, 3), finish_reason="length")


def test_a_whole_answer_has_the_shape_of_openais() -> None:
    reply, events = opened(FunctionExpert("f", counted), outgoing())
    assert events == []
    assert reply.tokens == Tokens(7, 3)
    body = json.loads(reply.body or b"")
    assert body["object"] == "chat.completion"
    assert body["model"] == reply.model == "f"
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    (choice,) = body["choices"]
    assert (choice["index"], choice["finish_reason"]) == (0, "length")
    assert choice["message"] == {"role": "assistant", "content": "so it is", "refusal": None}


def test_completions_of_a_prompt_have_their_own_shape() -> None:
    out = outgoing(path="/completions", prompt="go on")
    del out.fields["messages"]
    expert = FunctionExpert("f", lambda call: f"{call.messages[-1]['content']} and on")
    body = json.loads(opened(expert, out)[0].body or b"")
    assert (body["object"], body["choices"][0]["text"]) == ("text_completion", "go on and on")
    out.stream = True
    _, events = opened(expert, out)
    assert [event["choices"][0]["text"] for event in events] == ["go on and on", ""]
    assert {event["object"] for event in events} == {"text_completion"}


def test_chunks_begin_with_the_role_and_end_with_why() -> None:
    _, events = opened(Scripted("s", "one two three"), outgoing(stream=True))
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0] == {"role": "assistant", "content": "one "}
    assert deltas[1:] == [{"content": "two "}, {"content": "three "}, {}]
    assert [event["choices"][0]["finish_reason"] for event in events] == [None] * 3 + ["stop"]
    assert len({event["id"] for event in events}) == 1
    assert {event["object"] for event in events} == {"chat.completion.chunk"}


def test_usage_is_in_the_stream_only_for_those_who_want_it() -> None:
    wanted = outgoing(stream=True, stream_options={"include_usage": True})
    reply, events = opened(FunctionExpert("f", counted), wanted)
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["total_tokens"] == 10
    assert "estimated" not in events[-1]["usage"]
    assert reply.tokens == Tokens(7, 3)
    _, events = opened(FunctionExpert("f", counted), outgoing(stream=True))
    assert all(event["choices"] for event in events)


def test_counts_that_are_guessed_say_so() -> None:
    guessed, _ = opened(FunctionExpert("f", lambda call: "a text alone"), outgoing())
    assert json.loads(guessed.body or b"")["usage"]["estimated"] is True
    assert guessed.tokens is not None
    assert guessed.tokens.estimated


def test_several_choices_are_asked_with_seeds_of_their_own() -> None:
    expert = FunctionExpert("f", lambda call: f"seed {call.options['seed']}")
    body = json.loads(opened(expert, outgoing(n=3, seed=5))[0].body or b"")
    texts = [choice["message"]["content"] for choice in body["choices"]]
    assert texts[0] == "seed 5"
    assert len(set(texts)) == 3
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert failed(expert, outgoing(stream=True, n=2)).failure.kind == "bad_request"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("why", "kind"),
    [("it broke", "reset"), ("the prompt exceeds the context size", "context_length")],
)
def test_failures_are_of_a_kind(stream: bool, why: str, kind: str) -> None:
    def broken(call: Call) -> str:
        raise ValueError(why)

    told = failed(FunctionExpert("f", broken), outgoing(stream)).failure
    assert told.kind == kind
    assert why in told.message


class Odd(Expert):
    """An expert that breaks the rules: it ends without a completion, or never."""

    def __init__(self, pieces: list[str], hangs: bool = False) -> None:
        self.name, self.pieces, self.hangs = "odd", pieces, hangs

    async def complete(self, call: Call) -> Completion:
        await asyncio.sleep(60)
        return Completion(self.name, "late")

    async def stream(self, call: Call) -> AsyncIterator[str | Completion]:
        for piece in self.pieces:
            yield piece
        if self.hangs:
            await asyncio.sleep(60)


@pytest.mark.parametrize("pieces", [[], ["one "]])
def test_a_stream_without_an_end_is_no_answer(pieces: list[str]) -> None:
    assert failed(Odd(pieces), outgoing(stream=True)).failure.kind == "cut"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("pieces", [[], ["one "]])
def test_the_deadline_holds_for_local_experts_too(stream: bool, pieces: list[str]) -> None:
    told = failed(Odd(pieces, hangs=True), outgoing(stream), seconds=0.05)
    assert told.failure.kind == "deadline"


def test_other_endpoints_are_refused() -> None:
    told = failed(Scripted("s"), outgoing(path="/embeddings", input="x")).failure
    assert (told.kind, "answers no /embeddings" in told.message) == ("bad_request", True)


def test_options_of_the_request_go_over_those_of_the_pool() -> None:
    expert = Scripted("s")
    fields: Any = {
        "temperature": 0.5,
        "max_completion_tokens": 9,
        "stop": None,
        "user": "u",
        "seed": 1,
    }
    opened(expert, outgoing(**fields), options={"temperature": 0.1, "top_p": 0.9})
    assert dict(expert.calls[0].options) == {
        "temperature": 0.5, "top_p": 0.9, "seed": 1, "max_tokens": 9,
    }  # fmt: skip


def test_texts_in_parts_are_put_together() -> None:
    expert = Scripted("s")
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    system = {"role": "system", "content": "be brief"}
    opened(expert, outgoing(messages=[system, {"role": "user", "content": parts, "name": "me"}]))
    said = [(m["role"], m["content"]) for m in expert.calls[0].messages]
    assert said == [("system", "be brief"), ("user", "one\ntwo")]
    assert expert.calls[0].messages[1]["name"] == "me"


Job = Callable[[LocalUpstream], Awaitable[None]]


async def whole(up: LocalUpstream) -> None:
    await up.open(outgoing(), Deadline(5.0))


async def begun(up: LocalUpstream) -> None:
    reply = await up.open(outgoing(stream=True), Deadline(5.0))
    try:
        async for _ in reply.events():
            pass
    finally:
        await reply.aclose()


@pytest.mark.parametrize("job", [whole, begun])
def test_who_leaves_gives_the_expert_back(job: Job) -> None:
    expert, other = Scripted("s", "word " * 99, 0.01, weight=1), Scripted("t", weight=1)
    pool = Pool("p", {"s": expert, "t": other}, capacity=1)
    staging = Staging(pool)

    async def main() -> Mapping[str, int]:
        going = asyncio.ensure_future(job(LocalUpstream(expert, staging)))
        while not expert.calls:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.03)
        going.cancel()
        await asyncio.wait([going])
        assert expert.ended == ["left"]
        await asyncio.wait_for(LocalUpstream(other, staging).open(outgoing(), Deadline(2.0)), 3)
        return staging.state().waiting

    assert asyncio.run(main()) == {}
    assert (expert.loads, other.loads) == (["+", "-"], ["+"])
