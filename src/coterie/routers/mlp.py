"""A small neural network with a head for every expert."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.records import Records
from coterie.routers.ensembles import Ensemble, Model, require_positive
from coterie.routers.gradient import Distinct, Schedule, Weights, mean_logit, residual
from coterie.types import FloatArray, IntArray


def logits(weights: Weights, vectors: FloatArray) -> FloatArray:
    """(queries, experts) of one network, (members, queries, experts) of an ensemble."""
    hidden = np.maximum(vectors @ weights["inner"], 0.0)
    return np.asarray(_with_constant(hidden) @ weights["heads"])


def _with_constant(hidden: FloatArray) -> FloatArray:
    return np.concatenate([hidden, np.ones((*hidden.shape[:-1], 1), hidden.dtype)], axis=-1)


class MLP(Ensemble):
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
    expert_axis: ClassVar = {"inner": None, "heads": 1}
    forward = staticmethod(logits)

    def __init__(
        self,
        hidden: int = 64,
        members: int = 5,
        dropout: float = 0.3,
        epochs: int = 40,
        encoder: str | Encoder = "static",
        seed: int = 0,
    ) -> None:
        super().__init__(members, epochs, encoder, seed)
        self.hidden, self.dropout = hidden, dropout

    def fit(self, records: Records) -> Self:
        """Train the members one after the other; InputError for settings out of range."""
        require_positive(hidden=self.hidden)
        if not 0 <= self.dropout < 1:
            raise InputError(f"expected 0 <= dropout < 1, got {self.dropout}", field="dropout")
        self._train(records, Schedule(epochs=self.epochs))
        return self

    def _model(self, vectors: NDArray[np.float32], columns: Distinct) -> Model:
        return _Network(vectors, columns, self)


class _Network(Model):
    """The gradient of one network's masked cross-entropy."""

    def __init__(self, vectors: NDArray[np.float32], columns: Distinct, settings: MLP) -> None:
        super().__init__(vectors, columns)
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
