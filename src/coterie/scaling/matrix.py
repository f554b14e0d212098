"""A matrix of scores, items x experts, read in blocks of rows from a ``.npy`` file or an array."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.types import FloatArray, IntArray

Bits: TypeAlias = NDArray[np.unsignedinteger[Any]]
Result = TypeVar("Result")

UNOBSERVED = 255  # in matrices of uint8, where there is no NaN
KINDS = {"uint8": np.uint8, "float16": np.uint16, "float32": np.uint32, "float64": np.uint64}
BLOCK_BYTES = 16_000_000  # read at once; two threads hold two blocks and what they make of them


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Complete rows of a matrix.

    ``rows`` are their numbers in the matrix. ``bits`` holds the scores as unsigned integers of
    the same width and order, because integers are compared faster than halves; ``scores`` gives
    them back.
    """

    rows: IntArray
    bits: Bits
    dtype: np.dtype[Any]

    @property
    def scores(self) -> NDArray[Any]:
        """The scores in the matrix's own type, shape (rows, experts)."""
        return self.bits.view(self.dtype)


class ScoreMatrix:
    """Scores in [0, 1], shape (items, experts): uint8 (0, 1), float16, float32 or float64.

    A cell that was not observed is NaN, or 255 in a matrix of uint8. What is computed on a matrix
    is computed on its complete rows; rows with a hole are left out, and counted by whoever
    reports.

    Parameters
    ----------
    source
        An array, or a ``.npy`` file. A file is read block by block when needed, so it may be larger
        than memory.

    Raises
    ------
    InputError
        Where the file is no ``.npy`` of two dimensions in C order of one of these types, or is
        cut short; where a score is outside [0, 1] (once its block is read).
    """

    def __init__(self, source: NDArray[Any] | str | Path) -> None:
        self.path = None if isinstance(source, np.ndarray) else Path(source)
        if isinstance(source, np.ndarray):
            source = source.view(np.uint8) if source.dtype == bool else source
            self._array: NDArray[Any] = np.ascontiguousarray(source)
        else:
            self._array, self._offset = _open(Path(source))
        if self._array.ndim != 2 or self._array.dtype.name not in KINDS:
            found = f"{self._array.dtype.name} of shape {self._array.shape}"
            message = f"expected items x experts of {', '.join(KINDS)}, got {found}"
            raise InputError(message, path=self.path)
        if 0 in self._array.shape:
            raise InputError(f"no scores: the shape is {self._array.shape}", path=self.path)
        self.dtype: np.dtype[Any] = self._array.dtype
        self.items, self.experts = (int(n) for n in self._array.shape)

    @property
    def binary(self) -> bool:
        """Whether every score is 0 or 1 by type."""
        return self.dtype == np.uint8

    def ranges(self, multiple: int = 1) -> list[tuple[int, int]]:
        """Rows of the blocks, first and one past the last; blocks hold a multiple of so many."""
        step = max(1, BLOCK_BYTES // (self.experts * self.dtype.itemsize) // multiple) * multiple
        return [(start, min(start + step, self.items)) for start in range(0, self.items, step)]

    def read(self, start: int, stop: int) -> Block:
        """The complete rows among these."""
        block = self._raw(start, stop)
        bits = block.view(KINDS[self.dtype.name])
        if bits.max() <= _one(self.dtype):  # NaN and negative numbers are larger
            return Block(np.arange(start, stop), bits, self.dtype)
        return self._complete(block, start)

    def _raw(self, start: int, stop: int) -> NDArray[Any]:
        if self.path is None:
            return self._array[start:stop]
        shape, size = (stop - start, self.experts), self.dtype.itemsize
        offset = self._offset + start * self.experts * size
        block = np.fromfile(self.path, self.dtype, shape[0] * shape[1], offset=offset)
        if block.size != shape[0] * shape[1]:
            raise InputError(f"cut short: no row {stop - 1}", path=self.path)
        return block.reshape(shape)

    def _complete(self, block: NDArray[Any], start: int) -> Block:
        values = block.astype(float)
        values[block == UNOBSERVED] = np.nan
        outside = (values < 0) | (values > 1)
        if outside.any():
            row, column = (int(n) for n in np.argwhere(outside)[0])
            message = f"row {start + row}, expert {column}: {block[row, column]} is not in [0, 1]"
            raise InputError(message, path=self.path)
        kept = np.flatnonzero(~np.isnan(values).any(axis=1))
        scores = (values[kept] + 0.0).astype(self.dtype)  # -0.0 becomes 0.0
        return Block(start + kept, scores.view(KINDS[self.dtype.name]), self.dtype)

    def map(
        self, work: Callable[[Block], Result], threads: int = 0, multiple: int = 1
    ) -> Iterator[Result]:
        """``work`` on every block in turn, in so many threads (0: as many as there are cores)."""
        ranges = self.ranges(multiple)
        with ThreadPoolExecutor(threads or cores()) as pool:
            yield from pool.map(lambda rows: work(self.read(*rows)), ranges)

    def means(self) -> tuple[FloatArray, int]:
        """Mean score of every expert over the complete rows, and the number of these rows.

        Raises InputError where no row is complete.
        """
        sums = list(self.map(lambda b: (_column_sums(b.scores), len(b.rows))))
        count = sum(rows for _, rows in sums)
        if count == 0:
            message = "no item has a score of every expert; choose experts that were asked alike"
            raise InputError(message, path=self.path)
        total: FloatArray = np.sum([part for part, _ in sums], axis=0)
        return total / count, count

    def take(self, columns: Sequence[int] | IntArray) -> tuple[IntArray, NDArray[np.float32]]:
        """Numbers of the complete rows, and their scores by these experts (rows, columns)."""
        index = np.asarray(columns, np.intp)
        parts = list(self.map(lambda b: (b.rows, _picked(b.scores, index))))
        rows = np.concatenate([rows for rows, _ in parts])
        return rows, np.concatenate([scores for _, scores in parts])


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _open(path: Path) -> tuple[NDArray[Any], int]:
    """The mapped file, for its shape and type, and where its data begins."""
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise InputError(f"cannot be read as .npy: {reason}", path=path) from None
    if not mapped.flags.c_contiguous or not mapped.dtype.isnative:
        raise InputError("expected C order and this machine's byte order", path=path)
    return mapped, int(mapped.offset)


def _one(dtype: np.dtype[Any]) -> int:
    """The bits of 1 in a type."""
    return int(np.ones(1, dtype).view(KINDS[dtype.name])[0])


def _column_sums(scores: NDArray[Any]) -> FloatArray:
    exact = np.int64 if scores.dtype == np.uint8 else np.float64
    sums: FloatArray = scores.sum(axis=0, dtype=exact).astype(float)
    return sums


def _picked(scores: NDArray[Any], columns: NDArray[np.intp]) -> NDArray[np.float32]:
    return np.take(scores, columns, axis=1).astype(np.float32)
