"""Preference routers: experts ranked by who beats whom, globally or for the query at hand.

Two experts observed on one query fight one battle: the better score wins, equal scores tie.
Pairwise human preferences are records with two observed experts a query. Battles tell who is
better, not how good: ``quality`` is the mean probability of beating the other experts, put on the
scale of the observed scores by one straight line for all experts (``ranking.fit_scale``), so it
holds the gaps between experts while a query's own difficulty stays unknown. ``cost`` is the mean of
each expert's observed costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Self

import numpy as np

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.records import Records
from coterie.routers import ranking
from coterie.routers.base import Router, make_encoder, mean_or, require_rows, spread
from coterie.types import Estimates, FloatArray, IntArray, Query

POINTS = 400 / np.log(10)  # rating points of the Elo scale in one unit of log-odds
START = 1000.0  # a new expert's rating
PENALTIES = np.logspace(-1, 4, 11)
BASES = tuple(10.0**power for power in range(1, 7))
BLOCK = 256  # queries whose strengths are solved side by side
PROBES = 512  # recorded queries that the scale of SimilarityWeighted is learnt from, at most


class _Preference(Router):
    """What the preference routers share: battles, costs and the line from shares to scores."""

    cost_: FloatArray
    scale_: dict[str, float]
    soft: bool

    def _prepare(self, records: Records) -> None:
        require_rows(records)
        self.cost_ = mean_or(records.cost, 0.0)

    def _set_scale(self, strengths: FloatArray, scores: FloatArray) -> None:
        share = np.broadcast_to(ranking.win_share(strengths), scores.shape)
        self.scale_ = asdict(ranking.fit_scale(share, scores))

    def _estimates(
        self, queries: Sequence[Query], strengths: FloatArray, share_error: FloatArray
    ) -> Estimates:
        """Estimates from strengths and errors of the win shares, both (queries, experts)."""
        scale = ranking.Scale(**self.scale_)
        quality = scale.quality(ranking.win_share(strengths))
        cost = spread(self.cost_, queries)
        return Estimates(self.experts_, quality, cost, error=scale.slope * share_error)


class _Global(_Preference):
    """Strengths that do not depend on the query."""

    strengths_: FloatArray
    covariance_: FloatArray

    @property
    def ratings(self) -> dict[str, float]:
        """Ratings on the Elo scale: 400 points are odds of ten to one, the mean is 1,000."""
        self._check_fitted()
        points = START + POINTS * (self.strengths_ - self.strengths_.mean())
        return dict(zip(self.experts_, points.tolist(), strict=True))

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """The same estimates for every query; ``error`` is that of the strengths."""
        self._check_fitted()
        error = ranking.win_share_error(self.strengths_, self.covariance_)
        return self._estimates(queries, spread(self.strengths_, queries), spread(error, queries))


class Elo(_Global):
    """Elo ratings after all battles, averaged over random orders of the queries.

    A query is one round: each expert moves by ``k`` points times its mean surplus over what its
    rating led to expect of its opponents (with two experts, Elo's own update). ``error`` comes from
    as many orders of queries drawn with replacement.

    Parameters
    ----------
    k
        Points at stake a query.
    orders
        Random orders to average over.
    soft
        Whether a battle's result is 0.5 + (a - b) / 2 instead of won, tied or lost.
    seed
        Of the orders.

    Raises
    ------
    InputError
        From ``fit``, if ``k`` is not positive or ``orders`` is below 2.
    """

    name = "elo"

    def __init__(self, k: float = 4.0, orders: int = 20, soft: bool = False, seed: int = 0) -> None:
        self.k, self.orders, self.soft, self.seed = k, orders, soft, seed

    def fit(self, records: Records) -> Self:
        """Play all battles in every order."""
        if self.k <= 0 or self.orders < 2:
            message = f"expected k above 0 and orders of at least 2, got {self.k} and {self.orders}"
            raise InputError(message, field="k, orders")
        self._prepare(records)
        final = self._play(records.quality) / POINTS  # (2 orders, experts), the second half drawn
        self.strengths_ = final[: self.orders].mean(axis=0)
        deviations = final[self.orders :] - final[self.orders :].mean(axis=0)
        self.covariance_ = deviations.T @ deviations / (self.orders - 1)
        self._set_scale(self.strengths_, records.quality)
        self.experts_ = records.experts
        return self

    def _play(self, scores: FloatArray) -> FloatArray:
        """Rating points gained after the last query, a row for each order; then the drawn ones."""
        generator = np.random.default_rng(self.seed)
        rows = len(scores)
        orders = [generator.permutation(rows) for _ in range(self.orders)]
        orders += [generator.integers(0, rows, rows) for _ in range(self.orders)]
        points = np.zeros((len(orders), scores.shape[1]))
        for at in np.transpose(orders):  # (orders,): the row that each order plays next
            outcome = ranking.results(scores[at], self.soft)
            surplus = np.nan_to_num(outcome - ranking.beats(points / POINTS)).sum(axis=-1)
            opponents = (~np.isnan(outcome)).sum(axis=-1)
            points += self.k * surplus / np.maximum(opponents, 1)
        return points


class BradleyTerry(_Global):
    """Strengths of greatest likelihood under the Bradley-Terry model, ties being half wins.

    ``error`` is from the Hessian, widened where the battles of one query depend on each other as
    they share scores (``ranking.inflation``).

    Parameters
    ----------
    ridge
        Weight of the penalty, half the squared log-odds; keeps an unbeaten expert finite.
    soft
        Whether a battle's result is 0.5 + (a - b) / 2 instead of won, tied or lost.

    Raises
    ------
    InputError
        From ``fit``, if ``ridge`` is not positive.
    """

    name = "bradley-terry"

    def __init__(self, ridge: float = 0.1, soft: bool = False) -> None:
        self.ridge, self.soft = ridge, soft

    def fit(self, records: Records) -> Self:
        """Solve for the strengths by Newton's method."""
        _check_ridge(self.ridge)
        self._prepare(records)
        found = ranking.fit_global(records.quality, self.ridge, self.soft)
        self.strengths_, self.covariance_ = found.strengths, found.covariance
        self._set_scale(self.strengths_, records.quality)
        self.experts_ = records.experts
        return self


class P2L(_Preference):
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
        _check_ridge(self.ridge)
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

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Win shares under each query's own strengths."""
        self._check_fitted()
        vectors = np.asarray(self.encoder_.encode([q.text for q in queries]), float) - self.centre_
        strengths = self.strengths_ + vectors @ self.weights_
        variances = self.wider_ * ((vectors @ self.axes_) ** 2 @ self.open_)
        error = np.empty(strengths.shape)
        for part in ranking.blocks(*strengths.shape):
            covariance = self.modes_ * variances[part, None, :] @ self.modes_.T + self.covariance_
            error[part] = ranking.win_share_error(strengths[part], covariance)
        return self._estimates(queries, strengths, error)


class SimilarityWeighted(_Preference):
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
        _check_ridge(self.ridge)
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
        group = _numbers(self.texts_)
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

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Win shares in each query's own ranking; the evidence names the nearest query."""
        self._check_fitted()
        shape = (len(queries), len(self.experts_))
        strengths, error = np.empty(shape), np.empty(shape)
        evidence: list[str] = []
        for start in range(0, len(queries), BLOCK):
            part = slice(start, start + BLOCK)
            similarity = self.encoder_.encode([q.text for q in queries[part]]) @ self.vectors_.T
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
        mass = np.maximum(weights.sum(axis=1), 1e-12)
        factor = self.wider_ * (weights**2).sum(axis=1) / mass
        return strengths, factor[:, None, None] * np.linalg.inv(information)

    def _weigh(self, similarity: FloatArray) -> FloatArray:
        """Weights of the recorded queries, at most 1; (queries, recorded)."""
        if self.nearest is not None and self.nearest < similarity.shape[1]:
            least = -np.partition(-similarity, self.nearest - 1, axis=1)[:, self.nearest - 1]
            similarity = np.where(similarity < least[:, None], -np.inf, similarity)
        rate = np.log(self.base_) / np.maximum(similarity.max(axis=1, keepdims=True), 1e-6)
        weights = np.exp(np.maximum(similarity, 0) * rate - np.log(self.base_))
        weights[np.isneginf(similarity)] = 0.0
        return np.asarray(weights, float)


def _probes(records: Records) -> IntArray:
    """Up to ``PROBES`` rows with scores, evenly spaced."""
    seen = np.flatnonzero(records.observed.any(axis=1))
    return np.unique(seen[np.linspace(0, len(seen) - 1, PROBES).astype(int)])


def _check_ridge(ridge: float) -> None:
    if not ridge > 0:
        raise InputError(f"expected a number above 0, got {ridge}", field="ridge")


def _folds_by_text(texts: Sequence[str], count: int, seed: int) -> list[IntArray]:
    """Rows in disjoint parts, equal texts in the same one; none for fewer texts than parts."""
    group = _numbers(texts)
    unique = int(group.max()) + 1
    if unique < 2 * count:
        return []
    part_of = np.random.default_rng(seed).permutation(unique) % count
    return [np.flatnonzero(part_of[group] == part) for part in range(count)]


def _numbers(texts: Sequence[str]) -> IntArray:
    """A number for each text, equal for equal ones."""
    number: dict[str, int] = {}
    return np.array([number.setdefault(text, len(number)) for text in texts])
