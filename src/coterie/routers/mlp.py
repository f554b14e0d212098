"""A small neural network with a head for every expert."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.records import Records
from coterie.routers.base import Router, make_encoder, require_rows
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
from coterie.types import Estimates, FloatArray, IntArray, Query


class MLP(Router):
    """One hidden layer that all experts share, one sigmoid head an expert; an ensemble of those.

    Trained by masked cross-entropy on scores in [0, 1] with Adam. Each member keeps another fifth
    of the queries back and stops where the expert it would choose scores highest on them. Quality
    is the members' mean, ``error`` their standard deviation.

    Parameters
    ----------
    hidden
        Units of the hidden layer (rectified linear).
    members
        Networks in the ensemble; a single one gives no ``error``.
    dropout
        Share of hidden units left out at each step of the training.
    epochs
        At most so many passes over the queries.
    encoder
        Plug-in name of an encoder, or an instance.
    seed
        Of the first weights, the order of the queries and the parts kept back.
    """

    name = "mlp"
    encoder_: Encoder
    inner_: NDArray[np.float32]
    heads_: NDArray[np.float32]
    cost_: FloatArray

    def __init__(
        self,
        hidden: int = 64,
        members: int = 5,
        dropout: float = 0.3,
        epochs: int = 40,
        encoder: str | Encoder = "static",
        seed: int = 0,
    ) -> None:
        self.hidden = hidden
        self.members = members
        self.dropout = dropout
        self.epochs = epochs
        self.encoder = encoder
        self.seed = seed

    def fit(self, records: Records) -> Self:
        """Train the members one after the other; InputError for settings out of range."""
        require_rows(records)
        require_positive(hidden=self.hidden, members=self.members, epochs=self.epochs)
        if not 0 <= self.dropout < 1:
            raise InputError(f"expected 0 <= dropout < 1, got {self.dropout}", field="dropout")
        texts = [q.text for q in records.queries]
        self.experts_ = records.experts
        self.encoder_ = make_encoder(self.encoder).fit(texts)
        vectors = self.encoder_.encode(texts)
        columns = distinct(records.quality)
        network = _Network(inputs(vectors), columns.quality, columns.weight, self)
        schedule = Schedule(epochs=self.epochs)
        parts = (network.inputs, network.quality)
        weights = ensemble(
            network.start, network.slope, logits, *parts, schedule, self.members, self.seed
        )
        self.inner_, self.heads_ = weights["inner"], weights["heads"][..., columns.member]
        self.cost_ = fit_cost(vectors, records.cost)
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Mean of the members' probabilities, and ridge predictions of the cost."""
        self._check_fitted()
        vectors = self.encoder_.encode([q.text for q in queries])
        members = {"inner": self.inner_, "heads": self.heads_}
        quality, error = mean_and_error(sigmoid(logits(members, inputs(vectors))))
        return Estimates(self.experts_, quality, predict_cost(vectors, self.cost_), error=error)


def require_positive(**settings: int) -> None:
    """Raise InputError for the first setting below 1."""
    for name, value in settings.items():
        if value < 1:
            raise InputError(f"expected at least 1, got {value}", field=name)


def inputs(vectors: FloatArray) -> NDArray[np.float32]:
    """Unit vectors scaled so that entries are about one, and a constant; (queries, dim + 1)."""
    scaled = np.asarray(vectors, np.float32) * np.float32(np.sqrt(vectors.shape[1]))
    return np.hstack([scaled, np.ones((len(scaled), 1), np.float32)])


def logits(weights: Weights, vectors: FloatArray) -> FloatArray:
    """(queries, experts) of one network, (members, queries, experts) of an ensemble."""
    hidden = np.maximum(vectors @ weights["inner"], 0.0)
    return np.asarray(_with_constant(hidden) @ weights["heads"])


def _with_constant(hidden: FloatArray) -> FloatArray:
    return np.concatenate([hidden, np.ones((*hidden.shape[:-1], 1), hidden.dtype)], axis=-1)


class _Network:
    """The data and settings of a training, with the gradient of its loss."""

    def __init__(
        self,
        vectors: NDArray[np.float32],
        quality: NDArray[np.float32],
        weight: NDArray[np.float32],
        settings: MLP,
    ) -> None:
        self.inputs, self.quality, self.weight = vectors, quality, weight
        self.hidden, self.dropout = settings.hidden, settings.dropout

    def start(self, generator: np.random.Generator) -> Weights:
        """He's initialisation below, zeros above: every expert begins with its mean."""
        dim = self.inputs.shape[1]
        inner = generator.normal(0, np.sqrt(2 / dim), (dim, self.hidden))
        heads = np.zeros((self.hidden + 1, self.quality.shape[1]), np.float32)
        heads[-1] = mean_logit(self.quality)
        return {"inner": inner.astype(np.float32), "heads": heads}

    def slope(self, weights: Weights, rows: IntArray, generator: np.random.Generator) -> Weights:
        """Gradient of the mean cross-entropy of ``rows`` by all weights."""
        vectors = self.inputs[rows]
        before = vectors @ weights["inner"]
        kept = generator.random(before.shape, np.float32) >= self.dropout
        gate = (kept & (before > 0)).astype(np.float32) / np.float32(1 - self.dropout)
        hidden = np.asarray(_with_constant(before * gate), np.float32)
        error = residual(hidden @ weights["heads"], self.quality[rows], self.weight)
        back = (error @ weights["heads"][:-1].T) * gate
        return {"inner": vectors.T @ back, "heads": hidden.T @ error}
