"""The contract of an expert: anything that completes a call.

A driver needs four things of it: ``complete`` (never raises for a failure of the expert: the
completion says so in ``error``), ``stream``, and ``load``/``unload`` where weights have to be in
memory first. Remote experts have ``size`` 0 and inherit loading that does nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass

from coterie.types import Call, Completion, Usage


@dataclass(frozen=True, slots=True)
class Price:
    """Cost of one prompt token and one completion token, in the pool's unit."""

    prompt: float = 0.0
    completion: float = 0.0

    def of(self, usage: Usage) -> float:
        """Cost of a completion with this usage."""
        return self.prompt * usage.prompt_tokens + self.completion * usage.completion_tokens


class Expert(ABC):
    """One member of a pool.

    ``slots`` is how many calls it serves side by side.
    """

    name: str
    price: Price = Price()
    slots: int = 1

    @property
    def size(self) -> int:
        """Bytes its weights take while loaded; 0: nothing to load."""
        return 0

    @abstractmethod
    async def complete(self, call: Call) -> Completion:
        """The completion of ``call``; a failure is a completion with ``error`` set, not a raise."""

    async def stream(self, call: Call) -> AsyncIterator[str | Completion]:
        """Pieces of text as they come, then the whole completion last."""
        completion = await self.complete(call)
        if completion.text:
            yield completion.text
        yield completion

    async def load(self) -> None:
        """Make the expert ready to complete; raises ExpertError with what went wrong."""
        return

    async def unload(self) -> None:
        """Give its memory back; loading again is allowed."""
        return

    async def close(self) -> None:
        """Release everything, sockets and processes included; the expert is not used again."""
        await self.unload()

    def fingerprint(self) -> str:
        """What this expert is, for run headers: equal fingerprints mean interchangeable answers."""
        return self.name
