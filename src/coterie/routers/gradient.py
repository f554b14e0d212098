"""Stochastic gradient descent in numpy: what the routers without a closed form share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coterie.routers.base import mean_or
from coterie.types import FloatArray, IntArray

Weights: TypeAlias = dict[str, NDArray[np.float32]]
Gradient: TypeAlias = Callable[[Weights, IntArray, np.random.Generator], Weights]
HANDICAPS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


class Schedule(NamedTuple):
    """How to descend: ``patience`` epochs without a better score end it."""

    epochs: int = 40
    batch: int = 128
    rate: float = 2e-3
    decay: float = 0.05  # of weights towards 0, per step and unit of rate (AdamW)
    patience: int = 8


def sigmoid(logits: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)) without overflow, in the type of the logits."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))


class Distinct(NamedTuple):
    """Experts with the same scores are one column; columns stand in an order of their own."""

    quality: NDArray[np.float32]  # (queries, columns), NaN unobserved
    member: IntArray  # the column of every expert
    weight: NDArray[np.float32]  # experts in every column


def distinct(quality: FloatArray) -> Distinct:
    """Columns ordered by content, so that no listing order reaches the random numbers."""
    filled = np.nan_to_num(quality.astype(np.float32), nan=-1.0)
    found, member, count = np.unique(filled, axis=1, return_inverse=True, return_counts=True)
    return Distinct(
        np.where(found < 0, np.float32(np.nan), found), member.reshape(-1), count.astype(np.float32)
    )


def residual(logits: FloatArray, quality: FloatArray, weight: FloatArray) -> NDArray[np.float32]:
    """Gradient of the mean masked cross-entropy by the logits, same shape."""
    seen = ~np.isnan(quality)
    error = np.where(seen, sigmoid(logits) - quality, 0.0) * weight
    return (error / max(float((seen * weight).sum()), 1.0)).astype(np.float32)


def loss(logits: FloatArray, quality: FloatArray) -> float:
    """Mean masked cross-entropy of scores in [0, 1]; 0 where nothing is observed."""
    seen = ~np.isnan(quality)
    values = np.logaddexp(0.0, logits[seen]) - quality[seen] * logits[seen]
    return float(values.sum() / max(int(seen.sum()), 1))


def mean_logit(quality: FloatArray) -> FloatArray:
    """The logit of every column's mean, of one half where nothing is observed; (columns,)."""
    seen = (~np.isnan(quality)).sum(axis=0)
    means = (np.nansum(quality, axis=0) + 0.5) / (seen + 1)
    return np.asarray(np.log(means / (1 - means)), np.float32)


def routing_score(logits: FloatArray, quality: FloatArray) -> float:
    """Mean score of the expert chosen by the logits, on average over a grid of handicaps.

    A handicap takes away from every expert 0 to 150 % of what its mean score is above the mean of
    all, from prediction and score alike, as a price would: so a pool in which one expert is always
    best still tells good predictions from bad ones. NaN where nothing is observed.
    """
    known = ~np.isnan(quality).all(axis=1)
    if not known.any():
        return float("nan")
    seen = quality[known]
    chance = np.where(np.isnan(seen), -np.inf, sigmoid(logits[known]))
    means = mean_or(seen, np.nan)
    ahead = np.nan_to_num(means - np.nanmean(means))
    scores = [_handicapped(chance, seen, share * ahead) for share in HANDICAPS]
    return float(np.mean(scores))


def _handicapped(chance: FloatArray, quality: FloatArray, handicap: FloatArray) -> float:
    chosen = (chance - handicap).argmax(axis=1)
    return float((quality - handicap)[np.arange(len(chosen)), chosen].mean())


def descend(
    weights: Weights,
    gradient: Gradient,
    rows: IntArray,
    judge: Callable[[Weights], tuple[float, float]],
    schedule: Schedule,
    generator: np.random.Generator,
) -> Weights:
    """The weights of the best epoch: Adam on minibatches of ``rows`` (Kingma and Ba 2015)."""
    first = {k: np.zeros_like(v) for k, v in weights.items()}
    second = {k: np.zeros_like(v) for k, v in weights.items()}
    best, top, waited, step = weights, (-np.inf, -np.inf), 0, 0
    for _ in range(schedule.epochs):
        order = generator.permutation(rows)
        for begin in range(0, len(order), schedule.batch):
            step += 1
            slopes = gradient(weights, order[begin : begin + schedule.batch], generator)
            weights = _adam(weights, slopes, first, second, step, schedule)
        score = judge(weights)
        waited = 0 if score > top else waited + 1
        if score > top:
            best, top = weights, score
        if waited >= schedule.patience:
            break
    return best


def _adam(
    weights: Weights,
    slopes: Mapping[str, FloatArray],
    first: Weights,
    second: Weights,
    step: int,
    schedule: Schedule,
) -> Weights:
    rate = schedule.rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
    moved = {}
    for key, slope in slopes.items():
        first[key] = (0.9 * first[key] + 0.1 * slope).astype(np.float32)
        second[key] = (0.999 * second[key] + 0.001 * np.square(slope)).astype(np.float32)
        change = rate * first[key] / (np.sqrt(second[key]) + 1e-8)
        kept = weights[key] * (1 - schedule.rate * schedule.decay)
        moved[key] = (kept - change).astype(np.float32)
    return moved
