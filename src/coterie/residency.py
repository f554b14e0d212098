"""Which experts are where: bookkeeping of device, host memory and disk, without any I/O.

A driver asks ``Residency.place`` for the moves that bring an expert to the device, executes them in
order, and calls ``forget`` for a move that failed. Sizes are those measured, in bytes, or 1 an
expert where a capacity means "how many". An expert is in one tier at a time.

Which expert leaves is an eviction rule: ``LRU``, ``LFU``, ``CostAware``, or ``LookAhead`` where the
queue is known. A rule orders the experts of a tier; the first leave until the newcomer fits, and
those whose room turns out not to be needed stay.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from coterie.errors import ExpertError, InputError


class Tier(StrEnum):
    """A place where weights may be."""

    DISK = "disk"
    HOST = "host"
    DEVICE = "device"


class Move(NamedTuple):
    """One expert's way from a tier to another."""

    name: str
    source: Tier
    target: Tier


@dataclass(slots=True)
class Held:
    """What is known of an expert, as eviction rules see it.

    ``seconds`` is the time of its last load, None before it was measured; ``uses`` counts its uses
    so far; ``last`` numbers its latest use or prefetch, so that less is longer ago.
    """

    name: str
    size: int
    seconds: float | None = None
    tier: Tier = Tier.DISK
    uses: int = 0
    last: int = 0


class Eviction(Protocol):
    """Orders experts by who should leave first."""

    def order(self, held: Sequence[Held], upcoming: Sequence[str]) -> list[Held]:
        """``held`` with the first to leave first; ``upcoming`` names known uses, the next first."""


@dataclass(frozen=True, slots=True)
class LRU:
    """The least recently used leaves first."""

    def order(self, held: Sequence[Held], upcoming: Sequence[str]) -> list[Held]:
        """By latest use."""
        return sorted(held, key=_recency)


@dataclass(frozen=True, slots=True)
class LFU:
    """The least frequently used leaves first, counted over the whole past; ties least recent."""

    def order(self, held: Sequence[Held], upcoming: Sequence[str]) -> list[Held]:
        """By number of uses."""
        return sorted(held, key=lambda one: (one.uses, one.last))


@dataclass(frozen=True, slots=True)
class LookAhead:
    """The one whose next known use is farthest away leaves first, after those without one.

    This is Belady's rule (1966) within the next ``window`` uses of the queue (None: all of it),
    which loads least for experts of equal size. For unequal sizes the optimum is NP-hard to find
    (Chrobak et al., Algorithmica 2012): the same order is then greedy, and experts whose room
    turns out not to be needed stay.

    Experts without a known use leave in the order of ``beyond``. The least recent first is for
    queues that hold all that comes; where the queue is often short, ``LFU()`` loads less.
    """

    window: int | None = None
    beyond: Eviction = LRU()

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 0:
            raise InputError(f"expected at least 0, got {self.window!r}", field="window")

    def order(self, held: Sequence[Held], upcoming: Sequence[str]) -> list[Held]:
        """By next known use, those without one first."""
        near = next_uses(upcoming[: self.window])
        unknown = self.beyond.order([one for one in held if one.name not in near], upcoming)
        known = [one for one in held if one.name in near]
        return unknown + sorted(known, key=lambda one: -near[one.name])


@dataclass(frozen=True, slots=True)
class CostAware:
    """The smallest expected uses x load seconds / size leaves first; ties least recent.

    Expected uses are those in ``upcoming`` plus the share of all uses so far, which is the chance
    of being the first use beyond it. An expert whose load was not measured is taken to load at the
    mean pace of the others. GreedyDual-Size-Frequency (Cherkasova, 1998) weighs alike, without a
    queue.
    """

    def order(self, held: Sequence[Held], upcoming: Sequence[str]) -> list[Held]:
        """By what a byte of the expert is expected to save."""
        known = [one.seconds / max(one.size, 1) for one in held if one.seconds is not None]
        pace = sum(known) / len(known) if known else 1.0
        total = sum(one.uses for one in held) or 1
        queued = Counter(upcoming)

        def worth(one: Held) -> tuple[float, int]:
            seconds = one.size * pace if one.seconds is None else one.seconds
            expected = queued[one.name] + one.uses / total
            return expected * seconds / max(one.size, 1), one.last

        return sorted(held, key=worth)


