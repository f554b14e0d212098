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
from coterie.types import Call, Completion, Decision, Query, Seed

PLACES = 1 << 16  # calls in one round at most


class Round:
    """The calls of one conversation that are under way together; ``position`` is the query's.

    ``completions`` lacks those that came before the conversation was dropped.
    """

    __slots__ = ("busy", "completions", "conversation", "position")

    def __init__(self, position: int, conversation: Conversation) -> None:
        self.position = position
        self.conversation = conversation
        self.completions: list[Completion | None] = [None] * len(conversation.pending)
        self.busy = 0  # calls that somebody holds: a conversation with some is not dropped

    @property
    def step(self) -> int:
        """How many rounds came before."""
        return self.conversation.step

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls of this round."""
        return self.conversation.pending

    def missing(self) -> list[int]:
        """Places of the calls without a completion."""
        return [place for place, found in enumerate(self.completions) if found is None]

    def next(self) -> None:
        """Go on to the next round; every completion must be there."""
        self.conversation.send([c for c in self.completions if c is not None])
        self.completions = [None] * len(self.conversation.pending)


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

    def admit(self, position: int) -> Round:
        """Begin a conversation, and go on as far as the journal knows it."""
        current = self._begin(position)
        self._catch_up(current)
        self._keep(current)
        return current

    def take(self, position: int) -> Round:
        """The round a conversation is at, held until ``give`` is called."""
        current = self._live.get(position)
        if current is None:
            self._live[position] = current = self._begin(position)
            for _ in range(self._steps[position]):
                self._fill(current)
                current.next()
        current.busy += 1
        return current

    def give(self, current: Round) -> None:
        """Let go of a conversation that ``take`` returned; it may be dropped."""
        current.busy -= 1
        self._keep(current)

    def complete(self, current: Round, place: int, completion: Completion) -> bool:
        """Hand over one completion; True where it was the last of its round, which then ended.

        Rounds after it that the journal knows already have ended as well.
        """
        current.completions[place] = completion
        self._missing[current.position] -= 1
        if self._missing[current.position]:
            return False
        if None in current.completions:
            self._fill(current)
        current.next()
        self._catch_up(current)
        return True

    def _begin(self, position: int) -> Round:
        query, decision = self.queries[position], self.decisions[position]
        return Round(position, Conversation(query, decision, self.composition, self.seed))

    def _fill(self, current: Round, check: bool = False) -> None:
        if self.journal is not None:
            key = current.position, current.step
            current.completions = self.journal.find(*key, current.calls, check)

    def _catch_up(self, current: Round) -> None:
        """Go on while an earlier run left all completions of a round."""
        resumed = self.journal is not None and self.journal.resumed
        while not current.conversation.ended:
            if resumed:
                self._fill(current, check=True)
                self.reused += len(current.calls) - current.completions.count(None)
            if None in current.completions:
                break
            current.next()
        self._steps[current.position] = current.step
        self._missing[current.position] = current.completions.count(None)

    def _keep(self, current: Round) -> None:
        """Remember a conversation if there is room, or if it cannot be run again."""
        position = current.position
        droppable = self.journal is not None and not current.busy
        self._live[position] = current
        if current.conversation.ended or (droppable and len(self._live) > self.window):
            del self._live[position]
