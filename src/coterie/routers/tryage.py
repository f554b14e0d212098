"""Tryage: a head predicts the loss of every expert on the prompt (Hari and Thomson 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.records import Records
from coterie.routers.base import Router, make_encoder, require_rows
from coterie.routers.linear import (
    check_option,
    fit_cost,
    fit_ridge,
    posterior,
    predict_cost,
    principal_axes,
    standard_error,
    with_intercept,
)
from coterie.types import Estimates, FloatArray, Query

LOSSES = ("error", "nats")
WORST = 16.0  # nats: a score of 1e-7; the loss of a score of 0 has no end


class Tryage(Router):
    """Regresses the losses of the experts on the prompt's vector (arXiv 2308.11601).

    Tryage chooses the least predicted loss plus weighted penalties on what an expert is (its size,
    age, price ...). This is the loss; the policy ``penalties`` has the rest. The paper fine-tunes a
    small BERT; here a ridge regression an expert reads an encoder's vector and random Fourier
    features of it (Rahimi and Recht 2007). ``quality`` is the predicted loss turned
    back into a score, so the largest is the least loss; ``error`` is its standard error.

    Parameters
    ----------
    encoder
        Plug-in name of an encoder, or an instance.
    loss
        ``error`` is 1 - score; ``nats`` is -log(score), for scores that are exp(-loss), as those
        of language models by their loss a token (at most 16).
    features
        Random features beside the vector; 0 leaves a linear regression.
    seed
        Draws the features.
    """

    name = "tryage"
    encoder_: Encoder
    waves_: FloatArray
    loss_: FloatArray
    cost_: FloatArray
    axes_: FloatArray
    variance_: FloatArray

    def __init__(
        self,
        encoder: str | Encoder = "static",
        loss: str = "error",
        features: int = 512,
        seed: int = 0,
    ) -> None:
        self.encoder = encoder
        self.loss = loss
        self.features = features
        self.seed = seed

    def fit(self, records: Records) -> Self:
        """Solve the regressions in closed form; InputError for an unknown ``loss``."""
        require_rows(records)
        check_option("loss", self.loss, LOSSES)
        if not (isinstance(self.features, int) and self.features >= 0):
            raise InputError(f"expected at least 0, got {self.features!r}", field="features")
        texts = [q.text for q in records.queries]
        self.experts_ = records.experts
        self.encoder_ = make_encoder(self.encoder).fit(texts)
        vectors = np.asarray(self.encoder_.encode(texts), float)
        generator = np.random.default_rng(self.seed)
        turns = generator.normal(size=(vectors.shape[1], self.features))
        self.waves_ = np.vstack([turns, generator.uniform(0, 2 * np.pi, self.features)])
        seen = self._seen(vectors)
        fitted = fit_ridge(seen, losses(records.quality, self.loss))
        self.loss_ = fitted.coefficients
        self.axes_, strength = principal_axes(seen)
        self.variance_ = posterior(strength, len(seen), fitted)
        self.cost_ = fit_cost(vectors, records.cost)
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Predicted losses as scores, and ridge predictions of the cost."""
        self._check_fitted()
        vectors = self.encoder_.encode([q.text for q in queries])
        seen = self._seen(vectors)
        loss = np.maximum(with_intercept(seen) @ self.loss_, 0.0)
        error = standard_error(seen, self.axes_, self.variance_)
        if self.loss == "nats":
            quality = np.exp(-loss)
            error = error * quality  # the delta method
        else:
            quality = np.maximum(1 - loss, 0.0)
        return Estimates(self.experts_, quality, predict_cost(vectors, self.cost_), error=error)

    def _seen(self, vectors: FloatArray) -> FloatArray:
        """The vectors with their random features, (queries, dim + features)."""
        waves = np.cos(with_intercept(vectors) @ self.waves_)
        return np.hstack([vectors, waves * np.sqrt(2 / max(self.features, 1))])


def losses(scores: FloatArray, kind: str) -> FloatArray:
    """Losses of these scores, NaN where one is; see ``Tryage``."""
    if kind == "error":
        return np.asarray(1 - scores)
    return np.asarray(-np.log(np.maximum(scores, np.exp(-WORST))))
