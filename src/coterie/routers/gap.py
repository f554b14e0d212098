"""Hybrid-LLM: the chance that an expert is not much worse than the reference expert."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.records import Records
from coterie.routers.base import Router, make_encoder, mean_or, require_rows
from coterie.routers.gradient import sigmoid
from coterie.routers.linear import (
    fit_cost,
    posterior,
    predict_cost,
    principal_axes,
    standard_error,
    with_intercept,
)
from coterie.routers.logistic import fit_logistic
from coterie.types import Estimates, FloatArray, Query

CANDIDATES = 101  # relaxations tried, quantiles of the observed gaps


class Gap(Router):
    """For every expert S against a reference L: Pr[q(S) >= q(L) - t], by logistic regression.

    Hybrid-LLM (Ding et al. 2024) for any number of experts, one head each. ``relaxation_`` holds
    each expert's t >= 0: the one at which labels of two random queries differ most often, the
    largest 2 p (1 - p); with right-or-wrong scores that is 0, ties counting for S.

    Quality is made to keep that order: the reference has its mean score on every query, expert S
    that mean plus the expected gap given its probability, a straight line with a slope not below 0,
    fitted by least squares on the records and clipped to [0, 1]. So levels say how experts differ
    on a query, not how hard it is. ``error`` is Laplace's, through the line; the reference has the
    standard error of its mean.

    Parameters
    ----------
    reference
        Name of the expert L; None takes the best single one of the records.
    penalty
        As of ``Logistic``: None chooses it by cross-validation.
    encoder
        Plug-in name of an encoder, or an instance.
    seed
        Shuffles the folds.
    """

    name = "gap"
    encoder_: Encoder
    heads_: FloatArray
    relaxation_: FloatArray
    line_: FloatArray
    axes_: FloatArray
    variance_: FloatArray
    cost_: FloatArray

    def __init__(
        self,
        reference: str | None = None,
        penalty: float | None = None,
        encoder: str | Encoder = "static",
        seed: int = 0,
    ) -> None:
        self.reference = reference
        self.penalty = penalty
        self.encoder = encoder
        self.seed = seed

    def fit(self, records: Records) -> Self:
        """Learn relaxations, heads and lines; InputError for a reference without records."""
        require_rows(records)
        strong = records.experts.index(self._reference(records))
        texts = [q.text for q in records.queries]
        self.encoder_ = make_encoder(self.encoder).fit(texts)
        vectors = np.asarray(self.encoder_.encode(texts), float)
        gap = records.quality - records.quality[:, [strong]]
        self.relaxation_ = np.array([relaxation(column) for column in gap.T])
        labels = np.where(np.isnan(gap), np.nan, gap >= -self.relaxation_)
        groups = records.text_groups
        fitted = fit_logistic(vectors, labels, self.penalty, self.seed, groups)
        self.heads_ = fitted.coefficients
        self.axes_, strength = principal_axes(vectors)
        self.variance_ = posterior(strength, len(vectors), fitted)
        self.line_ = self._lines(vectors, gap, records.quality[:, strong], strong)
        self.cost_ = fit_cost(vectors, records.cost)
        self.experts_ = records.experts
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """The lines at the predicted probabilities, and ridge predictions of the cost."""
        self._check_fitted()
        vectors = self.encoder_.encode([q.text for q in queries])
        chance = sigmoid(with_intercept(vectors) @ self.heads_)
        slope, intercept, fixed = self.line_
        quality = np.clip(intercept + slope * chance, 0.0, 1.0)
        logit = standard_error(vectors, self.axes_, self.variance_)
        error = np.hypot(fixed, slope * chance * (1 - chance) * logit)
        return Estimates(self.experts_, quality, predict_cost(vectors, self.cost_), error=error)

    def probabilities(self, queries: Sequence[Query]) -> FloatArray:
        """Pr[q(S) >= q(L) - t] of every expert, shape (queries, experts)."""
        self._check_fitted()
        vectors = self.encoder_.encode([q.text for q in queries])
        return sigmoid(with_intercept(vectors) @ self.heads_)

    def _reference(self, records: Records) -> str:
        if self.reference is None:
            return records.experts[int(np.argmax(mean_or(records.quality, 0.0)))]
        if self.reference not in records.experts:
            known = ", ".join(records.experts)
            message = f"no records of expert {self.reference!r}; there are {known}"
            raise InputError(message, field="reference")
        return self.reference

    def _lines(
        self, vectors: FloatArray, gap: FloatArray, reference: FloatArray, strong: int
    ) -> FloatArray:
        """Slope and intercept from probability to quality, and the reference's error; (3, m)."""
        chance = sigmoid(with_intercept(vectors) @ self.heads_)
        level = float(mean_or(reference[:, None], 0.0)[0])
        seen = max(int((~np.isnan(reference)).sum()), 1)
        fixed = np.sqrt(max(level * (1 - level), 1e-6) / seen)
        lines = [_line(p, g) for p, g in zip(chance.T, gap.T, strict=True)]
        lines[strong] = (0.0, 0.0)
        slope, intercept = np.array(lines).T
        return np.array([slope, intercept + level, np.full(len(lines), fixed)])


def relaxation(gap: FloatArray) -> float:
    """The t >= 0 with the largest 2 p (1 - p), p the share of gaps >= -t; 0 among equals."""
    seen = gap[~np.isnan(gap)]
    if not len(seen):
        return 0.0
    tried = np.append(0.0, np.unique(np.maximum(-np.quantile(seen, _GRID, method="nearest"), 0)))
    share = np.array([(seen >= -t).mean() for t in tried])
    return float(tried[np.argmax(share * (1 - share))])


_GRID = np.linspace(0, 1, CANDIDATES)


def _line(chance: FloatArray, gap: FloatArray) -> tuple[float, float]:
    """Least squares of the gap on the probability, slope at least 0: (slope, intercept)."""
    seen = ~np.isnan(gap)
    if not seen.any():
        return 0.0, -1.0
    x, y = chance[seen] - chance[seen].mean(), gap[seen]
    spread = float(x @ x)
    slope = max(float(x @ y) / spread, 0.0) if spread > 1e-12 else 0.0
    return slope, float(y.mean() - slope * chance[seen].mean())
