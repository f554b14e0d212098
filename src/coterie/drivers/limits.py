"""Caps on what a run may cost: a call is reserved before it is made and settled afterwards."""

from __future__ import annotations

import asyncio
import itertools
import math
from dataclasses import dataclass

from coterie.errors import InputError
from coterie.experts.base import Expert
from coterie.experts.openai import estimate_usage
from coterie.types import Call, Completion, Usage

UNSEEN = 256  # tokens that a first answer may have where max_tokens does not say


@dataclass(frozen=True, slots=True)
class Caps:
    """The most that a run may spend in all, calls of earlier runs of its journal included.

    ``cost`` is in the pool's unit. Raises InputError for a cap below 0 or no number.
    """

    cost: float = math.inf
    calls: float = math.inf

    def __post_init__(self) -> None:
        for field, value in (("max_cost", self.cost), ("max_calls", self.calls)):
            if not value >= 0:
                raise InputError(f"expected a number of at least 0, got {value!r}", field=field)


class Purse:
    """What is left of the caps while calls are under way.

    A call reserves what it may cost at most: its prompt, four characters a token, and
    ``max_tokens`` for the answer, or the longest answer of this expert so far. So the cap holds up
    to the estimate of the prompt; what an answer did not use comes back. ``open``: there is no cap.
    """

    def __init__(self, caps: Caps, calls: int = 0, cost: float = 0.0) -> None:
        self.caps, self.calls, self.cost = caps, calls, cost
        self.open = math.isinf(caps.cost) and math.isinf(caps.calls)
        self._reserved: dict[int, float] = {}
        self._longest: dict[str, int] = {}
        self._tickets = itertools.count()
        self._settled = asyncio.Event()

    async def reserve(self, expert: Expert, call: Call) -> int | None:
        """A ticket for one call once it fits; None if it does not fit when all others are done."""
        amount = self._ceiling(expert, call)
        while not self._fits(amount):
            if not self._reserved:
                return None
            self._settled.clear()
            await self._settled.wait()
        ticket = next(self._tickets)
        self._reserved[ticket] = amount
        return ticket

    def settle(self, ticket: int, expert: Expert, completion: Completion) -> None:
        """Replace the reservation by what the call cost."""
        del self._reserved[ticket]
        self.calls += 1
        self.cost += completion.cost
        made = completion.usage.completion_tokens
        self._longest[expert.name] = max(self._longest.get(expert.name, 0), made)
        self._settled.set()

    def _fits(self, amount: float) -> bool:
        cost = self.cost + math.fsum(self._reserved.values()) + amount
        return (
            cost <= self.caps.cost * (1 + 1e-12)
            and self.calls + len(self._reserved) + 1 <= self.caps.calls
        )

    def _ceiling(self, expert: Expert, call: Call) -> float:
        limit = call.options.get("max_tokens") or call.options.get("max_completion_tokens")
        made = int(limit or self._longest.get(expert.name) or UNSEEN)
        prompt = estimate_usage(call.messages, "").prompt_tokens
        return expert.price.of(Usage(prompt, made))
