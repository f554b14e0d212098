"""Ridge regression of each expert's score on the query's vector; what regressions share."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.records import Records
from coterie.routers.base import Router, make_encoder, mean_or, require_rows
from coterie.types import Estimates, FloatArray, IntArray, Query

PENALTIES = np.logspace(-2, 3, 11)
FEW = 3  # observations below which an expert gets its mean
WORST = 0.25  # variance of a score of which nothing is known


class Linear(Router):
    """One ridge regression per expert for quality and one for cost.

    The penalty is chosen by the exact leave-one-out error over eleven values from 0.01 to 1,000;
    unobserved cells are left out of that expert's regression. ``error`` is the posterior standard
    deviation of the regression under its penalty, with the leave-one-out error as noise.

    Parameters
    ----------
    encoder
        Plug-in name of an encoder, or an instance.
    target
        ``score`` regresses every expert's score. ``gap`` regresses the query's mean score and each
        expert's distance from it, each with its own penalty: with two experts a regression of
        the gap between them. What decides between experts is then not smoothed by how hard the
        query is; unobserved cells are assumed missing at random.
    """

    name = "linear"
    encoder_: Encoder
    quality_: FloatArray
    cost_: FloatArray
    axes_: FloatArray
    variance_: FloatArray

    def __init__(self, encoder: str | Encoder = "static", target: str = "score") -> None:
        self.encoder = encoder
        self.target = target

    def fit(self, records: Records) -> Self:
        """Solve the regressions in closed form; InputError for an unknown ``target``."""
        self.__dict__.pop("_joined", None)
        require_rows(records)
        check_option("target", self.target, ("score", "gap"))
        texts = [q.text for q in records.queries]
        self.experts_ = records.experts
        self.encoder_ = make_encoder(self.encoder).fit(texts)
        vectors = np.asarray(self.encoder_.encode(texts), float)
        fitted = [fit_ridge(vectors, part) for part in self._parts(records.quality)]
        self.quality_ = sum((f.coefficients for f in fitted), np.zeros(()))
        self.axes_, strength = principal_axes(vectors)
        share = [posterior(strength, len(vectors), f) for f in fitted]
        self.variance_ = sum(share, np.zeros(()))
        self.cost_ = fit_cost(vectors, records.cost)
        return self

    def _parts(self, quality: FloatArray) -> tuple[FloatArray, ...]:
        """Targets whose regressions add up to the quality; (queries, experts) or (queries, 1)."""
        return (quality,) if self.target == "score" else gaps(quality)

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Fitted values, quality clipped to [0, 1] and cost to at least 0."""
        self._check_fitted()
        vectors = self.encoder_.encode([q.text for q in queries])
        # one product: with one query each call to numpy costs more than what it computes
        coefficients, intercepts = self._joined
        values = vectors.dot(coefficients)
        values += intercepts
        count = len(self.experts_)
        expected = np.maximum(values[:, : 2 * count], 0.0)
        quality, cost = np.minimum(expected[:, :count], 1.0), expected[:, count:]
        error = np.sqrt(np.square(values[:, 2 * count :]).dot(self.variance_))
        return Estimates(self.experts_, quality, cost, error=error)

    @functools.cached_property
    def _joined(self) -> tuple[FloatArray, FloatArray]:
        """Coefficients and intercepts of quality, cost, axes and a column of ones."""
        ones = np.eye(len(self.axes_))[:, -1:]
        joined = np.hstack([self.quality_, self.cost_, self.axes_, ones])
        return joined[:-1].copy(), joined[-1]


class Ridge(NamedTuple):
    """Regressions of several columns: (dim + 1, columns) and three times (columns,)."""

    coefficients: FloatArray  # the last row holds the intercepts
    penalty: FloatArray
    noise: FloatArray  # variance of an outcome around its prediction
    seen: FloatArray  # observations


def check_option(name: str, value: str, known: Sequence[str]) -> None:
    """Raise InputError unless ``value`` is one of the ``known``."""
    if value not in known:
        raise InputError(f"expected one of {', '.join(known)}, got {value!r}", field=name)


def with_intercept(vectors: FloatArray) -> FloatArray:
    """The vectors with a column of ones at the end."""
    return np.hstack([np.asarray(vectors, float), np.ones((len(vectors), 1))])


def affine(vectors: FloatArray, coefficients: FloatArray) -> FloatArray:
    """``with_intercept(vectors) @ coefficients`` without the copy, which matters for one query."""
    values: FloatArray = np.dot(np.asarray(vectors, float), coefficients[:-1])
    values += coefficients[-1]
    return values


def fit_cost(vectors: FloatArray, cost: FloatArray) -> FloatArray:
    """Ridge regression of observed costs, (dim + 1, experts); zeros where none was observed."""
    return fit_ridge(vectors, cost).coefficients


def predict_cost(vectors: FloatArray, coefficients: FloatArray) -> FloatArray:
    """Predicted costs, at least 0, shape (queries, experts)."""
    cost = affine(vectors, coefficients)
    np.maximum(cost, 0.0, out=cost)
    return cost


