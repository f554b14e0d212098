"""RouterEval's candidate groups: which m of many models a router is asked to choose between."""

from __future__ import annotations

import numpy as np

from coterie.errors import InputError
from coterie.types import FloatArray, IntArray, Seed

WEAK, STRONG = 0.1, 0.9  # mean scores beyond which a model is ignored
REGION, DRAWS = 5, 1000  # a fifth of the models at either end; random groups that are tried
BLOCK = 4_000_000  # scores looked at at once


def candidate_groups(scores: FloatArray, m: int, seed: Seed = 0) -> dict[str, IntArray]:
    """Columns of the groups ``all_strong``, ``all_weak`` and ``strong_to_weak`` of m models.

    ``scores`` has shape (items, models). As published (arXiv 2503.10657): models are sorted by mean
    score, those of at most 0.1 and above 0.9 ignored. ``all_weak`` and ``all_strong`` are the m
    consecutive models of the highest oracle score in the lowest and highest fifth (at least m
    models); ``strong_to_weak`` is the best of 1,000 random draws of one model from each of m
    contiguous groups. The oracle looks at all items, so nothing about routing generalises from it.
    Unobserved scores (NaN) count as 0 in the oracle. Raises InputError with fewer than m models.
    """
    means = _means(scores)
    order = np.argsort(means, kind="stable")
    valid = order[(means[order] > WEAK) & (means[order] <= STRONG)]
    if not 1 <= m <= len(valid):
        message = f"expected between 1 and {len(valid)} models, got {m}"
        raise InputError(f"{message} ({len(order) - len(valid)} are ignored)", field="m")
    region = min(max(scores.shape[1] // REGION, m), len(valid))
    return {
        "all_strong": _best_window(scores, valid[-region:], m),
        "all_weak": _best_window(scores, valid[:region], m),
        "strong_to_weak": _best_draw(scores, np.array_split(valid, m), seed),
    }


def _means(scores: FloatArray) -> FloatArray:
    seen = (~np.isnan(scores)).sum(axis=0)
    means: FloatArray = np.nansum(scores, axis=0) / np.maximum(seen, 1)
    return means


def _best_window(scores: FloatArray, models: IntArray, m: int) -> IntArray:
    """The m consecutive ones of these models with the highest oracle score, the first of equals."""
    total = np.zeros(len(models) - m + 1)
    rows = max(1, BLOCK // len(models))
    for start in range(0, len(scores), rows):
        part = np.nan_to_num(scores[start : start + rows, models])
        total += _sliding_maximum(part, m).sum(axis=0)
    first = int(total.argmax())
    return models[first : first + m]


def _sliding_maximum(values: FloatArray, m: int) -> FloatArray:
    """Maxima of all windows of m columns, in two passes whatever m (van Herk and Gil-Werman)."""
    rows, columns = values.shape
    padding = -columns % m
    blocks = np.pad(values, ((0, 0), (0, padding)), constant_values=-np.inf)
    blocks = blocks.reshape(rows, -1, m)
    until = np.maximum.accumulate(blocks, axis=2).reshape(rows, -1)
    since = np.maximum.accumulate(blocks[:, :, ::-1], axis=2)[:, :, ::-1].reshape(rows, -1)
    windows = columns - m + 1
    maxima: FloatArray = np.maximum(since[:, :windows], until[:, m - 1 : m - 1 + windows])
    return maxima


def _best_draw(scores: FloatArray, groups: list[IntArray], seed: Seed) -> IntArray:
    """The best of 1,000 draws of one model from each group, by oracle score."""
    generator = np.random.default_rng(seed)
    draws = np.stack([g[generator.integers(0, len(g), DRAWS)] for g in groups], axis=1)
    total = np.zeros(DRAWS)
    packed = _packed(scores)
    for number, draw in enumerate(draws):
        total[number] = _coverage(scores, packed, draw)
    best: IntArray = draws[int(total.argmax())]
    return best


def _packed(scores: FloatArray) -> FloatArray | None:
    """Scores of 0 and 1 as bits, (models, items / 8), eight items a byte; None for others."""
    if scores.size == 0 or not np.isin(scores[:1], (0, 1)).all():
        return None
    columns = []
    for column in scores.T:
        known = np.nan_to_num(column)
        if not np.isin(known, (0, 1)).all():
            return None
        columns.append(np.packbits(known.astype(bool)))
    bits: FloatArray = np.stack(columns)
    return bits


def _coverage(scores: FloatArray, packed: FloatArray | None, models: IntArray) -> float:
    """Sum over items of the best score among the models."""
    if packed is not None:
        return float(np.bitwise_count(np.bitwise_or.reduce(packed[models], axis=0)).sum())
    rows = max(1, BLOCK // len(models))
    parts = (scores[i : i + rows][:, models] for i in range(0, len(scores), rows))
    return sum(float(np.nan_to_num(part).max(axis=1).sum()) for part in parts)
