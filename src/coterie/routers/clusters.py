"""Clusters of questions: what every expert scores on the recorded ones of the query's cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.index import distances, learn_centres
from coterie.records import Records
from coterie.routers.base import Router, make_encoder, mean_or, require_rows
from coterie.routers.tables import (
    Effects,
    GroupMeans,
    contrast_error,
    find_effects,
    learn_group_means,
    mixture,
    overall_means,
)
from coterie.types import Estimates, FloatArray, IntArray, Query

CLUSTERS = (4, 8, 16, 32, 64, 128)
SMALLEST = 4  # recorded queries a cluster, on average, for a number of clusters to be tried


class KMeans(Router):
    """UniRoute's cluster router: an expert is its vector of mean scores per k-means cluster.

    After Jitkrittum et al. (2025, arXiv 2502.08773), with each mean shrunk by empirical Bayes to
    the expert's overall mean plus what the cluster is to all experts. A query in which the encoder
    knows nothing gets the overall means. ``add_expert`` adds an expert without another fit.

    Parameters
    ----------
    clusters
        How many; None chooses the number of least leave-one-out squared error of the
        differences between experts (the clusters themselves are found without scores).
    temperature
        Of a softmax of negative distances that shares a query among clusters; 0 gives it to the
        nearest one.
    encoder
        Plug-in name of an encoder, or an instance.
    """

    name = "kmeans"
    encoder_: Encoder
    centres_: FloatArray
    counts_: IntArray
    quality_: FloatArray
    variance_: FloatArray
    cost_: FloatArray
    easiness_: FloatArray
    within_: float
    between_: float

    def __init__(
        self,
        clusters: int | None = None,
        temperature: float = 0.0,
        encoder: str | Encoder = "static",
    ) -> None:
        self.clusters = clusters
        self.temperature = temperature
        self.encoder = encoder

    def fit(self, records: Records) -> Self:
        """Find clusters, then each expert's means in them."""
        require_rows(records)
        _require_count(self.clusters)
        if not self.temperature >= 0:
            raise InputError(f"expected at least 0, got {self.temperature}", field="temperature")
        texts = [q.text for q in records.queries]
        encoder = make_encoder(self.encoder).fit(texts)
        self.centres_, groups, means = self._choose(encoder.encode(texts), records.quality)
        mean, variance, _ = overall_means(records.quality)
        self.counts_ = np.bincount(groups[groups >= 0], minlength=len(self.centres_))
        self.quality_ = np.clip(np.vstack([mean, means.value]), 0.0, 1.0)
        self.variance_ = np.vstack([variance + means.unseen, variance + means.variance])
        self.cost_ = _cost_table(records.cost, groups, len(self.centres_))
        self.easiness_ = means.common.mean[:, 0]
        self.within_, self.between_ = float(means.own.within.mean()), means.own.between
        self.encoder_, self.experts_ = encoder, records.experts
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """The means of the query's cluster; the evidence names it."""
        self._check_fitted()
        vectors = self.encoder_.encode([q.text for q in queries])
        shares = self._shares(vectors)
        quality, error = mixture(shares, self.quality_, self.variance_)
        evidence = tuple(_evidence(row, self.counts_) for row in shares)
        cost = shares @ self.cost_
        return Estimates(self.experts_, quality, cost, evidence=evidence, error=error)

    def add_expert(self, name: str, records: Records) -> Self:
        """Add an expert from its scores on a few queries; nothing else changes.

        ``records`` hold them in a column ``name``. How easy each cluster is for everyone is taken
        from the fit, so that neither few queries nor an odd mix of them mislead much. Raises
        InputError where the expert is known already or has no scores.
        """
        self._check_fitted()
        if name in self.experts_:
            raise InputError(f"expert {name!r} is known already; choose another name")
        own = records.select([name])
        require_rows(own)
        groups = _nearest(self.encoder_.encode([q.text for q in own.queries]), self.centres_)
        easy = np.append(self.easiness_, 0.0)[groups][:, None]  # -1 is the last: no cluster
        deviations = own.quality - easy
        mean = mean_or(deviations, 0.0)
        effects = find_effects(deviations - mean, groups, len(self.centres_))
        known = Effects(effects.totals, effects.counts, np.array([self.within_]), self.between_)
        column = np.vstack([mean, mean + self.easiness_[:, None] + known.mean])
        doubt = self.within_ / own.observed.sum()
        variance = doubt + np.vstack([[[self.between_]], known.variance])
        self.quality_ = np.hstack([self.quality_, np.clip(column, 0.0, 1.0)])
        self.variance_ = np.hstack([self.variance_, variance])
        cost = _cost_table(own.cost, groups, len(self.centres_))
        self.cost_ = np.hstack([self.cost_, cost])
        self.experts_ = (*self.experts_, name)
        return self

    def _choose(
        self, vectors: FloatArray, quality: FloatArray
    ) -> tuple[FloatArray, IntArray, GroupMeans]:
        """Centres, each row's cluster and the means, of the number of least left-out error."""
        known = vectors[vectors.any(axis=1)]
        tried = [c for c in CLUSTERS if c * SMALLEST <= len(known)] or [1]
        mean, _, left_out = overall_means(quality)
        found = []
        for count in tried if self.clusters is None else [self.clusters]:
            centres = learn_centres(known, count) if len(known) else vectors[:1].astype(float)
            groups = _nearest(vectors, centres)
            prior = np.broadcast_to(mean, (len(centres), len(mean)))
            means = learn_group_means(quality, groups, prior, left_out)
            error = contrast_error(quality - means.left_out)
            found.append((round(error, 9), centres, groups, means))
        _, centres, groups, means = min(found, key=lambda each: each[0])
        return centres, groups, means

    def _shares(self, vectors: FloatArray) -> FloatArray:
        """Each query's shares of the table's rows: none of the clusters, then every one."""
        if self.temperature > 0:
            far = distances(vectors, self.centres_)
            shares = _softmax(-far / self.temperature)
        else:
            nearest = _nearest(vectors, self.centres_)
            shares = (nearest[:, None] == np.arange(len(self.centres_))).astype(float)
        return _with_unknown(shares, vectors)


