"""The additive null: what an oracle would reach if experts differed in ability alone.

In Rasch's model P(correct) = sigmoid(ability of the expert - difficulty of the question): no expert
is better at some questions than at others, so no router can gain anything. An oracle over such
outcomes still beats the best single expert, by luck alone. How close it comes to the real oracle
says how much of that headroom is no evidence of anything to be routed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coterie.errors import InputError
from coterie.types import FloatArray, IntArray

NODES = np.linspace(-10.0, 10.0, 81)  # difficulties that a question can have
LEVELS = 10  # values up to which every one has a cut; quantiles that others are cut between
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
        return _chances(self.ability)

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
    counts, right, questions = _by_count(correct)
    rate = (correct.sum(axis=0) + 0.5) / (len(correct) + 1)
    ability, share = np.log(rate / (1 - rate)), np.full(len(NODES), 1 / len(NODES))
    for _ in range(STEPS):
        difficulty = _posterior(counts, ability, share)
        mass = questions @ difficulty
        stepped = _abilities(ability, difficulty.T @ right, mass)
        moved = max(np.abs(stepped - ability).max(), np.abs(mass / len(correct) - share).max())
        ability, share = stepped, mass / len(correct)
        if moved < 1e-5:
            break
    every = np.arange(correct.shape[1] + 1)
    return Rasch(ability, share, _posterior(every, ability, share))


def _by_count(correct: FloatArray) -> tuple[IntArray, FloatArray, IntArray]:
    """The numbers of right answers that occur; who gave them, and to how many questions.

    Shapes (counts,), (counts, experts) and (counts,): never more than ``correct`` itself holds.
    """
    from scipy.sparse import csr_array

    total = correct.sum(axis=1).astype(int)
    counts, place, questions = np.unique(total, return_inverse=True, return_counts=True)
    rows = np.arange(len(total))
    member = csr_array((np.ones(len(total)), (place, rows)), shape=(len(counts), len(total)))
    return counts, member @ correct, questions


def _chances(ability: FloatArray) -> FloatArray:
    """P(correct) at every difficulty, shape (nodes, experts)."""
    chance: FloatArray = 1 / (1 + np.exp(NODES[:, None] - ability))
    return chance


def _posterior(counts: IntArray, ability: FloatArray, share: FloatArray) -> FloatArray:
    """The posterior of a question's difficulty by its number of right answers, (counts, nodes)."""
    log = -counts[:, None] * NODES - np.logaddexp(0, ability[:, None] - NODES).sum(axis=0)
    log = log + np.log(np.maximum(share, 1e-300))
    mass = np.exp(log - log.max(axis=1, keepdims=True))
    posterior: FloatArray = mass / mass.sum(axis=1, keepdims=True)
    return posterior


def _abilities(ability: FloatArray, right: FloatArray, mass: FloatArray) -> FloatArray:
    """One damped Newton step on every ability (generalised EM).

    ``right`` (nodes, experts) are right answers and ``mass`` (nodes,) questions at a difficulty.
    """
    chance = _chances(ability)
    slope = (right - mass[:, None] * chance).sum(axis=0) - PRIOR * ability
    curve = (mass[:, None] * chance * (1 - chance)).sum(axis=0) + PRIOR
    stepped: FloatArray = ability + np.clip(slope / curve, -1.0, 1.0)
    return stepped


def null_oracle(quality: FloatArray) -> FloatArray:
    """Expected oracle score of every question under the additive null, shape (questions,).

    Exact under the fitted model: given ability and difficulty the chance that nobody is right is a
    product, so nothing is simulated. Fractional scores are cut into "at least so good" or not; each
    cut has a Rasch model of its own, and the oracle's expected score is the integral of its chances
    over the cuts. Up to eleven different scores have a cut each. Of more, steps between quantiles
    of all scores and of the best ones are cut in the middle, and what the real oracle has beyond
    its own steps is added: the two are compared by equal steps.
    """
    best, steps, cuts = quality.max(axis=1), *_cuts(quality)
    null, real = np.full((2, len(quality)), float(steps[0]))
    for width, cut in zip(np.diff(steps), cuts, strict=True):
        correct = (quality >= cut).astype(float)
        null += width * fit_rasch(correct).oracle(correct.sum(axis=1).astype(int))
        real += width * (best >= cut)
    expected: FloatArray = null + (best - real)
    return expected


def _cuts(quality: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Steps from the lowest to the highest score, and where to cut between two of them."""
    values = np.unique(quality)
    if len(values) <= LEVELS + 1:
        return values, values[1:]
    at = np.linspace(0.0, 1.0, LEVELS + 1)
    steps = np.unique([np.quantile(quality, at), np.quantile(quality.max(axis=1), at)])
    return steps, (steps[:-1] + steps[1:]) / 2
