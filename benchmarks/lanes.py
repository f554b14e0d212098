"""The batch driver against the least that its calls can take, on the embedded pool.

2,000 questions over the eight embedded specialists, three experts a question, room for two. The
ideal is measured, not computed: two lanes side by side, each taking the expert with the most calls
that is left, loading it, making its calls (the same calls, as many at a time as the driver makes)
and unloading it; nothing is decided, journaled, parked or counted. So the ideal has the same
parallelism and the same contention for cores as the run. ``wall_over_serial_ideal`` is the same
with room for one: one expert after another, which is the plain sum of generation and loads. Runs
and ideals alternate; of the ratios of neighbours the median counts.

The share of the journal is the time inside its methods over the wall of the same run. Naive is the
same driver's experts, question after question in the order of arrival, with the same room: an
expert stays until room is needed (LRU), which is kinder than loading for every question.
"""

from __future__ import annotations

import asyncio
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from switching import serve

from coterie import Answer, Weighted, read_config, recruit
from coterie.compositions import Composition
from coterie.drivers.batch import answer_all, distinct_loads
from coterie.drivers.conversation import Conversation
from coterie.drivers.rooms import by_count
from coterie.experts.base import Expert
from coterie.pool import Pool
from coterie.questions import embedded_questions
from coterie.residency import LRU
from coterie.store import Journal
from coterie.types import Call, Decision, Query

ROOM, RECRUITS, SEED = 2, 3, 0


@dataclass(frozen=True)
class Work:
    """Questions, who answers them, and the calls that this takes."""

    queries: list[Query]
    decisions: list[Decision]
    composition: Composition
    experts: Mapping[str, Expert]

    def first(self, count: int) -> Work:
        """The same with the first questions alone."""
        return replace(self, queries=self.queries[:count], decisions=self.decisions[:count])

    def requests(self) -> list[tuple[Call, ...]]:
        """The calls of every question (one round: votes need no further call)."""
        pairs = zip(self.queries, self.decisions, strict=True)
        return [Conversation(q, d, self.composition, SEED).pending for q, d in pairs]

    def queues(self) -> dict[str, list[Call]]:
        """The calls of every expert."""
        found: dict[str, list[Call]] = {}
        for call in (call for request in self.requests() for call in request):
            found.setdefault(call.expert, []).append(call)
        return found


def embedded_work(pool: Pool, count: int) -> Work:
    """The embedded questions, again from the start where they are fewer than ``count``.

    In place of a router the category decides: its specialist and the next two of the pool.
    """
    experts = {name: e for name, e in pool.experts.items() if name.endswith("-expert")}
    questions = [*embedded_questions("test").queries, *embedded_questions("validation").queries]
    taken = (questions[number % len(questions)] for number in range(count))
    queries = pool.prepare([replace(q, id=f"{number}") for number, q in enumerate(taken)])
    composition = functools.partial(recruit, aggregator=Weighted(pool.extractor))
    decisions = [decide(query, list(experts)) for query in queries]
    return Work(list(queries), decisions, composition, experts)


def decide(query: Query, names: Sequence[str]) -> Decision:
    first = names.index(f"{query.category}-expert")
    chosen = tuple(names[(first + step) % len(names)] for step in range(RECRUITS))
    return Decision("recruit", chosen, (0.9, 0.5, 0.5))


async def ideal(work: Work, lanes: int) -> float:
    """Seconds of loads, calls and unloads alone, ``lanes`` experts side by side."""
    queues = work.queues()
    left = sorted(queues, key=lambda name: -len(queues[name]))

    async def lane() -> None:
        while left:
            name = left.pop(0)
            await work.experts[name].load()
            await ask(work.experts[name], queues[name])
            await work.experts[name].unload(keep=True)

    start = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(lanes)))
    return time.perf_counter() - start


async def ask(expert: Expert, calls: Sequence[Call]) -> None:
    """All calls, ``slots`` at a time."""
    left = iter(calls)

    async def work() -> None:
        for call in left:
            await expert.complete(call)

    await asyncio.gather(*(work() for _ in range(expert.slots)))


