"""Matrix factorisation of queries and experts (EmbedLLM, RouteLLM)."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.records import Records
from coterie.routers.ensembles import Ensemble, Model, fit_link, inputs, require_positive
from coterie.routers.gradient import Distinct, Schedule, Weights, residual, sigmoid
from coterie.routers.linear import check_option
from coterie.types import FloatArray, IntArray

OPPONENTS = 32  # experts each expert is compared with in a step, where there are more


def products(weights: Weights, vectors: FloatArray) -> FloatArray:
    """Logits (W1 e) . (w2 * v_m): (queries, experts), or (members, queries, experts)."""
    return np.asarray(
        vectors @ weights["projection"] @ np.swapaxes(weights["experts_vectors"], -1, -2)
    )


class Factorization(Ensemble):
    """A vector for every expert, a projection of every query; their weighted product is a logit.

    delta(m, x) = w2 . (v_m * W1 e) for expert m and the query's vector e, here with a constant
    appended to e so that experts may differ on every query alike. Quality is the members' mean,
    ``error`` their standard deviation. Each member stops by the routing score on queries it kept
    back, so the number of epochs is chosen inside the records.

    Parameters
    ----------
    loss
        ``scores``: cross-entropy of the logistic of delta on scores in [0, 1] (EmbedLLM, Zhuang et
        al. 2024). ``battles``: cross-entropy of the logistic of delta_a - delta_b on which of two
        experts scored higher, ties left out, v_m of unit length (RouteLLM, Ong et al. 2024); a
        logistic regression of scores on delta then gives the quality.
    dim
        Length of the expert vectors; 232 (scores) and 128 (battles) were published.
    noise
        Standard deviation of noise added to e in training, relative to an entry of e; .05 (scores)
        and .1 (battles) were published.
    members, epochs, encoder, seed
        As of ``MLP``.
    """

    name = "factorization"
    expert_axis: ClassVar = {"projection": None, "experts_vectors": 0}
    forward = staticmethod(products)

    def __init__(
        self,
        loss: str = "scores",
        dim: int = 64,
        noise: float = 0.05,
        members: int = 3,
        epochs: int = 40,
        encoder: str | Encoder = "static",
        seed: int = 0,
    ) -> None:
        super().__init__(members, epochs, encoder, seed)
        self.loss, self.dim, self.noise = loss, dim, noise

    def fit(self, records: Records) -> Self:
        """Train the members one after the other; InputError for settings out of range."""
        require_positive(dim=self.dim)
        check_option("loss", self.loss, ("scores", "battles"))
        if self.noise < 0:
            raise InputError(f"expected at least 0, got {self.noise}", field="noise")
        vectors = self._train(records, Schedule(epochs=self.epochs))
        self.link_ = self._fit_link(inputs(vectors), records.quality)
        return self

    def _model(self, vectors: NDArray[np.float32], columns: Distinct) -> Model:
        return _Factors(vectors, columns, self)

    def _fit_link(self, vectors: NDArray[np.float32], quality: FloatArray) -> FloatArray:
        """Slope (not negative) and intercept that turn delta into the logit of a score."""
        if self.loss == "scores":
            return np.array([1.0, 0.0])
        return fit_link(self._logits(vectors).mean(axis=0), quality)


class _Factors(Model):
    """The gradients of the two losses."""

    def __init__(
        self, vectors: NDArray[np.float32], columns: Distinct, settings: Factorization
    ) -> None:
        super().__init__(vectors, columns)
        self.dim, self.noise, self.battles = settings.dim, settings.noise, settings.loss != "scores"

    def start(self, generator: np.random.Generator) -> Weights:
        """Small random numbers; w2 is part of W1, of which it is a factor."""
        width, experts = self.inputs.shape[1], self.quality.shape[1]
        projection = generator.normal(0, 1 / np.sqrt(width), (width, self.dim))
        vectors = generator.normal(0, 1 / np.sqrt(self.dim), (experts, self.dim))
        return {
            "projection": projection.astype(np.float32),
            "experts_vectors": vectors.astype(np.float32),
        }

    def slope(self, weights: Weights, rows: IntArray, generator: np.random.Generator) -> Weights:
        """Gradient of the mean loss of ``rows`` by all weights."""
        vectors = self.inputs[rows]
        vectors = vectors + self.noise * generator.standard_normal(vectors.shape, np.float32)
        projected = vectors @ weights["projection"]
        logits = projected @ weights["experts_vectors"].T
        error = self._error(logits, rows, generator)
        return {
            "projection": vectors.T @ (error @ weights["experts_vectors"]),
            "experts_vectors": error.T @ projected,
        }

    def _error(
        self, logits: FloatArray, rows: IntArray, generator: np.random.Generator
    ) -> NDArray[np.float32]:
        if self.battles:
            return battles(logits, self.quality[rows], self.weight, generator)
        return residual(logits, self.quality[rows], self.weight)


def battles(
    logits: FloatArray,
    quality: FloatArray,
    weight: FloatArray,
    generator: np.random.Generator,
) -> NDArray[np.float32]:
    """Gradient by the logits of the mean cross-entropy of who wins, ties left out.

    Up to 33 experts all pairs count; with more, 32 shifts of the columns against themselves.
    """
    experts = logits.shape[1]
    shifts = np.arange(1, experts)
    if experts > OPPONENTS + 1:
        shifts = generator.choice(shifts, OPPONENTS, replace=False)
    total, count = np.zeros_like(logits), 0.0
    for shift in shifts:
        other = np.roll(quality, -shift, axis=1)
        pair = weight * np.roll(weight, -shift) * (quality != other) * ~np.isnan(quality + other)
        chance = sigmoid(logits - np.roll(logits, -shift, axis=1))
        error = np.where(pair > 0, chance - (quality > other), 0.0) * pair
        total += error - np.roll(error, shift, axis=1)
        count += float(pair.sum())
    return (total / max(count, 1.0)).astype(np.float32)