class Avengers(Router):
    """Avengers-Pro's cluster router: min-max scores of three clusters, weighted by distance.

    After Zhang et al. (2025, arXiv 2508.12631). In every cluster the best expert scores 1 and the
    worst 0; a query's score is the mean over its ``nearest`` clusters, weighted by
    softmax(-beta * distance). The paper subtracts cost at this place; here that is the policy's
    trade-off, so costs are estimated beside it. ``quality`` is the paper's score stretched to the
    range between the clusters' worst and best mean: the paper's order, in units of score.

    Parameters
    ----------
    clusters
        25 in Avengers-Pro, 64 in Avengers.
    nearest
        Clusters a query is shared among.
    beta
        Inverse temperature of the weights.
    encoder
        Plug-in name of an encoder, or an instance.
    """

    name = "avengers"
    encoder_: Encoder
    centres_: FloatArray
    counts_: IntArray
    quality_: FloatArray
    variance_: FloatArray
    cost_: FloatArray

    def __init__(
        self,
        clusters: int = 25,
        nearest: int = 3,
        beta: float = 9.0,
        encoder: str | Encoder = "static",
    ) -> None:
        self.clusters = clusters
        self.nearest = nearest
        self.beta = beta
        self.encoder = encoder

    def fit(self, records: Records) -> Self:
        """Find clusters and the experts' means in them; unobserved ones are overall means."""
        require_rows(records)
        _require_count(self.clusters)
        if not (isinstance(self.nearest, int) and self.nearest >= 1):
            raise InputError(f"expected at least 1, got {self.nearest!r}", field="nearest")
        texts = [q.text for q in records.queries]
        encoder = make_encoder(self.encoder).fit(texts)
        vectors = encoder.encode(texts)
        known = vectors[vectors.any(axis=1)]
        self.centres_ = learn_centres(known if len(known) else vectors, self.clusters)
        groups = _nearest(vectors, self.centres_)
        self.counts_ = np.bincount(groups[groups >= 0], minlength=len(self.centres_))
        mean, variance, _ = overall_means(records.quality)
        inside = [records.quality[groups == g] for g in range(len(self.centres_))]
        self.quality_ = np.array([mean, *[mean_or(scores, mean) for scores in inside]])
        spread = self.quality_ * (1 - self.quality_) + variance  # at most that of a right or wrong
        asked = np.array([records.observed.sum(0), *[(~np.isnan(s)).sum(0) for s in inside]])
        self.variance_ = spread / np.maximum(asked, 1)
        self.cost_ = _cost_table(records.cost, groups, len(self.centres_))
        self.encoder_, self.experts_ = encoder, records.experts
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """The paper's score in units of quality; the evidence names the nearest cluster."""
        self._check_fitted()
        vectors = self.encoder_.encode([q.text for q in queries])
        shares = self._shares(vectors)
        low, high = self.quality_.min(axis=1), self.quality_.max(axis=1)
        width = (high - low)[:, None]
        score = shares @ ((self.quality_ - low[:, None]) / np.where(width > 0, width, np.inf))
        quality = (shares @ low)[:, None] + score * (shares @ width)
        error = np.sqrt(shares**2 @ self.variance_)
        evidence = tuple(_evidence(row, self.counts_) for row in shares)
        cost = shares @ self.cost_
        return Estimates(
            self.experts_, np.clip(quality, 0, 1), cost, evidence=evidence, error=error
        )

    def _shares(self, vectors: FloatArray) -> FloatArray:
        """Each query's shares of the table's rows: none of the clusters, then every one."""
        far = distances(vectors, self.centres_)
        rank = far.round(6).argsort(axis=1, kind="stable").argsort(axis=1)
        return _with_unknown(
            _softmax(np.where(rank < self.nearest, -self.beta * far, -np.inf)), vectors
        )


def _require_count(clusters: int | None) -> None:
    if clusters is not None and not (isinstance(clusters, int) and clusters >= 1):
        message = f"expected a whole number of at least 1, got {clusters!r}"
        raise InputError(message, field="clusters")


def _nearest(vectors: FloatArray, centres: FloatArray) -> IntArray:
    """The nearest centre of every vector, the first among ties; -1 for a vector of zeros."""
    far = distances(vectors, centres).round(6)
    nearest: IntArray = np.where(vectors.any(axis=1), far.argmin(axis=1), -1)
    return nearest


def _softmax(values: FloatArray) -> FloatArray:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    shares: FloatArray = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _with_unknown(shares: FloatArray, vectors: FloatArray) -> FloatArray:
    """Shares with a first column, which takes all of a vector of zeros."""
    known = np.any(vectors, axis=1, keepdims=True)
    return np.hstack([~known, shares * known])


def _cost_table(cost: FloatArray, groups: IntArray, count: int) -> FloatArray:
    """Mean costs overall, then in every cluster."""
    usual = mean_or(cost, 0.0)
    return np.array([usual, *[mean_or(cost[groups == g], usual) for g in range(count)]])


def _evidence(shares: FloatArray, counts: IntArray) -> str:
    place = int(shares.argmax()) - 1
    if place < 0:
        return "the encoder knows nothing in it: overall means decide"
    return f"cluster {place + 1} of {len(counts)}, with {counts[place]:.0f} recorded queries"
