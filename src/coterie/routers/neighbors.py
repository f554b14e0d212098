"""k nearest neighbours: the mean score of similar recorded queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.records import Records
from coterie.routers.base import Router, make_encoder, mean_or, require_rows
from coterie.types import Estimates, FloatArray, IntArray, Query

BLOCK = 1024  # queries whose similarities are held at once


class KNN(Router):
    """Weighted mean score of the k most similar recorded queries, shrunk to the expert's mean.

    Parameters
    ----------
    k
        Neighbours per query.
    shrinkage
        Weight of the expert's overall mean, in neighbours.
    encoder
        Plug-in name of an encoder, or an instance.
    """

    name = "knn"
    encoder_: Encoder
    vectors_: FloatArray
    quality_: FloatArray
    cost_: FloatArray

    def __init__(
        self, k: int = 20, shrinkage: float = 1.0, encoder: str | Encoder = "static"
    ) -> None:
        self.k = k
        self.shrinkage = shrinkage
        self.encoder = encoder

    def fit(self, records: Records) -> Self:
        """Encode and remember the queries and their scores."""
        require_rows(records)
        if self.k < 1:
            raise InputError(f"expected at least 1, got {self.k}", field="k")
        texts = [q.text for q in records.queries]
        self.experts_ = records.experts
        self.texts_ = tuple(texts)
        self.encoder_ = make_encoder(self.encoder).fit(texts)
        self.vectors_ = self.encoder_.encode(texts)
        self.quality_ = records.quality.copy()
        self.cost_ = records.cost.copy()
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Weighted neighbour means; the evidence names the nearest recorded query."""
        self._check_fitted()
        shape = (len(queries), len(self.experts_))
        quality, cost = np.empty(shape), np.empty(shape)
        evidence: list[str] = []
        for start in range(0, len(queries), BLOCK):
            block = slice(start, start + BLOCK)
            vectors = self.encoder_.encode([q.text for q in queries[block]])
            rows, weights = self._neighbours(vectors @ self.vectors_.T)
            quality[block] = self._mean(self.quality_, rows, weights)
            cost[block] = self._mean(self.cost_, rows, weights)
            evidence += [f"nearest recorded query: {self.texts_[r[0]][:80]!r}" for r in rows]
        return Estimates(self.experts_, quality, cost, evidence=tuple(evidence))

    def _neighbours(self, similarity: FloatArray) -> tuple[IntArray, FloatArray]:
        """Rows and non-negative weights of the k nearest, nearest first; (queries, k) each."""
        k = min(self.k, similarity.shape[1])
        rows = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        near = np.take_along_axis(similarity, rows, axis=1).astype(float)
        return rows, np.maximum(near, 0.0)

    def _mean(self, values: FloatArray, rows: IntArray, weights: FloatArray) -> FloatArray:
        """Weighted mean of observed neighbour values, (queries, experts)."""
        near = values[rows]  # (queries, k, experts)
        mass = weights[..., None] * ~np.isnan(near)
        overall = mean_or(values, 0.0)
        total = (mass * np.nan_to_num(near)).sum(axis=1) + self.shrinkage * overall
        count = mass.sum(axis=1) + self.shrinkage
        mean: FloatArray = np.where(count > 0, total / np.maximum(count, 1e-12), overall)
        return mean
