"""The baseline routers of RouterEval (arXiv 2503.10657), with its published settings.

``LinearR``, ``MLPR``, ``C-RoBERTa`` (here: cluster), ``MLC`` and ``PRknn``; random and oracle are
``coterie.routers.baselines``, r_o(p) is a closed form (``coterie.scaling``). Each chooses as the
original does (the highest expectation) and gives that expectation as its quality estimate. What
differs from the original, for all of them: vectors come from our encoders instead of RoBERTa, they
learn from scores where the original thresholds fractional ones, and the last layer of a network
starts at zero, so that the order of experts does not matter. Cost is each expert's mean.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.records import Records
from coterie.routers.base import Router, make_encoder, mean_or, require_rows, spread
from coterie.routers.routereval_chances import cluster_chances, relu_chances, softmax_chances
from coterie.routers.routereval_nets import Training, Weights, layers_of, logits, sigmoid, train
from coterie.types import Estimates, FloatArray, IntArray, Query

VARIANTS = ("minibatch", "published")
BLOCK = 256  # queries whose similarities are held at once
GRAIN = 2**20  # similarities this close count as equal, so that batches do not decide ties


class Baseline(Router):
    """A router on vectors, which may also be used without records: ``learn`` and ``expect``."""

    encoder: str | Encoder
    encoder_: Encoder
    columns_: IntArray
    cost_: FloatArray

    def fit(self, records: Records) -> Self:
        """Encode the texts and learn; raises InputError where nothing was observed."""
        require_rows(records)
        texts = [q.text for q in records.queries]
        encoder = make_encoder(self.encoder).fit(texts)
        order = np.argsort(records.experts)  # one order for all: sums do not depend on theirs
        self.learn(encoder.encode(texts), records.quality[:, order])
        self.encoder_, self.columns_ = encoder, np.argsort(order)
        self.cost_ = mean_or(records.cost, 0.0)
        self.experts_ = records.experts
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """What ``expect`` says of the queries' texts; the cost is every expert's mean."""
        self._check_fitted()
        vectors = self.encoder_.encode([q.text for q in queries])
        quality = self.expect(vectors)[:, self.columns_]
        return Estimates(self.experts_, quality, spread(self.cost_, queries))

    @abstractmethod
    def learn(self, vectors: FloatArray, scores: FloatArray) -> Self:
        """Learn from unit vectors (queries, dim) and scores (queries, experts), NaN unobserved."""

    @abstractmethod
    def expect(self, vectors: FloatArray) -> FloatArray:
        """Expected scores in [0, 1], shape (queries, experts), experts as in ``learn``."""

    @abstractmethod
    def chances(self, vectors: FloatArray) -> FloatArray:
        """The distribution over experts from which RouterEval computes the entropy E_p."""


class _Network(Baseline):
    """A network on the vectors, trained as published or in minibatches.

    Parameters
    ----------
    variant
        ``published`` trains as RouterEval does for its 3 and 5 candidates, mostly one query at a
        time: minutes for ten thousand queries. ``minibatch`` takes a 64th of the queries at a time
        (8 to 256), for hundreds of experts or many queries; its results are not the published
        ones, and tables are to say so.
    seed
        Of the starting weights and the order of the queries.
    encoder
        Plug-in name of an encoder, or an instance.
    """

    published: ClassVar[Training]
    minibatch: ClassVar[Training]
    parameters_: Weights
    sizes_: tuple[int, ...]

    def __init__(
        self, variant: str = "minibatch", seed: int = 0, encoder: str | Encoder = "static"
    ) -> None:
        self.variant = variant
        self.seed = seed
        self.encoder = encoder

    def learn(self, vectors: FloatArray, scores: FloatArray) -> Self:
        """Train; raises InputError for an unknown variant."""
        if self.variant not in VARIANTS:
            message = f"expected one of {', '.join(VARIANTS)}, got {self.variant!r}"
            raise InputError(message, field="variant")
        training = self._training()
        self.sizes_ = (vectors.shape[1], *training.hidden, scores.shape[1])
        self.parameters_ = train(vectors, scores, training, self.seed)
        return self

    def expect(self, vectors: FloatArray) -> FloatArray:
        """Probabilities of being right."""
        return sigmoid(self._logits(vectors))

    def chances(self, vectors: FloatArray) -> FloatArray:
        """Softmax of the log odds."""
        return softmax_chances(self._logits(vectors))

    def _logits(self, vectors: FloatArray) -> FloatArray:
        layers = layers_of(self.parameters_, self.sizes_)
        return logits(vectors, layers, self._training().activation)

    def _training(self) -> Training:
        return self.published if self.variant == "published" else self.minibatch


class RouterEvalLinear(_Network):
    """LinearR: one linear layer and cross-entropy; Adam at 0.01 on a cosine, 10 epochs, batch 1.

    The minibatch variant differs in its batches alone.
    """

    name = "routereval-linear"
    published = Training(epochs=10, batch_size=1, rate=0.01, schedule="cosine")
    minibatch = Training(epochs=10, batch_size=None, rate=0.01, schedule="cosine")


class RouterEvalMLP(_Network):
    """MLPR: two hidden layers of 256 with ReLU; Adam at 0.0001, 100 epochs, batch 1.

    The minibatch variant has 10 epochs at a rate of 0.001.
    """

    name = "routereval-mlp"
    published = Training(epochs=100, batch_size=1, rate=1e-4, hidden=(256, 256))
    minibatch = Training(epochs=10, batch_size=None, rate=1e-3, hidden=(256, 256))


class RouterEvalMLC(_Network):
    """MLC, a multi-label classifier; ours is a head on frozen vectors, RouterEval fine-tunes.

    The original fine-tunes roberta-base on the text (10 epochs, batch 10, 500 warm-up steps, weight
    decay 0.01). Here the encoder stays as it is and only RoBERTa's head is trained (a layer of 128
    with tanh, then one output an expert; no dropout), under the same settings but for the rate:
    0.001, where fine-tuning takes rates far too small for a head alone. Results are not those of a
    fine-tuned RoBERTa. The minibatch variant has a rate of 0.003.
    """

    name = "routereval-mlc"
    published = Training(10, 10, 1e-3, "warm-up", decay=0.01, hidden=(128,), activation="tanh")
    minibatch = Training(10, None, 3e-3, "warm-up", decay=0.01, hidden=(128,), activation="tanh")

    def chances(self, vectors: FloatArray) -> FloatArray:
        """The positive log odds, normalised; all zero where none is positive, as published.

        There the original also picks the first expert; ours still picks the one expected best.
        """
        return relu_chances(self._logits(vectors))


class RouterEvalCluster(Baseline):
    """C-RoBERTa: k-means with K = 3; the expert with the best mean score in the nearest cluster.

    Parameters
    ----------
    clusters
        K; fewer where there are fewer different vectors.
    seed
        Of the starting centres.
    encoder
        Plug-in name of an encoder, or an instance.
    """

    name = "routereval-cluster"
    centres_: FloatArray
    quality_: FloatArray

    def __init__(self, clusters: int = 3, seed: int = 0, encoder: str | Encoder = "static") -> None:
        self.clusters = clusters
        self.seed = seed
        self.encoder = encoder

    def learn(self, vectors: FloatArray, scores: FloatArray) -> Self:
        """Cluster, and take means a cluster; where an expert has none, its overall mean."""
        from sklearn.cluster import KMeans

        if self.clusters < 1:
            raise InputError(f"expected at least 1, got {self.clusters}", field="clusters")
        points = np.asarray(vectors, np.float32)
        count = _different(points, self.clusters)
        found = KMeans(count, n_init=10, random_state=self.seed).fit(points)
        self.centres_ = found.cluster_centers_.astype(float)
        members = [scores[found.labels_ == cluster] for cluster in range(count)]
        overall = mean_or(scores, 0.0)
        self.quality_ = np.stack([mean_or(rows, overall) for rows in members])
        return self

    def expect(self, vectors: FloatArray) -> FloatArray:
        """Mean scores in the cluster of the nearest centre."""
        expected: FloatArray = self.quality_[self._distances(vectors).argmin(axis=1)]
        return expected

    def chances(self, vectors: FloatArray) -> FloatArray:
        """Inverse distances to the centres, summed over the clusters an expert is best in."""
        return cluster_chances(self._distances(vectors), self.quality_)

    def _distances(self, vectors: FloatArray) -> FloatArray:
        """Euclidean, shape (queries, clusters)."""
        points = np.asarray(vectors, float)
        distances = [np.linalg.norm(points - centre, axis=1) for centre in self.centres_]
        return np.stack(distances, axis=1)


def _different(points: Weights, most: int) -> int:
    """How many different rows there are, up to ``most``."""
    seen: set[bytes] = set()
    for row in points:
        seen.add(row.tobytes())
        if len(seen) == most:
            break
    return len(seen)


class RouterEvalKNN(Baseline):
    """PRknn: the mean score of the 5 nearest recorded queries by cosine.

    Parameters
    ----------
    k
        Neighbours; all recorded queries where there are fewer. Ties go to the earlier query.
    encoder
        Plug-in name of an encoder, or an instance.
    """

    name = "routereval-knn"
    vectors_: FloatArray
    quality_: FloatArray

    def __init__(self, k: int = 5, encoder: str | Encoder = "static") -> None:
        self.k = k
        self.encoder = encoder

    def learn(self, vectors: FloatArray, scores: FloatArray) -> Self:
        """Remember the vectors and scores."""
        if self.k < 1:
            raise InputError(f"expected at least 1, got {self.k}", field="k")
        self.vectors_ = np.array(vectors, np.float32)
        self.quality_ = np.array(scores)
        return self

    def expect(self, vectors: FloatArray) -> FloatArray:
        """Means over the neighbours on which an expert was observed, or else over all queries."""
        quality = np.empty((len(vectors), self.quality_.shape[1]))
        overall = mean_or(self.quality_, 0.0)
        for start in range(0, len(vectors), BLOCK):
            near = self._neighbours(np.asarray(vectors[start : start + BLOCK], np.float32))
            for row, members in enumerate(near, start):
                quality[row] = mean_or(self.quality_[members], overall)
        return quality

    def chances(self, vectors: FloatArray) -> FloatArray:
        """Softmax of the means, and so nearly uniform whatever was learnt."""
        return softmax_chances(self.expect(vectors))

    def _neighbours(self, vectors: Weights) -> IntArray:
        """Rows of the k nearest recorded queries, nearest first, shape (queries, k)."""
        count = len(self.vectors_)
        if self.k >= count:
            return np.tile(np.arange(count), (len(vectors), 1))
        near = vectors @ self.vectors_.T
        near *= np.float32(GRAIN)
        np.rint(near, out=near)
        least = np.partition(near, count - self.k, axis=1)[:, [count - self.k]]
        query, row = np.nonzero(near >= least)  # k a query, and those that tie with the last
        order = np.lexsort((row, -near[query, row], query))
        first = np.searchsorted(query, np.arange(len(near)))
        found: IntArray = row[order][first[:, None] + np.arange(self.k)]
        return found
