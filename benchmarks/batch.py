"""The batch driver's figures, each against what it is to be compared with, in one run.

    python benchmarks/batch.py --data DIR --output benchmarks/results/batch.json

``lanes`` says what the ideal and the naive way are, ``overhead`` how the driver's own cost is
measured, ``journal``, ``fifty``, ``weights`` and ``arrivals`` the rest. DIR holds the record sets;
without MMLU-Pro among them ``lookahead_gap_closed`` is null. Takes some ten minutes on two idle
cores; ``--quick`` takes one minute and its figures mean little. Other work on the
machine makes every figure worse: the load when the run began is written beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import arrivals
import fifty
import journal
import lanes
import overhead
import weights

from coterie.files import replace_file

GOALS = {  # key: (at least or at most, value)
    "wall_over_ideal": ("<=", 1.05),
    "speedup_vs_naive": (">=", 5.0),
    "lookahead_gap_closed": (">=", 0.75),
    "overhead_us_per_call": ("<=", 50.0),
    "rss_growth_mb": ("<=", 300.0),
    "journal_share": ("<=", 0.03),
}
FIGURES = (*list(GOALS)[:2], "loads", "distinct_experts", *list(GOALS)[2:])


class Sizes(NamedTuple):
    """How much of everything is measured."""

    questions: int = 2000
    subset: int = 200
    repeats: int = 3
    million: int = 1_000_000
    recruited: int = 300_000
    completions: int = 100_000
    fifty: int = 2000
    experts: int = 16
    requests: int = 200


QUICK = Sizes(100, 20, 1, 20_000, 5_000, 10_000, 100, 3, 10)


def measure(sizes: Sizes, data: Path) -> dict[str, Any]:
    """All figures, rounded, the eight that have a name in the issue first."""
    cores, load = os.cpu_count(), os.getloadavg()[0]
    if load > 0.5:
        print(f"the machine is busy (load {load:.1f}): figures will be worse", file=sys.stderr)
    asked = (sizes.questions, sizes.subset, sizes.repeats)
    details = {
        "overhead": stage(lambda: overhead.measure(sizes.million, sizes.recruited)),
        "journal": stage(lambda: journal.measure(sizes.completions)),
        "lanes": stage(lambda: asyncio.run(lanes.measure(*asked))),
        "fifty": stage(lambda: asyncio.run(fifty.measure(sizes.fifty))),
        "embedded": stage(lambda: asyncio.run(weights.measure_embedded(sizes.requests))),
        "larger": stage(lambda: asyncio.run(weights.measure_larger(sizes.experts, sizes.requests))),
        "arrivals": stage(lambda: arrivals.measure(data)),
    }
    flat = {**details["lanes"], **details["overhead"]}
    flat["lookahead_gap_closed"] = details["arrivals"].get("lookahead_gap_closed")
    figures = {key: flat[key] for key in FIGURES}
    machine = {"cores": cores, "load": load, "python": platform.python_version()}
    found = {**figures, "met": met(figures), "machine": machine, "details": details}
    return dict(rounded(found))


def stage(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the work returns and the seconds it took; shown as it comes."""
    start = time.perf_counter()
    found = {**work(), "took_s": time.perf_counter() - start}
    print(json.dumps(rounded(found)), file=sys.stderr)
    return found


def met(figures: dict[str, Any]) -> dict[str, bool | None]:
    """Whether each goal is reached; None where nothing was measured."""
    found: dict[str, bool | None] = {}
    for key, (sense, goal) in GOALS.items():
        value = figures[key]
        reached = None if value is None else (value <= goal if sense == "<=" else value >= goal)
        found[key] = reached
    return found


def rounded(value: Any) -> Any:
    """Numbers to four figures."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--quick", action="store_true", help="small sizes, to try it")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    result = measure(QUICK if args.quick else Sizes(), args.data)
    print(json.dumps({key: value for key, value in result.items() if key != "details"}, indent=1))
    if args.output:
        replace_file(args.output, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
