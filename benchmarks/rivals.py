"""Coterie's routers beside LLMRouter's and RouteLLM's own code: same vectors, same split, same run.

    python benchmarks/rivals.py --data DIR --rivals .venv-rivals --output FILE

DIR holds the records folders ``llmrouter9`` and ``routellm2``. Every side gets the static encoder's
vectors through a look-up, learns on the training rows of each fold and routes its test rows on one
thread; ``rivals_drivers.py`` runs the others' code in environments of their own (``make
bench-rivals`` makes them). Where one does not install or run, the output says so and goes on.

Times are CPU seconds without embedding: ``train_s``; ``single_s`` per question routed one at a
time, as a server meets them; ``batch_s`` per question of the whole test part at once. What their
constructors do, reading files and making labels or pairs, is in ``setup_s`` and in no ratio.

LLMRouter's routers label every question with its best expert, ties with the first listed: here
experts are listed from best to worst on the training rows, the kindest order; the row marked "as
listed" has the records' order.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rivals_cases import FOLDS, Case, Kinds, Line, baselines, drive, ours, read_case, theirs
from threadpoolctl import threadpool_limits

from coterie.files import replace_file
from coterie.metrics import paired_difference
from coterie.metrics.routellm import apgr, call_curve
from coterie.types import FloatArray

BENCHMARKS = ("mmlu", "gsm8k")  # of routellm2, where RouteLLM reports APGR
WEAK_AND_STRONG = ("Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview")
MANY: Kinds = {
    "knn": ("knn", {}, "knnrouter (k = √N, cosine, distance)"),
    "linear": ("linear", {}, "svmrouter"),
    "mlp": ("mlp", {}, "mlprouter"),
    "factorization": ("factorization", {}, "mfrouter"),
    "category-router": ("category-router", {}, None),
}
PAIR: Kinds = {
    "knn": ("knn", {}, "mf"),
    "linear": ("linear", {}, "mf"),
    "linear (target = gap)": ("linear", {"target": "gap"}, "mf"),
    "mlp": ("mlp", {}, "mf"),
    "category-router": ("category-router", {}, "mf"),
    "factorization": ("factorization", {}, "mf"),
    "similarity-weighted": ("similarity-weighted", {}, "sw_ranking"),
}


def facts(line: Line) -> dict[str, Any]:
    """A row of the table as JSON; times in seconds, those of routing per question."""
    tested = ~np.isnan(line.scores)
    row: dict[str, Any] = {"side": line.side, "name": line.name}
    if tested.any():
        row |= {
            "questions": int(tested.sum()),
            "score": round(float(line.scores[tested].mean()), 4),
        }
    row |= {key: float(f"{value:.3g}") for key, value in line.seconds.items()} | line.metrics
    return row | ({"note": line.note} if line.note else {})


def ratio(mine: Line, other: Line) -> dict[str, Any]:
    """Ours over theirs on the questions that both routed; the difference of scores in points."""
    both = ~np.isnan(mine.scores) & ~np.isnan(other.scores)
    a, b = mine.scores[both], other.scores[both]
    found = paired_difference(a, b)
    row: dict[str, Any] = {"ours": mine.name, "theirs": other.name, "questions": int(both.sum())}
    row["score"] = round(float(a.mean() / b.mean()), 3)
    points = [round(100 * value, 2) for value in (found.value, found.low, found.high)]
    row["points"], row["ci"] = points[0], points[1:]
    for key in ("train_s", "single_s", "batch_s"):
        if other.seconds.get(key):
            row[key] = float(f"{mine.seconds[key] / other.seconds[key]:.3g}")
    return row


def ratios(
    mine: Sequence[Line],
    others: Sequence[Line],
    kinds: Kinds,
) -> list[dict[str, Any]]:
    """Each of ours over its counterpart, or over the best of theirs, chosen on these questions."""
    routed = {line.name: line for line in others if line.folds}
    if not routed:
        return []
    best = max(routed.values(), key=lambda line: float(np.nanmean(line.scores)))
    found = []
    for line in mine:
        other = kinds[line.name][2]
        found.append(ratio(line, routed.get(other, best) if other else best))
    return found


def pair_metrics(case: Case, lines: Sequence[Line], rivals: Path) -> str:
    """Give every line its APGR on MMLU and GSM8K, exact and by RouteLLM's own evaluation.

    Returns what went wrong with the latter.
    """
    weak, strong = case.records.quality.T
    benchmark = benchmarks(case)
    asked: list[tuple[Line, dict[str, Any]]] = []
    for line in [line for line in lines if line.folds]:
        rows = np.flatnonzero(~np.isnan(line.scores))
        curve = call_curve(weak[rows], strong[rows], line.preference[rows])
        half = np.interp(0.5, curve.share, curve.score)
        line.metrics["score_at_half"] = round(float(half), 4)
        for name in BENCHMARKS:
            here = rows[benchmark[rows] == name]
            parts = {
                "weak": weak[here],
                "strong": strong[here],
                "preference": line.preference[here],
            }
            line.metrics[f"apgr_{name}"] = apgr_interval(**parts)
            lists = {key: part.tolist() for key, part in parts.items()}
            asked.append((line, {"benchmark": name, **lists}))
    return released_apgr(asked, rivals)


def released_apgr(asked: Sequence[tuple[Line, dict[str, Any]]], rivals: Path) -> str:
    """Give lines the APGR that RouteLLM's evaluation prints; returns what went wrong."""
    with tempfile.TemporaryDirectory() as scratch:
        cases = [case for _, case in asked]
        (Path(scratch) / "preferences.json").write_text(json.dumps(cases))
        rows, problem = drive(rivals, "apgr", Path(scratch))
    results = [row for row in rows if "versions" not in row]
    for (line, case), row in zip(asked, results, strict=False):
        if "apgr" in row:
            line.metrics[f"apgr_{case['benchmark']}_routellm"] = round(row["apgr"], 4)
        else:
            line.note = f"RouteLLM's evaluation fails on it: {row['error']}"
    return problem


