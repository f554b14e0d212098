"""RouterEval's baselines as Ray tasks, one a candidate group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from coterie.drivers.distributed import connected
from coterie.errors import CoterieError
from coterie.scaling.baselines import BASELINES, Cell, judge_baselines
from coterie.scaling.groups import Group
from coterie.scaling.matrix import ScoreMatrix
from coterie.types import FloatArray, IntArray


def judge_on_ray(
    address: str,
    matrix: ScoreMatrix,
    vectors: FloatArray,
    groups: Iterable[Group],
    parts: Sequence[IntArray],
    *,
    routers: Sequence[str] = BASELINES,
    variant: str = "minibatch",
    seed: int = 0,
) -> Iterator[Cell]:
    """The cells of ``judge_baselines`` in the same order, every group in a task with one CPU.

    A matrix in memory is sent once a node; one in a file is read there, so its path must lead to
    it on every node. Equal to judging here with one thread for BLAS. Raises what
    ``judge_baselines`` and ``connected`` raise.
    """
    with connected(address) as ray:
        scores = matrix._array if matrix.path is None else matrix.path.absolute()
        shared = ray.put(scores), ray.put(vectors), ray.put(list(parts))
        task = ray.remote(_judge).options(num_cpus=1)
        pending = [task.remote(*shared, group, routers, variant, seed) for group in groups]
        for result in pending:
            cells = ray.get(result)
            if isinstance(cells, CoterieError):
                raise cells
            yield from cells


def _judge(
    scores: NDArray[Any] | Path,
    vectors: FloatArray,
    parts: Sequence[IntArray],
    group: Group,
    routers: Sequence[str],
    variant: str,
    seed: int,
) -> list[Cell] | CoterieError:
    """One group's cells, or what was wrong; runs on the cluster."""
    settings: dict[str, Any] = {"routers": routers, "variant": variant, "seed": seed}
    try:
        return list(judge_baselines(ScoreMatrix(scores), vectors, [group], parts, **settings))
    except CoterieError as error:
        return error
