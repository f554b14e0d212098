"""Policies: estimates in, decisions out, alike for every router.

Pure functions of the estimates and a seed; sampled rules draw from a generator seeded by the query
id, so a decision does not depend on which other queries are in the batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from coterie.errors import InputError
from coterie.types import Decision, Estimates, FloatArray, IntArray, Query, Seed, derive_seed

RULES = ("greedy", "paper", "released", "top-p")
RARE = 0.05  # share of recruitments below which an expert is trimmed


class Policy(Protocol):
    """Chooses composition and experts for every query."""

    def decide(self, queries: Sequence[Query], estimates: Estimates) -> list[Decision]:
        """One decision a query, in order."""


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
        if not self.willingness_to_pay >= 0:
            message = f"expected at least 0, got {self.willingness_to_pay!r}"
            raise InputError(message, field="willingness_to_pay")

    def decide(self, queries: Sequence[Query], estimates: Estimates) -> list[Decision]:
        """Experts in order of utility."""
        utility, tie = estimates.quality, estimates.cost
        if np.isfinite(self.willingness_to_pay):
            utility = self.willingness_to_pay * estimates.quality - estimates.cost
        decisions = []
        for row, (values, costs) in enumerate(zip(utility, tie, strict=True)):
            order: IntArray = np.lexsort((costs, -values))
            if self.composition == "cascade":
                order = _cheap_first(order, costs)
            decisions.append(_decision(self.composition, order, values, row, estimates))
        return decisions


def _cheap_first(order: IntArray, costs: FloatArray) -> IntArray:
    """Up to the best expert, everyone cheaper than it, the cheapest first."""
    best = order[0]
    cheaper = [j for j in order if costs[j] < costs[best]]
    return np.array([*sorted(cheaper, key=lambda j: costs[j]), best])


def _decision(
    composition: str,
    order: Sequence[int] | IntArray,
    utility: FloatArray,
    row: int,
    estimates: Estimates,
) -> Decision:
    """The decision for these expert columns; weights are their expected qualities."""
    names = tuple(estimates.experts[j] for j in order)
    qualities = tuple(float(estimates.quality[row, j]) for j in order)
    shown = [f"{n} ({q:.2f})" for n, q in zip(names, qualities, strict=True)]
    reason = f"expected quality: {', '.join(shown[:5])}"
    if estimates.evidence:
        reason = f"{estimates.evidence[row]}; {reason}"
    return Decision(composition, names, qualities, float(max(utility[j] for j in order)), reason)


@dataclass(frozen=True, slots=True)
class Recruit:
    """k experts a query, to answer side by side.

    Parameters
    ----------
    k
        How many (with ``top-p``: at most).
    rule
        ``greedy``: the k of highest expected quality. ``paper`` and ``released``: k draws with
        replacement from Symbolic-MoE's distribution as published and as in its code. ``top-p``:
        the smallest set whose share of the paper's distribution over qualities reaches ``p``.
    temperature
        Of the paper's softmax.
    keep
        Only these experts are recruited (empty: all); see ``trimmed``.
    """

    k: int = 3
    rule: str = "greedy"
    temperature: float = 0.5
    p: float = 0.6
    seed: Seed = 0
    keep: tuple[str, ...] = ()
    composition: str = "recruit"

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise InputError(f"expected one of {', '.join(RULES)}, got {self.rule!r}", field="rule")
        if not isinstance(self.k, int) or self.k < 1:
            message = f"expected a whole number of at least 1, got {self.k!r}"
            raise InputError(message, field="k")
        if not isinstance(self.p, int | float) or not 0 <= self.p <= 1:
            raise InputError(f"expected a number in [0, 1], got {self.p!r}", field="p")
        if not isinstance(self.keep, list | tuple):  # a text would match by its letters
            raise InputError(f"expected a list of names, got {self.keep!r}", field="keep")
        if not self.temperature > 0:
            message = f"expected a number above 0, got {self.temperature!r}"
            raise InputError(message, field="temperature")

    def decide(self, queries: Sequence[Query], estimates: Estimates) -> list[Decision]:
        """The recruited experts of every query."""
        allowed = np.array([not self.keep or e in self.keep for e in estimates.experts])
        if not allowed.any():
            raise InputError(f"none of {self.keep} is in the pool", field="keep")
        decisions = []
        for row, query in enumerate(queries):
            chosen = self._choose(query, row, estimates, allowed)
            utility = estimates.quality[row]
            decisions.append(_decision(self.composition, chosen, utility, row, estimates))
        return decisions

    def _choose(
        self, query: Query, row: int, estimates: Estimates, allowed: FloatArray
    ) -> list[int]:
        quality = np.where(allowed, estimates.quality[row], -np.inf)
        order = np.lexsort((estimates.cost[row], -quality))[: min(self.k, int(allowed.sum()))]
        if self.rule == "greedy":
            return [int(j) for j in order]
        if self.rule == "top-p":
            share = softmax(quality, self.temperature)[order]
            enough = int(np.searchsorted(np.cumsum(share), self.p - 1e-12)) + 1
            return [int(j) for j in order[:enough]]
        chances = np.where(allowed, self._chances(row, estimates), 0.0)
        if not chances.sum():  # every expert with a chance was trimmed
            chances = allowed.astype(float)
        generator = np.random.default_rng(derive_seed(self.seed, "recruit", query.id))
        drawn = generator.choice(len(chances), size=self.k, p=chances / chances.sum())
        return [int(j) for j in drawn]

    def _chances(self, row: int, estimates: Estimates) -> FloatArray:
        """The distribution of one draw, shape (experts,); only a router with skills has one."""
        local, strength = estimates.suitability, estimates.strength
        if local is None or strength is None:
            message = f"{self.rule!r} needs skill scores; fit the skills router, or use greedy"
            raise InputError(message, field="rule")
        if np.isnan(local[row]).any():
            return np.full(len(estimates.experts), 1 / len(estimates.experts))
        if self.rule == "paper":
            return paper_chances(local[row], strength, self.temperature)
        return released_chances(local[row], strength, self.temperature)

    def trimmed(self, queries: Sequence[Query], estimates: Estimates) -> Recruit:
        """The same policy without the experts that get under 5 % of all recruitments here.

        Meant for validation queries: what is kept is frozen, so that deciding stays a function of
        one query (the paper trims on the test set).
        """
        counts = Counter(e for d in self.decide(queries, estimates) for e in d.experts)
        total = counts.total()
        kept = tuple(e for e in estimates.experts if counts[e] >= RARE * total)
        return replace(self, keep=kept or self.keep)


def softmax(values: FloatArray, temperature: float) -> FloatArray:
    """exp(values / temperature), normalised over the last axis."""
    scaled = (values - values.max()) / temperature
    weights = np.exp(scaled)
    chances: FloatArray = weights / weights.sum()
    return chances


def paper_chances(
    suitability: FloatArray, strength: FloatArray, temperature: float = 0.5
) -> FloatArray:
    """Symbolic-MoE as published: softmax of global competency times local suitability, over T.

    With profile totals that sum to 0 all experts count as equally competent.
    """
    total = strength.sum()
    competency = strength / total if total else np.full(len(strength), 1 / len(strength))
    return softmax(competency * suitability, temperature)


def released_chances(
    suitability: FloatArray, strength: FloatArray, temperature: float = 0.5
) -> FloatArray:
    """Symbolic-MoE as released: positive local scores times global strength, without softmax.

    Totals are shifted to at least 1 if any is negative and raised to 1 / T. Only experts with
    a positive local score take part; if there is none, local scores are shifted likewise.
    """
    shifted = strength - strength.min() + 1 if strength.min() < 0 else strength
    power = shifted.astype(float) ** (1 / temperature)
    share = power / power.sum() if power.sum() else np.full(len(power), 1 / len(power))
    positive = np.maximum(suitability, 0.0)
    local = positive if positive.any() else suitability - suitability.min() + 1
    weights = local * share
    chances: FloatArray = weights / weights.sum() if weights.sum() else share
    return chances


def distinct_experts(decisions: Sequence[Decision]) -> float:
    """Mean number of different experts a query; 1.0 where a peaked rule recruits one k times."""
    return float(np.mean([len(set(d.experts)) for d in decisions])) if decisions else 0.0
