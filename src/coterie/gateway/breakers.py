"""A breaker per expert: one that is ill is left alone, probed by one request, and taken back."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from enum import Enum

from coterie.gateway.retries import LONGEST_WAIT, Clock

TRIP_AFTER = 5  # failures in a row
TRIP_SHARE, TRIP_CALLS = 0.5, 20  # or this share of so many calls in the last WINDOW
WINDOW = 30.0  # seconds
FIRST_PAUSE, LAST_PAUSE = 2.0, 24.0  # seconds open; doubles with every probe that fails
SPREAD = 0.2  # of the pause, either way: never more than 30 s in all


class Permit(Enum):
    """As what a call goes through a breaker."""

    NORMAL = "normal"
    PROBE = "probe"
    FORCED = "forced"  # although it is open, where nobody else is left


class Breaker:
    """Closed, open or half-open.

    Closed calls pass; enough failures open it. When its pause is over a single call passes as a
    probe, whose outcome closes it or opens it for twice as long. ``limit`` opens it for as long as
    an expert asked to be left alone, after which it is closed without a probe. A call that passed
    must ``leave`` with its outcome.
    """

    def __init__(
        self, clock: Clock = time.monotonic, draw: Callable[[], float] = random.random
    ) -> None:
        self._clock, self._draw = clock, draw
        self._failures = 0  # in a row
        self._trips = 0  # in a row
        self._opens_at: float | None = None  # when a probe may pass; None while closed
        self._limited_until = -1.0
        self._probing = False
        self._window = [0, 0, 0, 0]  # calls and failures of this half window and of the last
        self._turns_at = clock() + WINDOW / 2

    @property
    def state(self) -> str:
        """closed, open, half-open, or limited (left alone because the expert asked for it)."""
        if self._opens_at is not None:
            ready = self._probing or self._clock() >= self._opens_at
            return "half-open" if ready else "open"
        return "limited" if self._limited_until > self._clock() else "closed"

    @property
    def limited(self) -> bool:
        """The expert asked to be left alone until later."""
        return self._limited_until > self._clock()

    def wait(self) -> float:
        """Seconds until a call may pass; 0 if one may now."""
        now = self._clock()
        until = max(self._limited_until, now if self._opens_at is None else self._opens_at)
        return max(0.0, until - now)

    def enter(self) -> Permit | None:
        """Let a call pass, or not."""
        if self._opens_at is None:
            if self._limited_until < 0 or self._limited_until <= self._clock():
                return Permit.NORMAL
            return None
        if self._probing or self.wait() > 0:
            return None
        self._probing = True
        return Permit.PROBE

    def leave(self, permit: Permit, healthy: bool | None) -> None:
        """A call that passed is over; None says nothing about the expert's health."""
        if permit is Permit.PROBE:
            self._probing = False
        if healthy is None:
            return
        if self._opens_at is not None:
            if permit is Permit.NORMAL:
                return  # it set off before the breaker opened
            self._close() if healthy else self._open()
            return
        self._count(healthy)
        if healthy:
            self._failures = 0
            return
        self._failures += 1
        if self._failures >= TRIP_AFTER or self._mostly_failing():
            self._open()

    def limit(self, seconds: float) -> bool:
        """The expert asked to be left alone for so long, at most LONGEST_WAIT; whether it counts.

        It does not where it asked for longer before.
        """
        until = self._clock() + min(seconds, LONGEST_WAIT) * (1 + self._draw() / 10)
        longer = until > self._limited_until
        self._limited_until = max(self._limited_until, until)
        return longer

    def open(self, seconds: float) -> None:
        """Another process found the expert ill: let a probe pass after so long, not before."""
        until = self._clock() + min(seconds, LAST_PAUSE * (1 + SPREAD))
        self._opens_at = until if self._opens_at is None else max(self._opens_at, until)

    def reset(self) -> None:
        """Forget the failures, so that the next call passes; what an expert asked for stays."""
        self._close()

    def _open(self) -> None:
        pause = min(FIRST_PAUSE * 2**self._trips, LAST_PAUSE)
        self._trips = min(self._trips + 1, 16)
        self._opens_at = self._clock() + pause * (1 + SPREAD * (2 * self._draw() - 1))

    def _close(self) -> None:
        self._opens_at, self._failures, self._trips = None, 0, 0
        self._window = [0, 0, 0, 0]

    def _count(self, healthy: bool) -> None:
        now = self._clock()
        if now >= self._turns_at:
            recent = now < self._turns_at + WINDOW / 2
            self._window = [0, 0, *(self._window[:2] if recent else (0, 0))]
            self._turns_at = now + WINDOW / 2
        self._window[0] += 1
        self._window[1] += not healthy

    def _mostly_failing(self) -> bool:
        calls, failures = self._window[0] + self._window[2], self._window[1] + self._window[3]
        return calls >= TRIP_CALLS and failures >= TRIP_SHARE * calls
