"""Logistic regression of each expert's score on the query's vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.folds import fold_rows
from coterie.records import Records
from coterie.routers.base import Router, make_encoder, mean_or, require_rows
from coterie.routers.gradient import sigmoid
from coterie.routers.linear import (
    FEW,
    Ridge,
    fit_cost,
    patterns,
    posterior,
    predict_cost,
    principal_axes,
    standard_error,
    with_intercept,
)
from coterie.types import Estimates, FloatArray, IntArray, Query

PENALTIES = np.logspace(2.5, -1.5, 9)  # from the strongest, so that each fit starts the next
FOLDS = 5
ITERATIONS = 200
ROUGH, FINE = 1e-2, 1e-4  # typical change of a logit at which to stop, when choosing and at last


class Logistic(Router):
    """One logistic regression per expert on scores in [0, 1], trained by cross-entropy.

    A score of .7 counts as seven tenths of a success; unobserved cells are left out. ``error`` is
    Laplace's approximation: the curvature of the loss at the mean of p (1 - p) gives the standard
    error of the logit, times p (1 - p) that of the score.

    Parameters
    ----------
    penalty
        L2 penalty of the coefficients (the intercept is free). None chooses each expert's by the
        cross-entropy of a five-fold cross-validation, over nine values from 0.03 to 316.
    encoder
        Plug-in name of an encoder, or an instance.
    seed
        Shuffles the folds.
    """

    name = "logistic"
    encoder_: Encoder
    quality_: FloatArray
    cost_: FloatArray
    axes_: FloatArray
    variance_: FloatArray

    def __init__(
        self,
        penalty: float | None = None,
        encoder: str | Encoder = "static",
        seed: int = 0,
    ) -> None:
        self.penalty = penalty
        self.encoder = encoder
        self.seed = seed

    def fit(self, records: Records) -> Self:
        """Solve all regressions side by side; InputError for a penalty that is not positive."""
        require_rows(records)
        texts = [q.text for q in records.queries]
        self.experts_ = records.experts
        self.encoder_ = make_encoder(self.encoder).fit(texts)
        vectors = np.asarray(self.encoder_.encode(texts), float)
        groups = records.text_groups
        fitted = fit_logistic(vectors, records.quality, self.penalty, self.seed, groups)
        self.quality_ = fitted.coefficients
        self.axes_, strength = principal_axes(vectors)
        self.variance_ = posterior(strength, len(vectors), fitted)
        self.cost_ = fit_cost(vectors, records.cost)
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Probabilities of success, and ridge predictions of the cost."""
        self._check_fitted()
        vectors = self.encoder_.encode([q.text for q in queries])
        quality = sigmoid(with_intercept(vectors) @ self.quality_)
        slope = quality * (1 - quality)
        error = slope * standard_error(vectors, self.axes_, self.variance_)
        return Estimates(self.experts_, quality, predict_cost(vectors, self.cost_), error=error)


def fit_logistic(
    vectors: FloatArray,
    targets: FloatArray,
    penalty: float | None = None,
    seed: int = 0,
    groups: IntArray | None = None,
) -> Ridge:
    """Logistic regressions of the columns of ``targets`` in [0, 1], NaN cells left out.

    Rows of equal ``groups`` are held out together where the penalty is chosen.
    ``noise`` and ``penalty`` of the result are in units of the mean slope p (1 - p), so that
    ``posterior`` gives variances of logits. A column seen less than three times gets the logit of
    its mean.
    """
    if penalty is not None and not penalty > 0:
        raise InputError(f"expected a positive number, got {penalty}", field="penalty")
    groups = np.arange(len(vectors)) if groups is None else groups
    grid = PENALTIES if penalty is None else np.array([penalty])
    shape = targets.shape[1]
    fitted = Ridge(
        np.zeros((vectors.shape[1] + 1, shape)),
        np.full(shape, np.inf),
        np.full(shape, 4.0),
        (~np.isnan(targets)).sum(axis=0).astype(float),
    )
    for columns, seen in patterns(targets):
        part = soften(targets[np.ix_(seen, columns)])
        if seen.sum() < FEW:
            means = mean_or(part, 1e-6)
            fitted.coefficients[-1, columns] = np.log(means / (1 - means))
            continue
        rows = np.asarray(vectors, float)[seen]
        chosen = _choose(rows, part, grid, groups[seen], seed)
        coefficients, slope = _solve_in_vectors(rows, part, chosen)
        fitted.coefficients[:, columns] = coefficients
        fitted.penalty[columns], fitted.noise[columns] = chosen / slope, 1 / slope
    return fitted


