"""How long a request may take in all, and how many extra requests an upstream may get."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

Clock = Callable[[], float]
TICK = 2e-3  # seconds that a timer may be early: uvloop counts milliseconds
LONGEST_WAIT = 120.0  # seconds; a server that asks for more is not waited for


class Deadline:
    """The point in time at which a request has to be over, all attempts included.

    ``kind`` is the kind of failure of what is not over then.
    """

    __slots__ = ("at", "clock", "kind")

    def __init__(
        self, seconds: float = math.inf, clock: Clock = time.monotonic, kind: str = "deadline"
    ) -> None:
        self.clock, self.kind = clock, kind
        self.at = clock() + seconds

    @property
    def over(self) -> bool:
        """It is, as near as timers can tell."""
        return self.left() < TICK

    def half(self) -> Deadline:
        """Half of what is left: whoever is silent until then leaves time for another."""
        return Deadline(self.left() / 2, self.clock, "timeout_first")

    def left(self) -> float:
        """Seconds until then, at least 0."""
        return max(0.0, self.at - self.clock())

    def allows(self, seconds: float) -> bool:
        """Something that takes so long could still be of use afterwards."""
        return seconds < self.left()


class RetryBudget:
    """At most ``share`` extra requests to one upstream, beside a few that are free at the start.

    Every first request puts ``share`` of a retry aside, up to ``most``; a retry takes a whole one.
    """

    __slots__ = ("_saved", "most", "share")

    def __init__(self, share: float = 0.2, most: float = 10.0, free: float = 3.0) -> None:
        self.share, self.most = share, most
        self._saved = free

    def earn(self) -> None:
        """A first request was sent."""
        self._saved = min(self.most, self._saved + self.share)

    def spend(self) -> bool:
        """Take a retry, if there is one."""
        if self._saved < 1 - 1e-9:
            return False
        self._saved -= 1
        return True


RATES = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
)
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")


def duration(text: str) -> float | None:
    """Seconds until a limit is reset: ``6m0s``, ``20ms``, a number, or an ISO time.

    >>> duration("6m0s"), duration("20ms"), duration("1.5"), duration("soon")
    (360.0, 0.02, 1.5, None)
    """
    if parts := _PART.findall(text):
        return float(sum(float(number) * _UNITS[unit] for number, unit in parts))
    try:
        seconds = float(text)
        return seconds if 0 <= seconds < 86400 else None
    except ValueError:
        pass
    try:
        return max(0.0, (datetime.fromisoformat(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def pause(headers: Mapping[str, str], tokens: int) -> float:
    """Seconds that an upstream's rate limits leave no room for a request of ``tokens``, 0 usually.

    Read from ``x-ratelimit-remaining-*`` and ``x-ratelimit-reset-*``.
    """
    longest = 0.0
    for (remains, reset), needed in zip(RATES, (1, tokens), strict=True):
        if (remaining := headers.get(remains)) is None:
            continue
        if remaining.isdecimal() and int(remaining) < needed:
            wait = duration(headers.get(reset, ""))
            longest = max(longest, wait or 0.0)
    return min(longest, LONGEST_WAIT)
