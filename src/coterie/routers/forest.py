"""Randomised trees on what a text says and looks like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.layout import layout
from coterie.records import Records
from coterie.routers.base import Router, make_encoder, mean_or, require_rows
from coterie.routers.categories import cross_classify, fit_logistic, softmax
from coterie.routers.tables import Key, find_rows, given_labels, learn_table
from coterie.trees import Trees
from coterie.types import Estimates, FloatArray, IntArray, Query

PENALTY = 10.0  # inverse, of the classifier of categories
MUTED = 0.1  # weight of a question's difficulty where trees choose their splits
BLOCK = 256  # texts projected at once


class Forest(Router):
    """Extremely randomised trees (Geurts et al. 2006) on what decides between experts.

    A question's difficulty is common to all experts and is most of a score's variance. So the
    trees learn each expert's score minus the mean over experts, minus what the question's category
    explains; difficulty is an output of its own with little weight. They read the principal
    components of the encoder's vectors, the layout of the text and the chances of its category
    (from a classifier; records without categories do without).

    Parameters
    ----------
    trees, leaf
        Number of trees, and the fewest records in a leaf.
    share
        Share of the features that a split may choose from.
    components
        Principal components of the encoder's vectors.
    encoder
        Plug-in name of an encoder, or an instance.
    seed
        Of the trees' random splits.
    """

    name = "forest"
    encoder_: Encoder
    categories_: tuple[str, ...]
    classifier_: FloatArray  # (dim + 1, categories)
    centre_: FloatArray
    axes_: FloatArray  # (dim, components)
    table_: FloatArray  # (1 + categories, experts): overall first
    cost_: FloatArray

    def __init__(
        self,
        trees: int = 64,
        leaf: int = 10,
        share: float = 0.5,
        components: int = 32,
        encoder: str | Encoder = "static",
        seed: int = 0,
    ) -> None:
        self.trees = trees
        self.leaf = leaf
        self.share = share
        self.components = components
        self.encoder = encoder
        self.seed = seed

    def fit(self, records: Records) -> Self:
        """Grow the trees; scikit-learn is needed here and nowhere else.

        Unobserved cells count as what base and difficulty make expected.
        """
        from sklearn.ensemble import ExtraTreesRegressor

        require_rows(records)
        self._check_settings()
        texts = [q.text for q in records.queries]
        encoder = make_encoder(self.encoder).fit(texts)
        vectors = np.asarray(encoder.encode(texts), float)
        table = learn_table(records, [(c, None) for c in records.categories], "category")
        self.categories_ = tuple(str(category) for category, _ in table.keys[1:])
        self.table_, self.cost_ = table.quality, table.cost
        self.centre_ = vectors.mean(axis=0)
        self.axes_ = _axes(vectors - self.centre_, self.components)
        shares = self._training_shares(vectors, records)
        base = shares @ self.table_
        difficulty = mean_or((records.quality - base).T, 0.0)[:, None]
        own = np.nan_to_num(records.quality - base - difficulty)
        by_name = np.argsort(records.experts)  # the experts' order must not decide between splits
        targets = np.round(np.hstack([own[:, by_name], MUTED * difficulty]), 9)
        self.encoder_, self.experts_ = encoder, records.experts
        grown: Any = ExtraTreesRegressor(
            self.trees,
            min_samples_leaf=self.leaf,
            max_features=self.share,
            random_state=self.seed,
            n_jobs=-1,
        ).fit(self._features(texts, vectors, shares), targets)
        forest = Trees.of(grown.estimators_).reordered([*np.argsort(by_name), len(by_name)])
        for name, array in forest.to_arrays().items():
            setattr(self, f"trees_{name}_", array)
        return self

    def _check_settings(self) -> None:
        for name in ("trees", "leaf", "components"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"expected a whole number above 0, got {value!r}", field=name)
        if not 0 < self.share <= 1:
            raise InputError(f"expected a number in (0, 1], got {self.share!r}", field="share")

    def _training_shares(self, vectors: FloatArray, records: Records) -> FloatArray:
        """Chances of the table's rows, each record's from a classifier that did not see it."""
        number = {label: place for place, label in enumerate(self.categories_)}
        classes = np.array([number.get(str(c), -1) for c in records.categories], dtype=np.intp)
        if not number:
            self.classifier_ = np.zeros((vectors.shape[1] + 1, 0))
            return np.ones((len(vectors), 1))
        groups = records.text_groups
        penalty, chances = cross_classify(vectors, classes, len(number), groups, (PENALTY,))
        self.classifier_ = fit_logistic(vectors, classes, len(number), penalty)
        return np.hstack([np.zeros((len(vectors), 1)), chances])

    def _shares(self, queries: Sequence[Query], vectors: FloatArray) -> FloatArray:
        """Chances of the table's rows for new queries."""
        if not self.categories_:
            return np.ones((len(vectors), 1))
        return np.hstack([np.zeros((len(vectors), 1)), softmax(vectors, self.classifier_)])

    def _features(
        self, texts: Sequence[str], vectors: FloatArray, shares: FloatArray
    ) -> FloatArray:
        """What the trees read; rounded, since a split must not hang on the last bit."""
        parts = [_project(vectors - self.centre_, self.axes_), shares, layout(texts)]
        return np.round(np.hstack(parts), 5)

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """The category's means plus what the trees add; costs are those of the category."""
        self._check_fitted()
        texts = [q.text for q in queries]
        vectors = np.asarray(self.encoder_.encode(texts), float)
        shares = self._shares(queries, vectors)
        trees = Trees.from_arrays(
            {name: getattr(self, f"trees_{name}_") for name in Trees.__dataclass_fields__}
        )
        added, error = trees.predict(self._features(texts, vectors, shares))
        quality = shares @ self.table_ + added[:, :-1] + added[:, -1:] / MUTED
        return Estimates(
            self.experts_,
            np.clip(quality, 0.0, 1.0),
            shares @ self.cost_,
            error=np.tile(error[:, None], (1, len(self.experts_))),
        )


class CategoryForest(Forest):
    """The forest where the query's category is given: nothing is left to a classifier."""

    name = "category-forest"
    reads = "category"

    def _training_shares(self, vectors: FloatArray, records: Records) -> FloatArray:
        self.classifier_ = np.zeros((0, 0))
        return self._shares(records.queries, vectors)

    def _shares(self, queries: Sequence[Query], vectors: FloatArray) -> FloatArray:
        keys: list[Key] = [(None, None), *((category, None) for category in self.categories_)]
        rows: IntArray = find_rows(keys, [(c, None) for c, _ in given_labels(queries)])
        return np.eye(len(keys))[rows]


def _axes(centred: FloatArray, count: int) -> FloatArray:
    """The first principal axes, shape (dim, at most count), largest entries positive."""
    _, _, right = np.linalg.svd(centred, full_matrices=False)
    axes = right[: min(count, len(centred))].T
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)
    return np.asarray(axes * np.sign(np.where(largest == 0, 1, largest)))


def _project(vectors: FloatArray, axes: FloatArray) -> FloatArray:
    """``vectors @ axes``, each row by itself: the same bits in any batch."""
    blocks = [
        (vectors[start : start + BLOCK, :, None] * axes).sum(axis=1)
        for start in range(0, len(vectors), BLOCK)
    ]
    return np.vstack(blocks) if blocks else np.zeros((0, axes.shape[1]))
