"""Several routers as one: cross-fitted, combined, and dropped where they do not pay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, ClassVar, Self

import numpy as np

from coterie import plugins
from coterie.errors import InputError
from coterie.features import Encoder
from coterie.folds import deal_rows
from coterie.records import Records
from coterie.routers.base import Router, make_encoder, mean_or, require_rows, spread
from coterie.routers.baselines import mean_errors
from coterie.types import Estimates, FloatArray, IntArray, Query
from coterie.vectors import SharedEncoder

TEXT = ("category-router", "knn", "mlp", "forest")
GIVEN = ("category", "category-knn", "category-forest")
BEST_SINGLE = "best single"
COMBINATION = "combination"


class Stack(Router):
    """The best of its members and their combination, or best single where none clearly beats it.

    Inside the training records every member predicts folds that it did not see. The combination
    weighs members by non-negative least squares (Breiman 1996) on what decides a routing: each
    score minus the question's mean over experts. Candidates are compared by the mean score of the
    expert they would choose. The best one is taken if it gains more over best single than
    ``errors`` standard errors (of the paired difference) allow; where nothing does, all queries go
    to that expert. The largest of several noisy gains looks better than it is, so the bound is
    raised until chance passes it as rarely as one candidate passes ``errors`` (Bonferroni).

    Parameters
    ----------
    members
        Plug-in names of routers.
    folds
        Parts that the training records are cut into.
    errors
        Standard errors that the gain over best single would have to exceed for one candidate.
    encoder
        Plug-in name of an encoder, or an instance, shared by the members that read texts.
    """

    name = "stack"
    defaults: ClassVar[tuple[str, ...]] = TEXT
    chosen_: str
    members_: tuple[Router, ...]
    weights_: FloatArray  # (members,)
    gains_: dict[str, list[float]]  # candidate -> gain over best single and its standard error
    mean_: FloatArray  # (experts,)
    error_: FloatArray  # standard errors of the means, (experts,)
    cost_: FloatArray  # (experts,)

    def __init__(
        self,
        members: Sequence[str] | None = None,
        folds: int = 3,
        errors: float = 2.0,
        encoder: str | Encoder = "static",
    ) -> None:
        self.members = members
        self.folds = folds
        self.errors = errors
        self.encoder = encoder

    def fit(self, records: Records) -> Self:
        """Cross-fit, choose, and fit what was chosen on all records."""
        require_rows(records)
        if not isinstance(self.folds, int) or self.folds < 2:
            raise InputError(f"expected at least 2, got {self.folds!r}", field="folds")
        names = tuple(self.members or self.defaults)
        shared = self._shared()
        self.mean_, self.cost_ = mean_or(records.quality, 0.0), mean_or(records.cost, 0.0)
        self.error_ = mean_errors(records)
        chosen, gains = BEST_SINGLE, dict[str, list[float]]()
        weights: FloatArray = np.zeros(len(names))
        if len(records) >= 10 * self.folds and len(records.experts) > 1:
            chosen, weights, gains = self._choose(names, shared, records)
        used = np.flatnonzero(weights)
        self.members_ = tuple(_make(names[b], shared).fit(records) for b in used)
        for member in self.members_:
            _own_encoder(member)
        self.chosen_, self.weights_, self.gains_ = chosen, weights[used], gains
        self.experts_ = records.experts
        return self

    def _shared(self) -> SharedEncoder:
        made = make_encoder(self.encoder)
        return made if isinstance(made, SharedEncoder) else SharedEncoder(made)

    def _choose(
        self, names: Sequence[str], shared: SharedEncoder, records: Records
    ) -> tuple[str, FloatArray, dict[str, list[float]]]:
        """The candidate taken, its weights on the members, and what each candidate gains."""
        fold_of = deal_rows(records.text_groups, self.folds, seed=0)
        quality = records.quality
        crossed = np.empty((len(names), *quality.shape))
        means = np.empty(quality.shape)
        for fold in range(self.folds):
            inside, outside = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
            training = records.take(outside)
            means[inside] = mean_or(training.quality, 0.0)
            queries = [records.queries[i] for i in inside]
            for b, name in enumerate(names):
                crossed[b, inside] = _make(name, shared).fit(training).predict(queries).quality
        predicted = {BEST_SINGLE: means} | dict(zip(names, crossed, strict=True))
        predicted[COMBINATION] = _cross_combined(crossed, quality, fold_of)
        scores = {name: _routed(values, quality) for name, values in predicted.items()}
        rows = {name: _gain(values - scores[BEST_SINGLE]) for name, values in scores.items()}
        chosen = max(rows, key=lambda name: rows[name][0])
        if rows[chosen][0] <= best_of(len(rows) - 1, self.errors) * rows[chosen][1]:
            chosen = BEST_SINGLE
        weights = {name: np.eye(len(names))[b] for b, name in enumerate(names)}
        weights |= {BEST_SINGLE: np.zeros(len(names)), COMBINATION: combine(crossed, quality)}
        return chosen, weights[chosen], rows

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Weighted estimates of the members in use, or the experts' means.

        The standard error of a combination is the weighted sum of its members', none where one of
        them gives none; recorded queries are those behind a member that was taken alone.
        """
        self._check_fitted()
        evidence = (f"{self.chosen_} was best in cross-validation",) * len(queries)
        if not self.members_:
            means = (spread(row, queries) for row in (self.mean_, self.cost_, self.error_))
            quality, cost, error = means
            return Estimates(self.experts_, quality, cost, evidence=evidence, error=error)
        parts = [member.predict(queries) for member in self.members_]
        quality = np.clip(_combined(np.array([p.quality for p in parts]), self.weights_), 0, 1)
        share = self.weights_ / self.weights_.sum()
        errors = [p.error for p in parts if p.error is not None]
        return Estimates(
            self.experts_,
            quality,
            np.tensordot(share, [p.cost for p in parts], 1),
            evidence=evidence,
            error=np.tensordot(self.weights_, errors, 1) if len(errors) == len(parts) else None,
            support=None if self.chosen_ == COMBINATION else parts[0].support,
        )

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        self._check_fitted()
        members, self.members_ = self.members_, ()
        try:
            params, arrays = super()._state()
        finally:
            self.members_ = members
        del params["learnt"]["members_"]
        params["routers"] = []
        for place, member in enumerate(members):
            own, weights = member._state()
            params["routers"].append(own)
            arrays |= {f"{place}/{key}": array for key, array in weights.items()}
        return params, arrays

    @classmethod
    def _restore(cls, params: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        router = super()._restore(params, arrays)
        members = []
        for place, own in enumerate(params["routers"]):
            prefix = f"{place}/"
            weights = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            members.append(plugins.load("routers", str(own["router"]))._restore(own, weights))
        router.members_ = tuple(members)
        return router


class CategoryStack(Stack):
    """The stack of routers that are given the query's category."""

    name = "category-stack"
    reads = "category"
    defaults = GIVEN


def combine(crossed: FloatArray, quality: FloatArray) -> FloatArray:
    """Non-negative weights of predictions (members x queries x experts) for differences of scores.

    Equal weights where least squares finds nothing.
    """
    from scipy.optimize import nnls

    seen = ~np.isnan(quality)
    wanted = _centred(quality, seen)[seen]
    columns = np.array([_centred(values, seen)[seen] for values in crossed]).T
    weights = np.asarray(nnls(columns, wanted)[0], float)
    return weights if weights.any() else np.full(len(crossed), 1 / len(crossed))


def _centred(values: FloatArray, seen: FloatArray) -> FloatArray:
    """Values minus their mean over the observed experts of the row."""
    count = np.maximum(seen.sum(axis=1, keepdims=True), 1)
    mean = np.where(seen, np.nan_to_num(values), 0.0).sum(axis=1, keepdims=True) / count
    centred: FloatArray = values - mean
    return centred


def _combined(predicted: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted differences between experts on top of the members' mean level."""
    level = predicted.mean(axis=2, keepdims=True)
    mixed: FloatArray = np.tensordot(weights, predicted - level, 1) + level.mean(axis=0)
    return mixed


def _cross_combined(crossed: FloatArray, quality: FloatArray, fold_of: IntArray) -> FloatArray:
    """The combination of every row, weighted as the other folds say."""
    combined = np.empty(quality.shape)
    for fold in np.unique(fold_of):
        inside = fold_of == fold
        weights = combine(crossed[:, ~inside], quality[~inside])
        combined[inside] = _combined(crossed[:, inside], weights)
    return combined


def _routed(predicted: FloatArray, quality: FloatArray) -> FloatArray:
    """The score of each row's best predicted expert among those observed; NaN without any."""
    seen = ~np.isnan(quality)
    best = np.where(seen, predicted, -np.inf).argmax(axis=1)
    scores: FloatArray = quality[np.arange(len(quality)), best]
    return scores


def best_of(candidates: int, errors: float) -> float:
    """Standard errors that chance lifts the best of several over as rarely as one over ``errors``.

    At most as rarely: candidates that depend on each other make it rarer. A bound of 0 or less
    asks for no certainty and stays.

    >>> round(best_of(1, 2.0), 2), round(best_of(5, 2.0), 2)
    (2.0, 2.61)
    """
    if errors <= 0:
        return errors
    normal = NormalDist()
    chance = max(normal.cdf(-errors) / candidates, 1e-300)
    return max(errors, -normal.inv_cdf(chance))


def _gain(difference: FloatArray) -> list[float]:
    """Mean and standard error over the rows that have one."""
    known = difference[~np.isnan(difference)]
    if not len(known):
        return [0.0, 0.0]
    return [float(known.mean()), float(known.std() / np.sqrt(len(known)))]


def _make(name: str, encoder: SharedEncoder) -> Router:
    """A member by its plug-in name, with the shared encoder where it reads one."""
    kind: type[Router] = plugins.load("routers", name)
    try:
        return kind(encoder=encoder)  # type: ignore[call-arg]
    except TypeError:
        return kind()


def _own_encoder(member: Router) -> None:
    """Give a fitted member the encoder itself, without the vectors of the training texts."""
    for name, value in vars(member).items():
        if isinstance(value, SharedEncoder) and value.known is not None:
            setattr(member, name, value.known.encoder)
