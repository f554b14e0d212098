"""RouterEval's size on one machine: exact curves, candidate groups, baselines, and the panel.

    python benchmarks/scale.py --output benchmarks/results/scale.json

Every stage runs in a process of its own, whose peak memory is measured there (of the panel, that of
its largest process). Times include reading the matrix from disk and leave out the start of Python
and the making of the matrix. The curve covers every m from 1 to the number of experts.
``baselines_s`` covers the candidate groups of m = 1000 (all three kinds) and six baselines on each:
LinearR, MLPR, MLC (minibatch variants), clusters and PRknn, next to random and the bounds.

``panel_s`` is the panel of all numpy routers with 5 folds, bootstrap intervals and cost curves on
15,000 queries and 26 experts, on two processes. Numpy routers are all registered ones but the
yardsticks (rows of every panel anyway) and the families ``stack`` and ``forest``, which grow
scikit-learn's trees; of the others, k-means (``kmeans``, ``avengers``, ``routereval-cluster``) and
the classifier of ``category-router`` are scikit-learn's, everything else is numpy and scipy.
``cpu_s`` is the CPU time of each process and its children from its start, which says what a busy
machine hides.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from coterie import plugins
from coterie.files import replace_file
from coterie.records import Records
from coterie.scaling import ScoreMatrix, candidate_groups, scaling_curve, split_rows
from coterie.scaling.baselines import judge_baselines
from coterie.synthetic import World, write
from coterie.types import Query

TREES = ("category-forest", "category-stack", "forest", "stack")  # grown by scikit-learn
JOBS = 2  # processes of the panel


def curve(folder: Path) -> dict[str, Any]:
    start = time.perf_counter()
    found = scaling_curve(ScoreMatrix(folder / "scores.npy"))
    sizes = [m for m in (3, 5, 10, 100, 1000) if m <= len(found.oracle)]
    oracle = dict(zip(sizes, found.at(sizes).round(4).tolist(), strict=True))
    return {"seconds": time.perf_counter() - start, "oracle": oracle}


def groups(folder: Path) -> dict[str, Any]:
    matrix = ScoreMatrix(folder / "scores.npy")
    start = time.perf_counter()
    found = candidate_groups(matrix, [m for m in (3, 5, 10, 100, 1000) if 2 * m < matrix.experts])
    return {"seconds": time.perf_counter() - start, "groups": len(found)}


def baselines(folder: Path) -> dict[str, Any]:
    start = time.perf_counter()
    matrix = ScoreMatrix(folder / "scores.npy")
    vectors, categories = (np.load(folder / f"{n}.npy") for n in ("embeddings", "categories"))
    chosen = candidate_groups(matrix, [min(1000, matrix.experts // 2)])
    cells = list(judge_baselines(matrix, vectors, chosen, split_rows(categories)))
    seconds = time.perf_counter() - start
    rows = [f"{c.kind} {c.router}: {c.quality:.4f}, {c.seconds:.1f} s" for c in cells]
    return {"seconds": seconds, "cells": rows}


def panel(queries: int, experts: int) -> dict[str, Any]:
    from coterie.panel import Entrant, judge
    from coterie.panel.specs import YARDSTICKS

    world = World(experts=experts, items=queries, dim=1, seed=3)
    asked = tuple(
        Query(f"q{row}", ({"role": "user", "content": text},), category=f"skill {skill}")
        for row, (text, skill) in enumerate(zip(world.prompts(), world.main_skills, strict=True))
    )
    quality = world.scores().astype(float)
    cost = np.tile(1 + quality.mean(axis=0), (queries, 1))
    records = Records(asked, world.names, quality, cost=cost)
    known = plugins.names("routers")
    names = [name for name in known if name not in (*YARDSTICKS, *TREES)]
    start = time.perf_counter()
    entrants = [Entrant(name, plugins.load("routers", name)) for name in names]
    found = judge(records, entrants, folds=5, tolerant=True, jobs=JOBS)
    seconds = time.perf_counter() - start
    took = {row.name: round(row.seconds, 1) for row in found.rows if row.kind == "router"}
    phases = {name: round(value, 1) for name, value in found.seconds.items()}
    return {"seconds": seconds, "phases": phases, "routers": took, "notes": list(found.notes)}


def measured(stage: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """What the stage returns, and its peak memory, from a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        result = pool.submit(_run, stage, args).result()
    shown = {k: round(v, 2) if isinstance(v, float) else v for k, v in result.items()}
    print(f"{stage.__name__}: {json.dumps(shown, indent=1)}", file=sys.stderr)
    return result


def _run(stage: Callable[..., dict[str, Any]], args: tuple[Any, ...]) -> dict[str, Any]:
    result = stage(*args)
    own, forked = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu = sum(used.ru_utime + used.ru_stime for used in (own, forked))
    return {**result, "cpu": cpu, "peak_mb": max(own.ru_maxrss, forked.ru_maxrss) / 1024}


def generate(folder: Path, world: World) -> dict[str, Any]:
    start = time.perf_counter()
    write(world, folder)
    return {"seconds": time.perf_counter() - start}


def measure(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    size = {"experts": args.experts, "items": args.items, "dim": args.dim}
    stages: dict[str, dict[str, Any]] = {}
    for kind in ("binary", "fractional"):
        world = World(**size, fractional=kind == "fractional")
        stages[f"generate_{kind}"] = measured(generate, scratch / kind, world)
        stages[f"curve_{kind}"] = measured(curve, scratch / kind)
    stages["groups_binary"] = measured(groups, scratch / "binary")
    stages["baselines"] = measured(baselines, scratch / "binary")
    if not args.no_panel:
        stages["panel"] = measured(panel, args.panel_queries, 26)
    peaks = {name: round(facts.pop("peak_mb")) for name, facts in stages.items()}
    cpu = {name: round(facts.pop("cpu"), 2) for name, facts in stages.items()}
    seconds = {name: round(facts.pop("seconds"), 2) for name, facts in stages.items()}
    return {
        **size,
        "oracle_curve_s": {k: seconds[f"curve_{k}"] for k in ("binary", "fractional")},
        "groups_s": seconds["groups_binary"],
        "baselines_s": seconds["baselines"],
        "peak_rss_mb": max(peaks.values()),
        "panel_s": seconds.get("panel"),
        "peaks_mb": peaks,
        "cpu_s": cpu,
        "generate_s": {k: seconds[f"generate_{k}"] for k in ("binary", "fractional")},
        "details": {name: facts for name, facts in stages.items() if facts},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experts", type=int, default=8567)
    parser.add_argument("--items", type=int, default=24_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--panel-queries", type=int, default=15_000)
    parser.add_argument("--no-panel", action="store_true")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(args, Path(scratch))
    print(json.dumps(result, indent=1))
    if args.output:
        replace_file(args.output, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
