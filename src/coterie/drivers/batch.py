"""The batch driver: all questions' conversations at once, each expert loaded once per wave.

Pending calls are grouped by expert. A wave is one pass over the experts with pending calls: load,
work off the whole queue (calls that come up meanwhile included), make room for the next. With a
journal every completion is kept as it comes, and a later run with the same journal asks only what
is missing. Of many questions only a window of conversations is in memory (see ``flows``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass

from coterie.caching import Cache
from coterie.compositions import Composition
from coterie.drivers.conversation import expert_of
from coterie.drivers.desks import Desk, Item
from coterie.drivers.flows import Flows, Round
from coterie.drivers.limits import Caps, Purse
from coterie.drivers.rooms import by_count
from coterie.errors import CoterieError, ExpertError, InputError
from coterie.experts.base import Expert
from coterie.residency import Move, Residency, Tier
from coterie.store import Journal
from coterie.types import Answer, Completion, Decision, Query, Seed

PATIENCE = 5  # failures of one expert in a row that stop the run
WINDOW = 20_000  # conversations in memory
COMMIT = 0.05  # seconds that a completion may wait for others to be committed with it
BREATH = 1_000  # conversations that begin before others get a turn


@dataclass(slots=True)
class Progress:
    """What a run has done so far.

    ``waiting`` calls are known and not made yet; more may come up. ``reused`` completions came from
    the journal and ``hits`` from the cache; ``left`` questions have no answer because a cap was
    reached.
    """

    questions: int = 0
    answered: int = 0
    calls: int = 0
    waiting: int = 0
    reused: int = 0
    loads: int = 0
    cost: float = 0.0
    hits: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """Answers in the order of the queries, and what the run took."""

    answers: tuple[Answer, ...]
    progress: Progress


async def answer_all(
    queries: Sequence[Query],
    decisions: Sequence[Decision],
    composition: Composition,
    experts: Mapping[str, Expert],
    *,
    seed: Seed = 0,
    capacity: int = 1,
    residency: Residency | None = None,
    journal: Journal | None = None,
    caps: Caps | None = None,
    cache: Cache | None = None,
    window: int = WINDOW,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Result:
    """Answer every query; see ``answer_each`` for the parameters and what is raised."""
    answers: list[Answer | None] = [None] * len(queries)
    progress = await answer_each(
        queries,
        decisions,
        composition,
        experts,
        answers.__setitem__,
        seed=seed,
        capacity=capacity,
        residency=residency,
        journal=journal,
        caps=caps,
        cache=cache,
        window=window,
        report=report,
    )
    pairs = zip(answers, queries, decisions, strict=True)
    return Result(tuple(a or left(query, decision) for a, query, decision in pairs), progress)


async def answer_each(
    queries: Sequence[Query],
    decisions: Sequence[Decision],
    composition: Composition,
    experts: Mapping[str, Expert],
    take: Callable[[int, Answer], None],
    *,
    seed: Seed = 0,
    capacity: int = 1,
    residency: Residency | None = None,
    journal: Journal | None = None,
    caps: Caps | None = None,
    cache: Cache | None = None,
    window: int = WINDOW,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Answer every query; ``take(position, answer)`` gets the answers in the order they end.

    Parameters
    ----------
    queries, decisions
        Read by position, again and again: they may come from disk. A decision without experts
        leaves its query unanswered.
    capacity
        How many experts that need loading may be in memory at a time; they work side by side.
    residency
        The same in bytes, in place of ``capacity``; see ``coterie.residency``.
    caps
        The most to spend. A query whose calls do not fit any more is left without an answer.
    cache
        Completions of other runs to take in place of equal calls.
    window
        How many conversations are in memory at a time.
    report
        Called after every completion.

    Raises
    ------
    ExpertError
        An expert cannot be loaded, or failed five times in a row. What was journaled is kept.
    InputError
        ``capacity`` or ``window`` is below 1.
    """
    for field, value in (("capacity", capacity), ("window", window)):
        if value < 1:
            raise InputError(f"expected at least 1, got {value}", field=field)
    with ExitStack() as stack:
        if journal is None and len(queries) > window:  # scratch space for what is not in memory
            journal = stack.enter_context(Journal("", {}))
        if journal is not None:
            journal.begin()
        flows = Flows(queries, decisions, composition, seed, journal, window)
        spent = journal.totals() if journal is not None and caps else (0, 0.0)
        purse = Purse(caps or Caps(), *spent)
        room = residency or by_count(experts, capacity)
        batch = _Batch(experts, flows, room, residency is not None, purse, cache, take, report)
        try:
            await batch.run()
        except ExceptionGroup as failures:
            raise first_failure(failures) from None
        finally:
            await batch.unload_all()
        return batch.progress


