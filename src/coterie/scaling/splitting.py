"""RouterEval's split into training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coterie.folds import nearest_cuts, shuffle_groups
from coterie.types import IntArray


def split_rows(
    categories: Sequence[object] | IntArray, seed: int = 42, groups: IntArray | None = None
) -> tuple[IntArray, ...]:
    """Rows for training, validation and test, 80 : 10 : 10 within every category.

    As RouterEval: each category is shuffled, the first int(0.8 n) train, those up to int(0.9 n)
    validate, the rest tests; categories follow each other in sorted order. Unlike there, rows of
    equal ``groups`` (see ``folds.text_groups``) in a category are in the same part.
    """
    labels = np.array([str(category) for category in categories])
    groups = np.arange(len(labels)) if groups is None else groups
    generator = np.random.default_rng(seed)
    parts: tuple[list[IntArray], ...] = ([], [], [])
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        among = np.unique(groups[rows], return_inverse=True)[1]
        order, ends = shuffle_groups(among, generator)
        wanted = np.array([int(0.8 * len(rows)), int(0.9 * len(rows))])
        cuts = np.concatenate([[0], ends])[nearest_cuts(ends, wanted)]
        for part, chosen in zip(parts, np.split(rows[order], cuts), strict=True):
            part.append(chosen)
    return tuple(np.concatenate(part) for part in parts)
