"""RouterEval's candidate groups (arXiv 2503.10657, and the code that came with it).

Experts are ordered by mean score; those of at most 0.1 at the lower end and those above 0.9 at the
upper end are left out. A region is the lowest (``all_weak``) or highest (``all_strong``) fifth of
them all, or m experts where that is more; of all windows of m neighbours in the region the one with
the best oracle is taken. ``strong_to_weak`` cuts the order into m parts of equal size (the first
parts take the remainder), draws one expert of each, and keeps the best of 1,000 such draws. The
choice sees all items, those of the test split too: RouterEval's design, and a mild leak.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.scaling.matrix import Bits, Block, ScoreMatrix
from coterie.types import FloatArray, IntArray

SIZES = (3, 5, 10, 100, 1000)
KINDS = ("all_strong", "all_weak", "strong_to_weak")
LOWEST, HIGHEST = 0.1, 0.9
DRAWS = 1000
CHUNK_BYTES = 2_000_000  # candidates gathered at once: what stays in a core's cache


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Candidates: ``members`` are column numbers, weakest first, ``oracle`` their oracle score."""

    kind: str
    size: int
    members: IntArray
    oracle: float


def candidate_groups(
    matrix: ScoreMatrix,
    sizes: Sequence[int] = SIZES,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    threads: int = 0,
) -> list[Group]:
    """The groups of every kind for every size, in the order of ``sizes`` and then of ``KINDS``.

    Two passes over the matrix; binary scores are compared as bits, 64 items at a time. Raises
    InputError where fewer than m experts have a mean score within the bounds.
    """
    means, count = matrix.means()
    order = _eligible(means)
    for m in sizes:
        if not 1 <= m <= len(order):
            message = f"{m} candidates are asked for, {len(order)} of {matrix.experts} experts"
            message += f" have a mean score above {LOWEST} and at most {HIGHEST}"
            raise InputError(message, path=matrix.path, field="m")
    choices = _Choices(order, matrix.experts, sizes, seed, draws)
    totals: dict[tuple[str, int], FloatArray] = {}
    for part in matrix.map(choices.totals, threads, multiple=64):
        totals = {key: totals.get(key, 0.0) + value for key, value in part.items()}
    return [choices.best(kind, m, totals[kind, m] / count) for m in sizes for kind in KINDS]


def feasible_sizes(matrix: ScoreMatrix, sizes: Sequence[int] = SIZES) -> list[int]:
    """Those of the sizes for which there are experts enough."""
    available = len(_eligible(matrix.means()[0]))
    return [m for m in sizes if 1 <= m <= available]


def _eligible(means: FloatArray) -> IntArray:
    """Experts within the bounds, weakest first, ties by column."""
    order = np.argsort(means, kind="stable")
    low, high = np.searchsorted(means[order], [LOWEST, HIGHEST], side="right")
    return order[low:high]


class _Choices:
    """What may become a group: windows of two regions and draws, for every size."""

    def __init__(
        self, order: IntArray, experts: int, sizes: Sequence[int], seed: int, draws: int
    ) -> None:
        self.sizes = tuple(dict.fromkeys(sizes))
        self.order = order
        self.regions: dict[tuple[str, int], IntArray] = {}
        self.drawn: dict[int, IntArray] = {}
        for m in self.sizes:
            width = min(max(experts // 5, m), len(order))
            self.regions["all_strong", m] = order[len(order) - width :]
            self.regions["all_weak", m] = order[:width]
            generator, parts = np.random.default_rng(seed), np.array_split(order, m)
            drawn = [part[generator.integers(0, len(part), draws)] for part in parts]
            self.drawn[m] = np.stack(drawn, axis=1)

    def totals(self, block: Block) -> Mapping[tuple[str, int], FloatArray]:
        """Sums over the block's items of the oracle score of every window and every draw."""
        columns = _columns(block)
        found: dict[tuple[str, int], FloatArray] = {}
        for (kind, m), region in self.regions.items():
            found[kind, m] = _total(_windows(columns[region], m, block), block)
        for m, drawn in self.drawn.items():
            found["strong_to_weak", m] = _draw_totals(columns, drawn, block)
        return found

    def best(self, kind: str, m: int, oracle: FloatArray) -> Group:
        """The group with the best oracle, the first where several have it."""
        row = int(np.argmax(oracle))
        if kind == "strong_to_weak":
            return Group(kind, m, self.drawn[m][row], float(oracle[row]))
        return Group(kind, m, self.regions[kind, m][row : row + m], float(oracle[row]))


def _columns(block: Block) -> Bits:
    """A row an expert: its scores of the block as integers, binary ones 64 items an integer."""
    columns = np.ascontiguousarray(block.bits.T)
    if block.dtype != np.uint8:
        return columns
    packed = np.packbits(columns, axis=1)
    return np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8))).view(np.uint64)


def _merge(block: Block) -> np.ufunc:
    """What the best of two scores is: "or" of bits, the maximum of other integers."""
    return np.bitwise_or if block.dtype == np.uint8 else np.maximum


def _total(columns: Bits, block: Block) -> FloatArray:
    """The sum of the scores in every row."""
    if block.dtype == np.uint8:
        counts: FloatArray = np.bitwise_count(columns).sum(axis=-1, dtype=np.int64).astype(float)
        return counts
    sums: FloatArray = columns.view(block.dtype).sum(axis=-1, dtype=np.float64)
    return sums


def _windows(columns: Bits, m: int, block: Block) -> Bits:
    """The best score in every window of m neighbouring rows, by doubling the windows."""
    merge, width = _merge(block), 1
    while 2 * width <= m:
        columns = merge(columns[:-width], columns[width:])
        width *= 2
    rest = m - width  # a window of m is two overlapping ones of ``width``
    best: Bits = merge(columns[: len(columns) - rest], columns[rest:])
    return best


def _draw_totals(columns: Bits, drawn: IntArray, block: Block) -> FloatArray:
    """The oracle's sum for every draw, shape (draws,)."""
    merge, m = _merge(block), drawn.shape[1]
    step = max(1, CHUNK_BYTES // (m * columns.shape[1] * columns.itemsize))
    parts: list[NDArray[np.floating]] = []
    for start in range(0, len(drawn), step):
        best = merge.reduce(columns[drawn[start : start + step]], axis=1)
        parts.append(_total(best, block))
    return np.concatenate(parts)
