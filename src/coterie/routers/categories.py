"""Categories: a table of means per given category, and a classifier of texts in front of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.folds import deal_rows
from coterie.index import distances, learn_centres
from coterie.records import Records
from coterie.routers.base import Router, make_encoder, require_rows
from coterie.routers.tables import Key, Table, find_rows, given_labels, learn_table, mixture
from coterie.types import Estimates, FloatArray, IntArray, Query

LEVELS = ("subject", "category")
FOLDS = 3  # parts that the penalty and the threshold are chosen by
PENALTIES = (1.0, 10.0, 100.0)  # inverse: the largest fits closest
THRESHOLDS = np.linspace(0.0, 1.0, 21)
PSEUDO = 16  # clusters that stand in for categories


class CategoryTable(Router):
    """Each expert's mean score in the query's given category, shrunk by empirical Bayes.

    Nested: a subject is shrunk to its category, a category to the expert's overall mean plus what
    the category is to all experts. Queries without a category, or with one the records do not
    hold, get the overall means. The standard error is that of the posterior.

    Parameters
    ----------
    level
        ``subject`` uses subjects where they are given, ``category`` never.
    """

    name = "category"
    reads = "category"
    keys_: tuple[Key, ...]
    quality_: FloatArray
    error_: FloatArray
    cost_: FloatArray

    def __init__(self, level: str = "subject") -> None:
        self.level = level

    def fit(self, records: Records) -> Self:
        """Learn the table; records without categories give overall means."""
        require_rows(records)
        require_level(self.level)
        table = learn_table(records, given_labels(records.queries), self.level)
        self.experts_ = records.experts
        self.keys_ = table.keys
        self.quality_, self.cost_ = table.quality, table.cost
        self.error_ = np.sqrt(table.variance)
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """The cells of the table; the evidence names the one that was used."""
        self._check_fitted()
        rows = find_rows(self.keys_, given_labels(queries))
        evidence = tuple(_name(self.keys_[row]) for row in rows)
        quality, cost = self.quality_[rows], self.cost_[rows]
        return Estimates(self.experts_, quality, cost, evidence=evidence, error=self.error_[rows])


def require_level(level: str) -> None:
    """Raise InputError for a level that is not one of ``LEVELS``."""
    if level not in LEVELS:
        raise InputError(f"expected one of {', '.join(LEVELS)}, got {level!r}", field="level")


def _name(key: Key) -> str:
    category, subject = key
    if category is None and subject is None:
        return "no category that the records hold: overall means decide"
    given = "" if subject is None else f", subject {subject!r}"
    return f"given category {category!r}{given}"


class CategoryRouter(Router):
    """Composition of Experts' category router: a classifier of texts, then a table of means.

    After Jain et al. (2024, arXiv 2412.01868), as far as published: a multinomial logistic
    regression gives P(category | text), and the quality is the table's mean under P. Where
    H(P) / log(categories) exceeds a threshold, the query is of the general category: the overall
    means, where the best generalist leads.

    The table is shrunk by empirical Bayes as in ``CategoryTable``. Records without any category get
    pseudo-categories, 16 k-means clusters of their texts. scikit-learn fits, numpy predicts.

    Parameters
    ----------
    threshold
        Uncertainty in [0, 1] above which a query is of the general category; None chooses that of
        the best cross-validated score of the routed queries.
    encoder
        Plug-in name of an encoder, or an instance.
    """

    name = "category-router"
    encoder_: Encoder
    categories_: tuple[str, ...]
    weights_: FloatArray
    quality_: FloatArray
    variance_: FloatArray
    cost_: FloatArray
    threshold_: float

    def __init__(self, threshold: float | None = None, encoder: str | Encoder = "static") -> None:
        self.threshold = threshold
        self.encoder = encoder

    def fit(self, records: Records) -> Self:
        """Learn classifier, table and threshold; raises InputError for a threshold outside [0, 1].

        Queries without a category, in records where others have one, count in the overall means.
        """
        require_rows(records)
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            message = f"expected a number in [0, 1] or None, got {self.threshold!r}"
            raise InputError(message, field="threshold")
        texts = [q.text for q in records.queries]
        encoder = make_encoder(self.encoder).fit(texts)
        vectors = np.asarray(encoder.encode(texts), float)
        labels: Sequence[str | None] = records.categories
        if not any(label is not None for label in labels):
            labels = _clusters(vectors)
        self.categories_ = tuple(sorted({label for label in labels if label is not None}))
        number = {label: place for place, label in enumerate(self.categories_)}
        classes = np.array([number.get(label, -1) if label is not None else -1 for label in labels])
        groups = records.text_groups
        penalty, chances = cross_classify(vectors, classes, len(self.categories_), groups)
        self.weights_ = fit_logistic(vectors, classes, len(self.categories_), penalty)
        table = _category_table(records, labels)
        self.threshold_ = _choose_threshold(records, labels, chances, self.threshold)
        self.quality_, self.variance_, self.cost_ = table.quality, table.variance, table.cost
        self.encoder_, self.experts_ = encoder, records.experts
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Posterior-weighted means; the evidence names the likeliest category and its chance."""
        self._check_fitted()
        chances = self.chances(queries)
        unsure = uncertainty(chances)
        known = unsure <= self.threshold_
        shares = np.hstack([~known[:, None], chances * known[:, None]])  # the table's rows
        quality, error = mixture(shares, self.quality_, self.variance_)
        found = zip(chances.argmax(axis=1), chances.max(axis=1), unsure, strict=True)
        evidence = tuple(self._evidence(*each) for each in found)
        cost = shares @ self.cost_
        return Estimates(self.experts_, quality, cost, evidence=evidence, error=error)

    def chances(self, queries: Sequence[Query]) -> FloatArray:
        """P(category | text), shape (queries, categories), in the order of ``categories_``."""
        self._check_fitted()
        return softmax(self.encoder_.encode([q.text for q in queries]), self.weights_)

    def _evidence(self, category: int, chance: float, unsure: float) -> str:
        said = f"category {self.categories_[category]!r} ({chance:.2f}), uncertainty {unsure:.2f}"
        if unsure <= self.threshold_:
            return said
        return f"{said} above {self.threshold_:.2f}: general category"


