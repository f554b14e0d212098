"""A pool: named experts in order, what they cost, and how answers are read from their texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coterie.answers import Extractor, extractor
from coterie.errors import InputError
from coterie.experts.base import Expert
from coterie.residency import LFU, LRU, CostAware, Eviction, LookAhead
from coterie.types import Query

EVICTIONS: Mapping[str, Callable[[], Eviction]] = {
    "look-ahead": LookAhead,
    "cost-aware": CostAware,
    "lru": LRU,
    "lfu": LFU,
}


@dataclass(frozen=True)
class Pool:
    """Experts by name with the settings they share.

    Attributes
    ----------
    experts
        In the order of the pool file; records and estimates keep it.
    parameters
        Active parameters of an expert, where known.
    samples
        For slow experts: how many questions a profile asks them at most.
    options
        Request options of every call (``max_tokens``, ``temperature``); a query's own win.
    extract
        Name of the extractor that finds the answer in a completion's text.
    capacity
        How many experts that need loading may be in memory at a time, where ``memory`` is None.
    memory, host_memory
        Bytes of the device for weights, None to count experts instead, and of host memory for
        weights that wait for their next use.
    eviction
        Name of the rule for who leaves first: one of EVICTIONS.
    unit
        Unit of cost, for people.
    """

    name: str
    experts: Mapping[str, Expert]
    parameters: Mapping[str, int] = field(default_factory=dict)
    samples: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    extract: str = "whole"
    capacity: int = 1
    memory: int | None = None
    host_memory: int = 0
    eviction: str = "look-ahead"
    unit: str = "USD"

    @property
    def extractor(self) -> Extractor:
        """The function behind ``extract``."""
        return extractor(self.extract)

    @property
    def rule(self) -> Eviction:
        """The rule behind ``eviction``."""
        return EVICTIONS[self.eviction]()

    def prepare(self, queries: Sequence[Query]) -> tuple[Query, ...]:
        """Queries with the pool's options where they have none of their own."""
        return tuple(replace(q, params={**self.options, **q.params}) for q in queries)

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise InputError(f"expected at least 1, got {self.capacity}", field="capacity")
        if self.memory is not None and self.memory < 1:
            raise InputError(f"expected bytes above 0, got {self.memory!r}", field="memory")
        if self.host_memory < 0:
            message = f"expected at least 0 bytes, got {self.host_memory!r}"
            raise InputError(message, field="host_memory")
        if self.eviction not in EVICTIONS:
            message = f"expected one of {', '.join(EVICTIONS)}, got {self.eviction!r}"
            raise InputError(message, field="eviction")
        if idle := [name for name, expert in self.experts.items() if expert.slots < 1]:
            raise InputError(f"expert {idle[0]!r} has none; it needs at least 1", field="slots")

    def asked(self, name: str, count: int) -> int:
        """How many of ``count`` questions a profile puts to this expert."""
        return min(self.samples.get(name, count), count)

    def fingerprint(self) -> str:
        """Equal where experts, their prices and the options of calls are equal.

        Raises ExpertError where an expert's weights are missing.
        """
        experts = [
            [name, expert.fingerprint(), expert.price.prompt, expert.price.completion]
            for name, expert in self.experts.items()
        ]
        content = json.dumps([experts, dict(self.options)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    async def close(self) -> None:
        """Release every expert."""
        for expert in self.experts.values():
            await expert.close()
