"""Tryage's rule: expected quality less weighted penalties on what experts are, within limits.

A request may say how much a trait weighs and what is out of the question. It does so in the option
``routing`` (which experts never see), or by tags: ``flag:NAME`` and ``require:TAG``::

    {"routing": {"flags": ["small"], "weights": {"size": 0.02},
                 "limits": {"size": 13}, "tags": ["code"]}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.policies.base import check_number, decisions
from coterie.policies.evidence import evidence
from coterie.types import ROUTING, Decision, Estimates, FloatArray, Query

COST = "cost"  # the trait that is estimated, not given
KEYS = ("flags", "weights", "limits", "tags")


class Wish(NamedTuple):
    """What one request asks for: weights and limits of traits, and tags an expert must have."""

    weights: Mapping[str, float]
    limits: Mapping[str, float]
    tags: frozenset[str]


@dataclass(frozen=True, slots=True)
class Penalties:
    """The expert with the largest ``quality - sum of weight * trait`` of those within the limits.

    So with no weights it is pure quality; raising a trait's weight never raises that trait of any
    choice. Ties go to the smaller sum of penalties, then to the expert named first.

    Parameters
    ----------
    traits
        Numbers by expert and trait, where less is better (``{"a": {"size": 7, "age": 2}}``), and
        ``tags``, a list. ``cost`` is a trait of every expert, the expected cost of the query.
    weights
        What a unit of each trait costs in quality, for all requests.
    flags
        Named sets of further weights that a request can ask for: ``{"small": {"size": 0.02}}``.
    limits
        The most of each trait that is allowed, for all requests.
    """

    traits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    flags: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    composition: str = "single"

    def __post_init__(self) -> None:
        for where, table in {"weights": self.weights, **self.flags}.items():
            for name, weight in table.items():
                check_number(weight, f"{where}: {name}")
        for name, limit in self.limits.items():
            check_number(limit, f"limits: {name}", low=-float("inf"))

    def decide(self, queries: Sequence[Query], estimates: Estimates) -> list[Decision]:
        """Experts within the limits, best first; InputError where a request leaves none."""
        traits = self._table(estimates)
        if not len(queries):
            return []
        orders, worth, reasons = [], [], []
        for row, query in enumerate(queries):
            wish = self.wish(query)
            penalty = self._penalty(wish, traits, estimates.cost[row])
            allowed = self._allowed(wish, traits, estimates, row, query)
            utility = estimates.quality[row] - penalty
            order = np.lexsort((penalty, -utility))
            orders.append([int(j) for j in order if allowed[j]])
            worth.append(utility)
            reasons.append(_reason(wish))
        first, second = [order[:1] for order in orders], [(*o, -1)[1] for o in orders]
        shown = evidence(estimates, first, second)
        return decisions(self.composition, estimates, orders, np.array(worth), shown, reasons)

    def wish(self, query: Query) -> Wish:
        """What a request asks for, with what holds for all; InputError where it is malformed."""
        asked = _asked(query)
        flags = [*asked.get("flags", ()), *_tagged(query, "flag:")]
        if unknown := [flag for flag in flags if flag not in self.flags]:
            known = ", ".join(self.flags) or "none"
            message = f"query {query.id!r} has the flag {unknown[0]!r}; there are {known}"
            raise InputError(message, field="routing: flags")
        weights = dict(self.weights)
        for table in (*(self.flags[flag] for flag in flags), asked.get("weights", {})):
            for name, weight in table.items():
                check_number(weight, f"routing: weights: {name}")
                weights[name] = weights.get(name, 0.0) + weight
        limits = dict(self.limits)
        for name, limit in asked.get("limits", {}).items():
            check_number(limit, f"routing: limits: {name}", low=-float("inf"))
            limits[name] = min(limit, limits.get(name, limit))
        tags = frozenset([*asked.get("tags", ()), *_tagged(query, "require:")])
        return Wish(weights, limits, tags)

    def _table(self, estimates: Estimates) -> list[Mapping[str, Any]]:
        return [self.traits.get(name, {}) for name in estimates.experts]

    def _penalty(
        self, wish: Wish, traits: Sequence[Mapping[str, Any]], cost: FloatArray
    ) -> FloatArray:
        total = np.zeros(len(traits))
        for name, weight in wish.weights.items():
            if weight:
                total += weight * self._values(name, traits, cost)
        return total

    def _values(
        self, name: str, traits: Sequence[Mapping[str, Any]], cost: FloatArray
    ) -> FloatArray:
        """A trait of every expert; InputError where one has none."""
        if name == COST:
            return cost
        values = [table.get(name) for table in traits]
        for number, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, int | float):
                message = f"expected a number for expert {number + 1}, got {value!r}"
                raise InputError(message, field=f"traits: {name}")
        return np.array(values, float)

    def _allowed(
        self,
        wish: Wish,
        traits: Sequence[Mapping[str, Any]],
        estimates: Estimates,
        row: int,
        query: Query,
    ) -> NDArray[np.bool_]:
        allowed = np.array([wish.tags <= set(table.get("tags", ())) for table in traits], bool)
        for name, limit in wish.limits.items():
            allowed &= self._values(name, traits, estimates.cost[row]) <= limit
        if not allowed.any():
            message = f"no expert is within what query {query.id!r} allows: {_reason(wish)}"
            raise InputError(message, field="routing")
        return allowed


def tradeoff(
    estimates: Estimates,
    scores: FloatArray,
    trait: FloatArray,
    weights: Sequence[float],
) -> FloatArray:
    """Mean score and mean trait of the choices at each weight of one trait, (weights, 2).

    ``scores`` (queries, experts) are what the choices turned out to score, ``trait`` (experts,).
    """
    rows, points = np.arange(len(scores)), []
    for weight in weights:
        penalty = np.broadcast_to(weight * np.asarray(trait, float), scores.shape)
        chosen = np.lexsort((penalty, penalty - estimates.quality), axis=-1)[:, 0]
        points.append((scores[rows, chosen].mean(), np.asarray(trait, float)[chosen].mean()))
    return np.array(points)


def pareto(points: FloatArray) -> FloatArray:
    """The points (score, trait) that no other beats on both, by ascending trait.

    >>> pareto(np.array([[0.5, 1.0], [0.4, 2.0], [0.9, 3.0]])).tolist()
    [[0.5, 1.0], [0.9, 3.0]]
    """
    kept: list[FloatArray] = []
    for point in points[np.lexsort((-points[:, 0], points[:, 1]))]:
        if not kept or point[0] > kept[-1][0]:
            kept.append(point)
    return np.array(kept)


def _asked(query: Query) -> Mapping[str, Any]:
    """The request's option ``routing``; InputError where it is no table of what is known."""
    asked = query.params.get(ROUTING, {})
    kinds = {"flags": list | tuple, "weights": Mapping, "limits": Mapping, "tags": list | tuple}
    if not isinstance(asked, Mapping):
        raise InputError(f"expected a table, got {asked!r}", field="routing")
    for key, value in asked.items():
        if key not in kinds:
            known = ", ".join(KEYS)
            raise InputError(f"unknown key; known: {known}", field=f"routing: {key}")
        if not isinstance(value, kinds[key]):
            wanted = "a list" if key in ("flags", "tags") else "a table"
            raise InputError(f"expected {wanted}, got {value!r}", field=f"routing: {key}")
    return asked


def _tagged(query: Query, prefix: str) -> list[str]:
    return [tag.removeprefix(prefix) for tag in query.tags if tag.startswith(prefix)]


def _reason(wish: Wish) -> str:
    """The wish in words, empty where there is none."""
    parts = [f"{name} weighs {weight:g}" for name, weight in sorted(wish.weights.items())]
    parts += [f"{name} at most {limit:g}" for name, limit in sorted(wish.limits.items())]
    parts += [f"tag {tag}" for tag in sorted(wish.tags)]
    return ", ".join(parts) or "no penalties"
