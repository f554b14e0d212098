"""One fit, every budget: cost against quality over the willingness to pay, and pairs of experts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from coterie.metrics.deferral import deferral_area, peak_quality, qnc
from coterie.metrics.hulls import aiq, aiq_as_released
from coterie.metrics.routellm import apgr, apgr_as_released, cpt
from coterie.policies.base import utilities
from coterie.types import FloatArray, IntArray

SETTINGS = 49  # finite willingness to pay, besides 0 and infinity
SHARES = (0.2, 0.5, 0.8)  # of the performance gap, for CPT


@dataclass(frozen=True, eq=False)
class Curve:
    """A router's mean cost and quality at each willingness to pay (arrays, ascending prices).

    ``aiq`` and ``aiq_as_released`` are RouterBench's, between the mean costs of the cheapest and
    the dearest expert; ``zero_aiq`` is what single experts and coins between them reach there.
    ``qnc`` and ``area`` are UniRoute's, ``peak`` the highest quality.
    """

    willingness_to_pay: FloatArray
    cost: FloatArray
    quality: FloatArray
    aiq: float
    zero_aiq: float
    aiq_as_released: float
    qnc: float
    area: float
    area_half: float
    peak: float

    def to_dict(self) -> dict[str, Any]:
        """JSON values; infinite ones are null."""
        points = zip(self.willingness_to_pay, self.cost, self.quality, strict=True)
        names = ("aiq", "zero_aiq", "aiq_as_released", "qnc", "area", "area_half", "peak")
        facts: dict[str, Any] = {name: _finite(getattr(self, name)) for name in names}
        facts["points"] = [[_finite(w), float(c), float(q)] for w, c, q in points]
        return facts


class PairMetrics(NamedTuple):
    """RouteLLM's metrics of a router over two experts; CPT as shares of strong calls.

    ``apgr`` and ``cpt_*`` set thresholds within each fold, so that a router that knows nothing of
    the queries has an APGR of 0.5. Those called pooled, and ``apgr_as_released``, put the estimates
    of all folds' fits in one order.
    """

    weak: str
    strong: str
    apgr: float
    apgr_pooled: float
    apgr_as_released: float
    cpt_20: float
    cpt_50: float
    cpt_80: float
    cpt_20_pooled: float
    cpt_50_pooled: float
    cpt_80_pooled: float


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def prices(cost: FloatArray) -> FloatArray:
    """What a score of 1 may be worth: 0, 49 steps around the mean cost, infinity."""
    steps: FloatArray = np.logspace(-3, 5, SETTINGS) * max(float(cost.mean()), 1e-12)
    return np.concatenate([[0.0], steps, [np.inf]])


def sweep(
    expected: FloatArray, expected_cost: FloatArray, quality: FloatArray, cost: FloatArray
) -> Curve | None:
    """The curve of a router from its estimates and the outcomes, all (queries, experts).

    None where all experts cost the same on average: there is nothing to trade.
    """
    means, scores = cost.mean(axis=0), quality.mean(axis=0)
    low, high = float(means.min()), float(means.max())
    if not high > low:
        return None
    worth = prices(cost)
    points = np.array(_points(worth, expected, expected_cost, quality, cost))
    costs, qualities = points[:, 0], points[:, 1]
    best = int(np.lexsort((means, -scores))[0])
    return Curve(
        willingness_to_pay=worth,
        cost=costs,
        quality=qualities,
        aiq=aiq(costs, qualities, low, high),
        zero_aiq=aiq(means, scores, low, high),
        aiq_as_released=aiq_as_released(costs, qualities, high),
        qnc=qnc(costs, qualities, float(scores[best]), float(means[best])),
        area=deferral_area(costs, qualities, high),
        area_half=deferral_area(costs, qualities, high, 0.5),
        peak=peak_quality(qualities),
    )


def _points(
    worth: FloatArray,
    expected: FloatArray,
    expected_cost: FloatArray,
    quality: FloatArray,
    cost: FloatArray,
) -> list[tuple[float, float]]:
    """Mean cost and mean quality of choosing by utility at each willingness to pay."""
    order = np.argsort(expected_cost, axis=1, kind="stable")  # the first best is the cheapest best
    expected, expected_cost, quality, cost = (
        np.take_along_axis(table, order, axis=1)
        for table in (expected, expected_cost, quality, cost)
    )
    rows, points = np.arange(len(order)), []
    for price in worth.tolist():
        chosen = utilities(expected, expected_cost, price).argmax(axis=1)
        points.append((float(cost[rows, chosen].mean()), float(quality[rows, chosen].mean())))
    return points


def best_by_utility(expected: FloatArray, expected_cost: FloatArray, price: float) -> IntArray:
    """The column that ``policies.Utility(price)`` puts first, for every query."""
    utility = utilities(expected, expected_cost, price)
    best = utility == utility.max(axis=1, keepdims=True)
    chosen: IntArray = np.where(best, expected_cost, np.inf).argmin(axis=1)
    return chosen


def pair_metrics(
    expected: FloatArray, quality: FloatArray, experts: tuple[str, ...], fold_of: IntArray
) -> PairMetrics | None:
    """RouteLLM's metrics for two experts; None where they are equally good on average.

    The strong one is the one with the higher mean score on the judged queries, as the field has it.
    ``fold_of`` numbers the fit that each query's estimates come from, (queries,).
    """
    strong = int(quality[:, 1].mean() > quality[:, 0].mean())
    weak = 1 - strong
    low, high = quality[:, weak], quality[:, strong]
    if not high.mean() > low.mean():
        return None
    wanted = expected[:, strong] - expected[:, weak]
    exact, pooled = apgr(low, high, wanted, fold_of), apgr(low, high, wanted)
    released = apgr_as_released(low, high, wanted)
    thresholds = [cpt(low, high, wanted, s, folds) for folds in (fold_of, None) for s in SHARES]
    return PairMetrics(experts[weak], experts[strong], exact, pooled, released, *thresholds)
