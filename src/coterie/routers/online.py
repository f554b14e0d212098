"""Routers that learn from one outcome at a time, while they serve.

They estimate; what to try next is the policy's: ``UCB`` and ``Thompson`` read their standard
errors. ``update`` takes an outcome whenever it comes: without ``decay`` only sums are kept, so
feedback that is late or out of order leads to the same state. ``fit`` begins from records, ``open``
from the names of the experts alone; ``to_bytes`` and ``from_bytes`` carry the state into any store.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

import numpy as np

from coterie.artifacts import pack, unpack
from coterie.errors import ArtifactError, InputError
from coterie.features import Encoder
from coterie.records import Records
from coterie.routers.base import Router, make_encoder, require_rows, spread
from coterie.types import Estimates, FloatArray, Query

STATE = "state.json"  # name of the JSON text among the arrays of ``to_bytes``
NOISE = 0.5  # the largest standard deviation of a score in [0, 1]


class Online(Router):
    """What the online routers share: outcomes come in, mean costs, the state as bytes."""

    decay: float
    spent_: FloatArray  # observed cost, (experts,)
    paid_: FloatArray  # observations of it

    @abstractmethod
    def open(self, experts: Sequence[str]) -> Self:
        """Begin with experts of whom nothing is known, forgetting what was learnt."""

    @abstractmethod
    def _learn(self, query: Query, column: int, reward: float, weight: float) -> None:
        """Take in one score of one expert."""

    def fit(self, records: Records) -> Self:
        """Begin with the outcomes of records, query after query."""
        require_rows(records)
        self._check_settings()
        self._begin(records)
        return self

    @abstractmethod
    def _begin(self, records: Records) -> None:
        """Learn from every observed cell."""

    def update(
        self,
        query: Query,
        expert: str,
        reward: float,
        cost: float | None = None,
        weight: float = 1.0,
    ) -> Self:
        """Learn that ``expert`` scored ``reward`` on ``query``, and what it cost where known.

        ``reward`` is a score in [0, 1]. ``weight`` counts the outcome several times, or in part;
        1 / propensity is not needed: every expert's model learns from its own outcomes alone.
        """
        self._check_fitted()
        if expert not in self.experts_:
            message = f"no expert {expert!r}; there are {', '.join(self.experts_)}"
            raise InputError(message, field="expert")
        if not 0 <= reward <= 1:
            raise InputError(f"expected a score in [0, 1], got {reward!r}", field="reward")
        if not 0 <= weight < np.inf:
            raise InputError(f"expected at least 0, got {weight!r}", field="weight")
        column = self.experts_.index(expert)
        self._learn(query, column, reward, weight)
        if cost is not None:
            self._pay(column, cost)
        return self

    def _open_costs(self, experts: int) -> None:
        self.spent_, self.paid_ = np.zeros(experts), np.zeros(experts)

    def _pay(self, column: int, cost: float) -> None:
        self.spent_[column] = self.decay * self.spent_[column] + cost
        self.paid_[column] = self.decay * self.paid_[column] + 1

    def _fit_costs(self, cost: FloatArray) -> None:
        for column, values in enumerate(cost.T):
            for value in values[~np.isnan(values)].tolist():
                self._pay(column, value)

    def _costs(self) -> FloatArray:
        """Mean costs, 0 where none was seen."""
        mean: FloatArray = self.spent_ / np.where(self.paid_ > 0, self.paid_, 1.0)
        return mean

    def _check_settings(self) -> None:
        if not 0 < self.decay <= 1:
            raise InputError(f"expected above 0 and at most 1, got {self.decay}", field="decay")

    def to_bytes(self) -> bytes:
        """Everything as one npz file, for a column of a store."""
        params, arrays = self._state()
        text = json.dumps(params, sort_keys=True).encode()
        return pack({**arrays, STATE: np.frombuffer(text, np.uint8)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of ``to_bytes``; raises ArtifactError for anything else."""
        try:
            arrays = unpack(data)
            params = json.loads(arrays.pop(STATE).tobytes())
            if params["router"] != cls.name:
                raise ArtifactError(f"the state of {params['router']!r}, expected {cls.name!r}")
            return cls._restore(params, arrays)
        except ArtifactError:
            raise
        except Exception as error:  # numpy and zipfile raise a dozen kinds on foreign bytes
            message = f"not a state of {cls.name} ({type(error).__name__}); fit it again"
            raise ArtifactError(message) from None


