"""Ridge regression of each expert's score on the query's vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from coterie.features import Encoder
from coterie.records import Records
from coterie.routers.base import Router, make_encoder, mean_or, require_rows
from coterie.types import Estimates, FloatArray, Query

PENALTIES = np.logspace(-2, 3, 11)


class Linear(Router):
    """One ridge regression per expert for quality and one for cost.

    The penalty is chosen per expert by the exact leave-one-out error over eleven values from 0.01
    to 1,000; unobserved cells are left out of that expert's regression.
    """

    name = "linear"
    encoder_: Encoder
    quality_: FloatArray
    cost_: FloatArray

    def __init__(self, encoder: str | Encoder = "static") -> None:
        self.encoder = encoder

    def fit(self, records: Records) -> Self:
        """Solve the regressions in closed form."""
        require_rows(records)
        texts = [q.text for q in records.queries]
        self.experts_ = records.experts
        self.encoder_ = make_encoder(self.encoder).fit(texts)
        vectors = np.asarray(self.encoder_.encode(texts), float)
        self.quality_ = _fit_columns(vectors, records.quality)
        self.cost_ = _fit_columns(vectors, records.cost)
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Fitted values, quality clipped to [0, 1] and cost to at least 0."""
        self._check_fitted()
        vectors = _with_intercept(self.encoder_.encode([q.text for q in queries]))
        quality = np.clip(vectors @ self.quality_, 0.0, 1.0)
        return Estimates(self.experts_, quality, np.maximum(vectors @ self.cost_, 0.0))


def _with_intercept(vectors: FloatArray) -> FloatArray:
    return np.hstack([np.asarray(vectors, float), np.ones((len(vectors), 1))])


def _fit_columns(vectors: FloatArray, targets: FloatArray) -> FloatArray:
    """Coefficients and intercepts, shape (dim + 1, experts)."""
    fitted = np.zeros((vectors.shape[1] + 1, targets.shape[1]))
    patterns, member = np.unique(~np.isnan(targets), axis=1, return_inverse=True)
    for number, seen in enumerate(patterns.T):
        columns = np.flatnonzero(member == number)
        if seen.sum() < 3:
            fitted[-1, columns] = mean_or(targets[:, columns], 0.0)
        else:
            fitted[:, columns] = _ridge(vectors[seen], targets[np.ix_(seen, columns)])
    return fitted


def _ridge(vectors: FloatArray, targets: FloatArray) -> FloatArray:
    """Ridge with each column's penalty of least leave-one-out error; intercepts are free."""
    centre, mean = vectors.mean(axis=0), targets.mean(axis=0)
    left, singular, right = np.linalg.svd(vectors - centre, full_matrices=False)
    projected = left.T @ (targets - mean)
    errors = [_left_out(left, singular, projected, targets - mean, p) for p in PENALTIES]
    penalty = PENALTIES[np.argmin(errors, axis=0)]
    coefficients = right.T @ (singular[:, None] / (singular[:, None] ** 2 + penalty) * projected)
    return np.vstack([coefficients, mean - centre @ coefficients])


def _left_out(
    left: FloatArray,
    singular: FloatArray,
    projected: FloatArray,
    targets: FloatArray,
    penalty: float,
) -> FloatArray:
    """Mean squared leave-one-out error of every column, from the hat matrix's diagonal."""
    shrink = singular**2 / (singular**2 + penalty)
    residual = targets - left @ (shrink[:, None] * projected)
    leverage = (left**2) @ shrink + 1 / len(targets)
    error: FloatArray = np.mean((residual / np.maximum(1 - leverage, 1e-6)[:, None]) ** 2, axis=0)
    return error
