"""Item response theory whose items are texts: difficulty and discrimination are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.records import Records
from coterie.routers.base import Router, make_encoder, require_rows
from coterie.routers.factorization import fit_link
from coterie.routers.gradient import (
    Schedule,
    Weights,
    distinct,
    ensemble,
    mean_and_error,
    mean_logit,
    residual,
    sigmoid,
)
from coterie.routers.linear import fit_cost, predict_cost
from coterie.routers.mlp import inputs, require_positive
from coterie.types import Estimates, FloatArray, IntArray, Query

BLOCK = 1024  # queries whose similarities are held at once
WORDS = ("easy", "rather easy", "of middling difficulty", "rather hard", "hard")


class IRT(Router):
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
    encoder_: Encoder
    discrimination_: NDArray[np.float32]
    difficulty_: NDArray[np.float32]
    ability_: NDArray[np.float32]
    link_: FloatArray
    quantiles_: FloatArray
    vectors_: FloatArray
    cost_: FloatArray

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
        self.dim = dim
        self.warmup = warmup
        self.neighbours = neighbours
        self.decay = decay
        self.members = members
        self.epochs = epochs
        self.encoder = encoder
        self.seed = seed

    def fit(self, records: Records) -> Self:
        """Train the members one after the other; InputError for settings out of range."""
        require_rows(records)
        self._check_settings()
        texts = [q.text for q in records.queries]
        self.experts_ = records.experts
        self.encoder_ = make_encoder(self.encoder).fit(texts)
        vectors = self.encoder_.encode(texts)
        columns = distinct(records.quality)
        model = _Items(inputs(vectors), columns.quality, columns.weight, self.dim)
        schedule = Schedule(epochs=self.epochs, decay=self.decay)
        parts = (model.inputs, model.quality)
        weights = ensemble(
            model.start, model.slope, responses, *parts, schedule, self.members, self.seed
        )
        self.discrimination_, self.difficulty_ = weights["discrimination"], weights["difficulty"]
        self.ability_ = weights["ability"][:, columns.member]
        self.link_ = fit_link(
            responses(self._weights(), model.inputs).mean(axis=0), records.quality
        )
        self.quantiles_ = np.quantile(self._hardness(model.inputs), np.linspace(0, 1, 101))
        self.vectors_ = vectors if self.warmup else vectors[:0]
        self.cost_ = fit_cost(vectors, records.cost)
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Mean of the members' probabilities; the evidence names the predicted difficulty."""
        self._check_fitted()
        vectors = self.encoder_.encode([q.text for q in queries])
        warm = inputs(self._warm(vectors))
        logits = responses(self._weights(), warm) * self.link_[0] + self.link_[1]
        quality, error = mean_and_error(sigmoid(logits))
        cost = predict_cost(vectors, self.cost_)
        evidence = tuple(map(self._in_words, self._hardness(warm)))
        return Estimates(self.experts_, quality, cost, error=error, evidence=evidence)

    def _check_settings(self) -> None:
        positive = {"dim": self.dim, "members": self.members, "epochs": self.epochs}
        require_positive(**positive, neighbours=self.neighbours)
        if not 0 <= self.warmup <= 1:
            raise InputError(f"expected a share of 0 to 1, got {self.warmup}", field="warmup")
        if self.decay < 0:
            raise InputError(f"expected at least 0, got {self.decay}", field="decay")

    def _weights(self) -> Weights:
        return {
            "discrimination": self.discrimination_,
            "difficulty": self.difficulty_,
            "ability": self.ability_,
        }

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


def responses(weights: Weights, vectors: FloatArray) -> FloatArray:
    """Logits a . theta_m - b: (queries, experts), or (members, queries, experts)."""
    items = vectors @ weights["discrimination"]
    return np.asarray(
        items @ np.swapaxes(weights["ability"], -1, -2) - vectors @ weights["difficulty"]
    )


class _Items:
    """The data of a training, with the gradient of its loss."""

    def __init__(
        self,
        vectors: NDArray[np.float32],
        quality: NDArray[np.float32],
        weight: NDArray[np.float32],
        dim: int,
    ) -> None:
        self.inputs, self.quality, self.weight, self.dim = vectors, quality, weight, dim

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
