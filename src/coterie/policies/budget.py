"""The most quality that a mean cost buys: the linear program over a batch, solved by its dual."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coterie.errors import InputError
from coterie.policies.base import check_number, decisions, put_first, ranked, utilities
from coterie.policies.evidence import evidence, flip_points
from coterie.policies.utility import Utility
from coterie.types import Decision, Estimates, FloatArray, IntArray, Query

SLACK = 1e-12  # relative; sums of costs are compared up to the rounding of floats


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """An optimum of the linear program: two assignments of experts to queries and their mix.

    ``price`` is the dual price of the budget, expected score per unit of cost. ``cheap`` keeps to
    the budget, ``rich`` exceeds it (both are ``cheap`` where the budget does not bind), each query
    of both is optimal at the price, and the optimum takes ``rich`` with the weight ``share``.
    """

    price: float
    cheap: IntArray
    rich: IntArray
    share: float
    value: float

    @property
    def willingness_to_pay(self) -> float:
        """What a score of 1 is worth at this price; infinite where the budget does not bind."""
        return 1 / self.price if self.price > 0 else math.inf


def allocate(quality: FloatArray, cost: FloatArray, mean_cost: float) -> Allocation:
    """Maximise the mean of ``sum_j q_ij x_ij`` with ``sum_j x_ij = 1`` and mean cost in budget.

    The Lagrangian dual in the one price is convex and piecewise linear; its minimum is found
    exactly, by intersecting the lines of a cheap and a rich assignment until no third lies above
    (Dinkelbach's step; a handful of passes over the arrays). ``value`` is the optimal mean score.
    Raises InputError where even the cheapest expert of every query costs more.
    """
    count = len(quality)
    cheap, rich = _first(-cost, -quality), _first(quality, cost)
    low, high = _totals(quality, cost, cheap), _totals(quality, cost, rich)
    total = mean_cost * count * (1 + SLACK)
    if low[1] > total:
        message = f"no choice costs at most {mean_cost:g} on average; the cheapest possible mean"
        raise InputError(f"{message} cost is {low[1] / count:.6g}", field="mean_cost")
    if high[1] <= total:
        return Allocation(0.0, rich, rich, 0.0, high[0] / max(count, 1))
    while True:
        price = (high[0] - low[0]) / (high[1] - low[1])
        middle = _first(quality - price * cost, cost)
        reached = _totals(quality, cost, middle)
        above = (reached[0] - low[0]) - price * (reached[1] - low[1])
        if above <= SLACK * count or reached in (low, high):
            break
        if reached[1] <= total:
            cheap, low = middle, reached
        else:
            rich, high = middle, reached
    share = (mean_cost * count - low[1]) / (high[1] - low[1])
    share = min(max(share, 0.0), 1.0)
    return Allocation(price, cheap, rich, share, (low[0] + share * (high[0] - low[0])) / count)


def _first(values: FloatArray, cost: FloatArray) -> IntArray:
    """The expert of the largest value, among equals the cheapest, then the first."""
    if len(values) == 0:
        return np.empty(0, np.intp)
    return ranked(values, cost)[:, 0]


def _totals(quality: FloatArray, cost: FloatArray, columns: IntArray) -> tuple[float, float]:
    rows = np.arange(len(columns))
    return math.fsum(quality[rows, columns]), math.fsum(cost[rows, columns])


@dataclass(frozen=True, slots=True)
class Budget:
    """The experts of largest total expected quality whose expected cost is at most ``mean_cost``.

    The linear program of a whole batch is solved exactly (its Lagrangian form, equal to what an LP
    solver finds) and rounded so that the mean cost, in the pool's unit a query, is kept: at most
    one query's gain is lost. Its dual price is in the reason, and the willingness to pay that goes
    with it. Decisions depend on the whole batch; for queries one at a time use ``frozen``.

    Raises
    ------
    InputError
        Where the budget is below the cheapest possible mean cost, or an expected cost is unknown.
    """

    mean_cost: float
    composition: str = "single"

    def __post_init__(self) -> None:
        check_number(self.mean_cost, "mean_cost")

    def decide(self, queries: Sequence[Query], estimates: Estimates) -> list[Decision]:
        """The optimal expert of every query first, the others by utility at the dual price."""
        optimum = self._solve(estimates)
        chosen = rounded(optimum, estimates.cost, self.mean_cost)
        price = optimum.willingness_to_pay
        utility = utilities(estimates.quality, estimates.cost, price)
        order = put_first(ranked(utility, estimates.cost), chosen)
        runner_up = order[:, 1].tolist() if order.shape[1] > 1 else [-1] * len(order)
        flips = flip_points(estimates.quality, estimates.cost, chosen, price)
        shown = evidence(estimates, chosen[:, None].tolist(), runner_up, price, flips)
        facts = {"mean_cost": self.mean_cost, "dual_price": optimum.price}
        reasons = [self._reason(optimum)] * len(chosen)
        rows = [{**row, **facts} for row in shown]
        return decisions(self.composition, estimates, order.tolist(), utility, rows, reasons)

    def frozen(self, queries: Sequence[Query], estimates: Estimates) -> Utility:
        """The dual price of these queries as a rule for single ones.

        On these queries it costs at most ``mean_cost`` on average; on others of their kind about
        as much.
        """
        price = self._solve(estimates).willingness_to_pay
        return Utility(price * (1 - 1e-9), self.composition)  # ties at the price go to the cheap

    def _solve(self, estimates: Estimates) -> Allocation:
        if not np.isfinite(estimates.cost).all():
            message = "a budget needs every expected cost; fit the router on records with costs"
            raise InputError(message, field="cost")
        return allocate(estimates.quality, estimates.cost, self.mean_cost)

    def _reason(self, optimum: Allocation) -> str:
        if optimum.price == 0:
            return f"budget {self.mean_cost:g} a query does not bind"
        worth = f"(willingness to pay {optimum.willingness_to_pay:.4g})"
        return f"budget {self.mean_cost:g} a query, dual price {optimum.price:.4g} {worth}"


def rounded(optimum: Allocation, cost: FloatArray, mean_cost: float) -> IntArray:
    """The cheap assignment with as many queries of the rich one as the budget allows.

    All of these cost the same for what they add, so the dearest that fit go first: little is left.
    """
    chosen = optimum.cheap.copy()
    rows = np.flatnonzero(optimum.cheap != optimum.rich)
    extra = cost[rows, optimum.rich[rows]] - cost[rows, optimum.cheap[rows]]
    spent = math.fsum(cost[np.arange(len(chosen)), chosen])
    left = mean_cost * len(chosen) - spent
    for at in np.argsort(-extra, kind="stable"):
        if extra[at] <= left:
            left -= extra[at]
            chosen[rows[at]] = optimum.rich[rows[at]]
    return chosen
