"""Rows held out at random, repeated texts on one side.

A question that stands in training and test is answered from memory. Texts count as equal where
``answers.normalise`` makes them so (case, white space, a final full stop); a row without a text is
like no other. Where there are fewer different texts than parts, rows stand for themselves. Where no
text repeats the parts are those of an ordinary shuffle.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from coterie.answers import normalise
from coterie.types import FloatArray, IntArray


def text_groups(texts: Iterable[str]) -> IntArray:
    """A number from 0 for each text, in order of first appearance, equal for equal texts."""
    number: dict[str | int, int] = {}
    keys = (normalise(text) or row for row, text in enumerate(texts))
    return np.array([number.setdefault(key, len(number)) for key in keys], np.intp)


def fold_rows(groups: IntArray, count: int, seed: int) -> list[IntArray]:
    """Row numbers in ``count`` shuffled parts of nearly equal size, each group in one of them.

    ``groups`` is a number from 0 a row, as from ``text_groups``. No part is empty while there are
    rows enough.
    """
    order, ends = shuffle_groups(_enough(groups, count), np.random.default_rng(seed))
    each, more = divmod(len(groups), count)
    steps = np.arange(1, count)
    cuts = nearest_cuts(ends, steps * each + np.minimum(steps, more))
    room = max(len(ends) - count, 0)  # how far a cut may be from one group a part
    cuts = np.maximum.accumulate(np.clip(cuts - steps, 0, room)) + steps
    bounds = np.concatenate([[0], ends])[np.minimum(cuts, len(ends))]
    return np.split(order, bounds)


def deal_rows(groups: IntArray, count: int, seed: int) -> IntArray:
    """The part of every row, 0 to ``count`` - 1: shuffled groups are dealt out in turn."""
    groups = _enough(groups, count)
    dealt: IntArray = np.random.default_rng(seed).permutation(_size(groups)) % count
    return dealt[groups]


def shuffle_groups(groups: IntArray, generator: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Rows in random order, a group's side by side, and how many rows each group ends after."""
    size = _size(groups)
    rank = np.empty(size, np.intp)
    rank[generator.permutation(size)] = np.arange(size)
    place = rank[groups]
    return np.argsort(place, kind="stable"), np.cumsum(np.bincount(place, minlength=size))


def nearest_cuts(ends: IntArray, rows: IntArray) -> IntArray:
    """How many groups to take for these numbers of rows, to the nearest whole group."""
    middles: FloatArray = ends - np.diff(ends, prepend=0) / 2
    return np.searchsorted(middles, rows)


def _size(groups: IntArray) -> int:
    return int(groups.max(initial=-1)) + 1


def _enough(groups: IntArray, count: int) -> IntArray:
    """The groups, or every row for itself where there are fewer of them than parts."""
    return groups if _size(groups) >= count else np.arange(len(groups))
