"""RouterEval's baseline routers on its candidate groups: quality against the number of experts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from coterie import plugins
from coterie.errors import InputError
from coterie.metrics.routereval import (
    best_single_value,
    classification_bias,
    mixed_chances,
    mixed_mu,
    mu,
    oracle_chances,
)
from coterie.routers.routereval import Baseline
from coterie.scaling.groups import Group
from coterie.scaling.matrix import ScoreMatrix
from coterie.types import FloatArray, IntArray

BASELINES = (
    "routereval-linear",
    "routereval-mlp",
    "routereval-cluster",
    "routereval-mlc",
    "routereval-knn",
)
NETWORKS = ("routereval-linear", "routereval-mlp", "routereval-mlc")  # those with a variant


@dataclass(frozen=True, slots=True)
class Cell:
    """One router on one candidate group, judged on the test rows.

    ``quality`` is RouterEval's mu. ``against_best`` is V_B: quality over that of the candidate best
    on these very test rows. ``bias`` is E_p in bits, NaN where a router has none. ``variant`` says
    how a network was trained; ``seconds`` is for learning and predicting.
    """

    kind: str
    size: int
    router: str
    quality: float
    against_best: float
    bias: float
    variant: str = ""
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None where there is no number."""
        return {k: None if v != v else v for k, v in asdict(self).items()}


def judge_baselines(
    matrix: ScoreMatrix,
    vectors: FloatArray,
    groups: Iterable[Group],
    parts: Sequence[IntArray],
    *,
    routers: Sequence[str] = BASELINES,
    variant: str = "minibatch",
    seed: int = 0,
) -> Iterator[Cell]:
    """Bounds and baseline routers on every group: they learn on the first part, the last judges.

    ``vectors`` (items, dim) and ``parts`` (row numbers for training, validation and test) refer
    to the rows of the matrix; incomplete rows are left out. As in RouterEval nobody looks at
    the validation part. Oracle, r_o(0.5) and random are expectations, not simulations. Raises
    InputError where a part has no complete row.
    """
    if len(vectors) != matrix.items:
        message = f"expected {matrix.items} vectors, one an item, got {len(vectors)}"
        raise InputError(message, path=matrix.path)
    for group in groups:
        rows, scores = matrix.take(group.members)
        train, test = (np.flatnonzero(np.isin(rows, part)) for part in (parts[0], parts[-1]))
        if not len(train) or not len(test):
            raise InputError("no complete items to learn from or to test on", path=matrix.path)
        judged = scores[test].astype(float)
        yield from _bounds(group, scores[train], judged)
        for name in routers:
            router = _make(name, variant, seed)
            start = time.perf_counter()
            router.learn(vectors[rows[train]], scores[train])
            chosen = router.expect(vectors[rows[test]]).argmax(axis=1)
            seconds = time.perf_counter() - start
            bias = classification_bias(router.chances(vectors[rows[test]]))
            quality = mu(judged, chosen)
            shown = variant if name in NETWORKS else ""
            value = _relative(quality, judged)
            yield Cell(group.kind, group.size, name, quality, value, bias, shown, seconds)


def _make(name: str, variant: str, seed: int) -> Baseline:
    """A baseline router; raises InputError for a router that needs more than vectors."""
    settings: dict[str, Any] = {"variant": variant, "seed": seed} if name in NETWORKS else {}
    router = plugins.load("routers", name)(**settings)
    if not isinstance(router, Baseline):
        raise InputError(f"{name!r} is no baseline of RouterEval; there are {', '.join(BASELINES)}")
    return router


def _bounds(group: Group, train: FloatArray, test: FloatArray) -> Iterator[Cell]:
    """What there is without routing, and its ceiling."""
    even = np.full((1, group.size), 1 / group.size)
    alone = test[:, int(train.mean(axis=0, dtype=float).argmax())]
    rows = {
        "oracle": (mixed_mu(test, 1.0), oracle_chances(test)),
        "r_o(0.5)": (mixed_mu(test, 0.5), mixed_chances(test, 0.5)),
        "random": (mixed_mu(test, 0.0), even),
        "best-single": (float(alone.mean()), None),
    }
    for name, (quality, chances) in rows.items():
        bias = float("nan") if chances is None else classification_bias(chances)
        yield Cell(group.kind, group.size, name, quality, _relative(quality, test), bias)


def _relative(quality: float, scores: FloatArray) -> float:
    """V_B; NaN where no candidate is ever right."""
    return best_single_value(quality, scores) if scores.any() else float("nan")
