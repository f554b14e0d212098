"""RouterArena's score (Lu et al. 2025, arXiv 2510.00202)."""

from __future__ import annotations

import math

from coterie.errors import InputError

CHEAPEST, DEAREST = 0.0044, 200.0  # dollars a thousand queries
BETA = 0.1


def arena_score(accuracy: float, cost: float, beta: float = BETA) -> float:
    """Weighted harmonic mean of accuracy and logarithmic cheapness, both in [0, 1].

    ``cost`` is dollars per 1,000 queries, clamped to [0.0044, 200]. A small ``beta`` lets accuracy
    count more.

    >>> round(arena_score(0.7396, 10.02), 4)
    0.6432
    """
    if not cost >= 0:
        raise InputError(f"expected at least 0, got {cost!r}", field="cost")
    clamped = min(max(cost, CHEAPEST), DEAREST)
    cheapness = math.log2(DEAREST / clamped) / math.log2(DEAREST / CHEAPEST)
    total = beta * accuracy + cheapness
    return (1 + beta) * accuracy * cheapness / total if total else 0.0
