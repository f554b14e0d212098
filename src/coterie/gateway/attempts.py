"""One request, several tries: retries, fallbacks and what may happen in the middle of a stream."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from coterie.errors import CoterieError
from coterie.gateway.entries import Attempt
from coterie.gateway.failures import Failure, UpstreamError
from coterie.gateway.retries import Deadline
from coterie.gateway.upstream import Outgoing, Reply, Upstream
from coterie.gateway.wire import ApiError


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
        """What the client is told; its SDK need not try again, as we have."""
        return self.failure.to_api_error([(b"x-should-retry", b"false")])


class Delivery:
    """An answer under way: iterate over ``events`` if it is a stream, and ``aclose`` always.

    ``attempts`` has every try that is over; the last one is added when the stream ends, fails or is
    closed. ``expert`` is who answers (a restart changes it).
    """

    def __init__(self, reply: Reply, expert: str, attempts: list[Attempt]) -> None:
        self.reply, self.expert, self.attempts = reply, expert, attempts

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The reply's events; raises UpstreamError when it fails for good."""
        async with aclosing(self.reply.events()) as events:
            async for event in events:
                yield event

    async def aclose(self) -> None:
        """Give back what the answer holds, and abort it if it is not over. Does nothing twice."""
        await self.reply.aclose()


class Attempts:
    """Retries, fallbacks, breakers and queues of all experts; one per gateway."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock

    async def serve(
        self,
        candidates: Sequence[Upstream],
        out: Outgoing,
        deadline: Deadline,
        options: AttemptOptions,
        attempts: list[Attempt] | None = None,
    ) -> Delivery:
        """The answer of the first candidate that gives one; raises Exhausted.

        ``attempts`` is filled as tries end, also when this is cancelled.
        """
        attempts = [] if attempts is None else attempts
        for upstream in candidates:
            start = self.clock()
            try:
                reply = await upstream.open(out, deadline)
            except UpstreamError as error:
                told = error.failure
                seconds = self.clock() - start
                attempts.append(Attempt(upstream.name, told.kind, told.status, seconds))
                continue
            return Delivery(reply, upstream.name, attempts)
        raise Exhausted(told, attempts)
