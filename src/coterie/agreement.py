"""How far answers are from the right one, told from how far they are from each other.

Smoothie's estimate (Guha et al. 2024, arXiv 2412.04692) in closed form: if experts err
independently around the right answer, the mean squared distance of i and j is the sum of theirs to
the truth, d(i, j) = e(i) + e(j). Three experts suffice: e(i) = (d(i, j) + d(i, k) - d(j, k)) / 2,
here the mean over all pairs j, k. No label is read. Experts that err alike look right.
"""

from __future__ import annotations

import numpy as np

from coterie.errors import InputError
from coterie.types import FloatArray

FEWEST = 3  # experts without whom the distances to the truth are not determined


def pair_distances(vectors: FloatArray) -> FloatArray:
    """Squared distances between the answers of a query; (..., experts, dim) to pairs squared.

    NaN where one of two vectors is NaN.
    """
    square = np.square(vectors).sum(axis=-1)
    product = vectors @ np.swapaxes(vectors, -1, -2)
    distance = square[..., :, None] + square[..., None, :] - 2 * product
    apart: FloatArray = np.maximum(distance, 0.0)
    return apart


def truth_distances(pairs: FloatArray) -> FloatArray:
    """Mean squared distance of every expert's answers to the right one; (..., experts).

    ``pairs`` holds mean squared distances of shape (..., experts, experts); a pair that is NaN
    counts as the mean pair. Estimates below 0 occur by chance. Raises InputError for fewer than
    three experts.

    >>> truth_distances(np.array([[0.0, 3.0, 4.0], [3.0, 0.0, 5.0], [4.0, 5.0, 0.0]])).tolist()
    [1.0, 2.0, 3.0]
    """
    count = pairs.shape[-1]
    if count < FEWEST:
        message = f"expected at least {FEWEST} experts to compare, got {count}"
        raise InputError(message, field="experts")
    off = ~np.eye(count, dtype=bool)
    seen = off & ~np.isnan(pairs)
    usual = np.where(seen, pairs, 0.0).sum(axis=(-1, -2)) / np.maximum(seen.sum(axis=(-1, -2)), 1)
    filled = np.where(seen, pairs, np.where(off, usual[..., None, None], 0.0))
    own = filled.sum(axis=-1)  # of each expert to all others
    total = own.sum(axis=-1, keepdims=True) / 2
    others = (count - 1) * (count - 2) / 2  # pairs without the expert
    apart: FloatArray = ((count - 1) * own - total) / (2 * others)
    return apart