class TimedJournal(Journal):
    """A journal that knows the seconds spent inside its methods while a run goes on."""

    seconds = cpu = 0.0
    commits = 0  # that had something to commit
    inside = False

    def _timed(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.inside:  # ``add`` commits: counted once
            return method(*args, **kwargs)
        self.inside, start, cpu = True, time.perf_counter(), time.process_time()
        try:
            return method(*args, **kwargs)
        finally:
            self.inside = False
            self.seconds += time.perf_counter() - start
            self.cpu += time.process_time() - cpu

    def begin(self) -> None:
        """See Journal, as all of these."""
        self._timed(super().begin)

    def find(self, *args: Any, **kwargs: Any) -> Any:
        """Timed."""
        return self._timed(super().find, *args, **kwargs)

    def add(self, *args: Any) -> None:
        """Timed."""
        self._timed(super().add, *args)

    def add_failure(self, *args: Any) -> bool:
        """Timed."""
        return bool(self._timed(super().add_failure, *args))

    def commit(self) -> None:
        """Timed."""
        self.commits += self.uncommitted > 0
        self._timed(super().commit)


@dataclass(frozen=True)
class Run:
    """One run of the batch driver."""

    answers: tuple[Answer, ...]
    seconds: float
    journal_seconds: float
    journal_cpu: float
    commits: int
    loads: int
    calls: int


async def run(work: Work, room: int) -> Run:
    """The batch driver over a new journal on disk."""
    with tempfile.TemporaryDirectory() as folder, TimedJournal(Path(folder) / "run", {}) as kept:
        start = time.perf_counter()
        result = await answer_all(
            work.queries,
            work.decisions,
            work.composition,
            work.experts,
            seed=SEED,
            capacity=room,
            journal=kept,
        )
        seconds, progress = time.perf_counter() - start, result.progress
    journal = kept.seconds, kept.cpu, kept.commits
    return Run(result.answers, seconds, *journal, progress.loads, progress.calls)


async def compare(work: Work, room: int, repeats: int) -> tuple[list[Run], list[float]]:
    """Runs and ideals in turns."""
    runs, ideals = [], []
    for _ in range(repeats):
        ideals.append(await ideal(work, room))
        runs.append(await run(work, room))
    return runs, ideals


def ratios_of(runs: Sequence[Run], ideals: Sequence[float]) -> list[float]:
    return [run.seconds / least for run, least in zip(runs, ideals, strict=True)]


async def naive(work: Work) -> tuple[float, int]:
    """Seconds and loads of question after question; LRU with room for two."""
    residency = by_count(work.experts, ROOM)
    residency.eviction = LRU()
    served = await serve(work.requests(), work.experts, residency)
    return served.seconds, served.loads


async def measure(questions: int = 2000, subset: int = 200, repeats: int = 3) -> dict[str, Any]:
    pool = read_config("embedded").pool()
    work = embedded_work(pool, questions)
    try:
        await run(work.first(16), ROOM)  # worker processes and files are ready on all sides
        runs, ideals = await compare(work, ROOM, repeats)
        serial_runs, serial_ideals = await compare(work, 1, repeats)
        few = work.first(subset)
        naive_seconds, loads = await naive(few)
        grouped = await run(few, ROOM)
    finally:
        await pool.close()
    ratios, serial_ratios = ratios_of(runs, ideals), ratios_of(serial_runs, serial_ideals)
    wall, least = (statistics.median(r.seconds for r in runs), statistics.median(ideals))
    last = runs[-1]
    return {
        "wall_over_ideal": statistics.median(ratios),
        "wall_over_serial_ideal": statistics.median(serial_ratios),
        "speedup_vs_naive": naive_seconds / grouped.seconds,
        "speedup_vs_naive_scaled": naive_seconds / subset * questions / wall,
        "journal_share": statistics.median(r.journal_seconds / r.seconds for r in runs),
        "loads": last.loads,
        "distinct_experts": distinct_loads(last.answers, work.experts),
        "questions": questions,
        "calls": last.calls,
        "wall_s": wall,
        "ideal_s": least,
        "ratios": ratios,
        "journal_us_per_call": last.journal_seconds / last.calls * 1e6,
        "journal_cpu_us_per_call": last.journal_cpu / last.calls * 1e6,
        "completions_per_commit": last.calls / max(last.commits, 1),
        "serial_ratios": serial_ratios,
        "serial_wall_s": statistics.median(r.seconds for r in serial_runs),
        "serial_ideal_s": statistics.median(serial_ideals),
        "naive": {
            "questions": subset,
            "seconds": naive_seconds,
            "loads": loads,
            "grouped_seconds": grouped.seconds,
            "grouped_loads": grouped.loads,
        },
    }
