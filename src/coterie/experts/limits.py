"""Rate limits of endpoints: so many requests and tokens in any minute.

A bucket that refills evenly (what most libraries have) lets through twice its size in the minute
after a pause. Here the last ``PERIOD`` seconds are remembered, so that no window of that length
holds more than the limit, whenever the provider's own window begins.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass

from coterie.errors import InputError
from coterie.experts.threads import PerLoop

PERIOD = 60.0  # seconds


@dataclass(slots=True)
class Entry:
    """What was taken at a time; ``Window.settle`` corrects the amount."""

    time: float
    amount: int


class Window:
    """At most ``limit`` in any ``period`` seconds; callers that have to wait do so in line.

    An amount above the limit passes when the window is empty. None is no limit.
    """

    def __init__(self, limit: int | None, period: float = PERIOD) -> None:
        self.limit, self.period = limit, period
        self._entries: deque[Entry] = deque()
        self._line = PerLoop(asyncio.Lock)
        self._freed = PerLoop(asyncio.Event)

    async def take(self, amount: int = 1) -> Entry:
        """Wait until there is room for ``amount``, and take it."""
        if self.limit is None:
            return Entry(0.0, amount)
        async with self._line.get():
            while (seconds := self._wait(amount)) > 0:
                await self._pause(seconds)
            entry = Entry(time.monotonic(), amount)
            self._entries.append(entry)
            return entry

    def settle(self, entry: Entry, amount: int) -> None:
        """``entry`` took another amount in truth: less makes room at once, more is owed."""
        entry.amount, less = amount, amount < entry.amount
        if less and self.limit is not None:
            self._freed.get().set()

    def _wait(self, amount: int) -> float:
        """Seconds until the next entry leaves the window, 0 where ``amount`` fits already."""
        now = time.monotonic()
        while self._entries and self._entries[0].time <= now - self.period:
            self._entries.popleft()
        assert self.limit is not None
        used = sum(entry.amount for entry in self._entries)
        if not used or used + amount <= self.limit:
            return 0.0
        return max(self._entries[0].time + self.period - now, 1e-3)

    async def _pause(self, seconds: float) -> None:
        """Sleep until then, or until something was given back."""
        freed = self._freed.get()
        freed.clear()
        try:
            async with asyncio.timeout(seconds):
                await freed.wait()
        except TimeoutError:
            return


class RateLimit:
    """Requests and tokens a minute, both or either; None is no limit.

    A call takes its estimated tokens when it is sent and settles with those it used.
    """

    def __init__(
        self, requests: int | None = None, tokens: int | None = None, period: float = PERIOD
    ) -> None:
        for field, value in (("requests_per_minute", requests), ("tokens_per_minute", tokens)):
            valid = value is None or (type(value) is int and value > 0)
            if not valid:
                message = f"expected a whole number of at least 1, got {value!r}"
                raise InputError(message, field=field)
        self.requests, self.tokens = Window(requests, period), Window(tokens, period)

    async def take(self, tokens: int) -> Entry:
        """Wait for room for a request of about ``tokens``; returns what to settle afterwards."""
        entry = await self.tokens.take(tokens)
        try:
            await self.requests.take()
        except asyncio.CancelledError:
            self.tokens.settle(entry, 0)
            raise
        return entry

    def settle(self, entry: Entry, tokens: int) -> None:
        """The call used ``tokens`` in truth."""
        self.tokens.settle(entry, tokens)