class OnlineMean(Online):
    """Each expert's mean score, whatever the query: the stateless bandit (PickLLM).

    The mean and standard deviation of a Beta posterior, from one success and one failure on. After
    Sikeridis et al. (2024, PickLLM), whose reward mixes accuracy, cost and log latency; here the
    score is the reward, and costs are weighed by the policy (their ratio changes its sign where an
    answer takes less than a second).

    Parameters
    ----------
    decay
        What an outcome still counts after another one of the same expert: below 1 the router
        forgets, for experts that change.
    """

    name = "online-mean"
    right_: FloatArray  # sums of scores, (experts,)
    seen_: FloatArray  # sums of weights

    def __init__(self, decay: float = 1.0) -> None:
        self.decay = decay

    def open(self, experts: Sequence[str]) -> Self:
        """Every expert at 0.5, as unsure as can be."""
        self._check_settings()
        self.experts_ = tuple(experts)
        self.right_, self.seen_ = np.zeros(len(self.experts_)), np.zeros(len(self.experts_))
        self._open_costs(len(self.experts_))
        return self

    def _begin(self, records: Records) -> None:
        self.open(records.experts)
        for column, scores in enumerate(records.quality.T):
            for score in scores[~np.isnan(scores)].tolist():
                self._add(column, score, 1.0)
        self._fit_costs(records.cost)

    def _learn(self, query: Query, column: int, reward: float, weight: float) -> None:
        self._add(column, reward, weight)

    def _add(self, column: int, reward: float, weight: float) -> None:
        self.right_[column] = self.decay * self.right_[column] + weight * reward
        self.seen_[column] = self.decay * self.seen_[column] + weight

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """The same means and standard deviations for every query."""
        self._check_fitted()
        mean = (self.right_ + 1) / (self.seen_ + 2)
        error = np.sqrt(mean * (1 - mean) / (self.seen_ + 3))
        quality, cost = spread(mean, queries), spread(self._costs(), queries)
        return Estimates(self.experts_, quality, cost, error=spread(error, queries))


