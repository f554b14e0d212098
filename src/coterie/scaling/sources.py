"""Where scores come from: a folder of records, a synthetic world, or a bare ``.npy`` matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.features import StaticEncoder
from coterie.records import Records
from coterie.scaling.matrix import UNOBSERVED, ScoreMatrix
from coterie.types import FloatArray, IntArray

SCORES, VECTORS, CATEGORIES = "scores.npy", "embeddings.npy", "categories.npy"


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A matrix with what routers need beside it; ``vectors`` is None for a bare matrix.

    ``categories`` holds one label an item, by which items are split for training and test;
    ``groups`` a number an item, equal where the texts are, None where there are no texts.
    """

    matrix: ScoreMatrix
    categories: NDArray[Any]
    vectors: Callable[[], FloatArray] | None
    groups: IntArray | None = None


def open_source(path: str | Path, experts: Sequence[str] = ()) -> Source:
    """The source at ``path``; ``experts`` restricts records to these.

    Texts of records are encoded with the static encoder, once ``vectors`` is called. Raises
    InputError where the path is no such source, where files beside a matrix do not fit it, or
    where experts are named for a matrix, whose columns have no names.
    """
    base = Path(path)
    if (base / "records.parquet").exists():
        return from_records(Records.read(base, texts=False), experts)
    if experts:
        raise InputError("experts can only be chosen from records", path=base, field="experts")
    if base.is_file():
        return _bare(base)
    if (base / SCORES).is_file():
        return _world(base)
    message = f"expected a folder of records, a folder with {SCORES}, or a .npy file"
    raise InputError(f"{message}; found none", path=base)


def from_records(records: Records, experts: Sequence[str] = ()) -> Source:
    """Records in memory; scores that are all 0 or 1 become a byte each."""
    chosen = records.select(experts) if experts else records
    quality, texts = chosen.quality, [q.text for q in chosen.queries]
    if np.isin(quality[~np.isnan(quality)], (0.0, 1.0)).all():
        quality = np.where(np.isnan(quality), UNOBSERVED, quality).astype(np.uint8)
    categories = np.array([category or "" for category in chosen.categories])
    return Source(
        ScoreMatrix(quality),
        categories,
        lambda: StaticEncoder().encode(texts),
        chosen.text_groups,
    )


def _bare(path: Path) -> Source:
    matrix = ScoreMatrix(path)
    return Source(matrix, np.zeros(matrix.items, int), None)


def _world(folder: Path) -> Source:
    matrix = ScoreMatrix(folder / SCORES)
    categories = np.zeros(matrix.items, int)
    if (folder / CATEGORIES).exists():
        categories = _beside(folder / CATEGORIES, matrix.items, 1)
    if not (folder / VECTORS).exists():
        return Source(matrix, categories, None)
    return Source(matrix, categories, lambda: _beside(folder / VECTORS, matrix.items, 2))


def _beside(path: Path, items: int, dimensions: int) -> NDArray[Any]:
    """An array with a row an item."""
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"cannot be read as .npy: {reason}", path=path) from None
    if array.ndim != dimensions or len(array) != items:
        message = f"expected {dimensions} dimensions and {items} rows, got shape {array.shape}"
        raise InputError(message, path=path)
    return array
