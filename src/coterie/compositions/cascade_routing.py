"""Cascade routing: at each step the utility decides to stop, or which expert to ask next.

Dekoninck, Baader and Vechev 2024, arXiv 2410.10347. Routing (choose once) and cascading (a fixed
order) are its special cases. A supermodel is a set of experts of which the best answer will count;
its value is the expected maximum of their chances, taken as independent normals. A chance that a
scorer has read off an answer is known, the others are a router's estimates with the scorer's
``spread``.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coterie.aggregators import nothing_usable
from coterie.compositions.base import ask
from coterie.errors import InputError
from coterie.policies.base import check_count, check_number
from coterie.scorers import Scorer, load_scorer
from coterie.types import Completion, Decision, FloatArray, Flow, Query, Seed

POINTS = 65  # an expert, at which the distribution of a maximum is evaluated
WIDEST = 12  # experts of a decision: 4,095 supermodels


@dataclass(frozen=True)
class CascadeRouting:
    """Ask whoever the best supermodel wants next, until none is worth its cost.

    The decision names the candidates, with their expected qualities as weights, and holds their
    expected ``costs`` and the ``willingness_to_pay`` in its evidence, as the policy ``chain``
    leaves them; without a cost an expert counts as free.

    Parameters
    ----------
    scorer
        A scorer, or the folder of a saved one.
    most
        Experts asked at most.
    willingness_to_pay
        What a chance of 1 is worth in the pool's unit of cost; None takes the decision's.
    """

    scorer: Scorer | str
    most: int = 3
    willingness_to_pay: float | None = None

    def __post_init__(self) -> None:
        check_count(self.most, "most")
        if self.willingness_to_pay is not None:
            check_number(self.willingness_to_pay, "willingness_to_pay", above=True)
        if isinstance(self.scorer, str):
            object.__setattr__(self, "scorer", load_scorer(self.scorer))

    def __call__(self, query: Query, decision: Decision, seed: Seed) -> Flow:
        """The flow of one query."""
        if len(decision.experts) > WIDEST:
            message = f"expected at most {WIDEST} candidates, got {len(decision.experts)}"
            raise InputError(message, field="experts")
        scorer, count = self.scorer, len(decision.experts)
        assert isinstance(scorer, Scorer)
        mean = np.array(decision.weights, float)
        spread = np.array([scorer.spread[scorer.column(e)] for e in decision.experts])
        costs, asked = self._costs(decision), dict[int, Completion]()
        while len(asked) < min(self.most, count):
            following = next_expert(mean, spread, costs, tuple(asked), self.most)
            if following is None:
                break
            name = decision.experts[following]
            (completion,) = yield [ask(query, name, seed, len(asked))]
            asked[following] = completion
            mean[following] = scorer.score(query, completion)
            spread[following] = 0.0
        usable = [j for j, completion in asked.items() if not completion.failed]
        if not usable:
            return nothing_usable(list(asked.values()))
        return asked[max(usable, key=lambda j: float(mean[j]))]

    def _costs(self, decision: Decision) -> FloatArray:
        """Expected costs in units of quality."""
        given = decision.evidence.get("costs")
        costs: Mapping[str, float] = given if isinstance(given, Mapping) else {}
        price = self.willingness_to_pay or decision.evidence.get("willingness_to_pay") or math.inf
        return np.array([float(costs.get(name) or 0.0) / price for name in decision.experts])


def next_expert(
    mean: FloatArray, spread: FloatArray, costs: FloatArray, asked: Sequence[int], most: int
) -> int | None:
    """The expert that the supermodel of the largest utility asks next, None to stop.

    Utility is the expected maximum less the costs that are still to be paid; among equal ones the
    smaller supermodel counts, then the cheaper one. Its cheapest expert is asked first.
    """
    rest = [j for j in range(len(mean)) if j not in asked]
    best, chosen = (-math.inf, 0, 0.0), tuple[int, ...]()
    for size in range(0 if asked else 1, max(most - len(asked), 0) + 1):
        for more in itertools.combinations(rest, size):
            own = [*asked, *more]
            price = float(costs[list(more)].sum())
            worth = round(expected_maximum(mean[own], spread[own]) - price, 9)
            if (worth, -size, -price) > best:
                best, chosen = (worth, -size, -price), more
    if not chosen:
        return None
    return min(chosen, key=lambda j: (float(costs[j]), -float(mean[j]), j))


def expected_maximum(mean: FloatArray, spread: FloatArray) -> float:
    """The expected maximum of independent normals; those without spread are constants.

    >>> round(expected_maximum(np.array([0.0, 0.0]), np.array([1.0, 1.0])), 3)  # 1 / sqrt(pi)
    0.564
    """
    sure = spread <= 1e-9
    floor = float(mean[sure].max()) if sure.any() else -math.inf
    if sure.all():
        return floor
    m, s = mean[~sure], spread[~sure]
    low, high = max(floor, float((m - 8 * s).min())), float((m + 8 * s).max())
    if high <= low:
        return floor
    near = m + s * np.linspace(-8, 8, POINTS)[:, None]  # (points, experts): narrow ones too
    at = np.unique(np.clip(np.append(near, [low, high]), low, high))
    below = np.prod(_normal((at[:, None] - m) / s), axis=1)  # chance that all are below
    return low + float(np.trapezoid(1 - below, at))


def _normal(z: FloatArray) -> FloatArray:
    """The standard normal distribution function, to six places."""
    return np.interp(z, *_table())


@functools.cache
def _table() -> tuple[FloatArray, FloatArray]:
    """Places from -8 to 8 and the distribution function there; numpy has none."""
    at = np.linspace(-8, 8, 3201)
    return at, np.array([0.5 * (1 + math.erf(z / math.sqrt(2))) for z in at])
