"""AgentRouter's flat head: a distribution over experts, learnt from soft labels.

Labels and fusion are the paper's (ACL 2026): every recorded question asks for the distribution
softmax(scores / temperature) over experts, and the cross-entropy with it is minimised. Its graph
network is the router ``agent-graph``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.folds import fold_rows
from coterie.records import Records
from coterie.routers.base import Router, make_encoder, require_rows
from coterie.routers.linear import (
    fit_cost,
    fit_ridge,
    predict_cost,
    principal_axes,
    with_intercept,
)
from coterie.types import Estimates, FloatArray, IntArray, Query

PENALTIES = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1)  # from the strongest, each starts the next
FOLDS = 5
ITERATIONS = 300
CLOSE = 1e-4  # typical change of a logit at which to stop


class SoftLabels(Router):
    """One softmax over all experts, linear in the question's vector, fitted to soft labels.

    A distribution p over experts says by how much they differ and nothing about the question's
    level. So the quality is ``temperature * log p``, around a ridge regression of the question's
    mean score: exactly what ``Fusion`` turns back into p at the same temperature. Scores that are
    not observed are left out of the labels.

    Parameters
    ----------
    temperature
        Of the labels. Towards 0 a question asks for its best experts alike, towards infinity for
        all experts alike.
    penalty
        L2 penalty of the coefficients; None takes the one of seven from 0.1 to 100 with the least
        cross-entropy in a five-fold cross-validation.
    encoder
        Plug-in name of an encoder, or an instance.
    seed
        Shuffles the folds.
    """

    name = "soft-labels"
    encoder_: Encoder
    weights_: FloatArray
    level_: FloatArray
    cost_: FloatArray

    def __init__(
        self,
        temperature: float = 0.1,
        penalty: float | None = None,
        encoder: str | Encoder = "static",
        seed: int = 0,
    ) -> None:
        self.temperature = temperature
        self.penalty = penalty
        self.encoder = encoder
        self.seed = seed

    def fit(self, records: Records) -> Self:
        """Descend on the cross-entropy; InputError for a temperature that is not positive."""
        require_rows(records)
        check_above_zero(temperature=self.temperature, penalty=self.penalty)
        texts = [q.text for q in records.queries]
        self.encoder_ = make_encoder(self.encoder).fit(texts)
        vectors = np.asarray(self.encoder_.encode(texts), float)
        targets = Targets.of(records.quality, self.temperature)
        grid = PENALTIES if self.penalty is None else (self.penalty,)
        self.weights_ = fit_soft(vectors, targets, grid, records.text_groups, self.seed)
        self.level_ = fit_level(vectors, records.quality)
        self.cost_ = fit_cost(vectors, records.cost)
        self.experts_ = records.experts
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """The qualities behind the distributions, and ridge predictions of the cost."""
        self._check_fitted()
        vectors = np.asarray(self.encoder_.encode([q.text for q in queries]), float)
        logits = with_intercept(vectors) @ self.weights_
        level = with_intercept(vectors) @ self.level_
        quality = as_quality(logits, level, self.temperature)
        return Estimates(self.experts_, quality, predict_cost(vectors, self.cost_))


def check_above_zero(**settings: float | None) -> None:
    """Raise InputError for the first setting that is given and not a number above 0."""
    for name, value in settings.items():
        if value is not None and not 0 < value < np.inf:
            raise InputError(f"expected a number above 0, got {value!r}", field=name)


def soft_labels(quality: FloatArray, temperature: float) -> FloatArray:
    """softmax(scores / temperature) over the observed experts of every query, 0 for the others.

    Rows without an observed score are 0 throughout.

    >>> soft_labels(np.array([[1.0, 0.0, np.nan]]), 1e-3).tolist()
    [[1.0, 0.0, 0.0]]
    """
    seen = ~np.isnan(quality)
    best = np.where(seen, quality, -np.inf).max(axis=1, keepdims=True)
    scaled = np.where(seen, quality - np.where(np.isinf(best), 0.0, best), 0.0) / temperature
    weights = np.where(seen, np.exp(scaled), 0.0)
    labels: FloatArray = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
    return labels


class Targets(NamedTuple):
    """Soft labels, and who was observed; both (queries, experts)."""

    labels: FloatArray
    seen: NDArray[np.bool_]

    @classmethod
    def of(cls, quality: FloatArray, temperature: float) -> Targets:
        """The targets of these scores."""
        return cls(soft_labels(quality, temperature), ~np.isnan(quality))

    def take(self, rows: IntArray) -> Targets:
        """The targets of some queries."""
        return Targets(self.labels[rows], self.seen[rows])


def masked_softmax(logits: FloatArray, seen: NDArray[np.bool_]) -> FloatArray:
    """Softmax over the experts that are seen, 0 for the others."""
    shifted = np.where(seen, logits, -np.inf)
    best = shifted.max(axis=1, keepdims=True)
    weights = np.exp(shifted - np.where(np.isinf(best), 0.0, best))
    shares: FloatArray = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
    return shares


def fit_level(vectors: FloatArray, quality: FloatArray) -> FloatArray:
    """Ridge regression of a query's mean observed score, (dim + 1, 1)."""
    seen = (~np.isnan(quality)).sum(axis=1)
    means = np.where(seen > 0, np.nansum(quality, axis=1) / np.maximum(seen, 1), np.nan)
    return fit_ridge(vectors, means[:, None]).coefficients


