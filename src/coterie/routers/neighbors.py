"""k nearest neighbours: the mean score of similar recorded queries, shrunk to a prior."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.index import Index
from coterie.records import Records
from coterie.routers.base import Router, make_encoder, mean_or, require_rows, spread
from coterie.routers.categories import require_level
from coterie.routers.tables import (
    Key,
    contrast_error,
    find_rows,
    given_labels,
    learn_table,
    overall_means,
)
from coterie.types import Estimates, FloatArray, IntArray, Query, Support

BLOCK = 256  # queries whose neighbours' scores are held at once
TRIED = 8_000  # records, evenly spaced, that hyper-parameters are chosen on
WIDER = 4  # with a floor, neighbours are at most this many times k
KS = (10, 20, 50, 100, 200)
SHRINKAGES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
TEMPERATURES = (0.05, 0.1, 0.2, 1.0)


class Setting(NamedTuple):
    """One choice of the hyper-parameters."""

    k: int
    temperature: float
    shrinkage: float


class KNN(Router):
    """Weighted mean score of the k most similar recorded queries, shrunk to the expert's mean.

    The nearest neighbour weighs 1, the others exp((similarity - nearest) / temperature), those of
    similarity 0 or less nothing. Hyper-parameters left None are those of the least leave-one-out
    squared error on the training records: of the differences between experts, since how hard a
    question is for all of them decides nothing, and of scores where only one expert is known. The
    standard error is that of a posterior mean whose prior weighs ``shrinkage`` neighbours.

    Parameters
    ----------
    k
        Neighbours per query.
    shrinkage
        Weight of the expert's overall mean, in neighbours.
    temperature
        Of the weights, in units of cosine similarity; infinite weighs all neighbours alike.
    floor
        Where given, neighbours are all records of at least ``floor`` times the similarity of the
        k-th nearest, at most 4 k of them (0.95 and k = 50 in guarded kNN).
    encoder
        Plug-in name of an encoder, or an instance.
    """

    name = "knn"
    encoder_: Encoder
    vectors_: FloatArray
    quality_: FloatArray
    cost_: FloatArray
    residual_: FloatArray
    variance_: FloatArray
    texts_: tuple[str, ...]
    k_: int
    shrinkage_: float
    temperature_: float

    def __init__(
        self,
        k: int | None = None,
        shrinkage: float | None = None,
        temperature: float | None = None,
        floor: float | None = None,
        encoder: str | Encoder = "static",
    ) -> None:
        self.k = k
        self.shrinkage = shrinkage
        self.temperature = temperature
        self.floor = floor
        self.encoder = encoder

    def fit(self, records: Records) -> Self:
        """Encode and remember queries and scores; choose what was left None."""
        require_rows(records)
        self._check_parameters()
        texts = [q.text for q in records.queries]
        encoder = make_encoder(self.encoder).fit(texts)
        self.texts_, self.encoder_ = tuple(texts), encoder
        self.vectors_ = np.ascontiguousarray(encoder.encode(texts), np.float32)
        prior, left_out = self._fit_prior(records)
        self.quality_, self.cost_ = records.quality.copy(), records.cost.copy()
        self.residual_ = records.quality - prior
        self.variance_ = mean_or(self.residual_**2, 0.25)
        chosen = self._choose(left_out)
        self.k_, self.temperature_, self.shrinkage_ = chosen
        self.experts_ = records.experts
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Shrunk neighbour means; the evidence names the nearest recorded query."""
        self._check_fitted()
        shape = (len(queries), len(self.experts_))
        quality, cost, error = np.empty(shape), np.empty(shape), np.empty(shape)
        rows, weights = self._neighbours(queries)
        prior, (scores, squares, costs, usual, _) = self._prior(queries), self._summable()
        for start in range(0, len(queries), BLOCK):
            part = slice(start, start + BLOCK)
            near, own = rows[part], weights[part, None]
            shift, mass = _shrunk(*scores.summed(near, own), self.shrinkage_)
            quality[part] = np.clip(prior[part] + shift, 0.0, 1.0)
            error[part] = self._error(*squares.summed(near, own), shift, mass)
            dearer, _ = _shrunk(*costs.summed(near, own), self.shrinkage_)
            cost[part] = np.maximum(usual + dearer, 0.0)
        evidence = tuple(f"nearest recorded query: {self.texts_[r[0]][:80]!r}" for r in rows)
        support = Support(rows, weights, self.quality_, self.texts_)
        return Estimates(
            self.experts_, quality, cost, evidence=evidence, error=error, support=support
        )

    def _check_parameters(self) -> None:
        if self.k is not None and self.k < 1:
            raise InputError(f"expected at least 1, got {self.k}", field="k")
        if self.shrinkage is not None and not self.shrinkage >= 0:
            raise InputError(f"expected at least 0, got {self.shrinkage}", field="shrinkage")
        if self.temperature is not None and not self.temperature > 0:
            raise InputError(f"expected above 0, got {self.temperature}", field="temperature")
        if self.floor is not None and not 0 < self.floor <= 1:
            raise InputError(f"expected in (0, 1], got {self.floor}", field="floor")

    def _fit_prior(self, records: Records) -> tuple[FloatArray, FloatArray]:
        """What each record's scores were expected to be: with it, and without it."""
        self.mean_, _, left_out = overall_means(records.quality)
        return spread(self.mean_, records.queries), left_out

    def _prior(self, queries: Sequence[Query]) -> FloatArray:
        """What neighbours' residuals are added to, shape (queries, experts)."""
        return spread(self.mean_, queries)

    def _summable(self) -> Summable:
        """The tables of what was learnt, made by the first ``predict`` after a fit."""
        made: Summable | None = vars(self).get("_tables")
        if made is None or made.source is not self.residual_:
            self._tables = made = Summable.of(self.residual_, self.cost_)
        return made

    def _neighbours(self, queries: Sequence[Query]) -> tuple[IntArray, FloatArray]:
        """Rows and non-negative weights of the neighbours, nearest first; (queries, k) each."""
        index: Index | None = vars(self).get("_index")
        if index is None or index.vectors is not self.vectors_:
            self._index = index = Index(self.vectors_)
        vectors = self.encoder_.encode([q.text for q in queries])
        rows, near = index.nearest(vectors, self.k_ * (1 if self.floor is None else WIDER))
        return rows, _decay(near, self.temperature_) * _inside(near, self.k_, self.floor)

    def _error(
        self, squares: FloatArray, count: FloatArray, shift: FloatArray, mass: FloatArray
    ) -> FloatArray:
        """Standard error of the estimates: local variance over the mass of neighbours and prior."""
        prior = max(self.shrinkage_, 1.0)
        around = (squares[:, 0] + prior * self.variance_) / (count[:, 0] + prior) - shift**2
        error: FloatArray = np.sqrt(np.maximum(around, 0.0) / np.maximum(mass, 1.0))
        return error

    def _choose(self, left_out: FloatArray) -> Setting:
        """The setting of least leave-one-out error among those that the parameters allow."""
        settings = [
            Setting(*each)
            for each in itertools.product(
                KS if self.k is None else (self.k,),
                TEMPERATURES if self.temperature is None else (self.temperature,),
                SHRINKAGES if self.shrinkage is None else (self.shrinkage,),
            )
        ]
        if len(settings) == 1 or len(self.vectors_) < 2:
            return settings[0]
        errors = self._left_out_errors(settings, left_out)
        return settings[int(np.argmin(np.round(errors / max(errors.max(), 1e-12), 9)))]

    def _left_out_errors(self, settings: Sequence[Setting], left_out: FloatArray) -> FloatArray:
        """Error of every setting, summed over records none of which sees itself."""
        rows = np.arange(0, len(self.vectors_), -(-len(self.vectors_) // TRIED))
        wanted = max(s.k for s in settings) * (1 if self.floor is None else WIDER)
        index, known = Index(self.vectors_), Known.of(self.residual_)
        errors = np.zeros(len(settings))
        for start in range(0, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            found, near = index.nearest(self.vectors_[part], wanted, without=part)
            target = self.quality_[part] - left_out[part]
            errors += self._errors_of(settings, known, found, near, target)
        return errors

    def _errors_of(
        self,
        settings: Sequence[Setting],
        known: Known,
        found: IntArray,
        near: FloatArray,
        target: FloatArray,
    ) -> FloatArray:
        """Summed contrast errors of settings on a block whose neighbours are ``found``."""
        shapes = sorted({(s.k, s.temperature) for s in settings})
        inside = {k: _inside(near, k, self.floor) for k in {k for k, _ in shapes}}
        decay = {t: _decay(near, t).astype(np.float32) for t in {t for _, t in shapes}}
        weights = np.stack([decay[t] * inside[k] for k, t in shapes], axis=1)
        totals, masses = known.summed(found, weights)  # (rows, shapes, experts or 1)
        errors = []
        for k, temperature, shrinkage in settings:
            at = shapes.index((k, temperature))
            mass = masses[:, at] + shrinkage
            shift = totals[:, at] / np.where(mass > 0, mass, np.inf)
            errors.append(contrast_error(target - shift))
        return np.array(errors)


def _decay(near: FloatArray, temperature: float) -> FloatArray:
    """Weights of neighbours from similarities in falling order, 1 for the nearest."""
    weights: FloatArray = np.exp((near - near[:, :1]) / temperature)
    return weights


def _inside(near: FloatArray, k: int, floor: float | None) -> NDArray[np.bool_]:
    """Which of these neighbours, in falling order of similarity, are in the neighbourhood."""
    inside = np.arange(near.shape[1]) < k
    if floor is not None and near.shape[1]:
        last = near[:, [min(k, near.shape[1]) - 1]]
        inside = (near >= floor * last) & (np.arange(near.shape[1]) < WIDER * k)
    return np.asarray(inside & (near > 0))


class Known(NamedTuple):
    """A table (records, experts) to sum over neighbours; ``seen`` is None where nothing is NaN."""

    values: NDArray[np.float32]
    seen: NDArray[np.float32] | None

    @classmethod
    def of(cls, table: FloatArray) -> Known:
        """The table, unobserved cells being 0."""
        holes = np.isnan(table)
        seen = (~holes).astype(np.float32) if holes.any() else None
        return cls(np.nan_to_num(table).astype(np.float32), seen)

    def summed(self, rows: IntArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weighted sums over neighbours and the mass of the observed ones.

        ``rows`` are (queries, k), ``weights`` (queries, settings, k); sums have shape
        (queries, settings, experts), masses the same or a single column for all experts.
        """
        narrow = weights.astype(np.float32)
        totals = np.asarray(narrow @ self.values[rows], float)
        if self.seen is None:
            return totals, weights.sum(axis=2, keepdims=True)
        return totals, np.asarray(narrow @ self.seen[rows], float)


class Summable(NamedTuple):
    """What ``predict`` sums over neighbours, made of ``source``; ``usual`` are mean costs."""

    scores: Known
    squares: Known
    costs: Known
    usual: FloatArray
    source: FloatArray

    @classmethod
    def of(cls, residual: FloatArray, cost: FloatArray) -> Summable:
        """The tables of residuals, their squares and costs beyond the usual."""
        usual = mean_or(cost, 0.0)
        scores, squares = Known.of(residual), Known.of(residual**2)
        return cls(scores, squares, Known.of(cost - usual), usual, residual)


def _shrunk(
    totals: FloatArray, masses: FloatArray, shrinkage: float
) -> tuple[FloatArray, FloatArray]:
    """Means shrunk to 0 from sums of one setting (queries, 1, experts), and their mass."""
    mass = masses[:, 0] + shrinkage
    return totals[:, 0] / np.where(mass > 0, mass, np.inf), mass


class CategoryKNN(KNN):
    """kNN on what the table of given categories leaves unexplained.

    The prior of a query is its cell in the shrunk table of ``CategoryTable``; neighbours of any
    category add the mean of their residuals, shrunk to 0.

    Parameters
    ----------
    level
        ``subject`` uses subjects where they are given, ``category`` never.
    """

    name = "category-knn"
    reads = "category"
    keys_: tuple[Key, ...]
    cells_: FloatArray

    def __init__(
        self,
        k: int | None = None,
        shrinkage: float | None = None,
        temperature: float | None = None,
        floor: float | None = None,
        encoder: str | Encoder = "static",
        level: str = "subject",
    ) -> None:
        super().__init__(k, shrinkage, temperature, floor, encoder)
        self.level = level

    def _check_parameters(self) -> None:
        require_level(self.level)
        super()._check_parameters()

    def _fit_prior(self, records: Records) -> tuple[FloatArray, FloatArray]:
        table = learn_table(records, given_labels(records.queries), self.level)
        self.keys_, self.cells_ = table.keys, table.quality
        return self._prior(records.queries), table.left_out

    def _prior(self, queries: Sequence[Query]) -> FloatArray:
        prior: FloatArray = self.cells_[find_rows(self.keys_, given_labels(queries))]
        return prior
