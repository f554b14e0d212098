"""Several experts a query, to answer side by side."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.policies.base import check_count, check_number, decisions, ranked, utilities
from coterie.policies.evidence import (
    Flips,
    Gate,
    evidence,
    first_allowed,
    flip_points,
    nearer,
)
from coterie.policies.scores import softmax
from coterie.types import Decision, Estimates, FloatArray, IntArray, Query, Seed, derive_seed

RULES = ("greedy", "paper", "released", "top-p")  # by quality or skill; "budgeted" minds the cost
RARE = 0.05  # share of recruitments below which an expert is trimmed


@dataclass(frozen=True, slots=True)
class Recruit:
    """k experts a query, to answer side by side.

    Parameters
    ----------
    k
        How many (with ``top-p`` and ``budgeted``: at most).
    rule
        ``greedy``: the k of highest expected quality. ``paper`` and ``released``: k draws with
        replacement from Symbolic-MoE's distribution as published and as in its code. ``top-p``:
        the smallest set whose share of the paper's distribution over qualities reaches ``p``
        (Dynamic-MoE's rule). ``budgeted``: one more expert as long as what it adds is worth its
        cost, the chance that anyone is right rising by more than cost / ``willingness_to_pay``.
    temperature
        Of the paper's softmax.
    keep
        Only these experts are recruited (empty: all); see ``trimmed``.
    willingness_to_pay
        What an answer that is right is worth under ``budgeted``, in the pool's unit of cost.

    Notes
    -----
    ``budgeted`` counts the chance ``1 - prod(1 - q)`` that at least one of the recruited is right
    if they err independently. It is monotone and submodular, so each expert adds less than the one
    before and stopping at the first that does not pay is consistent; a vote reaches less.
    """

    k: int = 3
    rule: str = "greedy"
    temperature: float = 0.5
    p: float = 0.6
    seed: Seed = 0
    keep: tuple[str, ...] = ()
    composition: str = "recruit"
    willingness_to_pay: float = float("inf")

    def __post_init__(self) -> None:
        rules = (*RULES, "budgeted")
        if self.rule not in rules:
            raise InputError(f"expected one of {', '.join(rules)}, got {self.rule!r}", field="rule")
        check_count(self.k, "k")
        if not isinstance(self.p, int | float) or not 0 <= self.p <= 1:
            raise InputError(f"expected a number in [0, 1], got {self.p!r}", field="p")
        if not isinstance(self.keep, list | tuple):  # a text would match by its letters
            raise InputError(f"expected a list of names, got {self.keep!r}", field="keep")
        if not self.temperature > 0:
            message = f"expected a number above 0, got {self.temperature!r}"
            raise InputError(message, field="temperature")
        check_number(self.willingness_to_pay, "willingness_to_pay")

    def decide(self, queries: Sequence[Query], estimates: Estimates) -> list[Decision]:
        """The recruited experts of every query."""
        allowed = np.array([not self.keep or e in self.keep for e in estimates.experts])
        if not allowed.any():
            raise InputError(f"none of {self.keep} is in the pool", field="keep")
        price, flips = math.inf, None
        if self.rule == "budgeted":
            chosen, flips = worthwhile(estimates, allowed, self.k, self.willingness_to_pay)
            price = self.willingness_to_pay
        else:
            chosen = [self._choose(q, i, estimates, allowed) for i, q in enumerate(queries)]
        others = best_left_out(estimates.quality, allowed, chosen)
        shown = evidence(estimates, [list(dict.fromkeys(c)) for c in chosen], others, price, flips)
        return decisions(self.composition, estimates, chosen, estimates.quality, shown)

    def _choose(
        self, query: Query, row: int, estimates: Estimates, allowed: NDArray[np.bool_]
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


def worthwhile(
    estimates: Estimates, allowed: NDArray[np.bool_], k: int, willingness_to_pay: float
) -> tuple[list[list[int]], Flips]:
    """At most k experts a query, each worth its cost when it is added, and where that changes.

    The first is the one of largest utility. Greedy by net gain: what an expert adds to the chance
    that anyone is right, times the willingness to pay, less its cost.
    """
    count = len(estimates.quality)
    right = np.clip(estimates.quality, 0.0, 1.0)
    wrong, left = np.ones((count, 1)), np.tile(allowed, (count, 1))
    chosen: list[list[int]] = [[] for _ in range(count)]
    flips = Flips(np.full(count, np.nan), np.full(count, -1))
    rows = np.arange(count)
    for step in range(min(k, int(allowed.sum()))):
        gain = _after_nothing(wrong[rows] * right[rows])
        cost = _after_nothing(estimates.cost[rows])
        stop = np.full((len(rows), 1), step > 0)
        gate = Gate.fixed(np.hstack([stop, left[rows]]))
        ranks = ranked(utilities(gain, cost, willingness_to_pay), cost)
        added = first_allowed(ranks, gate.open(willingness_to_pay))
        point = flip_points(gain, cost, added, willingness_to_pay, gate)
        flips = _with_step(flips, rows, point, willingness_to_pay)
        rows, added = rows[added > 0], added[added > 0] - 1
        for row, j in zip(rows.tolist(), added.tolist(), strict=True):
            chosen[row].append(j)
        left[rows, added] = False
        wrong[rows, 0] *= 1 - right[rows, added]
    return chosen, flips


def _after_nothing(columns: FloatArray) -> FloatArray:
    """The columns of the experts after one of zeros, for recruiting nobody more."""
    return np.column_stack([np.zeros(len(columns)), columns])


def _with_step(flips: Flips, rows: IntArray, step: Flips, willingness_to_pay: float) -> Flips:
    """The nearest change so far, with those of one step in these rows."""
    known = Flips(flips.at[rows], flips.to[rows])
    at, to = nearer(known, Flips(step.at, step.to - 1), willingness_to_pay)
    flips.at[rows], flips.to[rows] = at, np.maximum(to, -1)
    return flips


def best_left_out(
    quality: FloatArray, allowed: NDArray[np.bool_], chosen: Sequence[Sequence[int]]
) -> list[int]:
    """The expert of highest quality that was allowed and not recruited, -1 where all were."""
    left = np.where(allowed, quality, -np.inf)
    for row, columns in enumerate(chosen):
        left[row, list(columns)] = -np.inf
    if left.shape[0] == 0:
        return []
    best = np.where(np.isneginf(left.max(axis=1)), -1, left.argmax(axis=1))
    others: list[int] = best.tolist()
    return others


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
