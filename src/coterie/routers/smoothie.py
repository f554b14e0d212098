"""Smoothie: quality without a single label, from how much the experts' recorded answers agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from coterie.agreement import FEWEST, pair_distances, truth_distances
from coterie.answers import extractor
from coterie.errors import InputError
from coterie.features import Encoder
from coterie.index import Index
from coterie.records import Records
from coterie.routers.base import Router, make_encoder, mean_or, spread
from coterie.types import Estimates, FloatArray, Query


class Smoothie(Router):
    """Expected likeness of each expert's answer to the right one, from recorded answers alone.

    Scores are not read. The answers' vectors of the k most similar recorded queries give every
    expert's mean squared distance e to the right answer (see ``agreement``), and the quality is
    1 - e / 2: for unit vectors the expected cosine to the right answer. It ranks experts as the
    paper's weights do, and is no chance of being right.

    Parameters
    ----------
    k
        Recorded queries per query (the paper's neighbourhood). None takes all of them: one ranking
        for every query (Smoothie-Global).
    extract
        Name of what reads an answer from a text before it is encoded: ``whole``, ``number``, ...
    encoder
        Plug-in name of an encoder, or an instance, for queries and answers.
    """

    name = "smoothie"
    encoder_: Encoder
    vectors_: FloatArray
    pairs_: FloatArray
    cost_: FloatArray

    def __init__(
        self, k: int | None = 20, extract: str = "whole", encoder: str | Encoder = "static"
    ) -> None:
        self.k = k
        self.extract = extract
        self.encoder = encoder

    def fit(self, records: Records) -> Self:
        """Remember how far the answers are apart; InputError with answers of less than three."""
        if self.k is not None and self.k < 1:
            raise InputError(f"expected at least 1, got {self.k!r}", field="k")
        read, answers = extractor(self.extract), records.texts
        said = np.array([[t is not None for t in row] for row in answers], bool)
        if not said.size or (said.sum(axis=1) >= FEWEST).sum() == 0:
            message = f"no query has recorded answers of {FEWEST} experts, which agreement needs"
            raise InputError(message, field="texts")
        texts = [q.text for q in records.queries]
        encoder = make_encoder(self.encoder).fit(texts)
        vectors = np.full((*said.shape, encoder.dim), np.nan)
        vectors[said] = encoder.encode([read(text) for text in answers[said]])
        self.vectors_ = np.ascontiguousarray(encoder.encode(texts), np.float32)
        upper = np.triu_indices(said.shape[1], 1)
        self.pairs_ = pair_distances(vectors)[:, *upper].astype(np.float32)
        self.cost_ = mean_or(records.cost, 0.0)
        self.encoder_, self.experts_ = encoder, records.experts
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Expected cosines to the right answer, within [0, 1], and mean costs."""
        self._check_fitted()
        if self.k is None:
            apart = spread(self._apart(self.pairs_), queries)
        else:
            vectors = self.encoder_.encode([q.text for q in queries])
            near, _ = Index(self.vectors_).nearest(vectors, self.k)
            found = [self._apart(self.pairs_[rows]) for rows in near]
            apart = np.array(found).reshape(-1, len(self.experts_))
        quality = np.clip(1 - apart / 2, 0.0, 1.0)
        return Estimates(self.experts_, quality, spread(self.cost_, queries))

    def _apart(self, recorded: FloatArray) -> FloatArray:
        """Mean squared distances to the truth over records of shape (queries, pairs)."""
        count = len(self.experts_)
        pairs = np.full((count, count), np.nan)
        pairs[np.triu_indices(count, 1)] = mean_or(np.asarray(recorded, float), np.nan)
        return truth_distances(np.fmax(pairs, pairs.T))