def benchmarks(case: Case) -> NDArray[np.str_]:
    """Where each question is from, as its id says."""
    return np.array([query.id.split("/")[0] for query in case.records.queries])


def apgr_ratios(case: Case, mine: Line, other: Line) -> dict[str, float]:
    """Our exact APGR over theirs on the questions that both routed."""
    both = ~np.isnan(mine.scores) & ~np.isnan(other.scores)
    found = {}
    for name in BENCHMARKS:
        rows = np.flatnonzero(both & (benchmarks(case) == name))
        weak, strong = case.records.quality[rows].T
        a, b = (apgr(weak, strong, line.preference[rows]) for line in (mine, other))
        found[f"apgr_{name}"] = round(a / b, 3)
    return found


def apgr_interval(weak: FloatArray, strong: FloatArray, preference: FloatArray) -> list[float]:
    """The exact APGR and its 95 % interval over 200 resamples of the questions.

    Resamples in which the strong expert is not ahead have no APGR and are left out.
    """
    generator = np.random.default_rng(0)
    draws = [generator.integers(len(weak), size=len(weak)) for _ in range(200)]
    ahead = [rows for rows in draws if strong[rows].mean() > weak[rows].mean()]
    values = [apgr(weak[rows], strong[rows], preference[rows]) for rows in ahead]
    low, high = np.quantile(values, [0.025, 0.975])
    return [round(float(v), 4) for v in (apgr(weak, strong, preference), low, high)]


def measure_many(args: argparse.Namespace) -> dict[str, Any]:
    """LLMRouter's routers and ours on ``llmrouter9``."""
    case = read_case(args.data / "llmrouter9", args.folds)
    mine = ours(case, MANY)
    others, versions = theirs(case, "llmrouter", args.rivals)
    rows = [facts(line) for line in [*baselines(case), *mine, *others]]
    return {**size(case), "versions": versions, "rows": rows, "ratios": ratios(mine, others, MANY)}


def measure_pair(args: argparse.Namespace) -> dict[str, Any]:
    """RouteLLM's routers and ours on ``routellm2``, the strong expert last."""
    case = read_case(args.data / "routellm2", args.folds, WEAK_AND_STRONG)
    mine = ours(case, PAIR)
    others, versions = theirs(case, "routellm", args.rivals)
    problem = pair_metrics(case, [*mine, *others], args.rivals)
    rows = [facts(line) for line in [*baselines(case), *mine, *others]]
    result = {**size(case), "versions": versions, "evaluation": problem or "ran", "rows": rows}
    compared = ratios(mine, others, PAIR)
    named = {line.name: line for line in [*others, *mine]}
    for row in compared:
        row |= apgr_ratios(case, named[row["ours"]], named[row["theirs"]])
    return result | {"ratios": compared}


def size(case: Case) -> dict[str, int]:
    tested = sum(len(test) for _, test in case.folds)
    return {"questions": tested, "experts": len(case.records.experts), "folds": len(case.folds)}


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table, one column for every key of the rows."""
    keys = list(dict.fromkeys(key for row in rows for key in row if key != "note"))
    cells = [keys, *([_cell(row.get(key)) for key in keys] for row in rows)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(keys))]
    notes = ["", *(row.get("note", "") for row in rows)]
    print(f"\n{title}")
    for line, note in zip(cells, notes, strict=True):
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        print("  ".join([*padded, note]).rstrip())


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(str(part) for part in value)
    return "" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rivals", type=Path, default=Path(".venv-rivals"))
    parser.add_argument("--folds", type=int, default=FOLDS, help="judge only the first so many")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with threadpool_limits(1):
        result = {"llmrouter9": measure_many(args), "routellm2": measure_pair(args)}
    for name, found in result.items():
        show(f"{name}: every router", found["rows"])
        show(f"{name}: ours / theirs", found["ratios"])
    if args.output:
        replace_file(args.output, json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
