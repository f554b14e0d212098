"""Decision trees as plain arrays: scikit-learn grows them, numpy walks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from coterie.types import FloatArray, IntArray

BLOCK = 2_000_000  # places (rows x trees) walked at once


@dataclass(frozen=True, eq=False)
class Trees:
    """A forest: nodes of all trees one after the other, shape (nodes,) where not said otherwise.

    ``roots`` (trees,) are the first nodes; a leaf has ``feature`` -1 and is its own child. A row
    goes left where its feature, as a number of the type of ``threshold``, is at most the threshold;
    without a value (NaN) where ``nan_left`` is true. ``value`` has shape (nodes, outputs);
    ``variance`` is the squared standard error of a leaf's value.
    """

    roots: IntArray
    feature: IntArray
    threshold: FloatArray
    nan_left: NDArray[np.bool_]
    left: IntArray
    right: IntArray
    value: FloatArray
    variance: FloatArray

    @classmethod
    def of(cls, estimators: Sequence[Any]) -> Self:
        """The trees of scikit-learn's random forests or extra trees (``estimators_``).

        They compare features as float32.
        """
        grown = [estimator.tree_ for estimator in estimators]
        sizes = [tree.node_count for tree in grown]
        roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
        own = np.arange(sum(sizes), dtype=np.int32)

        def joined(name: str) -> IntArray:
            moved = [getattr(tree, name) + root for tree, root in zip(grown, roots, strict=True)]
            children = np.concatenate(moved).astype(np.int32)
            return np.where(leaf, own, children)

        leaf = np.concatenate([tree.children_left < 0 for tree in grown])
        noise = [
            np.maximum(tree.impurity, 0) / np.maximum(tree.weighted_n_node_samples, 1)
            for tree in grown
        ]
        return cls(
            roots=roots,
            feature=np.where(leaf, -1, np.concatenate([tree.feature for tree in grown])).astype(
                np.int32
            ),
            threshold=_narrow(np.concatenate([tree.threshold for tree in grown])),
            nan_left=np.concatenate([tree.missing_go_to_left for tree in grown]).astype(bool),
            left=joined("children_left"),
            right=joined("children_right"),
            value=np.vstack([tree.value[:, :, 0] for tree in grown]).astype(np.float32),
            variance=np.concatenate(noise).astype(np.float32),
        )

    @classmethod
    def of_boosting(cls, ensemble: Any) -> Self:
        """The trees of scikit-learn's histogram gradient boosting: one output, no categories.

        They compare features as float64. ``total`` gives what its ``predict`` does, without the
        constant start.
        """
        grown = [predictor.nodes for (predictor,) in ensemble._predictors]
        roots = np.cumsum([0, *(len(nodes) for nodes in grown[:-1])]).astype(np.int32)
        nodes = np.concatenate(grown)
        leaf = nodes["is_leaf"].astype(bool)
        base = np.repeat(roots, [len(tree) for tree in grown])
        own = np.arange(len(nodes), dtype=np.int32)
        return cls(
            roots=roots,
            feature=np.where(leaf, -1, nodes["feature_idx"]).astype(np.int32),
            threshold=np.where(leaf, 0.0, nodes["num_threshold"]),
            nan_left=nodes["missing_go_to_left"].astype(bool),
            left=np.where(leaf, own, base + nodes["left"]).astype(np.int32),
            right=np.where(leaf, own, base + nodes["right"]).astype(np.int32),
            value=nodes["value"][:, None],
            variance=np.zeros(len(nodes), np.float32),
        )

    def total(self, rows: FloatArray) -> FloatArray:
        """Sums of the first output over trees, shape (rows,): what boosting predicts."""
        sums: FloatArray = self.value[self.leaves(rows), 0].sum(axis=1, dtype=float)
        return sums

    def reordered(self, outputs: Sequence[int]) -> Trees:
        """The same trees with these outputs, in this order."""
        return replace(self, value=self.value[:, list(outputs)])

    def leaves(self, rows: FloatArray) -> IntArray:
        """The leaf of every row in every tree, shape (rows, trees)."""
        known = np.asarray(rows, self.threshold.dtype)
        at = np.tile(self.roots, (len(known), 1))
        index = np.arange(len(known))[:, None]
        while (inside := self.feature[at] >= 0).any():
            values = known[index, self.feature[at]]
            goes_left = (values <= self.threshold[at]) | (np.isnan(values) & self.nan_left[at])
            at = np.where(inside, np.where(goes_left, self.left[at], self.right[at]), at)
        return at

    def predict(self, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Means over trees, shape (rows, outputs), and their standard error, shape (rows,).

        The error takes trees as fully correlated: the root of the mean squared error of a leaf.
        """
        means = np.empty((len(rows), self.value.shape[1]))
        errors = np.empty(len(rows))
        step = max(1, BLOCK // (len(self.roots) * self.value.shape[1]))
        for start in range(0, len(rows), step):
            block = slice(start, start + step)
            at = self.leaves(rows[block])
            means[block] = self.value[at].mean(axis=1, dtype=float)
            errors[block] = np.sqrt(self.variance[at].mean(axis=1, dtype=float))
        return means, errors

    def to_arrays(self) -> dict[str, Any]:
        """The fields by name."""
        return dict(vars(self))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Self:
        """The inverse of ``to_arrays``."""
        return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})


def _narrow(thresholds: FloatArray) -> FloatArray:
    """The largest float32 not above each: the same float32 values are at most either."""
    near = thresholds.astype(np.float32)
    return np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near)
