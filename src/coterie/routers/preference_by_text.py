"""Preference routers whose ranking is the query's own: what ``preference`` has, text by text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import numpy as np

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.folds import deal_rows, text_groups
from coterie.records import Records
from coterie.routers import ranking
from coterie.routers.base import make_encoder
from coterie.routers.preference import Preference, check_ridge
from coterie.types import Estimates, FloatArray, IntArray, Query

PENALTIES = np.logspace(-1, 4, 11)
BASES = tuple(10.0**power for power in range(1, 7))
BLOCK = 256  # queries whose strengths are solved side by side
PROBES = 512  # recorded queries that the scale of SimilarityWeighted is learnt from, at most


class P2L(Preference):
    """Prompt-to-leaderboard: Bradley-Terry strengths that depend on the query's text.

    Strengths are the global ones plus a linear map of the query's vector (Frick et al. 2025, whose
    language model is here a frozen encoder), fitted by penalised likelihood, a tie being half a win
    for both. The penalty is the largest whose log-loss in 3-fold cross-validation by text is within
    one standard error of the least, where each candidate is judged by one Newton step from the
    global strengths: where the text tells nothing, P2L is BradleyTerry. ``error`` is the Laplace
    approximation with a Kronecker-factored Hessian, widened as in BradleyTerry.

    Parameters
    ----------
    encoder
        Plug-in name of an encoder, or an instance.
    ridge
        Penalty of the global strengths, as in BradleyTerry.
    soft
        Whether a battle's result is 0.5 + (a - b) / 2 instead of won, tied or lost.
    seed
        Of the folds.

    Raises
    ------
    InputError
        From ``fit``, if ``ridge`` is not positive.
    """

    name = "p2l"
    encoder_: Encoder
    strengths_: FloatArray
    centre_: FloatArray
    weights_: FloatArray
    covariance_: FloatArray
    axes_: FloatArray
    modes_: FloatArray
    open_: FloatArray

    def __init__(
        self,
        encoder: str | Encoder = "static",
        ridge: float = 0.1,
        soft: bool = False,
        seed: int = 0,
    ) -> None:
        self.encoder, self.ridge, self.soft, self.seed = encoder, ridge, soft, seed

    def fit(self, records: Records) -> Self:
        """Fit the global strengths, choose the penalty, then maximise the likelihood."""
        check_ridge(self.ridge)
        self._prepare(records)
        texts, scores = [q.text for q in records.queries], records.quality
        self.encoder_ = make_encoder(self.encoder).fit(texts)
        vectors = np.asarray(self.encoder_.encode(texts), float)
        self.centre_ = vectors.mean(axis=0)
        problem = ranking.Conditional(vectors - self.centre_, scores, self.ridge, self.soft)
        folds = _folds_by_text(texts, 3, self.seed)
        self.penalty_, held_out = problem.choose_penalty(folds, PENALTIES)
        self._set_scale(held_out, scores)
        self.weights_ = problem.maximise(self.penalty_)
        self._keep(problem)
        self.experts_ = records.experts
        return self

    def _keep(self, problem: ranking.Conditional) -> None:
        """What ``predict`` needs of the problem."""
        self.strengths_, self.covariance_ = problem.base.strengths, problem.base.covariance
        spans, self.axes_ = np.linalg.eigh(problem.moments)
        self.modes_, self.wider_ = problem.modes, problem.base.wider
        # what the data leave open in each axis of the vectors and mode of the experts
        self.open_ = 1 / (np.outer(np.maximum(spans, 0.0), problem.curvatures) + self.penalty_)

    def strengths(self, queries: Sequence[Query]) -> FloatArray:
        """The global strengths plus what the query's vector adds."""
        return self.strengths_ + self._vectors(queries) @ self.weights_

    def _vectors(self, queries: Sequence[Query]) -> FloatArray:
        self._check_fitted()
        encoded = self.encoder_.encode([q.text for q in queries])
        centred: FloatArray = np.asarray(encoded, float) - self.centre_
        return centred

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Win shares under each query's own strengths."""
        vectors = self._vectors(queries)
        strengths = self.strengths_ + vectors @ self.weights_
        variances = self.wider_ * ((vectors @ self.axes_) ** 2 @ self.open_)
        error = np.empty(strengths.shape)
        for part in ranking.blocks(*strengths.shape):
            covariance = self.modes_ * variances[part, None, :] @ self.modes_.T + self.covariance_
            error[part] = ranking.win_share_error(strengths[part], covariance)
        return self._estimates(queries, strengths, error)


