"""One request, several tries: retries, fallbacks and what may happen in the middle of a stream."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import msgspec

from coterie.errors import CoterieError
from coterie.experts.limits import Entry as Taken
from coterie.experts.limits import RateLimit
from coterie.experts.retries import delay
from coterie.gateway.breakers import Breaker, Permit
from coterie.gateway.entries import Attempt, Tokens
from coterie.gateway.failures import Failure, UpstreamError, failure
from coterie.gateway.replies import Outgoing, Reply, Upstream
from coterie.gateway.retries import LONGEST_WAIT, Clock, Deadline, RetryBudget
from coterie.gateway.slots import Slots
from coterie.gateway.usage import estimate, expected_tokens
from coterie.gateway.wire import ApiError

QUEUE = 256  # calls in line for one expert
PATIENCE = 30.0  # seconds in line
IMPATIENCE = 1.0  # seconds that a repetition may be late while another expert is free
QUOTA_PAUSE = 60.0  # seconds that an expert without quota is left alone
Cover: TypeAlias = Callable[[int], Awaitable[None]]  # reserves for so many calls at a time


@dataclass(frozen=True, slots=True)
class AttemptOptions:
    """How hard to try.

    ``retries`` of the same expert in all; ``midstream`` says what a stream does that fails after it
    began: tell the client, or go on with the next expert, which happens only while nothing but
    reasoning was shown unless ``restart_shown``. ``hedge`` asks the next expert too when the first
    has not begun after so many seconds. ``refusals`` asks the next expert when one refused.
    """

    retries: int = 2
    midstream: Literal["error", "restart"] = "error"
    restart_shown: bool = False
    hedge: float | None = None
    refusals: bool = False


class Exhausted(CoterieError):
    """Nobody answered; ``failure`` is what the client is told, ``attempts`` who was tried."""

    def __init__(self, failure: Failure, attempts: list[Attempt]) -> None:
        self.failure, self.attempts = failure, attempts
        super().__init__(failure.message)

    def to_api_error(self) -> ApiError:
        """What the client is told; its SDK need not try again where we have."""
        tried = self.failure.kind != "busy"
        return self.failure.to_api_error([(b"x-should-retry", b"false")] if tried else [])


class Deployment:
    """What the gateway knows of an expert beside its answers."""

    def __init__(self, upstream: Upstream, clock: Clock, draw: Callable[[], float]) -> None:
        self.name = upstream.name
        self.breaker = Breaker(clock, draw)
        self.budget = RetryBudget()
        self.slots = Slots(None, QUEUE)
        self.limit: RateLimit | None = None
        self.resting: Failure | None = None  # with what it asked to be left alone
        self.adopt(upstream)

    def adopt(self, upstream: Upstream) -> None:
        """Take over the settings of an expert, which a reload may have changed."""
        self.upstream = upstream
        self.slots.size = getattr(upstream, "slots", None)
        limit: RateLimit | None = getattr(upstream, "limit", None)
        limited = limit is not None and (limit.requests.limit or limit.tokens.limit)
        self.limit = limit if limited else None


class Attempts:
    """Retries, fallbacks, breakers and queues of all experts; one per gateway."""

    def __init__(
        self, clock: Clock = time.monotonic, draw: Callable[[], float] = random.random
    ) -> None:
        self.clock, self.draw = clock, draw
        self.deployments: dict[str, Deployment] = {}
        self.hedges = RetryBudget(share=0.1, free=1.0)

    def deployment(self, upstream: Upstream) -> Deployment:
        """The state of an expert, which outlives changes of its settings."""
        known = self.deployments.get(upstream.name)
        if known is None:
            known = self.deployments[upstream.name] = Deployment(upstream, self.clock, self.draw)
        elif known.upstream is not upstream:
            known.adopt(upstream)
        return known

    async def serve(
        self,
        candidates: Sequence[Upstream],
        out: Outgoing,
        deadline: Deadline,
        options: AttemptOptions,
        attempts: list[Attempt] | None = None,
        cover: Cover | None = None,
    ) -> Delivery:
        """The answer of the first candidate that gives one; raises Exhausted.

        ``attempts`` is filled as tries end, also when this is cancelled. The first try is paid for;
        ``cover`` is awaited before a further one that a budget may not hold, and what it raises
        ends the tries.
        """
        attempts = [] if attempts is None else attempts
        run = _Run(self, candidates, out, deadline, options, attempts, cover)
        if options.hedge is not None and len(candidates) > 1 and _harmless(out):
            self.hedges.earn()
            return Delivery(run, await run.hedged(options.hedge))
        return Delivery(run, await run.first())


class Delivery:
    """An answer under way: iterate over ``events`` if it is a stream, and ``aclose`` always.

    ``attempts`` has every try that is over; the last one is added when the stream ends, fails or is
    closed. ``expert`` is who answers (a restart changes it).
    """

    def __init__(self, run: _Run, call: _Call) -> None:
        self._run, self._call = run, call
        self.attempts = run.attempts

    @property
    def reply(self) -> Reply:
        """The answer itself."""
        return self._call.reply

    @property
    def expert(self) -> str:
        """Who answers."""
        return self._call.deployment.name

    @property
    def tries(self) -> int:
        """How many calls it took, the one under way too."""
        return len(self.attempts) + (not self._call.over)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The reply's events; raises UpstreamError when it fails for good."""
        try:
            while True:
                try:
                    async with aclosing(self.reply.events()) as events:
                        async for event in events:
                            yield event
                    self._call.end()
                    return
                except UpstreamError as error:
                    shown = self.reply.shown
                    await self._call.close(error.failure)
                    self._call = await self._restarted(error)
                if shown:
                    yield b": restarted\n\n"
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Give back what the answer holds, and abort it if it is not over. Does nothing twice."""
        await self._call.close(CANCELLED)

    async def _restarted(self, error: UpstreamError) -> _Call:
        """The answer of the next expert, where the options allow one; raises ``error``."""
        run, options = self._run, self._run.options
        unseen = not self.reply.shown or options.restart_shown
        if options.midstream != "restart" or not (unseen and error.failure.retryable and run.left):
            raise error
        try:
            return await run.first()
        except (Exhausted, ApiError):
            raise error from None


CANCELLED = Failure("cancelled", "cancelled", 499, "cancelled")
HEDGED = Failure("hedged", "another expert was faster", 499, "cancelled")


class _Call:
    """One try of one expert: what it holds, and its line in the list of attempts."""

    __slots__ = ("deployment", "over", "permit", "reply", "run", "start", "taken")

    def __init__(self, run: _Run, deployment: Deployment, permit: Permit) -> None:
        self.run, self.deployment, self.permit = run, deployment, permit
        self.start = run.owner.clock()
        self.taken: Taken | None = None
        self.reply = Reply()
        self.over = False

    async def open(self, upstream: Upstream) -> None:
        """Ask; raises UpstreamError. However this ends, what is not needed is given back."""
        slots = self.deployment.slots
        if not slots.take_now():
            await self._queue(slots)
        try:
            if self.deployment.limit is not None:
                await self._take(self.deployment.limit)
            self.reply = await upstream.open(self.run.out, self.run.patience())
        except UpstreamError as error:
            self.end(error.failure)
            raise
        except ApiError as error:  # before anybody was asked
            self.end(failure("bad_request", error.message))
            raise
        except BaseException:
            self.end(self.run.ending)
            raise
        await self._opened()

    async def close(self, told: Failure) -> None:
        """Close the reply too, which may hold more than a connection."""
        try:
            await self.reply.aclose()
        finally:
            self.end(told)

    async def _opened(self) -> None:
        reply, breaker = self.reply, self.deployment.breaker
        if reply.pause and breaker.limit(reply.pause):
            self.deployment.resting = None
        if self.permit is not Permit.NORMAL:
            breaker.leave(self.permit, True)
            self.permit = Permit.NORMAL
        if self.run.options.refusals and reply.finish == "content_filter" and self.run.left:
            told = failure("content_filter", f"{self.deployment.name}: refused")
            await self.close(told)
            raise UpstreamError(told)
        if reply.body is not None:
            self.end()

    async def _queue(self, slots: Slots) -> None:
        try:
            free = await slots.take(min(PATIENCE, self.run.deadline.left()))
        except BaseException:
            self.deployment.breaker.leave(self.permit, None)
            raise
        if not free:
            self.deployment.breaker.leave(self.permit, None)
            raise UpstreamError(self._busy())

    async def _take(self, limit: RateLimit) -> None:
        """Wait in line for the expert's own limits."""
        try:
            async with asyncio.timeout(min(PATIENCE, self.run.deadline.left())):
                self.taken = await limit.take(expected_tokens(self.run.out))
        except TimeoutError:
            raise UpstreamError(self._busy()) from None

    def _busy(self) -> Failure:
        name = self.deployment.name
        return failure("busy", f"{name}: too many requests are waiting for it", retry_after=1.0)

    def end(self, told: Failure | None = None) -> None:
        """The try is over, well unless ``told`` says how; gives everything back, once."""
        if self.over:
            return
        self.over = True
        run, deployment = self.run, self.deployment
        tokens = self._tokens(told)
        deployment.slots.give()
        if self.taken is not None and deployment.limit is not None:
            deployment.limit.settle(self.taken, tokens.total if tokens else 0)
        deployment.breaker.leave(self.permit, _healthy(told))
        seconds = run.owner.clock() - self.start
        kind, status = ("", 200) if told is None else (told.kind, told.status)
        run.attempts.append(Attempt(deployment.name, kind, status, seconds, tokens))

    def _tokens(self, told: Failure | None) -> Tokens | None:
        if (tokens := self.reply.so_far()) is not None or told is None:
            return tokens
        if told in (CANCELLED, HEDGED) or told.read:
            return estimate(self.run.out, 0)  # it was read, and perhaps answered
        return None


