"""RouterEval's split into training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coterie.types import IntArray


def split_rows(categories: Sequence[object] | IntArray, seed: int = 42) -> tuple[IntArray, ...]:
    """Rows for training, validation and test, 80 : 10 : 10 within every category.

    As RouterEval: each category is shuffled, the first int(0.8 n) train, those up to int(0.9 n)
    validate, the rest tests; categories follow each other in sorted order.
    """
    labels = np.array([str(category) for category in categories])
    generator = np.random.default_rng(seed)
    parts: tuple[list[IntArray], ...] = ([], [], [])
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        cuts = [int(0.8 * len(rows)), int(0.9 * len(rows))]
        for part, chosen in zip(parts, np.split(rows, cuts), strict=True):
            part.append(chosen)
    return tuple(np.concatenate(part) for part in parts)
