"""Caps on a whole batch: who is asked less, or not at all, so that all of it keeps within them.

A policy decides what it would like; the plan takes the best part of it that the caps pay for. It is
the linear program of ``Budget`` over options instead of experts: for a decision that one expert
answers, each expert alone; for one that asks several, its first few; for all, nobody.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from coterie.errors import InputError
from coterie.policies.budget import allocate, rounded
from coterie.types import Decision, Estimates, FloatArray, IntArray

NOBODY = Decision("single", (), (), reason="left unanswered: the caps pay for others")


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """What could be done for every query; column 0 is nothing, the others ask somebody.

    ``value``, ``cost`` (in the pool's unit) and ``calls`` have shape (queries, options); ``wanted``
    is the option of every query that is its decision. An option that a query does not have repeats
    one that it has.
    """

    value: FloatArray
    cost: FloatArray
    calls: FloatArray
    wanted: IntArray

    @classmethod
    def of(cls, decisions: Sequence[Decision], estimates: Estimates) -> Options:
        """Options of decisions with their estimates; InputError where an expected cost is unknown.

        The value of several is the chance that one of them is right if they err independently.
        """
        if not np.isfinite(estimates.cost).all():
            message = "a cap needs every expected cost; fit the router on records with costs"
            raise InputError(message, field="cost")
        place = {name: j for j, name in enumerate(estimates.experts)}
        widest = max((len(d.experts) for d in decisions), default=0)
        columns = np.array(
            [
                [place[e] for e in (*d.experts, *d.experts[-1:] * (widest - len(d.experts)))]
                for d in decisions
            ],
            np.intp,
        ).reshape(len(decisions), widest)
        length = np.array([len(d.experts) for d in decisions])[:, None]
        alone = np.array([d.composition == "single" for d in decisions], bool)[:, None]
        rows = np.arange(len(decisions))[:, None]
        quality = np.clip(estimates.quality[rows, columns], 0, 1)
        cost, asked = estimates.cost[rows, columns], np.arange(widest) < length
        value = np.where(alone, quality, 1 - np.cumprod(np.where(asked, 1 - quality, 1), axis=1))
        cost = np.where(alone, cost, np.cumsum(np.where(asked, cost, 0), axis=1))
        calls = np.where(alone, 1.0, np.cumsum(asked, axis=1))
        nothing = np.zeros((len(decisions), 1))
        wanted = np.where(alone, 1, length)[:, 0]
        value, cost, calls = (np.hstack([nothing, a]) for a in (value, cost, calls))
        return cls(value, cost, calls, wanted)

    @classmethod
    def joined(cls, parts: Sequence[Options]) -> Options:
        """The options of several batches, one below the other."""
        widest = max((part.value.shape[1] for part in parts), default=1)
        value, cost, calls = (
            np.vstack([_wide(array, widest) for array in arrays])
            for arrays in zip(*((p.value, p.cost, p.calls) for p in parts), strict=True)
        )
        return cls(value, cost, calls, np.concatenate([part.wanted for part in parts]))

    def total(self, rows: IntArray) -> tuple[float, float]:
        """Cost and calls of what is wanted for these queries."""
        wanted = self.wanted[rows]
        return math.fsum(self.cost[rows, wanted]), math.fsum(self.calls[rows, wanted])

    def take(self, rows: IntArray) -> Options:
        """The options of these queries."""
        return Options(self.value[rows], self.cost[rows], self.calls[rows], self.wanted[rows])


def _wide(values: FloatArray, width: int) -> FloatArray:
    """More columns, equal to the last one."""
    return np.pad(values, ((0, 0), (0, width - values.shape[1])), mode="edge")


def plan(options: Options, cost: float = math.inf, calls: float = math.inf) -> IntArray:
    """The option of every query that together are worth most within the caps.

    What is wanted is kept where it fits. Else, under one cap it is the optimum of the linear
    program, up to one query's gain; under both, that for the cost first and then that for the
    calls among what costs no more.
    """
    rows, chosen = np.arange(len(options.value)), options.wanted
    allowed = np.full(options.value.shape, True)
    for price, cap in ((options.cost, cost), (options.calls, calls)):
        if math.fsum(price[rows, chosen]) > cap:
            value, mean = np.where(allowed, options.value, -1.0), cap / len(rows)
            chosen = rounded(allocate(value, price, mean), price, mean)
        allowed &= options.cost <= options.cost[rows, chosen][:, None]
    return chosen


def cut(decision: Decision, option: int) -> Decision:
    """The decision that an option stands for."""
    if option == 0:
        return NOBODY
    place = min(option, len(decision.experts))
    kept = slice(place - 1, None) if decision.composition == "single" else slice(place)
    experts, weights = decision.experts[kept], decision.weights[kept]
    if experts == decision.experts:
        return decision
    note = f"{decision.reason}; cut to the caps"
    return replace(decision, experts=experts, weights=weights, reason=note)
