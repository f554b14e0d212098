"""The same chain of experts for every query, for compositions that decide as they go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from coterie.errors import InputError
from coterie.policies.base import check_count, check_number, decisions, ranked, utilities
from coterie.policies.evidence import evidence
from coterie.policies.utility import cheap_first
from coterie.types import Decision, Estimates, FloatArray, Query


@dataclass(frozen=True, slots=True)
class Chain:
    """A list of experts in a fixed order, or each query's own from the cheapest to the best.

    What is done with the chain is the composition's: a cascade asks one after the other, a gate
    takes the first or the second. Expected costs of the chain stand in the evidence.

    Parameters
    ----------
    composition
        Name of the composition.
    experts
        The chain; without one it is every query's cheapest expert, then the next, up to the expert
        of the largest ``willingness_to_pay * quality - cost``.
    most
        With no ``experts`` given, at most so many: the best one and the cheapest.
    """

    composition: str = "cascade"
    experts: Sequence[str] = ()
    most: int = 3
    willingness_to_pay: float = float("inf")

    def __post_init__(self) -> None:
        check_count(self.most, "most")
        check_number(self.willingness_to_pay, "willingness_to_pay")
        if isinstance(self.experts, str) or len(set(self.experts)) != len(self.experts):
            message = f"expected a list of different names, got {self.experts!r}"
            raise InputError(message, field="experts")

    def decide(self, queries: Sequence[Query], estimates: Estimates) -> list[Decision]:
        """The chain of every query; InputError where it names an expert that is not estimated."""
        quality, cost = estimates.quality, estimates.cost
        worth = utilities(quality, cost, self.willingness_to_pay)
        orders = self._orders(estimates, worth)
        columns = [[order[0]] for order in orders]
        others = [order[1] if len(order) > 1 else -1 for order in orders]
        shown = evidence(estimates, columns, others, self.willingness_to_pay)
        costs = [
            {estimates.experts[j]: float(paid[j]) for j in order if math.isfinite(paid[j])}
            for order, paid in zip(orders, cost, strict=True)
        ]
        facts = [{**row, "costs": own} for row, own in zip(shown, costs, strict=True)]
        return decisions(self.composition, estimates, orders, worth, facts)

    def _orders(self, estimates: Estimates, worth: FloatArray) -> list[list[int]]:
        if self.experts:
            if missing := [e for e in self.experts if e not in estimates.experts]:
                message = f"no expert {missing[0]!r}; there are {', '.join(estimates.experts)}"
                raise InputError(message, field="experts")
            fixed = [estimates.experts.index(e) for e in self.experts]
            return [fixed] * len(worth)
        order = ranked(worth, estimates.cost)
        chains = [cheap_first(o, c) for o, c in zip(order, estimates.cost, strict=True)]
        return [[*chain[:-1][: self.most - 1], chain[-1]] for chain in chains]
