"""Metrics of a trace of selections: who is used, how alike neighbours are, what a cache would hit.

A trace is a sequence of steps, each a set of the expert numbers it needs. The metrics do not ask
what a step is: a token inside one model or a request to a pool. SRP and SCH are those of Liang et
al. (moe-lrc, arXiv 2505.16056).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np

from coterie.errors import InputError
from coterie.types import FloatArray, IntArray

Steps: TypeAlias = Sequence[Sequence[int]]
RULES = ("lru", "lfu", "sch", "look-ahead", "belady")
WINDOWED = ("sch", "look-ahead")  # rules that see the next steps and no more
RESAMPLES = 1000


class Balance(NamedTuple):
    """How evenly the experts are used.

    ``shares`` of all uses, shape (experts,); their ``entropy`` in bits, log2(experts) where all
    are alike; ``imbalance``, the largest share over the mean one, 1 where all are alike.
    """

    shares: FloatArray
    entropy: float
    imbalance: float


class Segments(NamedTuple):
    """Segment routing best performance with its 95 % interval.

    ``ratio`` is how many experts the best fixed sets hold for one that is really used a step.
    """

    srp: float
    low: float
    high: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Replay:
    """What a cache did: uses, those that found the expert there, and fills of an empty place."""

    capacity: int
    uses: int
    hits: int
    fills: int

    @property
    def loads(self) -> int:
        """Uses that did not find the expert, fills among them."""
        return self.uses - self.hits

    @property
    def hit_rate(self) -> float:
        """Share of uses that found the expert; cold fills are misses, as a server feels them."""
        return self.hits / max(self.uses, 1)

    @property
    def warm_hit_rate(self) -> float:
        """The same with cold fills as hits, the convention of moe-lrc's published curves."""
        return (self.hits + self.fills) / max(self.uses, 1)


def checked(steps: Steps, experts: int) -> list[tuple[int, ...]]:
    """The steps without repetitions inside one; InputError for numbers that are no expert's."""
    made = [tuple(dict.fromkeys(int(expert) for expert in step)) for step in steps]
    for at, step in enumerate(made):
        for expert in step:
            if not 0 <= expert < experts:
                message = f"expected expert numbers from 0 to {experts - 1}, got {expert}"
                raise InputError(f"step {at}: {message}", field="steps")
    return made


def used(steps: Steps, experts: int) -> IntArray:
    """1 where a step uses an expert, shape (steps, experts)."""
    table = np.zeros((len(steps), experts), np.int64)
    for row, step in zip(table, checked(steps, experts), strict=True):
        row[list(step)] = 1
    return table


def load_balance(steps: Steps, experts: int) -> Balance:
    """Shares of the uses, their entropy and their imbalance; all 0 for an empty trace.

    >>> load_balance([(0, 1), (0, 2)], 4).entropy
    1.5
    """
    counts = used(steps, experts).sum(axis=0)
    shares = counts / max(int(counts.sum()), 1)
    some = shares[shares > 0]
    entropy = abs(float(-(some * np.log2(some)).sum()))
    return Balance(shares, entropy, float(shares.max(initial=0.0) * experts))


def segment_routing(steps: Steps, experts: int, m: int, seed: int = 0) -> Segments:
    """SRP(m): best F1 between a fixed set of experts a segment of m steps and those really used.

    Every m neighbouring steps are a segment. A segment's set holds the experts used at least t
    times in it, with one t for all, which maximises F1 = 2 matches / (predicted + used). The
    interval is the basic bootstrap over blocks of m segments that start next to each other (the
    authors resample texts, of which a trace has one). InputError unless 1 <= m <= steps.
    """
    if not 1 <= m <= len(steps):
        raise InputError(f"expected 1 to {len(steps)} steps a segment, got {m!r}", field="m")
    tallies = _tallies(used(steps, experts), m)
    f1, ratio = _best_f1(tallies.sum(axis=0, keepdims=True), m)
    generator = np.random.default_rng(seed)
    even = np.full(len(tallies), 1 / len(tallies))
    weights = generator.multinomial(len(tallies), even, RESAMPLES)
    low, high = np.percentile(_best_f1(weights @ tallies, m)[0], [2.5, 97.5])
    best = float(f1[0])
    return Segments(best, 2 * best - float(high), 2 * best - float(low), float(ratio[0]))


def _tallies(table: IntArray, m: int) -> IntArray:
    """Pairs of segment and expert by the expert's uses there; shape (blocks, m + 1)."""
    sums = np.vstack([np.zeros((1, table.shape[1]), np.int64), table.cumsum(axis=0)])
    counts = sums[m:] - sums[:-m]  # (segments, experts)
    blocks = [counts[start : start + m] for start in range(0, len(counts), m)]
    return np.array([np.bincount(block.ravel(), minlength=m + 1) for block in blocks])


def _best_f1(tallies: IntArray, m: int) -> tuple[FloatArray, FloatArray]:
    """Best F1 over t for every row of tallies, and predicted over used there."""
    matches = (tallies * np.arange(m + 1))[:, ::-1].cumsum(axis=1)[:, ::-1]
    predicted = m * tallies[:, ::-1].cumsum(axis=1)[:, ::-1]
    real = np.maximum(matches[:, :1], 1)
    f1 = 2 * matches / (predicted + real)
    best = f1.argmax(axis=1)
    rows = np.arange(len(f1))
    return f1[rows, best], predicted[rows, best] / real[:, 0]


