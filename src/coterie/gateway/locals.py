"""Experts of this process behind the same door as remote ones: calls in, OpenAI's objects out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import msgspec

from coterie.errors import CoterieError
from coterie.experts.base import Expert
from coterie.gateway.entries import Tokens, new_id
from coterie.gateway.failures import Failure, UpstreamError, failure, redact
from coterie.gateway.replies import Outgoing, Reply
from coterie.gateway.retries import Deadline
from coterie.gateway.staging import Staging
from coterie.gateway.upstream import HttpUpstream
from coterie.gateway.wire import Fields, bad_request, frame, value_of
from coterie.types import Call, Completion, Message, Usage, derive_seed

BOUNDS = ("max_tokens", "max_completion_tokens")
KINDS: Mapping[str, Any] = {
    "a number": float,
    "a whole number": int,
    "a string": str,
    "a string or a list of strings": str | list[str],
    "an object": dict[str, Any],
}
OPTIONS: Mapping[str, str] = {
    **dict.fromkeys(("temperature", "top_p", "min_p"), "a number"),
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "repeat_penalty"), "a number"),
    **dict.fromkeys(("top_k", "seed", *BOUNDS), "a whole number"),
    **dict.fromkeys(("stop", "choices"), "a string or a list of strings"),
    **dict.fromkeys(("response_format", "chat_template_kwargs"), "an object"),
    "reasoning_effort": "a string",
}
_encode = msgspec.json.encode


class LocalUpstream:
    """An expert of the pool that is no server: weights in memory, a function, records.

    ``options`` are the pool's, under those of the request.
    """

    def __init__(
        self,
        expert: Expert,
        staging: Staging,
        options: Mapping[str, Any] | None = None,
        context_length: int | None = None,
    ) -> None:
        self.name, self.slots, self.context_length = expert.name, expert.slots, context_length
        self._expert, self._staging, self._options = expert, staging, dict(options or {})

    async def open(self, out: Outgoing, deadline: Deadline) -> Reply:
        """Ask; returns when an answer is certain. Raises UpstreamError."""
        if out.path not in ("/chat/completions", "/completions"):
            message = f"{self.name} runs inside this gateway and answers no {out.path}"
            raise UpstreamError(failure("bad_request", message))
        call = self._call(out)
        count = value_of(out.fields, "n") or 1
        async with AsyncExitStack() as stack:
            await enter(stack, self._staging, self._expert, deadline)
            if not out.stream:
                async with within(deadline, self.name):
                    return await self._whole(call, count, out.path)
            if count > 1:
                message = f"{self.name} runs inside this gateway and streams one choice"
                raise UpstreamError(failure("bad_request", message, param="n"))
            stream = _LocalStream(self._expert, call, out, deadline)
            stack.push_async_callback(stream.stop)
            await stream.begin()
            stream.hold(stack.pop_all())
            return stream

    async def complete(self, call: Call, deadline: Deadline) -> Completion:
        """The expert's own completion of a call, with the pool's options under the call's."""
        options = {**self._options, **call.options}
        async with AsyncExitStack() as stack:
            await enter(stack, self._staging, self._expert, deadline)
            async with within(deadline, self.name):
                asked = Call(call.expert, call.messages, call.purpose, options)
                return _within_bound(await self._expert.complete(asked), asked)

    async def close(self) -> None:
        """Nothing to close: the pool closes its experts."""

    async def _whole(self, call: Call, count: int, path: str) -> Reply:
        seed = int(call.options.get("seed", 0) or 0)
        calls = [call]
        for place in range(1, count):
            options = {**call.options, "seed": derive_seed(seed, "choice", place)}
            calls.append(Call(call.expert, call.messages, call.purpose, options))
        completions = await asyncio.gather(*map(self._expert.complete, calls))
        completions = [_within_bound(one, call) for one in completions]
        for completion in completions:
            if completion.broke:
                raise UpstreamError(failure_of(completion))
        return whole(completions, path)

    def _call(self, out: Outgoing) -> Call:
        options = {**self._options, **options_of(out.fields)}
        if out.bound is not None:
            options["max_tokens"] = min(options.get("max_tokens", out.bound), out.bound)
        return Call(self.name, messages_of(out.fields, out.path), "answer", options)


class StagedUpstream:
    """A server whose weights have to be on the device first (vLLM in sleep mode)."""

    def __init__(self, inner: HttpUpstream, expert: Expert, staging: Staging) -> None:
        self.name, self.slots, self.context_length = inner.name, inner.slots, inner.context_length
        self.limit, self.bound_name = inner.limit, inner.bound_name
        self._inner, self._expert, self._staging = inner, expert, staging

    async def open(self, out: Outgoing, deadline: Deadline) -> Reply:
        """See Upstream; the server stays awake until the reply is closed."""
        async with AsyncExitStack() as stack:
            await enter(stack, self._staging, self._expert, deadline)
            reply = await self._inner.open(out, deadline)
            if out.stream:
                return _Held(reply, stack.pop_all())
            return reply

    async def close(self) -> None:
        """Close the connections."""
        await self._inner.close()


