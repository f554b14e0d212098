"""One expert's calls in a batch, and what a call comes to whatever the expert does."""

from __future__ import annotations

import math
from collections import deque
from typing import TypeAlias

from coterie.drivers.flows import Calls, Round
from coterie.errors import CoterieError
from coterie.experts.base import Expert
from coterie.types import Call, Completion

Item: TypeAlias = tuple[Round, int]  # a call: its round and its place in it


class Desk:
    """The calls of one expert: those that wait, those under way, those to be asked again."""

    def __init__(self, expert: Expert) -> None:
        self.expert = expert
        self.queue = Calls()
        self.again: deque[Item] = deque()  # failed in company, to be asked once more, alone
        self.workers = 0
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
            completion = await completed(self.expert, current.pending[place])
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
    if not 0 <= completion.cost < math.inf:
        why = f"{call.expert}: a cost of {completion.cost!r}, expected a number of at least 0"
        return Completion(call.expert, finish_reason="error", error=why)
    return completion