def as_quality(logits: FloatArray, level: FloatArray, temperature: float) -> FloatArray:
    """Qualities in [0, 1] whose softmax at ``temperature`` is that of the logits.

    They lie around ``level`` (queries, 1), moved as far as the bounds need, and are cut only where
    they are further apart than the bounds.
    """
    apart = temperature * (logits - logits.mean(axis=1, keepdims=True))
    quality = np.clip(level, 0.0, 1.0) + apart
    quality = quality - np.maximum(quality.max(axis=1, keepdims=True) - 1, 0.0)
    quality = quality - np.minimum(quality.min(axis=1, keepdims=True), 0.0)
    return np.asarray(np.clip(quality, 0.0, 1.0))


def fit_soft(
    vectors: FloatArray,
    targets: Targets,
    penalties: Sequence[float],
    groups: IntArray,
    seed: int = 0,
) -> FloatArray:
    """Coefficients (dim + 1, experts) of the softmax, the penalty chosen by cross-validation.

    Rows of equal ``groups`` are held out together.
    """
    if len(penalties) == 1 or len(vectors) < 2:
        return solve_soft(vectors, targets, penalties[-1:])[0]
    parts = fold_rows(np.unique(groups, return_inverse=True)[1], min(FOLDS, len(groups)), seed)
    losses = np.zeros(len(penalties))
    for held in parts:
        kept = np.delete(np.arange(len(vectors)), held)
        tried = solve_soft(vectors[kept], targets.take(kept), penalties)
        inputs = with_intercept(vectors[held])
        losses += [cross_entropy(inputs @ weights, targets.take(held)) for weights in tried]
    best = int(losses.argmin())
    return solve_soft(vectors, targets, penalties[: best + 1])[-1]


def cross_entropy(logits: FloatArray, targets: Targets) -> float:
    """Summed cross-entropy of the softmax over those observed with the labels."""
    shares = masked_softmax(logits, targets.seen)
    logs = np.log(np.where(targets.labels > 0, np.maximum(shares, 1e-300), 1.0))
    return float(-(targets.labels * logs).sum())


def solve_soft(
    vectors: FloatArray, targets: Targets, penalties: Sequence[float]
) -> list[FloatArray]:
    """Minimisers of cross-entropy + penalty |w|^2 / 2, one a penalty, each starting the next.

    Half of the axes' sums of squares bounds the curvature (Böhning 1992), the axes are
    uncorrelated, so one division is a Newton step of the bound; Nesterov's momentum restarts where
    it leads uphill.
    """
    axes, strength = principal_axes(vectors)
    rows = with_intercept(with_intercept(vectors) @ axes)
    size = np.append(strength, float(len(rows)))[:, None]
    reach = np.sqrt(size / len(rows))
    weights, found = np.zeros((rows.shape[1], targets.labels.shape[1])), list[FloatArray]()
    for penalty in penalties:
        shrink = np.append(np.full(len(strength), penalty), 0.0)[:, None]
        ahead, age = weights, 0
        for _ in range(ITERATIONS):
            error = masked_softmax(rows @ ahead, targets.seen) - targets.labels
            slope = rows.T @ error + shrink * ahead
            new = ahead - slope / (size / 2 + shrink)
            step = new - weights
            age = 0 if (slope * step).sum() > 0 else age + 1
            ahead, weights = new + age / (age + 3) * step, new
            if np.abs(step * reach).max() < CLOSE:
                break
        coefficients = axes @ weights[:-1]
        coefficients[-1] += weights[-1]
        found.append(coefficients)
    return found
