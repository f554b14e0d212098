"""Whether an expert is good at other categories than the rest.

Such an expert may follow nobody from question to question though its rows are right: it solves all
of its own categories, and guesses in the others. Scores in another order have no categories: every
category has the same mean there. What remains open is another order inside categories, which
leaves their means as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from coterie.records import Records
from coterie.types import FloatArray, IntArray

OWN = 0.06  # share of a specialist's variance that lies between categories and is its own
SURE = 4  # standard errors of that share
ENOUGH = 10  # scores that a category must have to count


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """Number, sum and sum of squares of scores by category, each (categories, experts)."""

    count: FloatArray
    total: FloatArray
    squares: FloatArray

    @classmethod
    def of(cls, quality: FloatArray, codes: IntArray) -> Tables:
        """Tables of these scores, (rows, experts); ``codes`` number each row's category."""
        present = ~np.isnan(quality)
        filled = np.where(present, quality, 0.0)
        rows = np.arange(len(codes))
        by = csr_array(
            (np.ones(len(codes)), (codes, rows)), shape=(int(codes.max()) + 1, len(rows))
        )
        return cls(by @ present.astype(float), by @ filled, by @ filled**2)


def specialists(
    records: Records, codes: IntArray, experts: Sequence[int], others: Sequence[int]
) -> IntArray:
    """Those of ``experts`` whose means by category clearly differ from those of ``others``.

    An expert among the others is compared with the rest of them.
    """
    if not len(experts) or not codes.any():
        return np.empty(0, np.intp)
    own = Tables.of(records.quality[:, list(experts)], codes)
    rest = Tables.of(records.quality[:, list(others)], codes)
    count, total = rest.count.sum(1), rest.total.sum(1)
    found = []
    for place, expert in enumerate(experts):
        inside = expert in others
        left = count - own.count[:, place] * inside, total - own.total[:, place] * inside
        parts = own.count[:, place], own.total[:, place], own.squares[:, place]
        if differs(*parts, *left):
            found.append(expert)
    return np.array(found, np.intp)


def differs(
    count: FloatArray,
    total: FloatArray,
    squares: FloatArray,
    other_count: FloatArray,
    other_total: FloatArray,
) -> bool:
    """Whether the variance between categories is large where the others' means explain nothing.

    All arrays have shape (categories,). The others' means count with a slope in [0, 1], so that
    categories which are easy for everyone make no specialist, and what chance alone puts between
    categories is taken off.
    """
    kept = (count >= ENOUGH) & (other_count > 0)
    n, s, k = count[kept], total[kept], int(kept.sum())
    if k < 2 or n.sum() <= k:
        return False
    spread = float(squares[kept].sum() - s.sum() ** 2 / n.sum())
    own = s / n - s.sum() / n.sum()
    means = other_total[kept] / other_count[kept]
    theirs = means - n @ means / n.sum()
    slope = float(np.clip(n @ (own * theirs) / max(float(n @ theirs**2), 1e-12), 0, 1))
    within = spread - float(n @ own**2)
    between = float(n @ (own - slope * theirs) ** 2) - (k - 1) * within / (n.sum() - k)
    chance = SURE * np.sqrt(2 * (k - 1)) / n.sum()
    return bool(between > max(OWN, chance) * spread > 0)
