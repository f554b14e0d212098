"""Item response theory whose items are texts: difficulty and discrimination are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.records import Records
from coterie.routers.ensembles import Ensemble, Model, fit_link, inputs, require_positive
from coterie.routers.gradient import Distinct, Schedule, Weights, mean_logit, residual
from coterie.types import Estimates, FloatArray, IntArray, Query

BLOCK = 1024  # queries whose similarities are held at once
WORDS = ("easy", "rather easy", "of middling difficulty", "rather hard", "hard")


def responses(weights: Weights, vectors: FloatArray) -> FloatArray:
    """Logits a . theta_m - b: (queries, experts), or (members, queries, experts)."""
    items = vectors @ weights["discrimination"]
    return np.asarray(
        items @ np.swapaxes(weights["ability"], -1, -2) - vectors @ weights["difficulty"]
    )


class IRT(Ensemble):
    """Multidimensional two-parameter item response theory, P = sigmoid(a . theta_m - b).

    Every expert m has an ability vector theta_m; a query's discrimination a and difficulty b are
    linear in its vector (the MIRT of IRT-Router, Song et al. 2025). Regularised by weight decay and
    early stopping by the routing score on queries kept back, then calibrated by a logistic
    regression of scores on the logit. Quality is the members' mean, ``error`` their standard
    deviation; the evidence says how hard a query looks among the recorded ones.

    Parameters
    ----------
    dim
        Dimensions of ability.
    warmup
        Share of the query's vector replaced by the mean of the nearest recorded vectors (.3 in
        IRT-Router, for queries unlike the recorded); 0 leaves vectors alone.
    neighbours
        How many of them.
    decay
        Weight decay.
    members, epochs, encoder, seed
        As of ``MLP``.
    """

    name = "irt"
    expert_axis: ClassVar = {"discrimination": None, "difficulty": None, "ability": 0}
    forward = staticmethod(responses)
    ability_: NDArray[np.float32]
    quantiles_: FloatArray
    vectors_: FloatArray

    def __init__(
        self,
        dim: int = 8,
        warmup: float = 0.0,
        neighbours: int = 10,
        decay: float = 0.05,
        members: int = 3,
        epochs: int = 40,
        encoder: str | Encoder = "static",
        seed: int = 0,
    ) -> None:
        super().__init__(members, epochs, encoder, seed)
        self.dim, self.warmup, self.neighbours, self.decay = dim, warmup, neighbours, decay

    def fit(self, records: Records) -> Self:
        """Train the members one after the other; InputError for settings out of range."""
        self._check_settings()
        vectors = self._train(records, Schedule(epochs=self.epochs, decay=self.decay))
        recorded = inputs(vectors)
        self.link_ = fit_link(self._logits(recorded).mean(axis=0), records.quality)
        self.quantiles_ = np.quantile(self._hardness(recorded), np.linspace(0, 1, 101))
        self.vectors_ = vectors if self.warmup else vectors[:0]
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Mean of the members' probabilities; the evidence names the predicted difficulty."""
        self._check_fitted()
        vectors = self.encoder_.encode([q.text for q in queries])
        warm = inputs(self._warm(vectors))
        evidence = tuple(map(self._in_words, self._hardness(warm)))
        return replace(self._estimates(vectors, warm), evidence=evidence)

    def _check_settings(self) -> None:
        require_positive(dim=self.dim, neighbours=self.neighbours)
        if not 0 <= self.warmup <= 1:
            raise InputError(f"expected a share of 0 to 1, got {self.warmup}", field="warmup")
        if self.decay < 0:
            raise InputError(f"expected at least 0, got {self.decay}", field="decay")

    def _model(self, vectors: NDArray[np.float32], columns: Distinct) -> Model:
        return _Items(vectors, columns, self.dim)

    def _warm(self, vectors: FloatArray) -> FloatArray:
        """Vectors mixed with the mean of the nearest recorded ones."""
        if not self.warmup:
            return vectors
        mixed = np.empty_like(vectors)
        k = min(self.neighbours, len(self.vectors_))
        for begin in range(0, len(vectors), BLOCK):
            block = vectors[begin : begin + BLOCK]
            near = np.argsort(-(block @ self.vectors_.T), axis=1, kind="stable")[:, :k]
            mean = self.vectors_[near].mean(axis=1)
            mixed[begin : begin + BLOCK] = (1 - self.warmup) * block + self.warmup * mean
        return mixed

    def _hardness(self, vectors: FloatArray) -> FloatArray:
        """Logit of failure of the average expert, mean over members, shape (queries,)."""
        average = {**self._weights(), "ability": self.ability_.mean(axis=1, keepdims=True)}
        return np.asarray(-responses(average, vectors).mean(axis=0)[:, 0], float)

    def _in_words(self, hardness: float) -> str:
        below = int(np.clip(np.searchsorted(self.quantiles_, hardness, side="right") - 1, 0, 100))
        word = WORDS[min(below // 20, 4)]
        return f"looks {word}: harder than {below} % of the recorded queries"


class _Items(Model):
    """The gradient of the masked cross-entropy of abilities and items."""

    def __init__(self, vectors: NDArray[np.float32], columns: Distinct, dim: int) -> None:
        super().__init__(vectors, columns)
        self.dim = dim

    def start(self, generator: np.random.Generator) -> Weights:
        """Small random discriminations and abilities, every query as hard as the mean."""
        width, experts = self.inputs.shape[1], self.quality.shape[1]
        items = generator.normal(0, 1 / np.sqrt(width), (width, self.dim))
        ability = generator.normal(0, 1 / np.sqrt(self.dim), (experts, self.dim))
        difficulty = np.zeros((width, 1), np.float32)
        difficulty[-1] = -mean_logit(self.quality.reshape(-1, 1))
        return {
            "discrimination": items.astype(np.float32),
            "difficulty": difficulty,
            "ability": ability.astype(np.float32),
        }

    def slope(self, weights: Weights, rows: IntArray, generator: np.random.Generator) -> Weights:
        """Gradient of the mean cross-entropy of ``rows`` by all weights."""
        vectors = self.inputs[rows]
        error = residual(responses(weights, vectors), self.quality[rows], self.weight)
        return {
            "discrimination": vectors.T @ (error @ weights["ability"]),
            "difficulty": -vectors.T @ error.sum(axis=1, keepdims=True),
            "ability": error.T @ (vectors @ weights["discrimination"]),
        }
