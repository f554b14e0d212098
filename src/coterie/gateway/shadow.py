"""A second router that decides on the same requests and serves none of them."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from coterie.files import Closing
from coterie.policies import Policy
from coterie.routers.base import Router
from coterie.types import Estimates, Query

WAITING = 1000  # requests that wait for the second router at most
TOGETHER = 64  # requests predicted at once
NORMAL = 1.96  # half the width of a 95 % interval, in standard errors


class Mean:
    """Running mean of a difference, with its 95 % interval."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, 0.0, 0.0

    def add(self, value: float) -> None:
        """Take one value into account; what is not finite is left out."""
        if math.isfinite(value):
            self.count, self.total = self.count + 1, self.total + value
            self.squares += value * value

    def to_dict(self) -> dict[str, float | None]:
        """Mean and bounds, None where there are none."""
        if self.count < 2:
            mean = self.total if self.count else None
            return {"mean": mean, "low": None, "high": None}
        mean = self.total / self.count
        spread = max(self.squares - self.count * mean * mean, 0.0) / (self.count - 1)
        half = NORMAL * math.sqrt(spread / self.count)
        return {"mean": mean, "low": mean - half, "high": mean + half}


class Shadow(Closing):
    """What another router and policy would have chosen, in a thread of its own.

    ``submit`` returns at once: where ``waiting`` requests wait already, the request is dropped and
    counted. A router that fails is counted too and never heard of by who is served. Differences
    between its choice and the served one are those that this router itself expects, so they flatter
    it: what it would have earned, ``coterie evaluate --off-policy`` tells.

    Parameters
    ----------
    router, policy
        A fitted router and any policy.
    waiting
        Requests that wait at most.
    """

    def __init__(self, router: Router, policy: Policy, waiting: int = WAITING) -> None:
        self.router, self.policy, self.waiting = router, policy, waiting
        self.seen = self.judged = self.agreed = self.dropped = self.failed = 0
        self.error = ""
        self.choices: Counter[str] = Counter()
        self.quality, self.cost = Mean(), Mean()
        self._queue: deque[tuple[Query, str, Future[str | None]]] = deque()
        self._thread = ThreadPoolExecutor(1, "shadow")
        self._lock, self._working = threading.Lock(), False
        self._closed = False

    def observe(self, query: Query, served: str = "") -> str | None:
        """Whom it would have asked, counted; None where it failed. ``served`` was asked instead."""
        return self._decide([query], [served])[0]

    def submit(self, query: Query, served: str = "") -> Future[str | None]:
        """The same later, in the thread; at once None where too many wait."""
        future: Future[str | None] = Future()
        if self._closed or len(self._queue) >= self.waiting:
            self.dropped += 1
            future.set_result(None)
            return future
        self._queue.append((query, served, future))
        with self._lock:
            if not self._working and not self._closed:
                self._working = True
                self._thread.submit(self._drain)
        return future

    async def choose(self, query: Query, served: str = "") -> str | None:
        """The same, for coroutines; the event loop goes on meanwhile."""
        return await asyncio.wrap_future(self.submit(query, served))

    def _drain(self) -> None:
        """Decide on all that wait, until nothing does."""
        try:
            self._decide_all()
        except BaseException:
            with self._lock:
                self._working = False  # or nobody would ever look at the queue again
            raise

    def _decide_all(self) -> None:
        while True:
            with self._lock:
                count = min(len(self._queue), TOGETHER)
                batch = [self._queue.popleft() for _ in range(count)]
                self._working = count > 0
            if not batch:
                return
            made = self._decide([query for query, *_ in batch], [served for _, served, _ in batch])
            for (*_, future), choice in zip(batch, made, strict=True):
                if future.set_running_or_notify_cancel():
                    future.set_result(choice)

    def _decide(self, queries: Sequence[Query], served: Sequence[str]) -> list[str | None]:
        self.seen += len(queries)
        try:
            estimates = self.router.predict(queries)
            decided = self.policy.decide(queries, estimates)
            chosen = [decision.experts[0] for decision in decided]
            for row, (ours, theirs) in enumerate(zip(chosen, served, strict=True)):
                self._count(estimates, row, ours, theirs)
        except Exception as error:  # a second opinion must never cost the first
            self.failed += len(queries)
            self.error = f"{type(error).__name__}: {error}"
            return [None] * len(queries)
        return [*chosen]

    def _count(self, estimates: Estimates, row: int, ours: str, theirs: str) -> None:
        """One decision; differences where the router knows the expert that served."""
        self.choices[ours] += 1
        if theirs not in estimates.experts:
            return
        self.judged += 1
        self.agreed += ours == theirs
        columns = [estimates.experts.index(name) for name in (ours, theirs)]
        for mean, array in ((self.quality, estimates.quality), (self.cost, estimates.cost)):
            mean.add(float(np.subtract(*array[row, columns])))

    def state(self) -> dict[str, Any]:
        """What there is to show, as JSON values; differences are its choice less the served one."""
        return {
            "seen": self.seen,
            "judged": self.judged,
            "agreement": self.agreed / self.judged if self.judged else None,
            "quality": self.quality.to_dict(),
            "cost": self.cost.to_dict(),
            "choices": dict(self.choices.most_common()),
            "dropped": self.dropped,
            "failed": self.failed,
            "error": self.error,
        }

    def close(self) -> None:
        """Forget what waits and end the thread."""
        with self._lock:
            self._closed = True
            left = [*self._queue]
            self._queue.clear()
        for *_, future in left:
            future.cancel()
        self._thread.shutdown(wait=True, cancel_futures=True)
