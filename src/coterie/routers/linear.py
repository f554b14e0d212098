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
    columns = []
    for target in targets.T:
        seen = ~np.isnan(target)
        if seen.sum() < 3:
            mean = mean_or(target[:, None], 0.0)[0]
            columns.append(np.append(np.zeros(vectors.shape[1]), mean))
        else:
            columns.append(_ridge(vectors[seen], target[seen]))
    return np.stack(columns, axis=1)


def _ridge(vectors: FloatArray, target: FloatArray) -> FloatArray:
    """Ridge with the penalty of least leave-one-out error; the intercept is not penalised."""
    centre, mean = vectors.mean(axis=0), target.mean()
    left, singular, right = np.linalg.svd(vectors - centre, full_matrices=False)
    projected = left.T @ (target - mean)
    best, coefficients = np.inf, np.zeros(vectors.shape[1])
    for penalty in PENALTIES:
        shrink = singular**2 / (singular**2 + penalty)
        residual = target - mean - left @ (shrink * projected)
        leverage = (left**2) @ shrink + 1 / len(target)
        error = float(np.mean((residual / np.maximum(1 - leverage, 1e-6)) ** 2))
        if error < best:
            best = error
            coefficients = right.T @ (singular / (singular**2 + penalty) * projected)
    return np.append(coefficients, mean - centre @ coefficients)
