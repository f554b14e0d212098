"""Compositions in the gateway: the same generators as everywhere, their last call streamed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from coterie.drivers.conversation import Conversation
from coterie.gateway.attempts import Delivery, Exhausted
from coterie.gateway.entries import Attempt, Tokens
from coterie.gateway.failures import THEIRS, UpstreamError, failure, redact
from coterie.gateway.locals import (
    Chunks,
    LocalUpstream,
    exact,
    failure_of,
    known,
    messages_of,
    whole,
)
from coterie.gateway.replies import Outgoing, Reply, Upstream
from coterie.gateway.retries import Deadline
from coterie.gateway.usage import BOUNDS, longest
from coterie.gateway.wire import ApiError, frame, raw, value_of
from coterie.types import ONE_OF, Call, Completion, Query, Usage

if TYPE_CHECKING:
    from coterie.gateway.routing import Plan
    from coterie.gateway.services import Services

CHAT = "/chat/completions"
UNSENT = frozenset({"choices", ONE_OF})
UNPAID = "the budget does not cover this call"
OURS = frozenset({"messages", "prompt", "model", "stream", "stream_options", "n"})


async def converse(talk: Talk, plan: Plan, out: Outgoing) -> Composed:
    """Run the plan's composition; its last call streams where it has one and the client wants it.

    Calls that the budget does not hold count as failed. Raises Exhausted where there is no answer
    in the end, or ApiError where the budget is why.
    """
    assert plan.decision is not None
    assert plan.query is not None
    composition = talk.services.compositions[plan.composition]
    query = _whole_query(plan.query, out)
    conversation = Conversation(query, plan.decision, composition, _seed(out))
    talk.theirs = frozenset(out.fields)
    streams = out.stream and out.path == CHAT
    while not conversation.ended:
        calls = [talk.bounded(call) for call in conversation.pending]
        if not await talk.covered(calls):
            conversation.send([_failed(call, UNPAID) for call in calls])
        elif conversation.final is not None and streams:
            delivery = await talk.streamed(calls[0], out, conversation.final.prefix)
            if not isinstance(delivery, Completion):
                return delivery
            conversation.send([delivery])
        else:
            conversation.send(await _together(map(talk.complete, calls)))
    return talk.delivery(conversation.answer.completion, out)


async def _together(calls: Iterable[Coroutine[Any, Any, Completion]]) -> list[Completion]:
    """What they return; where one raises, the others are ended before it is heard of."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class Talk:
    """The calls of one composition; every try is added to ``attempts``.

    ``hold`` reserves for calls beside what was paid for, or raises ApiError.
    """

    def __init__(
        self,
        services: Services,
        deadline: Deadline,
        attempts: list[Attempt],
        barred: Callable[[str], str] = lambda name: "",
        hold: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        self.services, self._deadline, self._attempts = services, deadline, attempts
        self._barred, self._hold = barred, hold
        self._open: list[Call] = []
        self._refused: ApiError | None = None
        self.theirs: frozenset[str] = frozenset()  # options that the client chose

    def bounded(self, call: Call) -> Call:
        """The call with a bound of its answer, where a budget pays for it."""
        if self._hold is None or any(call.options.get(n) is not None for n in BOUNDS[CHAT]):
            return call
        options = {**call.options, "max_tokens": self.services.limits.answer_tokens}
        return replace(call, options=options)

    async def covered(self, calls: Sequence[Call]) -> bool:
        """Whether the budget holds these calls too; raises ApiError where they are the first."""
        self._open = [*calls]
        if self._hold is None:
            return True
        try:
            await self._hold(self._most())
        except ApiError as error:
            if not self._attempts:
                raise
            self._refused = error
            return False
        return True

    async def _again(self, together: int) -> None:
        """Room for one more try of a call; raises Exhausted."""
        assert self._hold is not None
        try:
            await self._hold(self._most())
        except ApiError as error:
            self._refused = error
            raise Exhausted(failure("quota", UNPAID), self._attempts) from None

    def _most(self) -> float:
        """What the calls under way may cost."""
        prices, unbounded = self.services.prices, self.services.limits.answer_tokens
        return sum(
            [
                prices.worst([call.expert], longest(CHAT, _outgoing(call).fields, unbounded))
                for call in self._open
            ]
        )

    async def complete(self, call: Call) -> Completion:
        """The completion of one call; a failure says so."""
        try:
            return await self._complete(call)
        finally:
            self._open.remove(call)

    async def _complete(self, call: Call) -> Completion:
        upstream = self._upstream(call)
        if isinstance(upstream, LocalUpstream):
            return await self._local(upstream, call)
        start = time.perf_counter()
        try:
            delivery = await self._serve(upstream, _outgoing(call))
        except Exhausted as error:
            return _failed(call, error.failure.message)
        seconds = time.perf_counter() - start
        await delivery.aclose()
        try:
            return _completion(call.expert, delivery.reply, seconds)
        except (msgspec.DecodeError, LookupError):
            return _failed(call, f"{call.expert}: sent JSON without an answer")

    async def _local(self, upstream: LocalUpstream, call: Call) -> Completion:
        """Straight from the expert: its log probabilities are worth having."""
        start = time.perf_counter()
        try:
            mine = replace(call, options=known(call.options, self.theirs))
            completion = await upstream.complete(mine, self._deadline)
            kind = failure_of(completion).kind if completion.broke else ""
        except UpstreamError as error:
            completion = _failed(call, error.failure.message)
            kind = error.failure.kind
        seconds = time.perf_counter() - start
        count = completion.usage
        tokens = Tokens(
            count.prompt_tokens, count.completion_tokens, estimated=completion.estimated
        )
        status = 502 if kind else 200
        self._attempts.append(Attempt(call.expert, kind, status, seconds, tokens))
        return completion

    async def streamed(self, call: Call, out: Outgoing, prefix: str) -> Composed | Completion:
        """The last call as a stream, or its failure before anything was shown."""
        upstream = self._upstream(call)
        asked = replace(_outgoing(call), stream=True)
        try:
            delivery = await self._serve(upstream, asked)
        except Exhausted as error:
            return _failed(call, error.failure.message)
        wanted = out.wants_usage
        return Composed(delivery.reply, call.expert, self._attempts, delivery, prefix, wanted)

    def _upstream(self, call: Call) -> Upstream:
        """The expert of a call, which the composition may have in its settings; ApiError 403."""
        if why := self._barred(call.expert):
            told = f"the composition asks {call.expert!r}, which may not answer this: {why}"
            raise ApiError(403, told, type="permission_error", code="no_eligible_expert")
        return self.services.upstreams[call.expert]

    async def _serve(self, upstream: Upstream, out: Outgoing) -> Delivery:
        services = self.services
        options = replace(services.options, hedge=None, midstream="error")
        cover = None if self._hold is None else self._again
        given = ([upstream], out, self._deadline, options, self._attempts, cover)
        return await services.attempts.serve(*given)

    def delivery(self, completion: Completion, out: Outgoing) -> Composed:
        """The answer of the composition; raises Exhausted where it is a failure."""
        if completion.broke:
            if self._refused is not None:
                raise self._refused
            kinds = {one.kind for one in self._attempts}
            kind = kinds.pop() if len(kinds) == 1 and kinds <= THEIRS else "overloaded"
            told = failure(kind, redact(str(completion.error)))
            raise Exhausted(told, self._attempts)
        total = _used(self._attempts)
        counted = replace(completion, usage=Usage(total.prompt, total.completion))
        reply = whole([counted], out.path)
        if out.stream:
            reply = _Said(counted, total, out)
        return Composed(reply, completion.expert, self._attempts)


class _Said(Reply):
    """A text that is there already, as a stream."""

    def __init__(self, completion: Completion, tokens: Tokens, out: Outgoing) -> None:
        super().__init__(completion.expert, tokens=tokens, finish=completion.finish_reason)
        self._text, self._out = completion.text, out

    async def events(self) -> AsyncGenerator[bytes, None]:
        """See Reply."""
        assert self.tokens is not None
        chunks = Chunks(self.model, self._out.path)
        self.shown = True
        yield chunks.piece(self._text)
        yield chunks.end(self.finish, self.tokens, self._out.wants_usage)


class Composed:
    """The answer of a composition; see Delivery.

    ``prefix`` goes before the events of ``last``, its last call, where that one streams, and behind
    them the usage of all calls, where it is wanted.
    """

    def __init__(
        self,
        reply: Reply,
        expert: str,
        attempts: list[Attempt],
        last: Delivery | None = None,
        prefix: str = "",
        wants_usage: bool = False,
    ) -> None:
        self.reply, self.expert, self.attempts = reply, expert, attempts
        self._last, self._prefix, self._wants_usage = last, prefix, wants_usage

    @property
    def tries(self) -> int:
        """See Delivery."""
        return len(self.attempts) if self._last is None else self._last.tries

    async def events(self) -> AsyncGenerator[bytes, None]:
        """See Delivery."""
        chunks, prefix = Chunks(self.reply.model or self.expert), self._prefix
        if prefix:
            yield chunks.piece(prefix)
        source = self.reply if self._last is None else self._last
        async with aclosing(source.events()) as events:
            async for event in events:
                yield _without_role(event) if prefix and b'"role"' in event else event
        if self._wants_usage:
            yield chunks.usage(_used(self.attempts))

    async def aclose(self) -> None:
        """See Delivery."""
        await (self.reply if self._last is None else self._last).aclose()


def _used(attempts: Iterable[Attempt]) -> Tokens:
    """Tokens of all calls together."""
    return sum([one.tokens for one in attempts if one.tokens is not None], Tokens())


def _without_role(event: bytes) -> bytes:
    """Frames of an answer that has begun already: clients would add up the roles."""
    told = b""
    for one in filter(None, event.split(b"\n\n")):
        chunk = msgspec.json.decode(one.removeprefix(b"data: "))
        for choice in chunk["choices"]:
            choice["delta"].pop("role", None)
        told += frame(msgspec.json.encode(chunk))
    return told


def _whole_query(query: Query, out: Outgoing) -> Query:
    """The query with the client's messages and request options."""
    params = {name: value_of(out.fields, name) for name in out.fields if name not in OURS}
    if out.bound is not None:
        params["max_tokens"] = out.bound
    return replace(query, messages=messages_of(out.fields, out.path), params=params)


def _seed(out: Outgoing) -> int:
    seed = exact("seed", value_of(out.fields, "seed"))
    return seed if isinstance(seed, int) else 0


def _outgoing(call: Call) -> Outgoing:
    options = {name: raw(value) for name, value in call.options.items() if name not in UNSENT}
    fields = {"messages": raw([dict(message) for message in call.messages]), **options}
    return Outgoing(CHAT, {"model": raw(call.expert), **fields})


class _Message(msgspec.Struct):
    content: str | None = None


class _Token(msgspec.Struct):
    logprob: float = 0.0


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _Choice(msgspec.Struct):
    message: _Message = msgspec.field(default_factory=_Message)
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Body(msgspec.Struct):
    choices: list[_Choice] = []


_body = msgspec.json.Decoder(_Body)


def _completion(expert: str, reply: Reply, seconds: float) -> Completion:
    """A reply as compositions read it."""
    choice = _body.decode(reply.body or b"{}").choices[0]
    tokens = reply.tokens or Tokens(estimated=True)
    text = choice.message.content or ""
    return Completion(
        expert=expert,
        text=text,
        usage=Usage(tokens.prompt, tokens.completion),
        latency=seconds,
        finish_reason=choice.finish_reason or "",
        error=None if text.strip() else f"{expert}: answered nothing",
        estimated=tokens.estimated,
        logprob=_mean(choice.logprobs),
    )


def _mean(logprobs: _Logprobs | None) -> float | None:
    tokens: Sequence[_Token] = (logprobs.content or ()) if logprobs is not None else ()
    return sum(t.logprob for t in tokens) / len(tokens) if tokens else None


def _failed(call: Call, why: str) -> Completion:
    return Completion(call.expert, finish_reason="error", error=why)


def compositions_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """Those that answer questions: annotating is no answer, and ``single`` needs no name."""
    return {name: one for name, one in found.items() if name not in ("annotate", "single")}
