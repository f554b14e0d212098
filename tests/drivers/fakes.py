"""Doubles for the drivers: experts that take memory, and the world they keep track of."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from coterie.compositions import Composition
from coterie.drivers.batch import Result, answer_all
from coterie.experts.base import Expert
from coterie.experts.recorded import RecordedExpert
from coterie.records import Records
from coterie.store import Journal
from coterie.types import Call, Completion, Decision, Query, Usage

Reply = Callable[[Call], str | None]


@dataclass
class World:
    """What happened to the experts in it, in order."""

    present: list[str] = field(default_factory=list)
    peak: int = 0
    loads: list[str] = field(default_factory=list)
    unloads: list[str] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def enter(self, name: str) -> None:
        self.present.append(name)
        self.loads.append(name)
        self.peak = max(self.peak, len(self.present))


def text_of(call: Call) -> str:
    return str(call.messages[-1]["content"])


class Fake(Expert):
    """Replies with ``reply(call)``, failing on None; with a size it has to be in memory first."""

    def __init__(
        self,
        name: str,
        world: World,
        reply: Reply | None = None,
        *,
        size: int = 0,
        slots: int = 1,
        pause: int = 1,
    ) -> None:
        self.name, self.world, self.slots, self.pause, self._size = name, world, slots, pause, size
        self.reply: Reply = reply or (lambda call: f"{name} says {text_of(call)}")
        self.busy = 0
        self.most_busy = 0

    @property
    def size(self) -> int:
        return self._size

    async def load(self) -> None:
        if self.name not in self.world.present:
            self.world.enter(self.name)
        await self._wait()

    async def unload(self, keep: bool = False) -> None:
        if self.busy:
            self.world.faults.append(f"{self.name} was unloaded at work")
        await self._wait()
        if self.name in self.world.present:
            self.world.present.remove(self.name)
            self.world.unloads.append(self.name)

    async def complete(self, call: Call) -> Completion:
        if self.size and self.name not in self.world.present:
            self.world.faults.append(f"{self.name} was asked while not loaded")
        self.world.calls.append((self.name, text_of(call)))
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            await self._wait()
        finally:
            self.busy -= 1
        text = self.reply(call)
        if text is None:
            return Completion(self.name, finish_reason="error", error="no idea")
        return Completion(self.name, text, Usage(1, len(text)), cost=0.5, logprob=-0.25)

    async def _wait(self) -> None:
        for _ in range(self.pause):
            await asyncio.sleep(0)


def questions(count: int) -> tuple[Query, ...]:
    return tuple(Query.from_text(f"q{i}", f"question {i}") for i in range(count))


def decision(*experts: str, composition: str = "recruit") -> Decision:
    return Decision(composition, experts, tuple(0.9 - 0.1 * i for i in range(len(experts))))


def batch(
    queries: Sequence[Query],
    decisions: Sequence[Decision],
    composition: Composition,
    experts: Mapping[str, Expert],
    capacity: int = 1,
    journal: Journal | None = None,
) -> Result:
    job = answer_all(queries, decisions, composition, experts, capacity=capacity, journal=journal)
    return asyncio.run(job)


def records_of(queries: Sequence[Query], experts: Sequence[str], seed: int = 0) -> Records:
    """Random recorded answers of three kinds, so that votes have winners and ties."""
    random = np.random.default_rng(seed)
    shape = (len(queries), len(experts))
    texts = np.array(["yes", "no", "maybe"], object)[random.integers(0, 3, shape)]
    tokens = random.integers(1, 9, shape).astype(float)
    return Records(
        queries=tuple(queries),
        experts=tuple(experts),
        texts=texts,
        quality=random.random(shape),
        cost=random.random(shape),
        latency=random.random(shape),
        prompt_tokens=tokens,
        completion_tokens=tokens,
        logprob=-random.random(shape),
    )


def recorded(records: Records) -> dict[str, Expert]:
    return {name: RecordedExpert.from_records(records, name) for name in records.experts}