def _healthy(told: Failure | None) -> bool | None:
    """What an outcome says about the expert's health, None if nothing."""
    if told is None:
        return True
    if told.kind in ("cancelled", "hedged", "busy", "deadline", "rate_limited", "quota"):
        return None
    return not told.breaker


class _Run:
    """The tries of one request. ``left`` are the candidates that were not asked yet."""

    def __init__(
        self,
        owner: Attempts,
        candidates: Sequence[Upstream],
        out: Outgoing,
        deadline: Deadline,
        options: AttemptOptions,
        attempts: list[Attempt],
        cover: Cover | None,
    ) -> None:
        self.owner, self.left, self.out = owner, list(candidates), out
        self.deadline, self.options, self.attempts = deadline, options, attempts
        self.cover, self.together = cover, 1
        self.retries = options.retries
        self.floor = 0.0  # tokens of context that were not enough
        self.last: Failure | None = None
        self.ending = CANCELLED

    async def first(self) -> _Call:
        """The first call with an answer; raises Exhausted."""
        while True:
            if self.attempts and self.left:
                await self._covered()
            upstream, permit = self._next() or await self._least_bad()
            try:
                return await self._ask(upstream, permit)
            except UpstreamError as error:
                self._learn(upstream, error.failure)

    def patience(self) -> Deadline:
        """Until when an expert may be silent: there is one more to ask unless a stream began."""
        return self.deadline if self.out.stream or not self.left else self.deadline.half()

    async def hedged(self, seconds: float) -> _Call:
        """The same with a second candidate asked when the first takes long; the loser is ended."""
        tasks = [asyncio.ensure_future(self.first())]
        try:
            await asyncio.wait(tasks, timeout=seconds)
            if not tasks[0].done() and self.left and self.owner.hedges.spend():
                tasks.append(asyncio.ensure_future(self._second()))
            winner = await self._winner(tasks)
            await self._end([task for task in tasks if task is not winner])
        except BaseException:
            await self._end(tasks)
            raise
        return winner.result()

    async def _second(self) -> _Call:
        """The hedge, for which nothing was reserved yet."""
        if self.cover is not None:
            await self.cover(2)
        self.together = 2
        return await self.first()

    async def _covered(self) -> None:
        """Reserve for a further try where an earlier one is to be paid for."""
        if self.cover is not None and any(one.tokens is not None for one in self.attempts):
            await self.cover(self.together)

    async def _winner(self, tasks: list[asyncio.Task[_Call]]) -> asyncio.Task[_Call]:
        """The first that has an answer; the last one that failed if none has."""
        waiting = set(tasks)
        while True:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.exception() is None:
                    self.ending = HEDGED
                    return task
            if not waiting:
                raise done.pop().exception() or AssertionError

    async def _end(self, tasks: list[asyncio.Task[_Call]]) -> None:
        """Cancel what runs, and close what has an answer all the same."""
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, _Call):
                await result.close(self.ending)

    def _next(self) -> tuple[Upstream, Permit] | None:
        """The first candidate whose breaker lets a call pass."""
        for place, upstream in enumerate(self.left):
            if self._large_enough(upstream):
                permit = self.owner.deployment(upstream).breaker.enter()
                if permit is not None:
                    del self.left[place]
                    return upstream, permit
        return None

    async def _least_bad(self) -> tuple[Upstream, Permit]:
        """Nobody may be called: the one that is ill for the shortest time, or that is free soon."""
        left = [upstream for upstream in self.left if self._large_enough(upstream)]
        if self.last is not None or not left:
            raise Exhausted(self.last or failure("busy", "no expert can be asked"), self.attempts)
        breakers = {upstream.name: self.owner.deployment(upstream).breaker for upstream in left}
        best = min(left, key=lambda up: (breakers[up.name].limited, breakers[up.name].wait()))
        self.left.remove(best)
        breaker = breakers[best.name]
        if not breaker.limited:
            return best, Permit.FORCED
        wait = breaker.wait() * (1 + self.owner.draw() / 10)
        if wait > PATIENCE or not self.deadline.allows(wait):
            told = self.owner.deployment(best).resting or failure(
                "rate_limited", f"{best.name}: its rate limit is used up"
            )
            raise Exhausted(replace(told, retry_after=breaker.wait()), self.attempts)
        await asyncio.sleep(wait + 1e-3)
        return best, breaker.enter() or Permit.FORCED

    async def _ask(self, upstream: Upstream, permit: Permit) -> _Call:
        """A call of this candidate, repeated where that may help; raises UpstreamError."""
        deployment = self.owner.deployment(upstream)
        deployment.budget.earn()
        tries = 0
        while True:
            call = _Call(self, deployment, permit)
            try:
                await call.open(upstream)
                return call
            except UpstreamError as error:
                told = error.failure
                _heed(deployment, told)
                wait = self._wait(deployment, permit, told, tries)
                if wait is None:
                    raise
            tries += 1
            await asyncio.sleep(wait)
            await self._covered()
            again = deployment.breaker.enter()
            if again is None:
                raise UpstreamError(told)
            permit = again

    def _wait(
        self, deployment: Deployment, permit: Permit, told: Failure, tries: int
    ) -> float | None:
        """Seconds until this expert is asked again; None if it is not."""
        if not told.same_route or not self.retries or permit is not Permit.NORMAL:
            return None
        asked = deployment.breaker.wait() if told.retry_after is not None else None
        wait = delay(tries, asked, self.owner.draw) + (1e-3 if asked else 0.0)
        if wait > LONGEST_WAIT or not self.deadline.allows(wait):
            return None
        if deployment.breaker.state in ("open", "half-open"):
            return None
        if self._others_free() and (tries or wait > IMPATIENCE):
            return None
        if not deployment.budget.spend():
            return None
        self.retries -= 1
        return wait

    def _others_free(self) -> bool:
        return any(
            self._large_enough(upstream) and self.owner.deployment(upstream).breaker.wait() == 0
            for upstream in self.left
        )

    def _learn(self, upstream: Upstream, told: Failure) -> None:
        """Keep what a failure means for the other candidates; raises Exhausted if it is all."""
        self.last = told
        if told.kind == "context_length":
            known = getattr(upstream, "context_length", None)
            self.floor = max(self.floor, float("inf") if known is None else known)
        elif not (told.retryable or (told.kind == "content_filter" and self.options.refusals)):
            raise Exhausted(told, self.attempts)
        if self.deadline.over:
            raise Exhausted(told, self.attempts)

    def _large_enough(self, upstream: Upstream) -> bool:
        if not self.floor:
            return True
        known = getattr(upstream, "context_length", None)
        return known is not None and known > self.floor


def _heed(deployment: Deployment, told: Failure) -> None:
    """Leave an expert alone for as long as it asks to be."""
    seconds = told.retry_after
    if told.kind == "quota":
        seconds = seconds or QUOTA_PAUSE
    elif told.kind not in ("rate_limited", "overloaded"):
        return
    if seconds is not None and deployment.breaker.limit(seconds):
        deployment.resting = told


def _harmless(out: Outgoing) -> bool:
    """Asking twice has no other effect than its price."""
    if "tools" in out.fields or "functions" in out.fields:
        return False
    try:
        return msgspec.json.decode(out.fields.get("n", b"1")) in (None, 1)
    except msgspec.DecodeError:
        return False