def first_failure(failures: ExceptionGroup[Exception]) -> Exception:
    """Of several failures side by side the first one that is an error of ours, or the first."""
    found, others = failures.split(CoterieError)
    error: Exception | None = found or others
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    assert error is not None
    return error


def left(query: Query, decision: Decision) -> Answer:
    """What stands in the place of an answer that a cap prevented."""
    error = "left unanswered: the cap on cost or calls was reached"
    return Answer(query.id, Completion("", finish_reason="left", error=error), (), decision)


class _Batch:
    """A desk for every expert, and the experts in memory.

    Experts of one backend share its weights: they are visited together.
    """

    def __init__(
        self,
        experts: Mapping[str, Expert],
        flows: Flows,
        residency: Residency,
        measured: bool,
        purse: Purse,
        cache: Cache | None,
        take: Callable[[int, Answer], None],
        report: Callable[[Progress], None],
    ) -> None:
        self.experts = experts
        self.flows = flows
        self.journal = flows.journal
        self.residency = residency
        self.measured = measured  # whether sizes are bytes
        self.purse = purse
        self.cache = cache
        self.take, self.report = take, report
        self.progress = Progress(questions=len(flows))
        self.desks = {name: Desk(expert) for name, expert in experts.items()}
        self.desks_of: dict[str, list[Desk]] = {}
        for name, expert in experts.items():
            self.desks_of.setdefault(expert.backend, []).append(self.desks[name])
        self.local = {expert.backend for expert in experts.values() if expert.size}
        self.loaded: dict[str, Expert] = {}  # by backend: who loaded it
        self.serving: set[str] = set()  # backends at work
        self.freed = asyncio.Event()  # one of them is done
        self.wave: asyncio.TaskGroup | None = None
        self.committing = False
        self.unkept: CoterieError | None = None
        self.moving = asyncio.Lock()  # moves are made in the order in which they were booked

    async def run(self) -> None:
        """Wave after wave until nothing is pending."""
        await self._admit_all()
        while waiting := self._waiting():
            async with asyncio.TaskGroup() as self.wave:
                await self._pass(waiting)
            self.wave = None
        if self.journal is not None:
            self.journal.commit()
        self.progress.left = self.progress.questions - self.progress.answered

    async def _admit_all(self) -> None:
        """Take up every conversation as far as the journal knows it."""
        for position in range(len(self.flows)):
            if (admitted := self.flows.admit(position)) is not None:
                self._continue(admitted)
            if position % BREATH == BREATH - 1:
                self.report(self.progress)
                await asyncio.sleep(0)

    def _continue(self, current: Round) -> None:
        """Queue what the conversation waits for, or count it as answered."""
        self.progress.reused = self.flows.reused
        if current.ended:
            self.progress.answered += 1
            self.take(current.position, current.answer)
        for place in current.missing():
            call = current.pending[place]
            expert_of(call, self.experts)
            self.desks[call.expert].queue.append(current.position, place)
            self.progress.waiting += 1
            self._call_remote(call.expert)

    def _commit_soon(self) -> None:
        """Commit the journal within a moment, with what comes until then."""
        if self.journal is not None and not self.committing:
            self.committing = True
            asyncio.get_running_loop().call_later(COMMIT, self._commit)

    def _commit(self) -> None:
        self.committing = False
        try:
            if self.journal is not None:
                self.journal.commit()
        except CoterieError as error:  # nobody hears a timer: the next completion raises it
            self.unkept = error

    def _waiting(self) -> list[str]:
        """Backends with pending calls: those in memory first, then by the length of the queue."""
        resident = self.residency.resident

        def rank(backend: str) -> tuple[bool, int]:
            return backend not in resident, -self._length(backend)

        return sorted((b for b in self.desks_of if self._length(b)), key=rank)

    def _length(self, backend: str) -> int:
        return sum(len(desk.queue) for desk in self.desks_of[backend])

    async def _pass(self, waiting: list[str]) -> None:
        """Visit every backend as soon as there is room, remote ones at once."""
        assert self.wave is not None
        local = []
        for backend in waiting:
            if backend in self.local:
                local.append(backend)
            else:
                self._begin(backend, [])
        while local:
            upcoming = [*local, *(b for b in self._waiting() if b not in local)]
            moves = self.residency.place(local[0], busy=self.serving, upcoming=upcoming)
            if moves is None:
                self.freed.clear()
                await self.freed.wait()
            else:
                self._begin(local.pop(0), moves)
                self._prefetch(local)

    def _begin(self, backend: str, moves: list[Move]) -> None:
        """Start a visit within the wave."""
        assert self.wave is not None
        self.serving.add(backend)
        self.wave.create_task(self._visit(backend, moves))

    def _call_remote(self, name: str) -> None:
        """Start with calls that came up in the middle of a wave: a remote expert has no turn."""
        if self.wave is None:
            return
        backend = self.experts[name].backend
        if backend not in self.serving and backend not in self.local:
            self._begin(backend, [])

    def _prefetch(self, local: list[str]) -> None:
        """Bring the next expert into host memory while the present ones work."""
        if local and self.wave and self.residency.capacity[Tier.HOST]:
            moves = self.residency.prefetch(local[0], busy=self.serving, upcoming=local)
            self.wave.create_task(self._execute(moves))

    async def _visit(self, backend: str, moves: list[Move]) -> None:
        """Make the moves that bring the weights, then work off all their queues."""
        try:
            start = time.perf_counter()
            await self._execute(moves)
            if moves and self.measured:
                await self._measure(backend, time.perf_counter() - start)
            while self._length(backend):
                async with asyncio.TaskGroup() as group:
                    for desk in self.desks_of[backend]:
                        group.create_task(self._drain(desk))
        finally:
            self.serving.discard(backend)
            self.freed.set()

    async def _execute(self, moves: Sequence[Move]) -> None:
        """Move weights between disk, host and device; one that fails to move is on disk."""
        async with self.moving:
            for backend, _, target in moves:
                try:
                    await self._move(backend, target)
                except BaseException:
                    self.residency.forget(backend)
                    raise

    async def _move(self, backend: str, target: Tier) -> None:
        expert = self.loaded.get(backend) or self.desks_of[backend][0].expert
        if target is Tier.DEVICE:
            self.loaded[backend] = expert
            await expert.load()
            self.progress.loads += 1
        elif backend in self.loaded:
            del self.loaded[backend]
            await expert.unload(keep=target is Tier.HOST)
        elif target is Tier.HOST:
            await expert.prefetch()
        else:
            await expert.unload()

    async def _measure(self, backend: str, seconds: float) -> None:
        """Book what the weights really take, and make room if that is more than was thought."""
        size = await self.loaded[backend].footprint()
        if size:
            self.residency.resize(backend, size, seconds)
            self.residency.check(backend)
            await self._execute(self.residency.overflow(busy=self.serving))

    async def _drain(self, desk: Desk) -> None:
        """Work off the queue of an expert, calls that come up meanwhile included.

        Weights that crash take all calls under way with them. So a failure in company says little:
        such calls are asked once more, one at a time.
        """
        while desk.queue or desk.again:
            if desk.again:
                item = desk.again.popleft()
                if asked := await self._ask(desk, item):
                    self._settle(desk, item, asked[0])
            else:
                async with asyncio.TaskGroup() as group:
                    self._hire(desk, group)

    def _hire(self, desk: Desk, group: asyncio.TaskGroup) -> None:
        desk.workers += 1
        group.create_task(self._work(desk, group))

    async def _work(self, desk: Desk, group: asyncio.TaskGroup) -> None:
        """Call after call; a colleague joins in while calls wait and the expert has free slots."""
        try:
            while desk.queue and not desk.again:
                position, place = desk.queue.popleft()
                if desk.workers < desk.expert.slots and desk.queue:
                    self._hire(desk, group)
                current = self.flows.take(position)
                await self._serve(desk, (current, place))
        finally:
            desk.workers -= 1

    async def _serve(self, desk: Desk, item: Item) -> None:
        """One call: from the cache, or asked if the caps allow it."""
        current, place = item
        call = current.pending[place]
        if self.cache is not None and (kept := self.cache.get(desk.expert, call)) is not None:
            self.progress.hits += 1
            self._deliver(*item, kept)
            return
        asked = await self._ask(desk, item)
        if asked is None:
            return
        completion, company = asked
        if completion.broke and company and desk.expert.size:
            desk.again.append(item)
        else:
            self._settle(desk, item, completion)

    def _ask(self, desk: Desk, item: Item) -> Awaitable[tuple[Completion, bool] | None]:
        """What ``Desk.ask`` returns; None where the caps do not allow the call."""
        return desk.ask(item) if self.purse.open else self._ask_within_caps(desk, item)

    async def _ask_within_caps(self, desk: Desk, item: Item) -> tuple[Completion, bool] | None:
        current, place = item
        ticket = await self.purse.reserve(desk.expert, current.pending[place])
        if ticket is None:
            self.flows.give(current)
            return None
        completion, company = await desk.ask(item)
        self.purse.settle(ticket, desk.expert, completion)
        return completion, company

    def _settle(self, desk: Desk, item: Item, completion: Completion) -> None:
        """Count a completion that stands, keep it and hand it on."""
        current, place = item
        self.progress.calls += 1
        self.progress.cost += completion.cost
        known = completion.failed and self._failed_before(current, place, completion)
        if not completion.broke:
            desk.failures = 0
        elif not known:
            desk.failures += 1
        if desk.failures >= PATIENCE:
            raise ExpertError(
                f"expert {desk.expert.name!r} failed {PATIENCE} times in a row, last with: "
                f"{completion.error}. The run stopped; answers so far are kept, "
                "mend the expert and run again"
            )
        if self.cache is not None and not completion.failed:
            self.cache.put(desk.expert, current.pending[place], completion)
        self._deliver(current, place, completion)

    def _failed_before(self, current: Round, place: int, completion: Completion) -> bool:
        """Whether an earlier run failed here too: then it is the question, not the expert."""
        if self.journal is None:
            return False
        return not self.journal.add_failure(current.position, current.step, place, completion)

    def _deliver(self, current: Round, place: int, completion: Completion) -> None:
        if self.journal is not None and not completion.failed:
            call = current.pending[place]
            self.journal.add(current.position, current.step, place, call, completion)
            self._commit_soon()
        self.progress.waiting -= 1
        if self.unkept is not None:
            raise self.unkept
        if self.flows.complete(current, place, completion):
            self._continue(current)
        self.flows.give(current)
        self.report(self.progress)

    async def unload_all(self) -> None:
        """Give every expert's memory back."""
        async with AsyncExitStack() as stack:  # one that fails does not keep the others
            for expert in self.loaded.values():
                stack.push_async_callback(expert.unload, keep=not self.measured)
            self.loaded.clear()


def naive_loads(answers: Sequence[Answer], experts: Mapping[str, Expert], capacity: int = 1) -> int:
    """Loads of answering question after question with the same room, evicting the least recent."""
    resident: list[str] = []
    loads = 0
    for name in (c.expert for a in answers for c in a.trace if experts[c.expert].size):
        if name in resident:
            resident.remove(name)
        else:
            loads += 1
        resident = [*resident, name][-capacity:]
    return loads


def distinct_loads(answers: Sequence[Answer], experts: Mapping[str, Expert]) -> int:
    """Loads that no order can avoid: one for every expert used."""
    return len({c.expert for a in answers for c in a.trace if experts[c.expert].size})