class SimilarityWeighted(Preference):
    """Bradley-Terry strengths of the query's own ranking, in which similar queries weigh more.

    RouteLLM's similarity-weighted ranking (Ong et al. 2024, section 4.2): the battles of a recorded
    query weigh ``base ** (similarity / largest similarity)``, where RouteLLM has base 10, and each
    asked query solves its own Bradley-Terry problem. The likelihood needs only the weighted sums
    over battles, so no battle has to be left out; RouteLLM's grouping of models into ten tiers,
    which pools the sparse battles of many models, has the ridge in its place. Similarities below
    zero count as zero. ``error`` is from the Hessian with the weights' effective number of queries,
    widened as in BradleyTerry.

    Parameters
    ----------
    base
        How many times more the most similar query weighs than an unrelated one; None for the power
        of ten up to 10**6 that predicts up to 512 recorded queries best, each text left out in
        turn: the smallest whose log-loss is within one standard error of the least.
    nearest
        Recorded queries that count at all, the most similar; None for all.
    encoder
        Plug-in name of an encoder, or an instance.
    ridge
        Weight of the penalty where the most similar query weighs 1, as in BradleyTerry.
    soft
        Whether a battle's result is 0.5 + (a - b) / 2 instead of won, tied or lost.

    Raises
    ------
    InputError
        From ``fit``, if ``base`` is below 1, ``nearest`` below 1 or ``ridge`` not positive.
    """

    name = "similarity-weighted"
    encoder_: Encoder
    vectors_: FloatArray
    scores_: FloatArray

    def __init__(
        self,
        base: float | None = None,
        nearest: int | None = None,
        encoder: str | Encoder = "static",
        ridge: float = 0.1,
        soft: bool = False,
    ) -> None:
        self.base, self.nearest, self.encoder = base, nearest, encoder
        self.ridge, self.soft = ridge, soft

    def fit(self, records: Records) -> Self:
        """Remember queries and scores; learn the scale from queries left out one at a time."""
        check_ridge(self.ridge)
        if min(self.base or 1, 1 if self.nearest is None else self.nearest) < 1:
            message = f"expected at least 1, got {self.base} and {self.nearest}"
            raise InputError(message, field="base, nearest")
        self._prepare(records)
        texts = [q.text for q in records.queries]
        self.texts_ = tuple(texts)
        self.encoder_ = make_encoder(self.encoder).fit(texts)
        self.vectors_, self.scores_ = self.encoder_.encode(texts), records.quality.copy()
        self.wider_ = ranking.fit_global(self.scores_, self.ridge, self.soft).wider
        self._learn_from(_probes(records))
        self.experts_ = records.experts
        return self

    def _learn_from(self, probes: IntArray) -> None:
        """Choose the base and set the scale by recorded queries, each text left out in turn."""
        group = text_groups(self.texts_)
        similarity = self.vectors_[probes] @ self.vectors_.T
        similarity[group[probes][:, None] == group] = -np.inf
        scores, held, losses = self.scores_[probes], [], []
        bases = BASES if self.base is None else (float(self.base),)
        for self.base_ in bases:
            held.append(self._solve(similarity)[0])
            losses.append(ranking.score_battles(scores, held[-1], self.soft)[0])
        chosen = ranking.plainest(np.array(losses))
        self.base_ = bases[chosen]
        self._set_scale(held[chosen], scores)
        self.scale_["level"] = float(np.nanmean(self.scores_))

    def strengths(self, queries: Sequence[Query]) -> FloatArray:
        """Those of each query's own ranking."""
        self._check_fitted()
        found = np.empty((len(queries), len(self.experts_)))
        for start in range(0, len(queries), BLOCK):
            part = slice(start, start + BLOCK)
            found[part], _ = self._solve(self._similarity(queries[part]))
        return found

    def _similarity(self, queries: Sequence[Query]) -> FloatArray:
        """To every recorded query, (queries, recorded)."""
        similarity: FloatArray = self.encoder_.encode([q.text for q in queries]) @ self.vectors_.T
        return similarity

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Win shares in each query's own ranking; the evidence names the nearest query."""
        self._check_fitted()
        shape = (len(queries), len(self.experts_))
        strengths, error = np.empty(shape), np.empty(shape)
        evidence: list[str] = []
        for start in range(0, len(queries), BLOCK):
            part = slice(start, start + BLOCK)
            similarity = self._similarity(queries[part])
            strengths[part], covariance = self._solve(similarity)
            error[part] = ranking.win_share_error(strengths[part], covariance)
            nearest = similarity.argmax(axis=1)
            evidence += [f"nearest recorded query: {self.texts_[i][:80]!r}" for i in nearest]
        return replace(self._estimates(queries, strengths, error), evidence=tuple(evidence))

    def _solve(self, similarity: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Strengths (queries, experts) and covariances; a similarity of -inf leaves a query out."""
        weights = self._weigh(similarity)
        battles = ranking.tally(self.scores_, self.soft, weights)
        strengths, information = ranking.fit_strengths(battles, self.ridge)
        mass = np.maximum(weights.sum(axis=1, dtype=float), 1e-12)
        factor = self.wider_ * (weights**2).sum(axis=1, dtype=float) / mass
        return strengths, factor[:, None, None] * np.linalg.inv(information)

    def _weigh(self, similarity: FloatArray) -> FloatArray:
        """Weights of the recorded queries, at most 1; (queries, recorded)."""
        if self.nearest is not None and self.nearest < similarity.shape[1]:
            least = -np.partition(-similarity, self.nearest - 1, axis=1)[:, self.nearest - 1]
            similarity = np.where(similarity < least[:, None], -np.inf, similarity)
        steepness = float(np.log(self.base_))
        rate = steepness / np.maximum(similarity.max(axis=1, keepdims=True), 1e-6)
        weights = np.exp(np.maximum(similarity, 0) * rate - steepness)
        weights[np.isneginf(similarity)] = 0.0
        return np.asarray(weights)


def _probes(records: Records) -> IntArray:
    """Up to ``PROBES`` rows with scores, evenly spaced."""
    seen = np.flatnonzero(records.observed.any(axis=1))
    return np.unique(seen[np.linspace(0, len(seen) - 1, PROBES).astype(int)])


def _folds_by_text(texts: Sequence[str], count: int, seed: int) -> list[IntArray]:
    """Rows in disjoint parts, equal texts in the same one; none for fewer texts than parts."""
    groups = text_groups(texts)
    if groups.max() + 1 < 2 * count:
        return []
    part_of = deal_rows(groups, count, seed)
    return [np.flatnonzero(part_of == part) for part in range(count)]
