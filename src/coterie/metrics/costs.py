"""What a right answer costs, and what an extra point of quality does."""

from __future__ import annotations

import math

import numpy as np

from coterie.errors import InputError
from coterie.types import FloatArray


def cost_of_pass(cost: FloatArray, scores: FloatArray) -> float:
    """Expected cost of one correct answer: cost over correct answers (Erol et al. 2025).

    Infinite where nothing is right (arXiv 2504.13359).
    """
    correct = float(np.sum(scores))
    return float(np.sum(cost)) / correct if correct else math.inf


def ibc(score: float, cost: float, small_score: float, small_cost: float) -> float:
    """Incremental benefit per cost over the small expert (AutoMix, arXiv 2310.12963).

    Raises InputError where the method costs the same as the small expert.
    """
    if cost == small_cost:
        raise InputError("the method costs what the small expert costs: no benefit per cost")
    return (score - small_score) / (cost - small_cost)


def ibc_lift(own: float, base: float) -> float:
    """Delta IBC in per cent: a method's IBC against ``base``, that of always using the large one.

    Raises InputError where the large expert has no benefit itself.
    """
    if base == 0:
        raise InputError("the large expert has no benefit per cost: there is no lift over it")
    return 100 * (own - base) / base
