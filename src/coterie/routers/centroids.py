"""Pilot embeddings: an expert is known by the centres of the questions it answers best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.index import learn_centres
from coterie.records import Records
from coterie.routers.base import Router, make_encoder, mean_or, require_rows, spread
from coterie.routers.linear import check_option
from coterie.types import Estimates, FloatArray, IntArray, Query

NOWHERE = -1.0  # similarity of an expert without pilots: below that of any question
LEAST = 1e-3  # slope from similarity to quality: the nearest pilot always counts


class Centroid(Router):
    """RouterRetriever: the expert whose pilot embeddings are nearest to the question.

    After Lee et al. (2024, arXiv 2409.02685). The questions of every category are grouped by the
    expert that scores best on them (by all of them where they tie; not at all where everyone does),
    and the ``k`` centres of a group are pilots of that expert. An expert's similarity to a question
    is the mean of the cosines to its pilots (the paper) or the largest of them (its released code).
    ``quality`` is that similarity on one straight line for all experts: it orders experts as the
    paper does and does not know who is good overall.

    ``add_expert`` and ``remove_expert`` need no fit and leave the estimates of others alone.

    Parameters
    ----------
    assign
        ``best``: by the best expert of every question. ``category``: a whole category belongs to
        the expert of the largest mean score in it.
    reduce
        ``mean`` or ``max`` over an expert's pilots.
    k
        Centres of every group.
    encoder
        Plug-in name of an encoder, or an instance.
    """

    name = "centroid"
    encoder_: Encoder
    pilots_: FloatArray  # unit vectors, (pilots, dim)
    owners_: IntArray  # expert columns, (pilots,)
    sources_: tuple[str, ...]  # categories
    cost_: FloatArray
    level_: float
    slope_: float

    def __init__(
        self,
        assign: str = "best",
        reduce: str = "mean",
        k: int = 1,
        encoder: str | Encoder = "static",
    ) -> None:
        self.assign = assign
        self.reduce = reduce
        self.k = k
        self.encoder = encoder

    def fit(self, records: Records) -> Self:
        """Find the pilots, then the line from similarity to score."""
        require_rows(records)
        check_option("assign", self.assign, ("best", "category"))
        check_option("reduce", self.reduce, ("mean", "max"))
        if not (isinstance(self.k, int) and self.k >= 1):
            raise InputError(f"expected a whole number of at least 1, got {self.k!r}", field="k")
        texts = [q.text for q in records.queries]
        self.encoder_ = make_encoder(self.encoder).fit(texts)
        vectors = np.asarray(self.encoder_.encode(texts), float)
        self.experts_, self.cost_ = records.experts, mean_or(records.cost, 0.0)
        self.pilots_, self.owners_ = np.zeros((0, vectors.shape[1])), np.zeros(0, np.intp)
        self.sources_ = ()
        groups = np.array([q.category or "" for q in records.queries])
        for source in sorted(set(groups.tolist())):
            rows = groups == source
            won = _winners(records.quality[rows], self.assign)
            for column in range(len(records.experts)):
                self._add_pilots(column, vectors[rows][won[:, column]], source)
        self.level_, self.slope_ = _line(self._similarity(vectors), records.quality)
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Similarities as qualities; the evidence names the nearest pilot."""
        self._check_fitted()
        vectors = np.asarray(self.encoder_.encode([q.text for q in queries]), float)
        quality = np.clip(self.level_ + self.slope_ * self._similarity(vectors), 0.0, 1.0)
        cost = spread(self.cost_, queries)
        return Estimates(self.experts_, quality, cost, evidence=self._evidence(vectors))

    def similarity(self, queries: Sequence[Query]) -> FloatArray:
        """Mean or largest cosine to each expert's pilots, (queries, experts); -1 without any."""
        self._check_fitted()
        return self._similarity(np.asarray(self.encoder_.encode([q.text for q in queries]), float))

    def add_expert(self, name: str, queries: Sequence[Query], cost: float = 0.0) -> Self:
        """Add an expert by questions it is for: their centres, category by category, are pilots.

        Nothing else changes. Raises InputError where the expert is known, or no question is given.
        """
        self._check_fitted()
        if name in self.experts_:
            raise InputError(f"expert {name!r} is known already; choose another name")
        if not queries:
            raise InputError("expected questions that the expert is for, got none", field="queries")
        self.experts_ = (*self.experts_, name)
        self.cost_ = np.append(self.cost_, cost)
        for source in sorted({q.category or "" for q in queries}):
            texts = [q.text for q in queries if (q.category or "") == source]
            vectors = np.asarray(self.encoder_.encode(texts), float)
            self._add_pilots(len(self.experts_) - 1, vectors, source)
        return self

    def remove_expert(self, name: str) -> Self:
        """Forget an expert and its pilots; nothing else changes."""
        self._check_fitted()
        if name not in self.experts_ or len(self.experts_) == 1:
            known = ", ".join(self.experts_)
            raise InputError(f"expected one of several experts, got {name!r}; there are {known}")
        column = self.experts_.index(name)
        kept = self.owners_ != column
        self.experts_ = tuple(e for e in self.experts_ if e != name)
        self.cost_ = np.delete(self.cost_, column)
        self.pilots_ = self.pilots_[kept]
        self.sources_ = tuple(s for s, keep in zip(self.sources_, kept, strict=True) if keep)
        self.owners_ = self.owners_[kept] - (self.owners_[kept] > column)
        return self

    def _add_pilots(self, column: int, vectors: FloatArray, source: str) -> None:
        known = vectors[vectors.any(axis=1)]
        if not len(known):
            return
        centres = learn_centres(known, self.k) if self.k > 1 else known.mean(axis=0)[None]
        lengths = np.linalg.norm(centres, axis=1, keepdims=True)
        self.pilots_ = np.vstack([self.pilots_, centres / np.where(lengths > 0, lengths, 1.0)])
        self.owners_ = np.append(self.owners_, np.full(len(centres), column))
        self.sources_ = (*self.sources_, *[source] * len(centres))

    def _similarity(self, vectors: FloatArray) -> FloatArray:
        near = vectors @ self.pilots_.T  # (queries, pilots)
        columns = [self._reduced(near[:, self.owners_ == j]) for j in range(len(self.experts_))]
        return np.column_stack(columns)

    def _reduced(self, near: FloatArray) -> FloatArray:
        if not near.shape[1]:
            return np.full(len(near), NOWHERE)
        reduced: FloatArray = near.max(axis=1) if self.reduce == "max" else near.mean(axis=1)
        return reduced

    def _evidence(self, vectors: FloatArray) -> tuple[str, ...]:
        if not len(self.pilots_):
            return ("no pilots: everyone scored alike",) * len(vectors)
        near = (vectors @ self.pilots_.T).round(6)
        return tuple(
            f"nearest pilot: {self.sources_[at] or 'all questions'} of "
            f"{self.experts_[self.owners_[at]]}, similarity {row[at]:.2f}"
            for row, at in zip(near, near.argmax(axis=1), strict=True)
        )


