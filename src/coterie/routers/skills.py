"""Symbolic-MoE's router: what experts did on the skills a question needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.records import Records
from coterie.routers.base import Router, make_encoder, mean_or, require_rows, spread
from coterie.skills import TermAnnotator, incidence, map_skills, profile
from coterie.types import Estimates, FloatArray, Query

ANNOTATORS = ("terms", "tags")


class Skills(Router):
    """Skill profiles: +1 per right and -1 per wrong answer on every skill of a question.

    ``suitability`` is the paper's local score S (NaN for a question without skills), ``strength``
    the profile totals behind its global competency. ``quality`` is the expected score: the mean
    over the question's skills of the expert's score there, shrunk to its overall mean; a skill
    weighs the less the more questions have it.

    Parameters
    ----------
    annotator
        ``terms`` (no language model) or ``tags`` (``Query.tags`` hold keywords, for example from
        the ``annotate`` composition with an annotating expert).
    shrinkage
        Weight of the overall mean, in questions.
    encoder
        Plug-in name of an encoder, or an instance; maps skills and finds nearest questions.
    """

    name = "skills"
    encoder_: Encoder
    points_: FloatArray
    counts_: FloatArray
    mean_: FloatArray
    cost_: FloatArray
    vectors_: FloatArray

    def __init__(
        self,
        annotator: str = "terms",
        shrinkage: float = 0.5,
        encoder: str | Encoder = "static",
    ) -> None:
        self.annotator = annotator
        self.shrinkage = shrinkage
        self.encoder = encoder

    def fit(self, records: Records) -> Self:
        """Annotate the recorded queries and add up every expert's points."""
        require_rows(records)
        if self.annotator not in ANNOTATORS:
            message = f"expected one of {', '.join(ANNOTATORS)}, got {self.annotator!r}"
            raise InputError(message, field="annotator")
        texts = [q.text for q in records.queries]
        self.experts_ = records.experts
        self.encoder_ = make_encoder(self.encoder).fit(texts)
        annotator = TermAnnotator(self.encoder_).fit(texts)
        self.vectors_, self.known_ = annotator.vectors, annotator.known
        keywords = self._keywords(records.queries)
        self.vocabulary_ = tuple(sorted({word for words in keywords for word in words}))
        self.points_, self.counts_ = profile(records.quality, keywords, self.vocabulary_)
        self.mean_, self.cost_ = mean_or(records.quality, 0.0), mean_or(records.cost, 0.0)
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Expected scores with the paper's local and global skill scores beside them."""
        self._check_fitted()
        keywords = self._keywords(queries)
        mapped = map_skills(keywords, self.vocabulary_, self.encoder_)
        named = incidence(mapped, len(self.vocabulary_))  # (queries, skills)
        local = named @ self.points_.T
        local[named.sum(axis=1) == 0] = np.nan
        return Estimates(
            self.experts_,
            self._expected(named),
            spread(self.cost_, queries),
            suitability=local,
            strength=self.points_.sum(axis=1),
            evidence=tuple(self._evidence(k, m) for k, m in zip(keywords, mapped, strict=True)),
        )

    def keywords(self, queries: Sequence[Query]) -> list[tuple[str, ...]]:
        """Skill keywords of the queries."""
        self._check_fitted()
        return self._keywords(queries)

    def _keywords(self, queries: Sequence[Query]) -> list[tuple[str, ...]]:
        if self.annotator == "tags":
            return [q.tags for q in queries]
        params: Mapping[str, Any] = {"known": self.known_}
        annotator = TermAnnotator.restore(self.encoder_, params, {"vectors": self.vectors_})
        return annotator.keywords([q.text for q in queries])

    def _expected(self, named: Any) -> FloatArray:
        """Mean over named skills of the shrunk score, rare skills first, (queries, experts)."""
        right = (self.points_ + self.counts_) / 2
        mass = self.counts_ + self.shrinkage
        shrunk = (right + self.shrinkage * self.mean_[:, None]) / np.maximum(mass, 1e-12)
        scores = np.where(mass > 0, shrunk, self.mean_[:, None])
        rarity = 1 / np.maximum(self.counts_.max(axis=0, initial=0.0), 1)
        weight = (named @ rarity)[:, None]
        means = (named @ (scores * rarity).T) / np.maximum(weight, 1e-300)
        return np.asarray(np.where(weight > 0, means, self.mean_))

    def _evidence(self, keywords: Sequence[str], mapped: Sequence[int]) -> str:
        if not keywords:
            return "no skill recognised: overall means decide"
        if not mapped:
            return "no skill was profiled: overall means decide"
        pairs = zip(keywords, (self.vocabulary_[s] for s in mapped), strict=True)
        shown = [word if word == skill else f"{word} (as {skill})" for word, skill in pairs]
        return "skills: " + ", ".join(shown)
