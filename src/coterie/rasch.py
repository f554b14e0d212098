"""The additive null: what an oracle would reach if experts differed in ability alone.

In Rasch's model P(correct) = sigmoid(ability of the expert - difficulty of the question): no expert
is better at some questions than at others, so no router can gain anything. An oracle over such
outcomes still beats the best single expert, by luck alone. How close it comes to the real oracle
says how much of that headroom is no evidence of anything to be routed.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from coterie.errors import InputError
from coterie.types import FloatArray, IntArray

NODES = np.linspace(-10.0, 10.0, 81)  # difficulties that a question can have
LEVELS = 10  # cuts of fractional scores
STEPS = 1000
PRIOR = 0.02  # precision of abilities around 0: keeps an expert that is always right finite


class Rasch(NamedTuple):
    """A fitted model: ``ability`` (experts,) and the ``share`` of questions at each of ``NODES``.

    ``difficulty`` is the posterior over ``NODES`` of a question that so many experts get right,
    shape (experts + 1, nodes): the number of right answers is all that it depends on.
    """

    ability: FloatArray
    share: FloatArray
    difficulty: FloatArray

    def chances(self) -> FloatArray:
        """P(correct) at every difficulty, shape (nodes, experts)."""
        chance: FloatArray = 1 / (1 + np.exp(NODES[:, None] - self.ability))
        return chance

    def oracle(self, right: IntArray) -> FloatArray:
        """The chance that any expert is right when such questions are asked anew.

        ``right`` is how many experts were right, one a question; outcomes are independent given
        ability and difficulty.
        """
        missed = np.prod(1 - self.chances(), axis=1)  # (nodes,)
        expected: FloatArray = (self.difficulty @ (1 - missed))[right]
        return expected


def fit_rasch(correct: FloatArray) -> Rasch:
    """Maximum marginal likelihood by EM; ``correct`` is 0 or 1, shape (questions, experts).

    The distribution of difficulties is free (weights on ``NODES``; Bock and Aitkin 1981): a normal
    one, or a shrunken estimate for every question, would count its own misfit as interaction or
    hide interaction in it. Abilities have a weak normal prior. Raises InputError for missing cells.
    """
    if np.isnan(correct).any():
        raise InputError("the additive null needs every expert's outcome on every question")
    experts = correct.shape[1]
    total = correct.sum(axis=1).astype(int)
    questions = np.bincount(total, minlength=experts + 1)  # by number of right answers
    right = np.zeros((experts + 1, experts))
    np.add.at(right, total, correct)
    rate = (correct.sum(axis=0) + 0.5) / (len(correct) + 1)
    ability, share = np.log(rate / (1 - rate)), np.full(len(NODES), 1 / len(NODES))
    for _ in range(STEPS):
        difficulty = _posterior(ability, share)
        mass = questions @ difficulty
        stepped = _abilities(ability, difficulty.T @ right, mass)
        moved = max(np.abs(stepped - ability).max(), np.abs(mass / len(correct) - share).max())
        ability, share = stepped, mass / len(correct)
        if moved < 1e-5:
            break
    return Rasch(ability, share, _posterior(ability, share))


def _posterior(ability: FloatArray, share: FloatArray) -> FloatArray:
    """The posterior of a question's difficulty by its number of right answers."""
    right = np.arange(len(ability) + 1)[:, None]
    log = -right * NODES - np.logaddexp(0, ability[:, None] - NODES).sum(axis=0)
    log = log + np.log(np.maximum(share, 1e-300))
    mass = np.exp(log - log.max(axis=1, keepdims=True))
    posterior: FloatArray = mass / mass.sum(axis=1, keepdims=True)
    return posterior


def _abilities(ability: FloatArray, right: FloatArray, mass: FloatArray) -> FloatArray:
    """One damped Newton step on every ability (generalised EM).

    ``right`` (nodes, experts) are right answers and ``mass`` (nodes,) questions at a difficulty.
    """
    chance = 1 / (1 + np.exp(NODES[:, None] - ability))
    slope = (right - mass[:, None] * chance).sum(axis=0) - PRIOR * ability
    curve = (mass[:, None] * chance * (1 - chance)).sum(axis=0) + PRIOR
    stepped: FloatArray = ability + np.clip(slope / curve, -1.0, 1.0)
    return stepped


def null_oracle(quality: FloatArray) -> FloatArray:
    """Expected oracle score of every question under the additive null, shape (questions,).

    Exact under the fitted model: given ability and difficulty the chance that nobody is right is a
    product, so nothing is simulated. Fractional scores are cut at up to ten levels; each cut ("at
    least so good") has a Rasch model of its own, and the oracle's expected score is the integral
    of its chances over the levels.
    """
    values = np.unique(quality)
    exact = len(values) <= LEVELS + 1
    steps = values if exact else np.linspace(0.0, 1.0, LEVELS + 1)
    expected = np.full(len(quality), float(steps[0]))
    for low, high in itertools.pairwise(steps):
        correct = (quality >= (high if exact else (low + high) / 2)).astype(float)
        expected += (high - low) * fit_rasch(correct).oracle(correct.sum(axis=1).astype(int))
    return expected