def _winners(quality: FloatArray, assign: str) -> NDArray[np.bool_]:
    """Whose group every question belongs to, (questions, experts); nobody's where all tie."""
    if assign == "category":
        means = mean_or(quality, -np.inf)[None]
        best = (means == means.max(axis=1, keepdims=True)) & np.isfinite(means)
        return np.repeat(best, len(quality), axis=0)
    known = np.where(np.isnan(quality), -np.inf, quality)
    top = known.max(axis=1, keepdims=True)
    worst = np.where(np.isnan(quality), np.inf, quality).min(axis=1, keepdims=True)
    winners: NDArray[np.bool_] = (known == top) & (top > worst)
    return winners


def _line(similarity: FloatArray, quality: FloatArray) -> tuple[float, float]:
    """Level and slope of least squares from similarity to score; the slope is at least LEAST."""
    seen = ~np.isnan(quality) & (similarity > NOWHERE)
    if not seen.any():
        return float(np.nanmean(quality)), LEAST
    x, y = similarity[seen], quality[seen]
    variance = float(np.var(x))
    slope = float(np.mean((x - x.mean()) * (y - y.mean()))) / variance if variance > 1e-12 else 0.0
    slope = max(slope, LEAST)
    return float(y.mean() - slope * x.mean()), slope