class _Held(Reply):
    """A stream that keeps its expert in memory until it is closed."""

    def __init__(self, reply: Reply, stack: AsyncExitStack) -> None:
        super().__init__(reply.model, finish=reply.finish, pause=reply.pause)
        self._reply, self._stack = reply, stack

    def so_far(self) -> Tokens | None:
        """See Reply."""
        return self._reply.so_far()

    async def events(self) -> AsyncGenerator[bytes, None]:
        """See Reply."""
        async for event in self._reply.events():
            self.shown = self._reply.shown
            yield event
        self.tokens, self.finish = self._reply.tokens, self._reply.finish

    async def aclose(self) -> None:
        """See Reply."""
        await self._reply.aclose()
        await self._stack.aclose()


async def enter(
    stack: AsyncExitStack, staging: Staging, expert: Expert, deadline: Deadline
) -> None:
    """Wait until the expert is in memory; raises UpstreamError where it does not get there."""
    try:
        async with asyncio.timeout(deadline.left()):
            await stack.enter_async_context(staging.use(expert))
    except TimeoutError:
        message = f"{expert.name}: not in memory before the deadline"
        raise UpstreamError(failure(deadline.kind, message)) from None
    except CoterieError as error:
        raise UpstreamError(failure("overloaded", str(error))) from None


@asynccontextmanager
async def within(deadline: Deadline, name: str) -> AsyncIterator[None]:
    """Raise UpstreamError where what is inside takes longer than the deadline."""
    try:
        async with asyncio.timeout(deadline.left()):
            yield
    except TimeoutError:
        raise UpstreamError(
            failure(deadline.kind, f"{name}: not done before the deadline")
        ) from None


def whole(completions: Sequence[Completion], path: str = "/chat/completions") -> Reply:
    """The answer of these completions as one OpenAI object, each a choice."""
    chat = path == "/chat/completions"
    choices = []
    for place, one in enumerate(completions):
        said: dict[str, Any] = {"index": place, "finish_reason": one.finish_reason or None}
        if chat:
            said["message"] = {"role": "assistant", "content": one.text, "refusal": None}
        else:
            said["text"] = one.text
        choices.append({**said, "logprobs": None})
    prompt = completions[0].usage.prompt_tokens
    answer = sum(one.usage.completion_tokens for one in completions)
    estimated = any(one.estimated for one in completions)
    model = completions[0].expert
    body = {
        "id": new_id("chatcmpl-"),
        "object": "chat.completion" if chat else "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        "usage": usage(prompt, answer, estimated),
    }
    tokens = Tokens(prompt, answer, estimated=estimated)
    return Reply(model, _encode(body), tokens, completions[0].finish_reason)


def usage(prompt: int, answer: int, estimated: bool = False) -> dict[str, Any]:
    """OpenAI's usage object, marked where the counts are not the expert's own."""
    counts: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
    }
    return {**counts, "estimated": True} if estimated else counts


