"""What policies share: ranking by utility, the decision itself, checks of settings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from coterie.errors import InputError
from coterie.types import Decision, Estimates, FloatArray, IntArray, Query

MOST = 10**9  # a count beyond is a mistake
SHOWN = 5  # experts named in a reason


class Policy(Protocol):
    """Chooses composition and experts for every query."""

    def decide(self, queries: Sequence[Query], estimates: Estimates) -> list[Decision]:
        """One decision a query, in order."""


def utilities(quality: FloatArray, cost: FloatArray, willingness_to_pay: float) -> FloatArray:
    """``willingness_to_pay * quality - cost``; the quality alone where it is infinite."""
    if math.isinf(willingness_to_pay):
        return quality
    worth: FloatArray = willingness_to_pay * quality - cost
    return worth


def ranked(utility: FloatArray, cost: FloatArray) -> IntArray:
    """Experts of every query by utility, then cost, then place; shape (queries, experts)."""
    order: IntArray = np.lexsort((cost, -utility), axis=-1)
    return order


def put_first(order: IntArray, *columns: IntArray) -> IntArray:
    """``order`` with these experts of every query moved to its front, the last one foremost."""
    for column in columns:
        rest = order[order != column[:, None]].reshape(len(order), order.shape[1] - 1)
        order = np.column_stack([column, rest])
    return order


def decisions(
    composition: str,
    estimates: Estimates,
    orders: Iterable[Sequence[int]],
    utility: FloatArray,
    evidence: Sequence[Mapping[str, Any]],
    reasons: Sequence[str] = (),
) -> list[Decision]:
    """One decision a query for its experts in this order; weights are their expected qualities."""
    names, qualities, worths = estimates.experts, estimates.quality.tolist(), utility.tolist()
    made = []
    for row, order in enumerate(orders):
        experts = tuple([names[j] for j in order])
        weights = tuple([qualities[row][j] for j in order])
        shown = [f"{e} ({q:.2f})" for e, q in zip(experts[:SHOWN], weights, strict=False)]
        parts = [*estimates.evidence[row : row + 1], *reasons[row : row + 1]]
        reason = "; ".join([*parts, f"expected quality: {', '.join(shown)}"])
        best = max([worths[row][j] for j in order])
        made.append(Decision(composition, experts, weights, best, reason, evidence[row]))
    return made


def fallback_column(name: str | None, estimates: Estimates) -> int:
    """The number of the expert to fall back to.

    Without a name it is the one with the largest mean score over the records behind the estimates,
    or over the estimates of these queries where there is no support. Raises InputError for a name
    that is not in the pool.
    """
    if name is None:
        known = estimates.quality if estimates.support is None else estimates.support.quality
        seen = ~np.isnan(known)
        total = np.where(seen, known, 0.0).sum(axis=0)
        return int((total / np.maximum(seen.sum(axis=0), 1)).argmax())
    if name not in estimates.experts:
        message = f"no expert {name!r}; there are {', '.join(estimates.experts)}"
        raise InputError(message, field="fallback")
    return estimates.experts.index(name)


def switch_share(decisions: Sequence[Decision], fallback: str) -> float:
    """Share of the decisions that put another expert than ``fallback`` first."""
    switched = [d.experts[0] != fallback for d in decisions]
    return float(np.mean(switched)) if switched else 0.0


def check_number(
    value: Any, field: str, low: float = 0.0, high: float = math.inf, above: bool = False
) -> None:
    """Raise InputError unless ``value`` is a number in [low, high] (or above ``low``)."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and (value > low if above else value >= low) and value <= high:
        return
    wanted = f"above {low:g}" if above else f"at least {low:g}"
    wanted += "" if math.isinf(high) else f" and at most {high:g}"
    raise InputError(f"expected {wanted}, got {value!r}", field=field)


def check_count(value: Any, field: str, low: int = 1) -> None:
    """Raise InputError unless ``value`` is a whole number of at least ``low`` and at most MOST."""
    if isinstance(value, int) and value > MOST:
        raise InputError(f"expected at most {MOST}, got {value!r}", field=field)
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        message = f"expected a whole number of at least {low}, got {value!r}"
        raise InputError(message, field=field)
