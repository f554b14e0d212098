"""How much room the experts of a run have: a number of them, or bytes."""

from __future__ import annotations

from collections.abc import Mapping

from coterie.experts.base import Expert
from coterie.pool import Pool
from coterie.residency import Eviction, LookAhead, Residency


def by_count(experts: Mapping[str, Expert], capacity: int) -> Residency:
    """Room for so many experts, whatever their sizes; in host memory for all that leave."""
    residency = Residency(capacity, len(experts), eviction=LookAhead())
    for expert in experts.values():
        if expert.size:
            residency.resize(expert.backend, 1)
    return residency


def by_size(
    experts: Mapping[str, Expert], device: int, host: int = 0, eviction: Eviction | None = None
) -> Residency:
    """Room for so many bytes; sizes are those of the files until they are measured."""
    residency = Residency(device, host, eviction=eviction or LookAhead())
    for expert in experts.values():
        if expert.size:
            residency.resize(expert.backend, expert.size)
            residency.check(expert.backend)
    return residency


def residency_of(pool: Pool) -> Residency | None:
    """Room in bytes where the pool says how many; None where it counts experts."""
    if pool.memory is None:
        return None
    return by_size(pool.experts, pool.memory, pool.host_memory, pool.rule)
