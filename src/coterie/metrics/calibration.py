"""Whether expected scores come true."""

from __future__ import annotations

import numpy as np

from coterie.errors import InputError
from coterie.types import FloatArray

BINS = 15


def brier(expected: FloatArray, scores: FloatArray) -> float:
    """Mean squared difference of expectation and score (Brier 1950): 0 is perfect.

    Over the cells with a score. Raises InputError where there is none, or an expectation is NaN.
    """
    hoped, came = _judged(expected, scores)
    return float(np.mean((hoped - came) ** 2))


def reliability(
    expected: FloatArray, scores: FloatArray, bins: int = BINS
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean expectation, mean score and share of the cells in each non-empty bin of [0, 1].

    Bins have equal width; expectations outside [0, 1] go to the outer bins. Cells without a score
    (NaN) are left out; raises InputError where none is left, or an expectation is NaN.
    """
    if bins < 1:
        raise InputError(f"expected at least 1, got {bins!r}", field="bins")
    expected, scores = _judged(expected, scores)
    place = np.clip((expected * bins).astype(int), 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    used = count > 0
    means = [np.bincount(place, values, minlength=bins)[used] for values in (expected, scores)]
    return means[0] / count[used], means[1] / count[used], count[used] / len(place)


def ece(expected: FloatArray, scores: FloatArray, bins: int = BINS) -> float:
    """Expected calibration error (Naeini et al. 2015): mean |expectation - score| over bins."""
    hoped, came, share = reliability(expected, scores, bins)
    return float((share * np.abs(hoped - came)).sum())


def _judged(expected: FloatArray, scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Expectations and scores of the observed cells, flat."""
    seen = ~np.isnan(scores)
    hoped, came = np.asarray(expected)[seen], np.asarray(scores)[seen]
    if not len(came):
        raise InputError("no score was observed, so there is nothing to compare", field="score")
    if np.isnan(hoped).any():
        raise InputError("an expectation is NaN where a score was observed", field="quality")
    return hoped, came
