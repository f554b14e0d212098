"""How long a request may take in all, and how many extra requests an upstream may get."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

Clock = Callable[[], float]
LONGEST_WAIT = 120.0  # seconds; a server that asks for more is not waited for


class Deadline:
    """The point in time at which a request has to be over, all attempts included."""

    __slots__ = ("at", "clock")

    def __init__(self, seconds: float = math.inf, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self.at = clock() + seconds

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
