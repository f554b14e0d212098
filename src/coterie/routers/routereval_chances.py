"""Chances of the experts: what RouterEval computes the entropy E_p from, router by router.

All have shape (queries, experts). They describe what a router leaned towards, not what it chose,
and differ in kind between routers: E_p of one router does not compare with that of another.
"""

from __future__ import annotations

import numpy as np

from coterie.types import FloatArray

DROPPED = 1e-4  # RouterEval leaves out smaller chances of its multi-label classifier


def softmax_chances(values: FloatArray) -> FloatArray:
    """Of log odds for LinearR and MLPR, of mean neighbour scores for PRknn."""
    raised = np.exp(values - values.max(axis=1, keepdims=True))
    chances: FloatArray = raised / raised.sum(axis=1, keepdims=True)
    return chances


def relu_chances(values: FloatArray) -> FloatArray:
    """Positive log odds over their sum, without chances of at most 0.0001; zeros if none is."""
    positive = np.maximum(values, 0.0)
    total = positive.sum(axis=1, keepdims=True)
    chances = positive / np.where(total > 0, total, 1)
    return np.where(chances > DROPPED, chances, 0.0)


def cluster_chances(distances: FloatArray, quality: FloatArray) -> FloatArray:
    """Inverse distances (queries, clusters) over their sum, each to its cluster's best expert."""
    near = 1 / np.maximum(distances, 1e-12)
    near = near / near.sum(axis=1, keepdims=True)
    assigned = np.eye(quality.shape[1])[quality.argmax(axis=1)]  # (clusters, experts)
    chances: FloatArray = near @ assigned
    return chances