class OnlineLinear(Online):
    """A Bayesian ridge regression of each expert's score on the query's vector, kept up to date.

    The model of LinUCB with one matrix an expert (Li et al. 2010), as MixLLM and LLM-Bandit use it
    for language models: precision ``A = penalty * I + sum x x'``, ``b = sum x (score - 0.5)``,
    quality ``0.5 + b' A^-1 x`` within [0, 1], ``error`` ``0.5 * sqrt(x' A^-1 x)``. An expert of
    whom nothing is known is at 0.5 with a large error. Records count as outcomes seen before
    (PILOT's prior from offline data), each with the weight ``trust``.

    Parameters
    ----------
    dim
        Principal axes of the recorded questions that are kept of a vector, besides a constant;
        None keeps the vectors as they are. Without records there are no axes to find.
    penalty
        Of the regression: large values learn slowly.
    trust
        Weight of a recorded outcome against one that is served.
    decay
        What an outcome still counts after another one of the same expert.
    encoder
        Plug-in name of an encoder, or an instance.
    """

    name = "online-linear"
    encoder_: Encoder
    axes_: FloatArray  # (dim of the encoder, dim)
    inverse_: FloatArray  # A^-1, (experts, dim + 1, dim + 1)
    moments_: FloatArray  # b, (experts, dim + 1)

    def __init__(
        self,
        dim: int | None = 32,
        penalty: float = 1.0,
        trust: float = 1.0,
        decay: float = 1.0,
        encoder: str | Encoder = "static",
    ) -> None:
        self.dim = dim
        self.penalty = penalty
        self.trust = trust
        self.decay = decay
        self.encoder = encoder

    def open(self, experts: Sequence[str]) -> Self:
        """Every expert at 0.5; ``dim`` is that of the encoder, which must not need a fit."""
        self._check_settings()
        self.encoder_ = make_encoder(self.encoder)
        self._start(tuple(experts), np.eye(self.encoder_.dim))
        return self

    def _start(self, experts: tuple[str, ...], axes: FloatArray) -> None:
        self.experts_, self.axes_ = experts, axes
        size = axes.shape[1] + 1
        self.inverse_ = np.tile(np.eye(size) / self.penalty, (len(experts), 1, 1))
        self.moments_ = np.zeros((len(experts), size))
        self._open_costs(len(experts))

    def _begin(self, records: Records) -> None:
        texts = [q.text for q in records.queries]
        self.encoder_ = make_encoder(self.encoder).fit(texts)
        raw = np.asarray(self.encoder_.encode(texts), float)
        self._start(records.experts, principal(raw, self.dim))
        vectors = self._context(raw)
        for column, scores in enumerate(records.quality.T):
            seen = np.flatnonzero(~np.isnan(scores))
            self._solve(column, vectors[seen], scores[seen])
        self._fit_costs(records.cost)

    def _solve(self, column: int, vectors: FloatArray, scores: FloatArray) -> None:
        """What updates with these outcomes in turn come to, in one step."""
        ages = np.arange(len(scores))[::-1]
        weights = self.trust * self.decay**ages
        precision = self.penalty * np.eye(vectors.shape[1])
        precision += vectors.T @ (weights[:, None] * vectors)
        self.inverse_[column] = np.linalg.inv(precision)
        self.moments_[column] = vectors.T @ (weights * (scores - 0.5))

    def _learn(self, query: Query, column: int, reward: float, weight: float) -> None:
        raw = np.asarray(self.encoder_.encode([query.text]), float)
        self.learn(self._context(raw)[0], column, reward, weight)

    def learn(self, context: FloatArray, column: int, reward: float, weight: float = 1.0) -> None:
        """One step of recursive least squares for an expert's column, from a context vector.

        Under ``decay`` what was learnt fades and the penalty does not.
        """
        inverse = self.inverse_[column]
        if self.decay < 1:
            kept = np.linalg.inv(inverse) * self.decay
            kept += (1 - self.decay) * self.penalty * np.eye(len(kept))
            inverse = np.linalg.inv(kept)
        turned = inverse @ context
        shrink = weight / (1 + weight * float(context @ turned))
        self.inverse_[column] = inverse - shrink * np.outer(turned, turned)
        self.moments_[column] = self.decay * self.moments_[column]
        self.moments_[column] += weight * (reward - 0.5) * context

    def context(self, queries: Sequence[Query]) -> FloatArray:
        """What the regressions see of the queries, (queries, dim + 1); a store may keep it."""
        self._check_fitted()
        return self._context(np.asarray(self.encoder_.encode([q.text for q in queries]), float))

    def _context(self, raw: FloatArray) -> FloatArray:
        return np.hstack([raw @ self.axes_, np.ones((len(raw), 1))])

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Posterior means and standard deviations."""
        context = self.context(queries)
        weights = np.einsum("ejk,ek->ej", self.inverse_, self.moments_)  # (experts, dim + 1)
        quality = np.clip(0.5 + context @ weights.T, 0.0, 1.0)
        spreads = [((context @ inverse) * context).sum(axis=1) for inverse in self.inverse_]
        error = NOISE * np.sqrt(np.maximum(np.column_stack(spreads), 0.0))
        return Estimates(self.experts_, quality, spread(self._costs(), queries), error=error)

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.dim is not None and not (isinstance(self.dim, int) and self.dim >= 1):
            raise InputError(
                f"expected a whole number of at least 1, got {self.dim!r}", field="dim"
            )
        for field in ("penalty", "trust"):
            value = getattr(self, field)
            if not 0 < value < np.inf:
                raise InputError(f"expected above 0, got {value!r}", field=field)


def principal(vectors: FloatArray, dim: int | None) -> FloatArray:
    """The first axes of the vectors' second moments, (dim of the vectors, at most ``dim``)."""
    size = vectors.shape[1]
    if dim is None or dim >= size:
        return np.eye(size)
    axes = np.linalg.eigh(vectors.T @ vectors)[1][:, ::-1][:, :dim]
    largest = np.abs(axes).argmax(axis=0)
    turned: FloatArray = axes * np.sign(axes[largest, np.arange(axes.shape[1])])
    return turned
