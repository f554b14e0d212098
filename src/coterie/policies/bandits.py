"""Trying experts where little is known of them, for any router with standard errors.

``UCB`` takes the best that each expert may plausibly be, ``Thompson`` draws what each may be. Made
for routers that learn while they serve (``online-mean``, ``online-linear``); on a router that does
not, they explore forever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coterie.errors import InputError
from coterie.policies.base import check_number, decisions, ranked, utilities
from coterie.policies.evidence import evidence, flip_points
from coterie.policies.utility import second
from coterie.types import Decision, Estimates, FloatArray, Query, Seed, derive_seed

REACH, STEPS = 6.0, 61  # standard errors that are integrated over, and points in them


@dataclass(frozen=True, slots=True)
class UCB:
    """The largest ``willingness_to_pay * (quality + alpha * error) - cost`` (LinUCB's rule).

    With ``online-linear`` this is LinUCB, whose own ``alpha`` is half of this one; with
    ``online-mean`` there is no context. ``alpha = 0`` is ``Utility``. The propensity is 1: nothing
    is drawn.
    """

    alpha: float = 1.0
    willingness_to_pay: float = float("inf")
    composition: str = "single"

    def __post_init__(self) -> None:
        check_number(self.alpha, "alpha")
        check_number(self.willingness_to_pay, "willingness_to_pay")

    def decide(self, queries: Sequence[Query], estimates: Estimates) -> list[Decision]:
        """Experts in order of their optimistic utility."""
        optimistic = estimates.quality + self.alpha * errors(estimates)
        facts = [{"propensity": 1.0, "alpha": self.alpha} for _ in queries]
        return _decided(self, estimates, optimistic, facts)


@dataclass(frozen=True, slots=True)
class Thompson:
    """The largest utility when every expert's quality is drawn from what it may be.

    Qualities are drawn from normal distributions with the estimates' means and ``scale`` times
    their standard errors, by the query's id and ``seed``. The evidence has the chance that the
    chosen expert comes out first (``propensity``), integrated numerically.
    """

    willingness_to_pay: float = float("inf")
    scale: float = 1.0
    seed: Seed = 0
    composition: str = "single"

    def __post_init__(self) -> None:
        check_number(self.willingness_to_pay, "willingness_to_pay")
        check_number(self.scale, "scale")

    def decide(self, queries: Sequence[Query], estimates: Estimates) -> list[Decision]:
        """Experts in order of the drawn utility."""
        error = self.scale * errors(estimates)
        by_name = np.argsort(estimates.experts)  # draws do not depend on the order of the experts
        drawn = estimates.quality.copy()
        for row, query in enumerate(queries):
            generator = np.random.default_rng(derive_seed(self.seed, "thompson", query.id))
            noise = generator.standard_normal(len(by_name))
            drawn[row, by_name] += error[row, by_name] * noise
        price = self.willingness_to_pay
        mean = utilities(estimates.quality, estimates.cost, price)
        spread = error if np.isinf(price) else price * error
        first = ranked(utilities(drawn, estimates.cost, price), estimates.cost)[:, :1]
        facts = [
            {"propensity": chance_to_win(m, s, int(j))}
            for m, s, j in zip(mean, spread, first[:, 0], strict=True)
        ]
        return _decided(self, estimates, drawn, facts)


def errors(estimates: Estimates) -> FloatArray:
    """Standard errors of the qualities; InputError where the router gives none."""
    if estimates.error is None:
        message = (
            "needs standard errors, this router gives none; use one that does (online-linear, "
            "online-mean, knn, linear) or the policy explore"
        )
        raise InputError(message, field="estimates")
    return estimates.error


def _decided(
    policy: UCB | Thompson,
    estimates: Estimates,
    quality: FloatArray,
    facts: Sequence[dict[str, Any]],
) -> list[Decision]:
    """Decisions by these qualities; weights and evidence keep those of the estimates."""
    price, cost = policy.willingness_to_pay, estimates.cost
    utility = utilities(quality, cost, price)
    order = ranked(utility, cost)
    flips = flip_points(quality, cost, order[:, 0], price)
    shown = evidence(estimates, order[:, :1].tolist(), second(order), price, flips)
    rows = [{**row, **fact} for row, fact in zip(shown, facts, strict=True)]
    reasons = [f"propensity {fact['propensity']:.3g}" for fact in facts]
    return decisions(policy.composition, estimates, order.tolist(), utility, rows, reasons)


def chance_to_win(mean: FloatArray, error: FloatArray, column: int) -> float:
    """The chance that one of several independent normal variables is the largest.

    ``mean`` and ``error`` have shape (experts,). The product of the others' distribution functions
    is integrated against this one's, by trapezoids over points of all of them (to about 0.5 %).
    """
    from scipy.special import ndtr

    width = np.maximum(error, 1e-9 * max(1.0, float(np.abs(mean).max())))
    floor = (mean - REACH * width).max()  # below it somebody is sure to be
    rivals = mean + REACH * width >= floor
    if not rivals[column]:
        return 0.0
    centre, width, own = mean[rivals], width[rivals], int(rivals[:column].sum())
    steps = np.linspace(-REACH, REACH, STEPS)
    points = np.sort((centre[:, None] + width[:, None] * steps).ravel())
    below = ndtr((points - centre[:, None]) / width[:, None])  # (rivals, points)
    others = np.delete(below, own, axis=0).prod(axis=0)
    return float(((others[1:] + others[:-1]) / 2 * np.diff(below[own])).sum())