def soften(targets: FloatArray) -> FloatArray:
    """Scores with one observation of a half added to each column: logits stay finite."""
    return np.asarray(targets + (0.5 - targets) / (len(targets) + 1))


def _choose(
    vectors: FloatArray, targets: FloatArray, grid: FloatArray, groups: IntArray, seed: int
) -> FloatArray:
    """The penalty of least held-out cross-entropy for every column."""
    if len(grid) == 1:
        return np.full(targets.shape[1], grid[0])
    parts = fold_rows(np.unique(groups, return_inverse=True)[1], min(FOLDS, len(groups)), seed)
    loss = sum(_held_out(vectors, targets, part, grid) for part in parts)
    return np.asarray(grid[np.argmin(loss, axis=0)])


def _held_out(
    vectors: FloatArray, targets: FloatArray, held: IntArray, grid: FloatArray
) -> FloatArray:
    """Summed cross-entropy on the rows ``held``, shape (penalties, columns)."""
    kept = np.delete(np.arange(len(vectors)), held)
    axes, strength = principal_axes(vectors[kept])
    rows, new = with_intercept(vectors) @ axes, targets[held]
    train, test = with_intercept(rows[kept]), with_intercept(rows[held])
    weights, losses = start(targets[kept], len(strength)), []
    train, known = train.astype(np.float32), targets[kept].astype(np.float32)  # enough for ROUGH
    for penalty in grid:
        weights = solve(train, strength, known, np.full(new.shape[1], penalty), weights, ROUGH)
        losses.append(cross_entropy(test @ weights, new).sum(axis=0))
    return np.array(losses)


def _solve_in_vectors(
    vectors: FloatArray, targets: FloatArray, penalty: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Coefficients for the vectors with an intercept, and the mean slope of every column."""
    axes, strength = principal_axes(vectors)
    turned = with_intercept(with_intercept(vectors) @ axes)
    weights = solve(turned, strength, targets, penalty, start(targets, len(strength)), FINE)
    chance = sigmoid(turned @ weights)
    slope = np.maximum((chance * (1 - chance)).mean(axis=0), 1e-6)
    coefficients = axes @ weights[:-1]
    coefficients[-1] += weights[-1]
    return coefficients, slope


def cross_entropy(logits: FloatArray, targets: FloatArray) -> FloatArray:
    """Of scores in [0, 1], elementwise."""
    return np.asarray(np.logaddexp(0.0, logits) - targets * logits)


def start(targets: FloatArray, dim: int) -> FloatArray:
    """Weights that predict every column's mean, shape (dim + 1, columns)."""
    means = targets.mean(axis=0)
    return np.vstack([np.zeros((dim, targets.shape[1])), np.log(means / (1 - means))])


def solve(
    turned: FloatArray,
    strength: FloatArray,
    targets: FloatArray,
    penalty: FloatArray,
    weights: FloatArray,
    tolerance: float,
) -> FloatArray:
    """Minimise cross-entropy + penalty |w|^2 / 2 for all columns at once.

    A quarter of the axes' sums of squares bounds the curvature (Böhning and Lindsay 1988), the
    axes are uncorrelated, so one division is a Newton step of the bound; Nesterov's momentum speeds
    it up and restarts in a column where it leads uphill (O'Donoghue and Candès 2015).
    """
    kind = turned.dtype
    shrink = np.vstack([np.tile(penalty, (len(strength), 1)), np.zeros(len(penalty))])
    bound = np.append(strength, float(len(turned)))[:, None] / 4 + shrink
    bound, shrink = bound.astype(kind), shrink.astype(kind)
    ahead = weights = np.asarray(weights, kind)
    age = np.zeros(len(penalty), kind)
    reach = np.sqrt(np.append(strength / len(turned), 1.0))[:, None]
    for _ in range(ITERATIONS):
        slope = turned.T @ (sigmoid(turned @ ahead) - targets) + shrink * ahead
        new = ahead - slope / bound
        step = new - weights
        age = np.where((slope * step).sum(axis=0) > 0, 0, age + 1)
        ahead, weights = new + age / (age + 3) * step, new
        if np.abs(step * reach).max() < tolerance:
            break
    return weights