def replay(
    steps: Steps,
    experts: int,
    capacity: int,
    rule: str = "lru",
    window: int | None = None,
    published: bool = False,
) -> Replay:
    """A cache of ``capacity`` experts of equal size on the trace, under an eviction rule.

    ``lru``, ``lfu`` (counted over the whole past) and ``belady`` (whole future) need no window.
    ``sch`` evicts the expert with the fewest uses in the next ``window`` steps, the present one
    among them; ``look-ahead`` the one whose next use in them is farthest. Ties: least recent.

    A step is a set: its experts that are there work first, so that a hit is an expert a server
    finds. ``published`` counts as moe-lrc does: hits are the experts there when a step begins,
    though they then push each other out in the order given. The two differ by a point or two.
    """
    ahead = _Ahead(checked(steps, experts), experts, rule, window)
    if capacity < 1:
        raise InputError(f"expected at least 1, got {capacity!r}", field="capacity")
    cache: set[int] = set()
    hits = fills = 0
    for step in ahead.steps:
        hits += len(cache.intersection(step)) if published else 0
        for expert in step if published else sorted(step, key=lambda one: one not in cache):
            hits += expert in cache and not published
            if expert not in cache and len(cache) == capacity:
                cache.remove(min(cache, key=ahead.worth))
            elif expert not in cache:
                fills += 1
            cache.add(expert)
            ahead.use(expert)
        ahead.advance()
    return Replay(capacity, sum(map(len, ahead.steps)), hits, fills)


def hit_curve(
    steps: Steps,
    experts: int,
    rule: str = "lru",
    window: int | None = None,
    published: bool = False,
) -> list[Replay]:
    """``replay`` at every capacity from 1 to the number of experts."""
    sizes = range(1, experts + 1)
    return [replay(steps, experts, size, rule, window, published) for size in sizes]


def grouped_loads(steps: Steps, window: int) -> float:
    """Loads per 1000 requests where each window of them is grouped by expert, from an empty device.

    >>> grouped_loads([(0,), (1,), (0,), (1,)], 4)
    500.0
    """
    if window < 1:
        raise InputError(f"expected at least 1, got {window!r}", field="window")
    groups = [steps[start : start + window] for start in range(0, len(steps), window)]
    loads = sum(len({expert for step in group for expert in step}) for group in groups)
    return 1000 * loads / max(len(steps), 1)


def gap_closed(lru: Replay, rule: Replay, belady: Replay) -> float:
    """Share of the loads between LRU and Belady that a rule saves; 1 where there is no gap."""
    gap = lru.loads - belady.loads
    return (lru.loads - rule.loads) / gap if gap else 1.0


@dataclass
class _Ahead:
    """What a rule knows of every expert while the trace is replayed."""

    steps: list[tuple[int, ...]]
    experts: int
    rule: str
    window: int | None
    worth: Callable[[int], tuple[float, int]] = field(init=False)  # the smallest leaves

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            message = f"expected one of {', '.join(RULES)}, got {self.rule!r}"
            raise InputError(message, field="rule")
        if self.rule in WINDOWED and (self.window is None or self.window < 1):
            message = f"{self.rule!r} needs at least 1, got {self.window!r}"
            raise InputError(message, field="window")
        self.clock, self.now = 0, 0
        self.last, self.uses = [0] * self.experts, [0] * self.experts
        self.queued = [0] * self.experts  # uses in the window that are still to come
        uses = [expert for step in self.steps for expert in step]
        self.places: list[list[int]] = [[] for _ in range(self.experts)]  # the next use is last
        for place in reversed(range(len(uses))):
            self.places[uses[place]].append(place)
        self.end = 0  # of the window, as a place
        for step in self.steps[: self.window or 0]:
            self._queue(step)
        self.worth = {
            "lru": lambda e: (0, self.last[e]),
            "lfu": lambda e: (self.uses[e], self.last[e]),
            "sch": lambda e: (self.queued[e], self.last[e]),
            "look-ahead": lambda e: (-self._next(e), self.last[e]),
            "belady": lambda e: (-self._next(e), self.last[e]),
        }[self.rule]

    def use(self, expert: int) -> None:
        self.clock += 1
        self.last[expert] = self.clock
        self.uses[expert] += 1
        self.queued[expert] -= 1
        self.places[expert].pop()

    def advance(self) -> None:
        self.now += 1
        if self.window is not None:
            for step in self.steps[self.now + self.window - 1 : self.now + self.window]:
                self._queue(step)

    def _queue(self, step: tuple[int, ...]) -> None:
        self.end += len(step)
        for expert in step:
            self.queued[expert] += 1

    def _next(self, expert: int) -> float:
        """The place of the next use, infinite where there is none in the window."""
        at = self.places[expert][-1] if self.places[expert] else math.inf
        return at if self.rule == "belady" or at < self.end else math.inf


def load_order(load_seconds: Sequence[float], work_seconds: Sequence[float]) -> list[int]:
    """The order of loading that ends soonest where each expert works after its load.

    One expert loads while those loaded before it work, one after another: a flow shop of two
    machines, for which Johnson's rule (1954) is optimal as long as nothing must be evicted in
    between. D2MoE's HEBF (arXiv 2504.15299) loads the largest queue first for the same reason;
    Johnson's rule minds the loads as well.

    >>> load_order([3, 1, 2], [2, 5, 4])
    [1, 2, 0]
    """
    jobs = list(enumerate(zip(load_seconds, work_seconds, strict=True)))
    hiding = sorted((load, job) for job, (load, work) in jobs if load < work)
    others = sorted((-work, job) for job, (load, work) in jobs if load >= work)
    return [job for _, job in hiding + others]


def makespan(
    order: Sequence[int], load_seconds: Sequence[float], work_seconds: Sequence[float]
) -> float:
    """Seconds until the last expert has worked if they are loaded in this order.

    >>> makespan([1, 2, 0], [3, 1, 2], [2, 5, 4])
    12.0
    """
    loaded = done = 0.0
    for job in order:
        loaded += load_seconds[job]
        done = max(done, loaded) + work_seconds[job]
    return done