def patterns(targets: FloatArray) -> Iterator[tuple[IntArray, NDArray[np.bool_]]]:
    """Columns observed in the same rows, and those rows."""
    seen, alike = ~np.isnan(targets), dict[bytes, list[int]]()
    for number, bits in enumerate(np.packbits(seen, axis=0).T):
        alike.setdefault(bits.tobytes(), []).append(number)
    for columns in alike.values():
        yield np.array(columns), seen[:, columns[0]]


def gaps(quality: FloatArray) -> tuple[FloatArray, FloatArray]:
    """A query's mean over experts of the score less the expert's mean; and the scores less it.

    Where experts are unobserved the distance is scaled up, as a query's own mean over few experts
    holds much of each of them; a query with one score says nothing of distances.
    """
    means = mean_or(quality, np.nan)
    centred = quality - means
    seen = (~np.isnan(quality)).sum(axis=1, keepdims=True)
    level = np.nansum(centred, axis=1, keepdims=True) / np.maximum(seen, 1)
    experts = max(int((~np.isnan(means)).sum()), 2)
    scale = (1 - 1 / np.maximum(seen, 1)) * experts / (experts - 1)
    known = np.where(seen > 1, scale, np.nan)
    apart = (centred - level) / known + means if experts > 1 else quality
    return np.where(seen > 0, level, np.nan), apart


def fit_ridge(vectors: FloatArray, targets: FloatArray) -> Ridge:
    """Ridge regressions of the columns of ``targets``, NaN cells left out; intercepts are free.

    Each column has the penalty of least leave-one-out error. A column seen less than three times
    gets its mean, 0 if it was never seen.
    """
    shape = targets.shape[1]
    fitted = Ridge(
        np.zeros((vectors.shape[1] + 1, shape)),
        np.full(shape, np.inf),
        np.full(shape, WORST),
        (~np.isnan(targets)).sum(axis=0).astype(float),
    )
    for columns, seen in patterns(targets):
        if seen.sum() < FEW:
            fitted.coefficients[-1, columns] = mean_or(targets[:, columns], 0.0)
        else:
            rows = np.asarray(vectors, float)
            found = _ridge(rows if seen.all() else rows[seen], targets[np.ix_(seen, columns)])
            for whole, part in zip(fitted[:3], found, strict=True):
                whole[..., columns] = part
    return fitted


def _ridge(vectors: FloatArray, targets: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Coefficients, penalties and noise of columns without holes."""
    centre, mean = vectors.mean(axis=0), targets.mean(axis=0)
    centred = vectors - centre
    strength, axes = np.linalg.eigh(centred.T @ centred)
    strength = np.maximum(strength, 0.0)
    turned = centred @ axes  # (rows, dim), uncorrelated columns
    projected = turned.T @ (targets - mean)
    inverse = 1 / (strength[:, None] + PENALTIES)  # (dim, penalties)
    leverage = np.square(turned) @ inverse + 1 / len(targets)
    kept = np.maximum(1 - leverage, 1e-6)  # (rows, penalties)
    errors = [
        _left_out(turned, column[:, None] * projected, targets - mean, own)
        for column, own in zip(inverse.T, kept.T, strict=True)
    ]
    best = np.argmin(errors, axis=0)
    penalty = PENALTIES[best]
    coefficients = axes @ (projected / (strength[:, None] + penalty))
    noise = np.min(errors, axis=0)
    return np.vstack([coefficients, mean - centre @ coefficients]), penalty, noise


def _left_out(
    turned: FloatArray, coefficients: FloatArray, targets: FloatArray, kept: FloatArray
) -> FloatArray:
    """Mean squared leave-one-out error of every column; ``kept`` is 1 less the hat's diagonal."""
    residual = targets - turned @ coefficients
    error: FloatArray = np.square(1 / kept) @ np.square(residual) / len(targets)
    return error


def principal_axes(vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """An affine map onto uncorrelated axes (dim + 1, dim) and the sum of squares along each."""
    centre = vectors.mean(axis=0)
    centred = vectors - centre
    strength, axes = np.linalg.eigh(centred.T @ centred)
    return np.vstack([axes, -centre @ axes]), np.maximum(strength, 0.0)


def posterior(strength: FloatArray, rows: int, fitted: Ridge) -> FloatArray:
    """Variance of every coefficient along the axes and of the intercept, (dim + 1, columns).

    An expert observed on a part of the queries is taken to have seen its share of every axis.
    """
    seen = np.maximum(fitted.seen, 1.0)
    information = strength[:, None] * (seen / rows) + fitted.penalty
    return np.asarray(fitted.noise * np.vstack([1 / information, 1 / seen]))


def standard_error(vectors: FloatArray, axes: FloatArray, variance: FloatArray) -> FloatArray:
    """Standard error of a linear prediction at every vector, shape (queries, columns)."""
    turned = affine(vectors, axes)
    error = affine(np.square(turned, out=turned), variance)
    np.sqrt(error, out=error)
    return error
