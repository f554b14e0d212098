"""Where a cascade should stop: thresholds chosen on recorded outcomes.

A chain of experts is three arrays with a row a query: ``scores`` (rows, stages - 1), what every
answer but the last is judged by; ``quality`` and ``cost`` (rows, stages). A query stops at the
first stage whose score is at least that stage's threshold. Scores must come from a judge that did
not see the rows; a score of NaN never stops.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.policies.base import check_number
from coterie.policies.certified import upper_bound
from coterie.types import FloatArray, IntArray

GRID = 40  # quantiles of a stage's scores that are tried, as FrugalGPT does
CHANCES = tuple(np.arange(0.0, 1.0025, 0.005).round(6).tolist())
LONGEST = 3  # experts in a chain that all thresholds are tried for


class Plan(NamedTuple):
    """A chain (expert columns), a threshold for each stage but the last, what that comes to."""

    chain: tuple[int, ...]
    thresholds: tuple[float, ...]
    quality: float
    cost: float


def stops(scores: FloatArray, thresholds: Sequence[float]) -> IntArray:
    """The stage at which every row stops, (rows,); the number of thresholds is the last one.

    >>> stops(np.array([[0.9, 0.1], [0.2, 0.8], [0.2, 0.1]]), [0.5, 0.5]).tolist()
    [0, 1, 2]
    """
    content = np.column_stack([scores >= np.asarray(thresholds), np.ones(len(scores), bool)])
    stage: IntArray = content.argmax(axis=1)
    return stage


def outcome(
    scores: FloatArray, quality: FloatArray, cost: FloatArray, thresholds: Sequence[float]
) -> tuple[FloatArray, FloatArray]:
    """Quality of the answer that stands and cost of all that were asked, each (rows,)."""
    stage = stops(scores, thresholds)
    rows = np.arange(len(stage))
    return quality[rows, stage], cost.cumsum(axis=1)[rows, stage]


def best_thresholds(
    scores: FloatArray, quality: FloatArray, cost: FloatArray, mean_cost: float, grid: int = GRID
) -> tuple[float, ...] | None:
    """Thresholds of the highest mean quality whose mean cost is at most ``mean_cost``.

    All combinations of ``grid`` quantiles a stage are tried, and never or always to stop there;
    among equal ones the cheapest counts. None where even the cheapest one is too dear.
    """
    if scores.shape[1] >= LONGEST:
        message = f"expected at most {LONGEST} stages, got {scores.shape[1] + 1}"
        raise InputError(message, field="scores")
    steps = [_steps(column, grid) for column in scores.T]
    worth, paid = quality[:, -1:], cost[:, -1:]  # (rows, combinations of later stages)
    for stage in reversed(range(len(steps))):
        stop = scores[:, stage, None] >= steps[stage]  # (rows, steps)
        if stage == 0:
            worth = _mean(stop, quality[:, 0], worth)
            paid = _mean(stop, np.zeros(len(stop)), paid) + cost[:, 0].mean()
        else:
            worth = np.where(stop, quality[:, stage, None], worth)
            paid = np.where(stop, 0.0, paid) + cost[:, stage, None]
    if not steps:
        worth, paid = worth.mean(axis=0)[None], paid.mean(axis=0)[None]
    allowed = paid <= mean_cost * (1 + 1e-12)
    if not allowed.any():
        return None
    best = np.lexsort((paid.ravel(), -np.where(allowed, worth.round(12), -1.0).ravel()))[0]
    places = np.unravel_index(best, worth.shape)
    return tuple(float(s[p]) for s, p in zip(steps, places, strict=False))


def best_plan(
    scores: FloatArray,
    quality: FloatArray,
    cost: FloatArray,
    mean_cost: float,
    longest: int = LONGEST,
    grid: int = GRID,
) -> Plan:
    """FrugalGPT's choice: the chain and thresholds of the highest quality within a mean cost.

    Arrays have a column an expert; chains go from cheap to dear and have at most ``longest``
    experts. Raises InputError where no expert is within the budget.
    """
    check_number(mean_cost, "mean_cost")
    order = [int(j) for j in np.argsort(cost.mean(axis=0), kind="stable")]
    found = None
    for length in range(1, longest + 1):
        for chain in itertools.combinations(order, length):
            own = list(chain)
            parts = scores[:, own[:-1]], quality[:, own], cost[:, own]
            thresholds = best_thresholds(*parts, mean_cost, grid)
            if thresholds is None:
                continue
            worth, paid = (float(v.mean()) for v in outcome(*parts, thresholds))
            plan = Plan(chain, thresholds, worth, paid)
            if found is None or (worth, -paid) > (found.quality + 1e-12, -found.cost):
                found = plan
    if found is None:
        cheapest = float(cost.mean(axis=0).min())
        message = f"the cheapest expert costs {cheapest:g} a query, more than {mean_cost:g}"
        raise InputError(message, field="mean_cost")
    return found


def certified_threshold(
    scores: FloatArray,
    quality: FloatArray,
    risk: float,
    confidence: float = 0.95,
    grid: Sequence[float] = CHANCES,
) -> tuple[float, float]:
    """The lowest threshold, for all stages alike, that these rows certify; and its upper bound.

    With probability ``confidence`` over the rows, at most ``risk`` of new queries of their kind
    are stopped early at an answer worse than the last expert's. Thresholds are tested from strict
    to lax and the last before the first failure is kept (fixed-sequence testing, as ``Certified``
    does; Clopper and Pearson's bound). Infinite where nothing is certified: never stop early.
    ``grid`` must not depend on these rows; the usual one is for scores that are chances.
    """
    check_number(risk, "risk", high=1.0)
    check_number(confidence, "confidence", high=1.0)
    kept, reached = float("inf"), 0.0
    rows = np.arange(len(scores))
    for threshold in sorted(grid, reverse=True):
        stage = stops(scores, [threshold] * scores.shape[1])
        lost = float((quality[rows, stage] < quality[:, -1] - 1e-9).sum())
        upper = upper_bound(lost, len(scores), confidence)
        if upper > risk:
            break
        kept, reached = threshold, upper
    return kept, reached


def _steps(scores: FloatArray, grid: int) -> FloatArray:
    """Thresholds worth trying: quantiles of the scores, always to stop and never to."""
    known = scores[np.isfinite(scores)]
    if not len(known):
        return np.array([np.inf])
    inside = np.quantile(known, np.linspace(0, 1, grid))
    return np.unique([-np.inf, *inside, np.inf])


def _mean(stop: NDArray[np.bool_], here: FloatArray, later: FloatArray) -> FloatArray:
    """Means over the rows of ``here`` where it stops, else ``later``; (steps, combinations)."""
    stopped = stop.astype(float)
    total = (stopped.T @ here)[:, None] + (1 - stopped).T @ later
    return np.asarray(total / len(stop))
