"""Baselines as ordinary routers: what every learned router has to beat, and the ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from coterie.errors import InputError
from coterie.records import Records
from coterie.routers.base import Router, mean_or, require_rows, spread
from coterie.routers.tables import overall_means
from coterie.types import Estimates, FloatArray, Query, derive_seed


class _Constant(Router):
    """Learns each expert's mean score and mean cost."""

    quality_: FloatArray
    cost_: FloatArray

    def fit(self, records: Records) -> Self:
        """Means over what was observed; an expert never observed has quality 0."""
        require_rows(records)
        self.experts_ = records.experts
        self.quality_ = mean_or(records.quality, 0.0)
        self.cost_ = mean_or(records.cost, 0.0)
        return self


class Random(_Constant):
    """Any expert with equal probability; the draw depends on seed and query id alone."""

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Uniform noise as quality."""
        self._check_fitted()
        draws = [
            np.random.default_rng(derive_seed(self.seed, q.id)).random(len(self.experts_))
            for q in queries
        ]
        quality = np.array(draws).reshape(len(queries), len(self.experts_))
        return Estimates(self.experts_, quality, spread(self.cost_, queries))


class BestSingle(_Constant):
    """The expert with the highest mean score in the records, whatever the query."""

    name = "best-single"
    error_: FloatArray

    def fit(self, records: Records) -> Self:
        """Means over what was observed, and their standard errors."""
        super().fit(records)
        self.error_ = mean_errors(records)
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """The same mean scores for every query, with the standard errors of the means."""
        self._check_fitted()
        quality, cost = spread(self.quality_, queries), spread(self.cost_, queries)
        return Estimates(self.experts_, quality, cost, error=spread(self.error_, queries))


class Always(_Constant):
    """One named expert, whatever the query; the first one without a name."""

    name = "always"

    def __init__(self, expert: str | None = None) -> None:
        self.expert = expert

    def fit(self, records: Records) -> Self:
        """Check that the expert is there; raises InputError if not."""
        if self.expert is not None and self.expert not in records.experts:
            known = ", ".join(records.experts)
            raise InputError(f"no records of expert {self.expert!r}; there are {known}")
        return super().fit(records)

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Quality 1 for the expert, 0 for the others."""
        self._check_fitted()
        chosen = 0 if self.expert is None else self.experts_.index(self.expert)
        quality = np.zeros(len(self.experts_))
        quality[chosen] = 1.0
        return Estimates(self.experts_, spread(quality, queries), spread(self.cost_, queries))


class Oracle(Router):
    """Knows the recorded scores: the ceiling for choosing one expert a query.

    It must be fitted on records that contain the very queries it is asked about, so it is a
    yardstick and no router.
    """

    name = "oracle"
    ids_: tuple[str, ...]
    quality_: FloatArray
    cost_: FloatArray

    def fit(self, records: Records) -> Self:
        """Remember every cell; unobserved ones count as 0."""
        require_rows(records)
        self.experts_ = records.experts
        self.ids_ = tuple(q.id for q in records.queries)
        self.quality_ = np.nan_to_num(records.quality)
        self.cost_ = np.where(np.isnan(records.cost), mean_or(records.cost, 0.0), records.cost)
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """The recorded scores; raises InputError for a query that is not in the records."""
        self._check_fitted()
        row_of = {id: row for row, id in enumerate(self.ids_)}
        if unknown := [q.id for q in queries if q.id not in row_of]:
            raise InputError(f"the oracle has no record of query {unknown[0]!r}")
        rows = [row_of[q.id] for q in queries]
        return Estimates(self.experts_, self.quality_[rows], self.cost_[rows])


def mean_errors(records: Records) -> FloatArray:
    """Standard errors of the experts' mean scores, shape (experts,); no record makes one sure."""
    _, variance, _ = overall_means(records.quality)
    return np.sqrt(variance)
