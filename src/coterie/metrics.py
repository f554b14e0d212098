"""Metrics: pure functions of arrays of per-query scores."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coterie.types import FloatArray

RESAMPLES = 10_000


class Interval(NamedTuple):
    """An estimate with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


def bootstrap_mean(scores: FloatArray, seed: int = 0) -> Interval:
    """Mean score with its 95 % percentile bootstrap interval over queries."""
    means = _resampled_means(scores, seed)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(scores.mean()), float(low), float(high))


def paired_difference(scores: FloatArray, baseline: FloatArray, seed: int = 0) -> Interval:
    """Mean of ``scores - baseline`` on the same queries with its 95 % bootstrap interval.

    Queries are resampled in pairs, so what both find hard or easy cancels.
    """
    return bootstrap_mean(scores - baseline, seed)


def _resampled_means(scores: FloatArray, seed: int) -> FloatArray:
    """Means of 10,000 resamples, drawn in blocks of bounded memory."""
    generator = np.random.default_rng(seed)
    n = len(scores)
    blocks = []
    size = max(1, min(RESAMPLES, 4_000_000 // max(n, 1)))
    for start in range(0, RESAMPLES, size):
        rows = generator.integers(0, n, (min(size, RESAMPLES - start), n))
        blocks.append(scores[rows].mean(axis=1))
    return np.concatenate(blocks)
