"""The contract of an expert: anything that completes a call.

A driver needs three things of it: ``complete`` (never raises for a failure of the expert: the
completion says so in ``error``), ``stream``, and, where weights have to be in memory first, the
way between three tiers::

    disk  -- prefetch -->  host memory  -- load -->  device
    disk  <-- unload() --               <-- unload(keep=True) --

Remote experts have ``size`` 0 and inherit loading that does nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass

from coterie.errors import InputError
from coterie.types import Call, Completion, Usage


@dataclass(frozen=True, slots=True)
class Price:
    """Cost of one prompt token and one completion token, in the pool's unit."""

    prompt: float = 0.0
    completion: float = 0.0

    def of(self, usage: Usage) -> float:
        """Cost of a completion with this usage."""
        return self.prompt * usage.prompt_tokens + self.completion * usage.completion_tokens


def check_limits(timeout: object, slots: object, retries: object = 0) -> None:
    """Raise InputError unless seconds are above 0, slots at least 1 and retries at least 0."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < 1e9:
        raise InputError(f"expected seconds above 0, got {timeout!r}", field="timeout")
    for field, value, least in (("slots", slots, 1), ("retries", retries, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            message = f"expected a whole number of at least {least}, got {value!r}"
            raise InputError(message, field=field)


class Expert(ABC):
    """One member of a pool.

    ``slots`` is how many calls it serves side by side.
    """

    name: str
    price: Price = Price()
    slots: int = 1

    @property
    def size(self) -> int:
        """Bytes its weights take while loaded, estimated before the first load; 0: none to load."""
        return 0

    @property
    def measured(self) -> int:
        """Bytes that the loaded weights took when last measured; 0 while unknown."""
        return 0

    @property
    def backend(self) -> str:
        """Name of what has to be loaded for it: experts with the same backend share one load."""
        return self.name

    @abstractmethod
    async def complete(self, call: Call) -> Completion:
        """The completion of ``call``; a failure is a completion with ``error`` set, not a raise."""

    async def stream(self, call: Call) -> AsyncIterator[str | Completion]:
        """Pieces of text as they come, then the whole completion last."""
        completion = await self.complete(call)
        if completion.text:
            yield completion.text
        yield completion

    async def prefetch(self) -> None:
        """Bring the weights from disk to host memory, so that ``load`` is quick; never required."""
        return

    async def load(self) -> None:
        """Make the expert ready to complete; raises ExpertError with what went wrong."""
        return

    async def unload(self, keep: bool = False) -> None:
        """Leave the device; ``keep`` the weights in host memory, or give that back as well.

        Loading again is allowed. Where nothing was loaded, what ``prefetch`` or an earlier
        ``keep`` left in host memory is given back unless ``keep`` is set again.
        """
        return

    async def footprint(self) -> int:
        """``measured``, measured anew where the weights are loaded and that can be done."""
        return self.measured

    async def close(self) -> None:
        """Release everything, sockets and processes included; the expert is not used again."""
        await self.unload()

    def fingerprint(self) -> str:
        """What this expert is, for run headers: equal fingerprints mean interchangeable answers."""
        return self.name
