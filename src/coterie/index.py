"""Vectors among vectors: nearest neighbours, and centres of clusters.

Exact by matrix products up to ``EXACT`` vectors, beyond that approximate through usearch's HNSW
graph (``pip install "coterie[usearch]"``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from coterie.errors import CoterieError
from coterie.types import FloatArray, IntArray

EXACT = 100_000  # vectors up to which every similarity is computed
BLOCK = 128  # queries whose similarities are held at once
STEPS = 2**14  # similarities closer than 1 / STEPS are ties: products round by batch
SAMPLE = 20_000  # vectors that centres are learnt from
NEVER = -(2**62)  # below every key, and can be negated
SPARE = 32  # neighbours asked of the graph beyond k, to settle ties at its end


class Index:
    """The nearest of ``vectors`` (n, dim), which are of unit length or zero, by cosine similarity.

    Raises CoterieError where there are more than ``EXACT`` and usearch is not installed.
    """

    def __init__(self, vectors: FloatArray) -> None:
        self.vectors = np.ascontiguousarray(vectors, np.float32)
        self._graph = _graph(self.vectors) if len(vectors) > EXACT else None

    def nearest(
        self, queries: FloatArray, k: int, without: IntArray | None = None
    ) -> tuple[IntArray, FloatArray]:
        """Rows and similarities of the k nearest, nearest first, the first row first among ties.

        Both have shape (queries, min(k, n)), or one column less with ``without``: one row a query
        that must not be among its neighbours (itself, when leaving one out).
        """
        queries = np.asarray(queries, np.float32)
        k = min(k, len(self.vectors) - (without is not None))
        rows, near = np.empty((len(queries), k), np.intp), np.empty((len(queries), k))
        for start in range(0, len(queries), BLOCK):
            part = slice(start, start + BLOCK)
            own = None if without is None else without[part]
            rows[part], near[part] = self._block(queries[part], k, own)
        return rows, near

    def _block(
        self, queries: FloatArray, k: int, without: IntArray | None
    ) -> tuple[IntArray, FloatArray]:
        if self._graph is not None:
            rows = _search(self._graph, queries, k)
            near = np.einsum("qd,qkd->qk", queries, self.vectors[rows])
            found = _keys(near, rows, len(self.vectors)).astype(np.int64)
            if without is not None:
                found[rows == without[:, None]] = NEVER
            best = np.argsort(-found, axis=1)[:, :k]
            return np.take_along_axis(rows, best, 1), np.take_along_axis(near, best, 1)
        near = queries @ self.vectors.T
        keys = _keys(near, np.arange(near.shape[1]), near.shape[1])
        if without is not None:
            keys[np.arange(len(keys)), without] = np.iinfo(keys.dtype).min + 1
        rows = near.shape[1] - 1 - _largest(keys, k) % near.shape[1]
        return rows, np.take_along_axis(near, rows, 1)


def _keys(near: FloatArray, rows: IntArray, count: int) -> IntArray:
    """Distinct integers in the order of similarity, then of the row."""
    kind = np.int32 if count * (STEPS + 2) < 2**31 else np.int64
    steps = near * np.float32(STEPS)
    keys: IntArray = np.rint(steps, out=steps).astype(kind)
    keys *= kind(count)
    keys += (count - 1 - rows).astype(kind)
    return keys


def _largest(keys: IntArray, k: int) -> IntArray:
    """The k largest keys of each row, the largest first; reorders ``keys``."""
    if k < keys.shape[1]:
        keys.partition(keys.shape[1] - k, axis=1)
        keys = keys[:, keys.shape[1] - k :]
    found: IntArray = np.sort(keys, axis=1)[:, ::-1].astype(np.intp)
    return found


def _graph(vectors: FloatArray) -> Any:
    """An HNSW graph of all vectors."""
    try:
        from usearch.index import Index as Graph
    except ImportError:
        message = f"{len(vectors)} vectors need an approximate index (exact up to {EXACT})"
        raise CoterieError(f'{message}; pip install "coterie[usearch]"') from None
    graph = Graph(ndim=vectors.shape[1], metric="ip", dtype="f32")
    graph.add(np.arange(len(vectors), dtype=np.uint64), vectors, threads=1)
    return graph


def _search(graph: Any, queries: FloatArray, k: int) -> IntArray:
    """Rows near each query, some more than k where there are more."""
    wanted = min(k + SPARE, len(graph))
    found: IntArray = np.asarray(graph.search(queries, wanted, threads=1).keys).astype(np.intp)
    return found.reshape(len(queries), -1)


def learn_centres(vectors: FloatArray, count: int, seed: int = 0) -> FloatArray:
    """Centres of k-means clusters, shape (at most ``count``, dim), the same ones every time.

    Fewer where there are fewer distinct vectors. Learnt from at most ``SAMPLE`` of them, evenly
    spaced; needs scikit-learn.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    step = -(-len(vectors) // SAMPLE)
    sample = np.asarray(vectors[::step], float)
    count = min(count, len(np.unique(sample.round(6), axis=0)))
    with threadpool_limits(1):  # sums of several threads round by their order
        fitted = KMeans(count, n_init=1, random_state=seed).fit(sample)
    centres: FloatArray = fitted.cluster_centers_
    return centres


def distances(vectors: FloatArray, centres: FloatArray) -> FloatArray:
    """Euclidean distances, shape (vectors, centres)."""
    vectors = np.asarray(vectors, float)
    squares = (vectors**2).sum(1)[:, None] - 2 * vectors @ centres.T + (centres**2).sum(1)
    far: FloatArray = np.sqrt(np.maximum(squares, 0.0))
    return far