def next_uses(upcoming: Sequence[str]) -> dict[str, int]:
    """The first place of every name in a queue."""
    return {name: place for place, name in reversed(list(enumerate(upcoming)))}


def _recency(one: Held) -> int:
    return one.last


class Residency:
    """Where every expert is, and the moves that bring one to the device within the capacities.

    Parameters
    ----------
    device, host
        Capacities in the unit of the sizes; without ``host``, what leaves the device goes to disk.
    eviction
        ``LRU()`` where left out.

    Moves are booked as soon as they are returned. After any number of them, executed in order, no
    tier holds more than its capacity; only a ``resize`` may break that, and ``overflow`` mends it.
    """

    def __init__(self, device: int, host: int = 0, *, eviction: Eviction | None = None) -> None:
        for value, field in ((device, "device"), (host, "host")):
            if value < 0:
                raise InputError(f"expected a capacity of at least 0, got {value!r}", field=field)
        self.capacity = {Tier.DEVICE: device, Tier.HOST: host, Tier.DISK: sys.maxsize}
        self.eviction: Eviction = eviction or LRU()
        self._held: dict[str, Held] = {}
        self._pinned: set[str] = set()
        self._clock = 0

    def resize(self, name: str, size: int, seconds: float | None = None) -> None:
        """Book an expert's size, and the seconds of its load where they were measured.

        The first size makes the expert known, on disk. A resident that grew may exceed the
        capacity: ``overflow`` returns what must leave.
        """
        if size < 0:
            raise InputError(f"expected a size of at least 0, got {size!r}", field=name)
        one = self._held.setdefault(name, Held(name, size))
        one.size = size
        one.seconds = one.seconds if seconds is None else seconds

    def tier(self, name: str) -> Tier:
        """Where the expert is; unknown ones are on disk."""
        return self._held[name].tier if name in self._held else Tier.DISK

    @property
    def resident(self) -> tuple[str, ...]:
        """Names on the device, least recently used first."""
        return tuple(one.name for one in sorted(self._in(Tier.DEVICE), key=_recency))

    def used(self, tier: Tier) -> int:
        """The sizes in a tier together."""
        return _total(self._in(tier))

    def free(self, tier: Tier) -> int:
        """What is left of a tier's capacity, below 0 where a resident grew; the disk has no end."""
        return self.capacity[tier] - self.used(tier)

    def pin(self, name: str) -> None:
        """Keep an expert on the device once it is there; ExpertError if the pinned cannot fit."""
        self.check(name)
        self._pinned.add(name)

    def unpin(self, name: str) -> None:
        """Let an expert be evicted again."""
        self._pinned.discard(name)

    def check(self, name: str) -> None:
        """Raise ExpertError with the arithmetic where an expert can never fit on the device."""
        size, capacity = self._known(name).size, self.capacity[Tier.DEVICE]
        pinned = [self._held[other] for other in sorted(self._pinned - {name})]
        if size + _total(pinned) <= capacity:
            return
        kept = "".join(f" + {one.size:,} of pinned {one.name!r}" for one in pinned)
        sum_ = f"{size:,}{kept} = {size + _total(pinned):,}" if pinned else f"{size:,}"
        remedy = "unpin or enlarge the device's capacity" if pinned else "enlarge the capacity"
        raise ExpertError(f"{name!r} can never fit: {sum_} > {capacity:,} on the device; {remedy}")

    def place(
        self, name: str, *, busy: Collection[str] = (), upcoming: Sequence[str] = ()
    ) -> list[Move] | None:
        """The moves that bring an expert to the device, in order: victims first, itself last.

        It counts as a use. Nothing moves where it is there already. None, and nothing is booked,
        where it cannot fit while the ``busy`` are at work: ask again when one is done. Victims go
        to the host where that is the place for them by the same rule, otherwise to disk.

        Raises
        ------
        ExpertError
            Where it can never fit, or its size is not known.
        """
        one = self._known(name)
        moves: list[Move] | None = []
        if one.tier is not Tier.DEVICE:
            moves = self._bring(one, {name, *busy}, upcoming)
        if moves is not None:
            one.uses += 1
            self._touch(one)
        return moves

    def prefetch(
        self, name: str, *, busy: Collection[str] = (), upcoming: Sequence[str] = ()
    ) -> list[Move]:
        """The moves that bring an expert from disk to the host; none where it is not worth it.

        Only experts that ``upcoming`` needs later than this one, or not at all, make room for it;
        if it is not in ``upcoming`` itself, none do.
        """
        one = self._known(name)
        if one.tier is not Tier.DISK:
            return []
        near = next_uses(upcoming)
        others = self._movable(Tier.HOST, busy) if name in near else []
        later = [other for other in others if near.get(other.name, len(upcoming)) > near[name]]
        leaving = self._victims(later, one.size - self.free(Tier.HOST), upcoming)
        if leaving is None:
            return []
        self._touch(one)
        return [*(self._move(other, Tier.DISK) for other in leaving), self._move(one, Tier.HOST)]

    def overflow(self, *, busy: Collection[str] = (), upcoming: Sequence[str] = ()) -> list[Move]:
        """The moves after which no tier exceeds its capacity, as far as busy and pinned allow."""
        moves = []
        for tier in (Tier.HOST, Tier.DEVICE):
            others = self._movable(tier, busy)
            leaving = self._victims(others, -self.free(tier), upcoming)
            for one in others if leaving is None else leaving:
                moves += self._demote(one, {one.name, *busy}, upcoming)
        return moves

    def forget(self, name: str) -> None:
        """An expert's move failed or it crashed: it is on disk."""
        if name in self._held:
            self._held[name].tier = Tier.DISK

    def _bring(
        self, one: Held, keep: Collection[str], upcoming: Sequence[str]
    ) -> list[Move] | None:
        self.check(one.name)
        need = one.size - self.free(Tier.DEVICE)
        leaving = self._victims(self._movable(Tier.DEVICE, keep), need, upcoming)
        if leaving is None:
            return None
        moves = [move for other in leaving for move in self._demote(other, keep, upcoming)]
        return [*moves, self._move(one, Tier.DEVICE)]

    def _demote(self, one: Held, keep: Collection[str], upcoming: Sequence[str]) -> list[Move]:
        """One expert down: to the host if only experts that leave before it must make room."""
        if one.tier is Tier.HOST or one.size > self.capacity[Tier.HOST]:
            return [self._move(one, Tier.DISK)]
        order = self.eviction.order([one, *self._movable(Tier.HOST, keep)], upcoming)
        before = order[: order.index(one)]
        leaving = self._victims(before, one.size - self.free(Tier.HOST), upcoming)
        if leaving is None:
            return [self._move(one, Tier.DISK)]
        return [*(self._move(other, Tier.DISK) for other in leaving), self._move(one, Tier.HOST)]

    def _victims(
        self, others: Sequence[Held], need: int, upcoming: Sequence[str]
    ) -> list[Held] | None:
        """Experts that free at least ``need``, the first of the order; None if all do not."""
        if need <= 0:
            return []
        if _total(others) < need:
            return None
        leaving: list[Held] = []
        for one in self.eviction.order(others, upcoming):
            if _total(leaving) < need:
                leaving.append(one)
        for one in reversed(leaving[:]):  # those of most worth first
            if _total(leaving) - one.size >= need:
                leaving.remove(one)
        return leaving

    def _movable(self, tier: Tier, keep: Collection[str]) -> list[Held]:
        still = self._pinned.union(keep)
        return [one for one in self._in(tier) if one.name not in still]

    def _move(self, one: Held, target: Tier) -> Move:
        move = Move(one.name, one.tier, target)
        one.tier = target
        return move

    def _in(self, tier: Tier) -> list[Held]:
        return [one for one in self._held.values() if one.tier is tier]

    def _touch(self, one: Held) -> None:
        self._clock += 1
        one.last = self._clock

    def _known(self, name: str) -> Held:
        if name not in self._held:
            raise ExpertError(f"the size of {name!r} is not known; call resize first")
        return self._held[name]


def _total(held: Iterable[Held]) -> int:
    return sum(one.size for one in held)
