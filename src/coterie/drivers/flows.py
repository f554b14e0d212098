"""The conversations of a batch: some in memory, the others as good as their journal.

A conversation that is dropped is not saved: its flow is run again from the journal when one of its
calls is to be made. So a million questions take the room of ``window`` conversations, and some
bytes a question and a pending call.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from coterie.compositions import Composition
from coterie.drivers.conversation import Conversation
from coterie.store import Journal
from coterie.types import Completion, Decision, Query, Seed

PLACES = 1 << 16  # calls in one round at most


class Round(Conversation):
    """A conversation and what came of its pending calls; ``position`` is the query's.

    ``completions`` lacks those that came before the conversation was dropped.
    """

    __slots__ = ("busy", "completions", "position")

    def __init__(
        self,
        position: int,
        query: Query,
        decision: Decision,
        composition: Composition,
        run_seed: Seed,
    ) -> None:
        super().__init__(query, decision, composition, run_seed)
        self.position = position
        self.completions: list[Completion | None] = [None] * len(self.pending)
        self.busy = 0  # calls that somebody holds: a conversation with some is not dropped

    def missing(self) -> list[int]:
        """Places of the calls without a completion."""
        return [place for place, found in enumerate(self.completions) if found is None]

    def next(self) -> None:
        """Go on to the next round; every completion must be there."""
        self.send([c for c in self.completions if c is not None])
        self.completions = [None] * len(self.pending)


class Calls:
    """A queue of pending calls by (position, place), eight bytes each."""

    def __init__(self) -> None:
        self._items = array("q")
        self._head = 0

    def __len__(self) -> int:
        return len(self._items) - self._head

    def append(self, position: int, place: int) -> None:
        """Add one at the end."""
        self._items.append(position * PLACES + place)

    def popleft(self) -> tuple[int, int]:
        """Take the first."""
        item = self._items[self._head]
        self._head += 1
        if self._head > 4096 and 2 * self._head > len(self._items):
            del self._items[: self._head]
            self._head = 0
        return divmod(item, PLACES)


class Flows:
    """The conversations of a run, by position.

    Parameters
    ----------
    journal
        What is dropped is run again from it; without one nothing is dropped.
    window
        How many conversations are kept in memory while they wait.
    """

    def __init__(
        self,
        queries: Sequence[Query],
        decisions: Sequence[Decision],
        composition: Composition,
        seed: Seed,
        journal: Journal | None,
        window: int,
    ) -> None:
        self.queries, self.decisions = queries, decisions
        self.composition, self.seed = composition, seed
        self.journal, self.window = journal, window
        self.reused = 0  # completions that the journal held from earlier runs
        self._live: dict[int, Round] = {}
        self._steps = array("H", bytes(2 * len(queries)))  # rounds that are complete
        self._missing = array("H", bytes(2 * len(queries)))  # calls of the present round

    def __len__(self) -> int:
        return len(self.queries)

    def admit(self, position: int) -> Round | None:
        """Begin a conversation, and go on as far as the journal knows it; None without experts."""
        if not (decision := self.decisions[position]).experts:
            return None
        current = self._begin(position, decision)
        self._catch_up(current)
        if not current.ended and (self.journal is None or len(self._live) < self.window):
            self._live[position] = current
        return current

    def take(self, position: int) -> Round:
        """A conversation in its present round, held until ``give`` is called."""
        current = self._live.get(position)
        if current is None:
            self._live[position] = current = self._begin(position, self.decisions[position])
            for _ in range(self._steps[position]):
                self._fill(current)
                current.next()
        current.busy += 1
        return current

    def give(self, current: Round) -> None:
        """Let go of a conversation that ``take`` returned.

        It is dropped if it has ended, or for want of room if it can be run again.
        """
        current.busy -= 1
        droppable = self.journal is not None and not current.busy
        if current.ended or (droppable and len(self._live) > self.window):
            self._live.pop(current.position, None)

    def complete(self, current: Round, place: int, completion: Completion) -> bool:
        """Hand over one completion; True where it was the last of its round, which then ended.

        Rounds after it that the journal knows already have ended as well.
        """
        current.completions[place] = completion
        missing = self._missing[current.position] - 1
        if missing:
            self._missing[current.position] = missing
            return False
        if None in current.completions:
            self._fill(current)
        current.next()
        self._catch_up(current)
        return True

    def _begin(self, position: int, decision: Decision) -> Round:
        return Round(position, self.queries[position], decision, self.composition, self.seed)

    def _fill(self, current: Round, check: bool = False) -> None:
        if self.journal is not None:
            key = current.position, current.step
            current.completions = self.journal.find(*key, current.pending, check)

    def _catch_up(self, current: Round) -> None:
        """Go on while an earlier run left all completions of a round."""
        resumed = self.journal is not None and self.journal.resumed
        while not current.ended:
            if resumed:
                self._fill(current, check=True)
                self.reused += len(current.pending) - current.completions.count(None)
            if None in current.completions:
                break
            current.next()
        self._steps[current.position] = current.step
        self._missing[current.position] = current.completions.count(None)
