"""A router from outside: questions are short or long, and experts differ in which they can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from coterie.errors import InputError
from coterie.records import Records
from coterie.routers.base import Router, mean_or, require_rows, spread
from coterie.types import Estimates, FloatArray, Query


class LengthRouter(Router):
    """Mean scores on the recorded questions of about the query's length.

    Parameters
    ----------
    parts
        Into how many parts of equal size the recorded questions are sorted by their length.
    """

    name = "length"
    borders_: FloatArray  # lengths between the parts, (parts - 1,)
    quality_: FloatArray  # (parts, experts)
    cost_: FloatArray  # (experts,)

    def __init__(self, parts: int = 2) -> None:
        self.parts = parts

    def fit(self, records: Records) -> Self:
        """Find the borders and every part's means; unobserved cells are left out of them."""
        require_rows(records)
        if not (isinstance(self.parts, int) and self.parts >= 1):
            message = f"expected a whole number of at least 1, got {self.parts!r}"
            raise InputError(message, field="parts")
        lengths = np.array([len(q.text) for q in records.queries])
        self.experts_ = records.experts
        self.borders_ = np.quantile(lengths, np.arange(1, self.parts) / self.parts)
        overall, part = mean_or(records.quality, 0.0), self._part(records.queries)
        means = [mean_or(records.quality[part == p], overall) for p in range(self.parts)]
        self.quality_ = np.array(means)
        self.cost_ = mean_or(records.cost, 0.0)
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """The means of every query's part; the evidence says which."""
        self._check_fitted()
        part = self._part(queries)
        both = zip(queries, part, strict=True)
        evidence = tuple(f"length {len(q.text)}, part {p + 1}" for q, p in both)
        cost = spread(self.cost_, queries)
        return Estimates(self.experts_, self.quality_[part], cost, evidence=evidence)

    def _part(self, queries: Sequence[Query]) -> np.ndarray:
        lengths = np.array([len(q.text) for q in queries])
        return np.searchsorted(self.borders_, lengths)