def uncertainty(chances: FloatArray) -> FloatArray:
    """Entropy of each row over that of the uniform distribution, in [0, 1]; 0 for one category."""
    surprise = -np.log(np.maximum(chances, 1e-300))
    entropy: FloatArray = (chances * surprise).sum(axis=1) / np.log(max(chances.shape[1], 2))
    return np.clip(entropy, 0.0, 1.0)


def _clusters(vectors: FloatArray) -> list[str]:
    nearest = distances(vectors, learn_centres(vectors, PSEUDO)).argmin(axis=1)
    return [f"cluster {number}" for number in nearest]


def _category_table(records: Records, labels: Sequence[str | None]) -> Table:
    """Overall means, then one row per category in sorted order."""
    return learn_table(records, [(label, None) for label in labels], "category")


def softmax(vectors: FloatArray, weights: FloatArray) -> FloatArray:
    """Chances of the classes; the last row of ``weights`` are intercepts."""
    scores = np.asarray(vectors, float) @ weights[:-1] + weights[-1]
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances: FloatArray = powers / powers.sum(axis=1, keepdims=True)
    return chances


def fit_logistic(vectors: FloatArray, classes: IntArray, count: int, penalty: float) -> FloatArray:
    """Weights and intercepts of shape (dim + 1, count); a class that is absent has no chance."""
    from sklearn.linear_model import LogisticRegression

    vectors, classes = vectors[classes >= 0], classes[classes >= 0]
    weights = np.zeros((vectors.shape[1] + 1, count))
    present = np.unique(classes)
    weights[-1, np.setdiff1d(np.arange(count), present)] = -50.0
    if len(present) < 2:
        return weights
    model: Any = LogisticRegression(C=penalty, max_iter=300, tol=1e-3).fit(vectors, classes)
    found = np.vstack([model.coef_.T, model.intercept_])
    if len(present) == 2:  # one column stands for both
        found = np.hstack([-found / 2, found / 2])
    weights[:, present] = found
    return weights


def cross_classify(
    vectors: FloatArray,
    classes: IntArray,
    count: int,
    groups: IntArray,
    penalties: Sequence[float] = PENALTIES,
) -> tuple[float, FloatArray]:
    """The penalty of least cross-validated log loss, and every row's chances without itself.

    Rows of equal ``groups`` are held out together.
    """
    folds = deal_rows(groups, FOLDS, seed=0)
    labelled = np.flatnonzero(classes >= 0)
    best, kept = (np.inf, penalties[0]), np.full((len(vectors), count), 1 / count)
    for penalty in penalties:
        chances = kept.copy()
        for fold in range(FOLDS):
            training = np.where(folds == fold, -1, classes)
            if (training >= 0).any():
                weights = fit_logistic(vectors, training, count, penalty)
                chances[folds == fold] = softmax(vectors[folds == fold], weights)
        loss = -np.log(np.maximum(chances[labelled, classes[labelled]], 1e-12)).mean()
        if loss < best[0] - 1e-9:
            best, winner = (loss, penalty), chances
    return best[1], winner


def _choose_threshold(
    records: Records, labels: Sequence[str | None], chances: FloatArray, given: float | None
) -> float:
    """The threshold of the best cross-validated mean score, the middle one among equals."""
    if given is not None:
        return given
    routed, general = cross_route(records, labels, chances)
    unsure = uncertainty(chances)
    scores = [np.where(unsure <= t, routed, general).mean() for t in THRESHOLDS]
    best = np.flatnonzero(np.round(scores, 9) == np.round(max(scores), 9))
    return float(THRESHOLDS[best[len(best) // 2]])


def cross_route(
    records: Records, labels: Sequence[str | None], chances: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Each row's score if routed by category and if sent to the generalist, without itself.

    Both are 0 where either was not observed, so that such a row speaks for neither.
    """
    folds = deal_rows(records.text_groups, FOLDS, seed=0)
    names = sorted({label for label in labels if label is not None})
    routed, general = np.zeros(len(records)), np.zeros(len(records))
    for fold in range(FOLDS):
        inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        if not len(inside) or not len(outside):
            continue
        table = _category_table(records.take(outside), [labels[int(i)] for i in outside])
        rows = find_rows(table.keys, [(name, None) for name in names])
        best = (chances[inside] @ table.quality[rows]).argmax(axis=1)
        routed[inside] = records.quality[inside, best]
        general[inside] = records.quality[inside, table.quality[0].argmax()]
    known = ~np.isnan(routed + general)
    return np.where(known, routed, 0.0), np.where(known, general, 0.0)
