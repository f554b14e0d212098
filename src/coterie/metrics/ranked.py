"""Quality of a ranking of documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def ndcg(ranked: Sequence[str], relevance: Mapping[str, float], k: int = 10) -> float:
    """Normalised discounted cumulative gain of the first ``k`` ids, in [0, 1].

    Gains are the relevances themselves (as in trec_eval and BEIR, not 2^relevance - 1), discounted
    by log2(rank + 1); unjudged ids count 0. NaN where nothing is relevant.
    """
    if len(set(ranked[:k])) < len(ranked[:k]):
        raise ValueError("an id is ranked twice")
    ideal = np.sort([r for r in relevance.values() if r > 0])[::-1][:k]
    if not len(ideal):
        return float("nan")
    gains = np.array([max(relevance.get(found, 0.0), 0.0) for found in ranked[:k]])
    return float(gains @ _discounts(len(gains)) / (ideal @ _discounts(len(ideal))))


def _discounts(count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    discounts: np.ndarray[tuple[int], np.dtype[np.float64]]
    discounts = 1 / np.log2(np.arange(count) + 2)
    return discounts