class Chunks:
    """Chunks of one streamed answer in OpenAI's shape."""

    def __init__(self, model: str, path: str = "/chat/completions") -> None:
        self.model, self._chat = model, path == "/chat/completions"
        self._head = {
            "id": new_id("chatcmpl-"),
            "object": "chat.completion.chunk" if self._chat else "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._first = True

    def piece(self, text: str) -> bytes:
        """The frame of a piece of text."""
        delta: dict[str, Any] = {"content": text}
        if self._first:
            delta, self._first = {"role": "assistant", **delta}, False
        return self._frame(delta, text, None)

    def end(self, finish: str, tokens: Tokens, wants_usage: bool) -> bytes:
        """The last frames: why it ended, and the usage where it is wanted."""
        last = self._frame({}, "", finish or None)
        if not wants_usage:
            return last
        return last + self.usage(tokens)

    def usage(self, tokens: Tokens) -> bytes:
        """The frame of the usage."""
        counts = usage(tokens.prompt, tokens.completion, tokens.estimated)
        return frame(_encode({**self._head, "choices": [], "usage": counts}))

    def _frame(self, delta: Mapping[str, Any], text: str, finish: str | None) -> bytes:
        said = {"delta": delta} if self._chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
        return frame(_encode({**self._head, "choices": [choice]}))


class _LocalStream(Reply):
    """Pieces of an expert as chunks; the first piece is in hand when it begins."""

    def __init__(self, expert: Expert, call: Call, out: Outgoing, deadline: Deadline) -> None:
        super().__init__(expert.name)
        self._deadline = deadline
        self._chunks = Chunks(expert.name, out.path)
        self._wants_usage = out.wants_usage
        self._pieces: AsyncIterator[str | Completion] = expert.stream(call)
        self._first: str | Completion | None = None
        self._call, self._said = call, 0
        self._prompt = sum(len(str(m.get("content") or "")) for m in call.messages) // 4
        self._stack: AsyncExitStack | None = None

    async def begin(self) -> None:
        """Wait for the first piece; raises UpstreamError where there is none."""
        self._first = await self._next()
        if self._first is None:
            raise UpstreamError(self._cut())
        if isinstance(self._first, Completion) and self._first.broke:
            raise UpstreamError(failure_of(self._first))

    async def _next(self) -> str | Completion | None:
        async with within(self._deadline, self.model):
            return await anext(self._pieces, None)

    def _cut(self) -> Failure:
        return failure("cut", f"{self.model}: ended without a completion")

    def hold(self, stack: AsyncExitStack) -> None:
        """Keep the expert in memory until the stream is closed."""
        self._stack = stack

    def so_far(self) -> Tokens | None:
        """See Reply."""
        bound = self._call.options.get("max_tokens")
        said = self._said // 4 if bound is None else min(self._said // 4, bound)
        return self.tokens or Tokens(self._prompt, said, estimated=True)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """See Reply."""
        piece = self._first
        while piece is not None and not isinstance(piece, Completion):
            self._said += len(piece)
            self.shown = True
            yield self._chunks.piece(piece)
            piece = await self._next()
        if piece is None or piece.broke:
            raise UpstreamError(failure_of(piece) if piece else self._cut())
        self.finish = piece.finish_reason
        count = _within_bound(piece, self._call).usage
        self.tokens = Tokens(
            count.prompt_tokens, count.completion_tokens, estimated=piece.estimated
        )
        yield self._chunks.end(piece.finish_reason, self.tokens, self._wants_usage)

    async def aclose(self) -> None:
        """See Reply."""
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()

    async def stop(self) -> None:
        """End the expert's own stream."""
        if isinstance(self._pieces, AsyncGenerator):
            await self._pieces.aclose()


def _within_bound(completion: Completion, call: Call) -> Completion:
    """The completion, an estimate of its tokens not above the call's bound of them."""
    most, count = call.options.get("max_tokens"), completion.usage
    if not completion.estimated or most is None or count.completion_tokens <= most:
        return completion
    return replace(completion, usage=Usage(count.prompt_tokens, most))


def failure_of(completion: Completion) -> Failure:
    """Why a local expert failed, from its own words."""
    told = redact(str(completion.error))
    if "context" in told and ("exceed" in told or "size" in told or "too long" in told):
        return failure("context_length", told, code="context_length_exceeded")
    if "refused the call" in told:  # the request's fault: no retry, and the expert is not ill
        return failure("bad_request", told)
    return failure("reset", told, reported=True)


def messages_of(fields: Fields, path: str) -> tuple[Message, ...]:
    """The request's messages with their texts, or its prompt as one of the user's."""
    if path == "/chat/completions":
        messages = value_of(fields, "messages")
        return tuple({**m, "content": text_of(m.get("content"))} for m in messages)
    prompt = value_of(fields, "prompt") or ""
    text = prompt if isinstance(prompt, str) else "\n".join(map(str, prompt))
    return ({"role": "user", "content": text},)


def text_of(content: Any) -> str:
    """The text of a message's content, which may be a list of parts."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


def options_of(fields: Fields) -> dict[str, Any]:
    """The request options that experts of this process know."""
    options = {}
    for name, kind in OPTIONS.items():
        if (value := value_of(fields, name)) is None:
            continue
        value = exact(name, value)
        try:
            msgspec.convert(value, KINDS[kind])
        except msgspec.ValidationError:
            raise bad_request(f"{name} must be {kind}", name) from None
        if name in BOUNDS and value < 1:
            raise bad_request(f"{name} must be at least 1 for this expert, got {value}", name)
        options["max_tokens" if name in BOUNDS else name] = value
    return options


def exact(name: str, value: Any) -> Any:
    """The value of an option, a whole number as one where ``5.0`` was written."""
    whole = isinstance(value, float) and value.is_integer()
    return int(value) if whole and OPTIONS.get(name) == "a whole number" else value


def known(options: Mapping[str, Any], theirs: Collection[str]) -> dict[str, Any]:
    """The options of a composition's call, of the client's (``theirs``) only those known here."""
    kept = {
        name: exact(name, value)
        for name, value in options.items()
        if name not in theirs or (name in OPTIONS and value is not None)
    }
    if (bound := kept.pop("max_completion_tokens", None)) is not None:
        kept["max_tokens"] = bound
    return kept
