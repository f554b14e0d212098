"""The plug-in rule: the expert with the largest utility, without guard or budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coterie.policies.base import check_number, decisions, ranked, utilities
from coterie.policies.evidence import evidence, flip_points
from coterie.types import Decision, Estimates, FloatArray, IntArray, Query


@dataclass(frozen=True, slots=True)
class Utility:
    """The expert with the largest ``willingness_to_pay * quality - cost``, the others as fallbacks.

    ``willingness_to_pay`` is what a score of 1 is worth, in the pool's unit of cost; infinite means
    that quality alone counts and cost breaks ties (RouterBench's objective). For the composition
    ``cascade`` the order is by cost, from the cheapest to the expert of largest utility.
    """

    willingness_to_pay: float = float("inf")
    composition: str = "single"

    def __post_init__(self) -> None:
        check_number(self.willingness_to_pay, "willingness_to_pay")

    def decide(self, queries: Sequence[Query], estimates: Estimates) -> list[Decision]:
        """Experts in order of utility."""
        quality, cost, price = estimates.quality, estimates.cost, self.willingness_to_pay
        utility = utilities(quality, cost, price)
        order = ranked(utility, cost)
        flips = flip_points(quality, cost, order[:, 0], price)
        shown = evidence(estimates, order[:, :1].tolist(), second(order), price, flips)
        orders = order.tolist()
        if self.composition == "cascade":
            orders = [cheap_first(o, c) for o, c in zip(order, cost, strict=True)]
        return decisions(self.composition, estimates, orders, utility, shown)

    def choose(self, estimates: Estimates) -> Decision:
        """What ``decide`` decides for the one query there is, without evidence: microseconds.

        Plain numbers: for one query and a few experts arrays cost more than they save.
        """
        (quality,), (cost,) = estimates.quality.tolist(), estimates.cost.tolist()
        price = self.willingness_to_pay
        if math.isinf(price):
            utility = quality
        else:
            utility = [price * q - c for q, c in zip(quality, cost, strict=True)]
        ranks = sorted(zip([-u for u in utility], cost, range(len(cost)), strict=True))
        order = [j for _, _, j in ranks]
        if self.composition == "cascade":
            order = cheap_first(np.array(order), estimates.cost[0])
        experts = tuple([estimates.experts[j] for j in order])
        weights = tuple([quality[j] for j in order])
        worth = None if math.isinf(price) else price
        evidence = {"willingness_to_pay": worth}
        return Decision(self.composition, experts, weights, max(utility), evidence=evidence)


def second(order: IntArray) -> list[int]:
    """The runner-up of every query, -1 in a pool of one."""
    if order.shape[1] < 2:
        return [-1] * len(order)
    runner_up: list[int] = order[:, 1].tolist()
    return runner_up


def cheap_first(order: IntArray, costs: FloatArray) -> list[int]:
    """Up to the best expert, everyone cheaper than it, the cheapest first."""
    best = order[0]
    cheaper = [int(j) for j in order if costs[j] < costs[best]]
    return [*sorted(cheaper, key=lambda j: float(costs[j])), int(best)]
