"""An expert's stream under way: its events as they come, and every way in which it may end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from coterie.gateway.connections import BadResponse
from coterie.gateway.entries import Tokens
from coterie.gateway.events import EventTooLarge, Tally
from coterie.gateway.failures import Failure, UpstreamError, failure
from coterie.gateway.http_response import Response
from coterie.gateway.replies import Outgoing, Reply
from coterie.gateway.retries import Deadline
from coterie.gateway.usage import estimate

if TYPE_CHECKING:
    from coterie.gateway.upstream import HttpUpstream

TAIL = 2.0  # seconds that usage may come after the last choice has finished


class StreamReply(Reply):
    """Events of ``response``, of which ``tally`` has seen those in ``ready`` already."""

    def __init__(
        self,
        upstream: HttpUpstream,
        out: Outgoing,
        response: Response,
        tally: Tally,
        ready: bytes,
        key: str,
        deadline: Deadline,
        pause: float = 0.0,
    ) -> None:
        super().__init__(tally.model, finish=tally.finish, pause=pause)
        self._upstream, self._out, self._response = upstream, out, response
        self._tally, self._ready, self._key, self._deadline = tally, ready, key, deadline
        self._watch = _Watch(response)
        self._seen = -1
        self._closed = False

    def so_far(self) -> Tokens:
        """What was reported until now, else an estimate by the bytes of content."""
        return self.tokens or self._tally.tokens or estimate(self._out, self._tally.size)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Events as they come; raises UpstreamError for a stream that is cut, stalls or fails."""
        tally = self._tally
        try:
            if self._ready:
                self.shown = tally.shown
                yield self._ready
            while not tally.over:
                piece = await self._next()
                try:
                    passed = tally.feed(piece) if piece else tally.end()
                except EventTooLarge as error:
                    told = f"{self._upstream.name}: sent {error}"
                    raise UpstreamError(failure("wrong_shape", told)) from None
                if passed:
                    self.shown = tally.shown
                    yield passed
                if tally.error is not None:
                    raise UpstreamError(self._upstream.error_of(tally.error, self._key))
                if not piece:
                    break
            self._end()
        finally:
            self._close()

    async def aclose(self) -> None:
        """Abort the connection unless the stream has ended."""
        self._close()

    async def _next(self) -> bytes:
        """The next piece; empty at the end, also at a bad one after all was said."""
        tally, response, watch = self._tally, self._response, self._watch
        if tally.count != self._seen:  # only events count as signs of life
            self._seen = tally.count
            watch.extend(min(self._patience(), self._deadline.left()))
        try:
            while (piece := response.taken()) is None:
                watch.begin()
                await response.arrival()  # itself, as each further call costs a piece of a stream
                watch.waiting = False
            return piece
        except (ConnectionError, BadResponse, TimeoutError) as error:
            if tally.complete:
                return b""
            raise UpstreamError(self._told(error)) from None

    def _patience(self) -> float:
        return TAIL if self._tally.complete else self._upstream.timeouts.stall

    def _told(self, error: Exception) -> Failure:
        name = self._upstream.name
        if not isinstance(error, TimeoutError):
            return failure("cut", f"{name}: the stream broke off")
        if not self._deadline.over:
            return failure("stall", f"{name}: the stream stalled")
        return failure("deadline", f"{name}: the stream took too long")

    def _end(self) -> None:
        """The stream is over: the tokens are known, or it ended too early."""
        if not self._tally.complete:
            name = self._upstream.name
            raise UpstreamError(failure("cut", f"{name}: the stream ended without a finish"))
        self.tokens, self.finish = self.so_far(), self._tally.finish

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._watch.stop()
        if self.tokens is not None and not self._response.whole:
            self._upstream.linger(self._response)
        else:
            self._response.close()


class _Watch:
    """Ends what waits too long, while it is ``waiting``; one timer for a stream, seldom moved."""

    __slots__ = ("_due", "_loop", "_response", "_timer", "waiting")

    def __init__(self, response: Response) -> None:
        self._response = response
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due, self.waiting = 0.0, False

    def extend(self, seconds: float) -> None:
        """Reads may wait so long from now on."""
        due = self._loop.time() + seconds
        if self._timer is not None and due < self._due:
            self.stop()
        self._due = due

    def begin(self) -> None:
        """Somebody waits from now on."""
        self.waiting = True
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._check)

    def stop(self) -> None:
        """No timer is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        self._timer = None
        if not self.waiting:
            return  # nobody has to wait while the client is slow
        if self._loop.time() < self._due - 1e-3:
            self._timer = self._loop.call_at(self._due, self._check)
        else:
            self._response.fail(TimeoutError())
