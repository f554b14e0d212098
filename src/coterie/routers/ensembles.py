"""Routers that are the mean of several models, each trained by gradient descent on its own part.

Every member keeps another part of the queries back, stops where experts chosen by its predictions
score highest on that part, and so chooses its own number of epochs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.folds import fold_rows
from coterie.records import Records
from coterie.routers.base import Router, make_encoder, mean_or, require_rows
from coterie.routers.gradient import (
    Distinct,
    Schedule,
    Weights,
    descend,
    distinct,
    loss,
    routing_score,
    sigmoid,
)
from coterie.routers.linear import fit_cost, predict_cost
from coterie.types import Estimates, FloatArray, IntArray, Query

Predict: TypeAlias = Callable[[Weights, FloatArray], FloatArray]


class Model(ABC):
    """What a training descends: its data, and the gradient of its loss.

    ``vectors`` (queries, dim + 1) are ``inputs``; ``columns`` the scores, equal experts once.
    """

    def __init__(self, vectors: NDArray[np.float32], columns: Distinct) -> None:
        self.inputs, self.quality, self.weight = vectors, columns.quality, columns.weight

    @abstractmethod
    def start(self, generator: np.random.Generator) -> Weights:
        """The weights of a member before its first step."""

    @abstractmethod
    def slope(self, weights: Weights, rows: IntArray, generator: np.random.Generator) -> Weights:
        """Gradient of the mean loss of ``rows`` by all weights."""


class Ensemble(Router):
    """A router whose quality is its members' mean, and ``error`` their standard deviation.

    A subclass checks its settings in ``fit``, calls ``_train`` and learns what else it needs. It
    names its weights in ``expert_axis``: the axis of the experts in those of a single member, None
    where they have none. The weights ``x`` of all members, stacked along a new first axis, are the
    learnt attribute ``x_``.
    """

    expert_axis: ClassVar[Mapping[str, int | None]]
    encoder_: Encoder
    cost_: FloatArray
    link_: FloatArray | tuple[float, float] = (1.0, 0.0)  # slope and intercept of the logits

    def __init__(self, members: int, epochs: int, encoder: str | Encoder, seed: int) -> None:
        self.members = members
        self.epochs = epochs
        self.encoder = encoder
        self.seed = seed

    @staticmethod
    @abstractmethod
    def forward(weights: Weights, vectors: FloatArray) -> FloatArray:
        """Logits (queries, experts) of one member's weights; of all, members are the first axis."""

    @abstractmethod
    def _model(self, vectors: NDArray[np.float32], columns: Distinct) -> Model:
        """What the members are trained on."""

    def _train(self, records: Records, schedule: Schedule) -> FloatArray:
        """Learn encoder, weights and costs, one member after the other; returns the vectors."""
        require_rows(records)
        require_positive(members=self.members, epochs=self.epochs)
        texts = [q.text for q in records.queries]
        self.experts_ = records.experts
        self.encoder_ = make_encoder(self.encoder).fit(texts)
        vectors = self.encoder_.encode(texts)
        columns = distinct(records.quality)
        model, groups = self._model(inputs(vectors), columns), records.text_groups
        found = train(model, self.forward, schedule, self.members, groups, self.seed)
        for name, axis in self.expert_axis.items():
            kept = found[name] if axis is None else np.take(found[name], columns.member, axis + 1)
            setattr(self, f"{name}_", kept)
        self.cost_ = fit_cost(vectors, records.cost)
        return vectors

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Mean of the members' probabilities, and ridge predictions of the cost."""
        self._check_fitted()
        vectors = self.encoder_.encode([q.text for q in queries])
        return self._estimates(vectors, inputs(vectors))

    def _estimates(self, vectors: FloatArray, seen: NDArray[np.float32]) -> Estimates:
        """Quality by what the members are shown, ``seen``; cost by the vectors themselves."""
        slope, intercept = self.link_
        quality, error = mean_and_error(sigmoid(self._logits(seen) * slope + intercept))
        return Estimates(self.experts_, quality, predict_cost(vectors, self.cost_), error=error)

    def _logits(self, seen: NDArray[np.float32]) -> FloatArray:
        """Logits before the link; (members, queries, experts)."""
        return self.forward(self._weights(), seen)

    def _weights(self) -> Weights:
        return {name: getattr(self, f"{name}_") for name in self.expert_axis}


