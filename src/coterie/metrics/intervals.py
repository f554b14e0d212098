"""Bootstrap intervals and p-values over queries, for one row of scores or for a whole panel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from coterie.errors import InputError
from coterie.types import FloatArray

RESAMPLES = 10_000
BLOCK = 4_000_000  # drawn row numbers held at once


class Interval(NamedTuple):
    """An estimate with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


def bootstrap_mean(scores: FloatArray, seed: int = 0) -> Interval:
    """Mean score with its 95 % percentile bootstrap interval over queries.

    Queries without a score (NaN) are left out; raises InputError where none is left.
    """
    scores = scores[~np.isnan(scores)]
    if not len(scores):
        raise InputError("no score was observed, so there is no mean", field="score")
    means = _resampled_means(scores, seed)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(scores.mean()), float(low), float(high))


def paired_difference(scores: FloatArray, baseline: FloatArray, seed: int = 0) -> Interval:
    """Mean of ``scores - baseline`` on the same queries with its 95 % bootstrap interval.

    Queries are resampled in pairs, so what both find hard or easy cancels. Queries without a score
    on either side are left out; raises InputError where none is left.
    """
    return bootstrap_mean(scores - baseline, seed)


def _resampled_means(scores: FloatArray, seed: int) -> FloatArray:
    """Means of 10,000 resamples, drawn in blocks of bounded memory."""
    generator = np.random.default_rng(seed)
    n = len(scores)
    blocks = []
    size = max(1, min(RESAMPLES, BLOCK // max(n, 1)))
    for start in range(0, RESAMPLES, size):
        rows = generator.integers(0, n, (min(size, RESAMPLES - start), n))
        blocks.append(scores[rows].mean(axis=1))
    return np.concatenate(blocks)


def resampled_means(table: FloatArray, seed: int = 0, resamples: int = RESAMPLES) -> FloatArray:
    """Column means of bootstrap resamples of the rows, shape (resamples, columns).

    All columns share the same resamples, so differences of columns are paired. A resample is a
    vector of multinomial counts, and a block of them one matrix product.
    """
    blocks = [counts @ table for counts in _multinomial_counts(len(table), seed, resamples)]
    means: FloatArray = np.concatenate(blocks) / len(table)
    return means


def _multinomial_counts(n: int, seed: int, resamples: int) -> Iterator[FloatArray]:
    """How often each of ``n`` rows occurs in each resample, in blocks of bounded memory."""
    generator = np.random.default_rng(seed)
    size = max(1, min(resamples, BLOCK // n))
    for start in range(0, resamples, size):
        rows = generator.integers(0, n, (min(size, resamples - start), n), dtype=np.int32)
        counts = np.empty(rows.shape)
        for line, drawn in zip(counts, rows, strict=True):
            line[:] = np.bincount(drawn, minlength=n)
        yield counts


def interval(value: float, resampled: FloatArray) -> Interval:
    """The value with the 2.5th and 97.5th percentile of its resamples."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


def bootstrap_p(resampled: FloatArray) -> float:
    """Two-sided p of "the difference is 0" from resampled differences, by inverting the interval.

    Twice the smaller share of resamples on either side of 0, each side with one more that counts
    against the difference (Davison and Hinkley 1997, section 4.2), so never below 2 / (resamples
    + 1); 1 where every resample is 0.
    """
    tolerance = 1e-12  # a sum of products in another order is no difference
    below, above = (resampled <= tolerance).sum(), (resampled >= -tolerance).sum()
    return float(min(1.0, 2 * (1 + min(below, above)) / (len(resampled) + 1)))


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for being looked at together (Holm 1979), in the given order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(values, kind="stable")
    adjusted, largest = np.empty(len(values)), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = largest
    return [float(p) for p in adjusted]
