"""The batch driver: all questions' conversations at once, each expert loaded once per wave.

Pending calls are grouped by expert. A wave is one pass over the experts with pending calls: load,
work off the whole queue (calls that come up meanwhile included), make room for the next. With a
journal every completion is kept as it comes, and a later run with the same journal asks only what
is missing.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeAlias

from coterie.compositions import Composition
from coterie.drivers.conversation import Conversation, expert_of
from coterie.errors import CoterieError, ExpertError, InputError
from coterie.experts.base import Expert
from coterie.store import Journal
from coterie.types import Answer, Call, Completion, Decision, Query, Seed

PATIENCE = 5  # failures of one expert in a row that stop the run


@dataclass(slots=True)
class Progress:
    """What a run has done so far; ``reused`` completions came from the journal."""

    questions: int = 0
    answered: int = 0
    calls: int = 0
    reused: int = 0
    loads: int = 0
    cost: float = 0.0


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
    journal: Journal | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Result:
    """Answer every query.

    Parameters
    ----------
    capacity
        How many experts that need loading may be in memory at a time; they work side by side.
    report
        Called after every completion.

    Raises
    ------
    ExpertError
        An expert cannot be loaded, or failed five times in a row. What was journaled is kept.
    InputError
        ``capacity`` is below 1.
    """
    if capacity < 1:
        raise InputError(f"expected at least 1, got {capacity}", field="capacity")
    batch = _Batch(experts, journal, capacity, report)
    for query, decision in zip(queries, decisions, strict=True):
        batch.admit(Conversation(query, decision, composition, seed))
    try:
        await batch.run()
    except ExceptionGroup as failures:
        raise first_failure(failures) from None
    finally:
        await batch.unload_all()
    answers = tuple(conversation.answer for conversation in batch.conversations)
    return Result(answers, batch.progress)


def first_failure(failures: ExceptionGroup[Exception]) -> Exception:
    """Of several failures side by side the first one that is an error of ours, or the first."""
    found, others = failures.split(CoterieError)
    error: Exception | None = found or others
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    assert error is not None
    return error


class _Round:
    """The calls of one conversation that are under way together."""

    def __init__(self, conversation: Conversation, found: list[Completion | None]) -> None:
        self.conversation = conversation
        self.step = conversation.step
        self.calls = conversation.pending
        self.completions = found

    def missing(self) -> list[int]:
        return [i for i, completion in enumerate(self.completions) if completion is None]


Item: TypeAlias = tuple[_Round, int]  # a call: its round and its place in it


class _Desk:
    """The calls of one expert: those that wait, those under way, those to be asked again."""

    def __init__(self, expert: Expert) -> None:
        self.expert = expert
        self.queue: deque[Item] = deque()
        self.again: deque[Item] = deque()  # failed in company, to be asked once more, alone
        self.busy = 0  # calls under way
        self.begun = 0  # calls so far
        self.failures = 0  # in a row

    async def ask(self, item: Item) -> tuple[Completion, bool]:
        """The completion, and whether the expert was at other calls meanwhile."""
        current, place = item
        self.busy += 1
        self.begun += 1
        number, company = self.begun, self.busy > 1
        try:
            completion = await completed(self.expert, current.calls[place])
        finally:
            self.busy -= 1
        return completion, company or self.begun > number


async def completed(expert: Expert, call: Call) -> Completion:
    """The completion of a call; an expert that breaks its contract has failed.

    Raises only errors of ours, which stop the run.
    """
    try:
        completion: object = await expert.complete(call)
    except CoterieError:
        raise
    except Exception as error:
        why = f"{call.expert}: {type(error).__name__}: {error}"
        return Completion(call.expert, finish_reason="error", error=why)
    if not isinstance(completion, Completion):
        why = f"{call.expert}: returned {type(completion).__name__}, expected a Completion"
        return Completion(call.expert, finish_reason="error", error=why)
    if not (math.isfinite(completion.cost) and completion.cost >= 0):
        why = f"{call.expert}: a cost of {completion.cost!r}, expected a number of at least 0"
        return Completion(call.expert, finish_reason="error", error=why)
    return completion


class _Batch:
    """A desk for every expert, and the experts in memory."""

    def __init__(
        self,
        experts: Mapping[str, Expert],
        journal: Journal | None,
        capacity: int,
        report: Callable[[Progress], None],
    ) -> None:
        self.experts = experts
        self.journal = journal
        self.capacity = capacity
        self.report = report
        self.progress = Progress()
        self.conversations: list[Conversation] = []
        self.desks = {name: _Desk(expert) for name, expert in experts.items()}
        self.resident: list[str] = []  # experts with a place in memory, least recently used first
        self.serving: set[str] = set()  # those of them that are at work

    def admit(self, conversation: Conversation) -> None:
        """Take up a conversation as far as the journal knows it."""
        self.progress.questions += 1
        self.conversations.append(conversation)
        self._continue(conversation)

    def _continue(self, conversation: Conversation) -> None:
        """Queue what the conversation waits for and the journal does not hold."""
        while not conversation.ended:
            found = self._journaled(conversation)
            current = _Round(conversation, found)
            missing = current.missing()
            self.progress.reused += len(found) - len(missing)
            for place in missing:
                self._queue(current, place)
            if missing:
                return
            conversation.send([c for c in current.completions if c is not None])
        self.progress.answered += 1

    def _journaled(self, conversation: Conversation) -> list[Completion | None]:
        if self.journal is None:
            return [None] * len(conversation.pending)
        return self.journal.find(conversation.query.id, conversation.step, conversation.pending)

    def _queue(self, current: _Round, place: int) -> None:
        call = current.calls[place]
        expert_of(call, self.experts)
        self.desks[call.expert].queue.append((current, place))

    async def run(self) -> None:
        """Wave after wave until nothing is pending."""
        while waiting := [name for name, desk in self.desks.items() if desk.queue]:
            waiting.sort(key=lambda name: name not in self.resident)
            remote = [name for name in waiting if not self.experts[name].size]
            local = iter([name for name in waiting if self.experts[name].size])
            async with asyncio.TaskGroup() as group:
                for name in remote:
                    group.create_task(self._drain(name))
                for _ in range(self.capacity):
                    group.create_task(self._serve(local))

    async def _serve(self, names: Iterator[str]) -> None:
        """One place in memory: load and drain expert after expert."""
        for name in names:
            self.serving.add(name)
            await self._load(name)
            await self._drain(name)
            self.serving.remove(name)

    async def _load(self, name: str) -> None:
        """Take a place before waiting for anything, so that no other takes the same."""
        if name in self.resident:
            self.resident.remove(name)
            self.resident.append(name)
            return
        victim = self._victim()
        self.resident.append(name)
        if victim:
            await self.experts[victim].unload()
        await self.experts[name].load()
        self.progress.loads += 1

    def _victim(self) -> str | None:
        """Whose place is taken: nobody's while one is free, else the idle least recently used."""
        if len(self.resident) < self.capacity:
            return None
        idle = [name for name in self.resident if name not in self.serving]
        victim = min(idle, key=lambda name: bool(self.desks[name].queue))
        self.resident.remove(victim)
        return victim

    async def _drain(self, name: str) -> None:
        """Work off the queue of an expert, calls that come up meanwhile included.

        Weights that crash take all calls under way with them. So a failure in company says little:
        such calls are asked once more, one at a time.
        """
        desk = self.desks[name]
        while desk.queue or desk.again:
            if desk.again:
                item = desk.again.popleft()
                completion, _ = await desk.ask(item)
                self._settle(desk, item, completion)
            else:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._work(desk, group))

    async def _work(self, desk: _Desk, group: asyncio.TaskGroup) -> None:
        """Call after call; a colleague joins in while calls wait and the expert has free slots."""
        while desk.queue and not desk.again and desk.busy < desk.expert.slots:
            item = desk.queue.popleft()
            if desk.queue:
                group.create_task(self._work(desk, group))
            completion, company = await desk.ask(item)
            if completion.broke and company and desk.expert.size:
                desk.again.append(item)
            else:
                self._settle(desk, item, completion)

    def _settle(self, desk: _Desk, item: Item, completion: Completion) -> None:
        """Count a completion that stands, and hand it on."""
        self.progress.calls += 1
        self.progress.cost += completion.cost
        if not completion.broke:
            desk.failures = 0
        elif not self._failed_before(*item):
            desk.failures += 1
        if desk.failures >= PATIENCE:
            raise ExpertError(
                f"expert {desk.expert.name!r} failed {PATIENCE} times in a row, last with: "
                f"{completion.error}. The run stopped; answers so far are kept, "
                "mend the expert and run again"
            )
        self._deliver(*item, completion)

    def _failed_before(self, current: _Round, place: int) -> bool:
        """Whether an earlier run failed here too: then it is the question, not the expert."""
        if self.journal is None:
            return False
        return not self.journal.add_failure(current.conversation.query.id, current.step, place)

    def _deliver(self, current: _Round, place: int, completion: Completion) -> None:
        conversation, call = current.conversation, current.calls[place]
        if self.journal is not None and not completion.failed:
            self.journal.add(conversation.query.id, current.step, place, call, completion)
        current.completions[place] = completion
        if not current.missing():
            conversation.send([c for c in current.completions if c is not None])
            self._continue(conversation)
        self.report(self.progress)

    async def unload_all(self) -> None:
        """Give every expert's memory back."""
        async with AsyncExitStack() as stack:  # one that fails does not keep the others
            for name in self.resident:
                stack.push_async_callback(self.experts[name].unload)
            self.resident.clear()


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
