"""Model-level scaling up in closed form: the oracle over a random subset of m experts, every m.

For one item with scores sorted upwards, s_1 <= ... <= s_M, the best of a uniformly random subset of
m of the M experts has a score above s_n unless all m are among the n lowest, which happens with
probability C(n, m) / C(M, m). Hence

    E[best of m] = sum over n = 0 .. M-1 of (s_{n+1} - s_n) (1 - C(n, m) / C(M, m)),   s_0 = 0

which is linear in the sorted scores. So only their means over the items are needed (one pass over
the matrix), whatever the scores are; for scores of 0 and 1 these means follow from the number of
right experts an item. The router r_o(p) of RouterEval takes the oracle's choice with probability p
and a random one otherwise: p * oracle + (1 - p) * random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coterie.errors import InputError
from coterie.scaling.matrix import Block, ScoreMatrix
from coterie.types import FloatArray, IntArray

NEGLIGIBLE = 1e-20  # probabilities below it change no digit of a mean score


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Expected quality against the number of candidates.

    ``oracle`` holds, for m = 1 to the number of experts, the mean over items of the best score
    among m experts drawn uniformly without replacement. ``items`` were complete and counted,
    ``skipped`` were not.
    """

    oracle: FloatArray
    items: int
    skipped: int = 0

    @property
    def sizes(self) -> IntArray:
        """The numbers of candidates, 1 to the number of experts."""
        return np.arange(1, len(self.oracle) + 1)

    @property
    def random(self) -> float:
        """Expected quality of a random choice, the same for every m."""
        return float(self.oracle[0])

    def mixed(self, p: float) -> FloatArray:
        """RouterEval's r_o(p) for every m; raises InputError for a p outside [0, 1]."""
        if not 0 <= p <= 1:
            raise InputError(f"expected a probability, got {p!r}", field="p")
        return p * self.oracle + (1 - p) * self.random

    def at(self, sizes: Sequence[int]) -> FloatArray:
        """The oracle at these numbers of candidates; raises InputError for an impossible one."""
        if wrong := [m for m in sizes if not 1 <= m <= len(self.oracle)]:
            message = f"expected 1 to {len(self.oracle)} candidates, got {wrong[0]}"
            raise InputError(message, field="m")
        return self.oracle[np.asarray(sizes, np.intp) - 1]


def scaling_curve(matrix: ScoreMatrix, threads: int = 0) -> Curve:
    """The exact oracle, random and r_o(p) curves for every number of candidates.

    One pass over the matrix in blocks of rows, which costs items x experts (times the logarithm of
    the experts where scores are fractional), then at most experts squared additions. In float64;
    the error is below 1e-12. Raises InputError where no item is complete.
    """
    gaps = _count_gaps if matrix.binary else _sorted_gaps
    parts = list(matrix.map(lambda block: (gaps(block), len(block.rows)), threads))
    items = sum(count for _, count in parts)
    if items == 0:
        message = "no item has a score of every expert; choose experts that were asked alike"
        raise InputError(message, path=matrix.path)
    mean: FloatArray = np.sum([gap for gap, _ in parts], axis=0) / items
    return Curve(_expected_best(mean), items, matrix.items - items)


def _count_gaps(block: Block) -> FloatArray:
    """How many items have n wrong experts, n = 0 .. M-1: sorted, their scores rise after n."""
    experts = block.bits.shape[1]
    wrong = experts - np.count_nonzero(block.bits.view(bool), axis=1)
    return np.bincount(wrong, minlength=experts + 1)[:experts].astype(float)


def _sorted_gaps(block: Block) -> FloatArray:
    """Sums over items of the differences between neighbouring sorted scores, n = 0 .. M-1."""
    halves = block.bits.itemsize == 2  # for which numpy's stable sort is a radix sort, and faster
    ordered = np.sort(block.bits, axis=1, stable=halves).view(block.dtype)
    return np.diff(ordered.sum(axis=0, dtype=np.float64), prepend=0.0)


def _expected_best(gaps: FloatArray) -> FloatArray:
    """The curve for m = 1 .. M from the mean gaps, n = 0 .. M-1.

    ``missed[n]`` is C(n, m) / C(M, m), carried from m to m + 1 by the factor (n - m) / (M - m);
    it rises with n, and its negligible lower end is dropped on the way.
    """
    total = len(gaps)
    below = np.arange(total, dtype=float)
    missed, top = np.ones(total), gaps.sum()
    oracle = np.empty(total)
    for m in range(total):
        missed = missed * ((below - m) / (total - m))
        start = int(np.searchsorted(missed, NEGLIGIBLE))
        missed, below, gaps = missed[start:], below[start:], gaps[start:]
        oracle[m] = top - missed @ gaps
    return oracle