def require_positive(**settings: int) -> None:
    """Raise InputError for the first setting below 1."""
    for name, value in settings.items():
        if value < 1:
            raise InputError(f"expected at least 1, got {value}", field=name)


def inputs(vectors: FloatArray) -> NDArray[np.float32]:
    """Unit vectors scaled so that entries are about one, and a constant; (queries, dim + 1)."""
    scaled = np.asarray(vectors, np.float32) * np.float32(np.sqrt(vectors.shape[1]))
    return np.hstack([scaled, np.ones((len(scaled), 1), np.float32)])


def train(
    model: Model,
    forward: Predict,
    schedule: Schedule,
    members: int,
    groups: IntArray,
    seed: int,
) -> Weights:
    """Weights of all members stacked along a new first axis.

    Member ``i`` of ``n`` keeps the i-th of max(n, 5) parts of the queries with scores back, those
    of equal ``groups`` together; where a part is empty it is judged on what it learns from.
    """
    known = np.flatnonzero(~np.isnan(model.quality).all(axis=1))
    among = np.unique(groups[known], return_inverse=True)[1]
    parts = [known[part] for part in fold_rows(among, max(members, 5), seed)]
    shuffled, found = np.concatenate(parts), []
    for number in range(members):
        held = parts[number]
        rows = np.setdiff1d(known, held)
        rows, held = (rows, held) if len(rows) and len(held) else (shuffled, shuffled)
        judge = _Judge(forward, model.inputs[held], model.quality[held])
        generator = np.random.default_rng([seed, number])
        start = model.start(generator)
        found.append(descend(start, model.slope, rows, judge, schedule, generator))
    return {key: np.stack([member[key] for member in found]) for key in found[0]}


class _Judge:
    """Routing score and, among equals, cross-entropy on queries that were kept back."""

    def __init__(self, forward: Predict, vectors: FloatArray, quality: FloatArray) -> None:
        self.forward, self.vectors, self.quality = forward, vectors, quality

    def __call__(self, weights: Weights) -> tuple[float, float]:
        logits = self.forward(weights, self.vectors)
        return round(routing_score(logits, self.quality), 9), -loss(logits, self.quality)


def mean_and_error(predictions: FloatArray) -> tuple[FloatArray, FloatArray | None]:
    """Mean over the members (first axis) and their standard deviation; None for one member."""
    mean = predictions.mean(axis=0).astype(float)
    if len(predictions) == 1:
        return mean, None
    return mean, predictions.std(axis=0, ddof=1).astype(float)


def fit_link(logits: FloatArray, quality: FloatArray) -> FloatArray:
    """Slope and intercept of a logistic regression of all scores on one number; slope >= 0."""
    from scipy.optimize import minimize

    seen = ~np.isnan(quality)
    x, y = logits[seen].astype(float), quality[seen]

    def objective(link: FloatArray) -> tuple[float, FloatArray]:
        z = link[0] * x + link[1]
        error = sigmoid(z) - y
        value = np.logaddexp(0, z).mean() - (y * z).mean() + 1e-4 * (link @ link)
        return value, np.array([(error * x).mean(), error.mean()]) + 2e-4 * link

    begin = np.array([1.0, float(np.log((mean_or(y, 0.5) + 0.01) / (1.01 - mean_or(y, 0.5))))])
    found = minimize(
        objective, begin, jac=True, bounds=[(0, None), (None, None)], method="L-BFGS-B"
    )
    return np.asarray(found.x, float)
