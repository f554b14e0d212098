"""Preference routers: experts ranked by who beats whom, here once for all queries.

Two experts observed on one query fight one battle: the better score wins, equal scores tie.
Pairwise human preferences are records with two observed experts a query. Battles tell who is
better, not how good: ``quality`` is the mean probability of beating the other experts, put on the
scale of the observed scores by one straight line for all experts (``ranking.fit_scale``), so it
holds the gaps between experts while a query's own difficulty stays unknown. ``cost`` is the mean of
each expert's observed costs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from typing import Self

import numpy as np

from coterie.errors import InputError
from coterie.records import Records
from coterie.routers import ranking
from coterie.routers.base import Router, mean_or, require_rows, spread
from coterie.types import Estimates, FloatArray, Query

POINTS = 400 / np.log(10)  # rating points of the Elo scale in one unit of log-odds
START = 1000.0  # a new expert's rating


class Preference(Router):
    """What the preference routers share: battles, costs and the line from shares to scores."""

    cost_: FloatArray
    scale_: dict[str, float]
    soft: bool

    @abstractmethod
    def strengths(self, queries: Sequence[Query]) -> FloatArray:
        """Log-odds of every expert on every query, (queries, experts): differences are battles'."""

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


class _Global(Preference):
    """Strengths that do not depend on the query."""

    strengths_: FloatArray
    covariance_: FloatArray

    @property
    def ratings(self) -> dict[str, float]:
        """Ratings on the Elo scale: 400 points are odds of ten to one, the mean is 1,000."""
        self._check_fitted()
        points = START + POINTS * (self.strengths_ - self.strengths_.mean())
        return dict(zip(self.experts_, points.tolist(), strict=True))

    def strengths(self, queries: Sequence[Query]) -> FloatArray:
        """The same strengths for every query."""
        self._check_fitted()
        return spread(self.strengths_, queries)

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """The same estimates for every query; ``error`` is that of the strengths."""
        strengths = self.strengths(queries)
        error = ranking.win_share_error(self.strengths_, self.covariance_)
        return self._estimates(queries, strengths, spread(error, queries))


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
        seen = (~np.isnan(scores)).astype(float)
        won, opponents = _sums_of_results(scores, self.soft)
        for at in np.transpose(orders):  # (orders,): the row that each order plays next
            power = np.exp((points - points.max(axis=1, keepdims=True)) / POINTS)
            chance = power[:, :, None] / (power[:, :, None] + power[:, None, :])
            met = (chance @ seen[at][:, :, None])[:, :, 0] - 0.5  # nobody meets itself
            points += self.k * (won[at] - seen[at] * met) / np.maximum(opponents[at], 1)
        return points


def _sums_of_results(scores: FloatArray, soft: bool) -> tuple[FloatArray, FloatArray]:
    """What each expert got of all others on each row, and how many it met; (rows, experts)."""
    won, opponents = np.zeros((2, *scores.shape))
    for part in ranking.blocks(*scores.shape):
        outcome = ranking.results(scores[part], soft)
        won[part] = np.nansum(outcome, axis=-1)
        opponents[part] = (~np.isnan(outcome)).sum(axis=-1)
    return won, opponents


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
        check_ridge(self.ridge)
        self._prepare(records)
        found = ranking.fit_global(records.quality, self.ridge, self.soft)
        self.strengths_, self.covariance_ = found.strengths, found.covariance
        self._set_scale(self.strengths_, records.quality)
        self.experts_ = records.experts
        return self


def check_ridge(ridge: float) -> None:
    """Raise InputError unless the penalty is positive."""
    if not ridge > 0:
        raise InputError(f"expected a number above 0, got {ridge}", field="ridge")
