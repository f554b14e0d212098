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
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from coterie import plugins
from coterie.evaluation import complete
from coterie.features import Encoder, StaticEncoder, Vectors
from coterie.files import replace_file
from coterie.formats import read_records
from coterie.metrics import paired_difference
from coterie.metrics.routellm import apgr, call_curve
from coterie.policies import Utility
from coterie.records import Records
from coterie.routers.base import Router, mean_or
from coterie.types import FloatArray, Query

Rows = NDArray[np.intp]

FOLDS = 5
BENCHMARKS = ("mmlu", "gsm8k")  # of routellm2, where RouteLLM reports APGR
SINGLE = 100  # questions that are routed one at a time
DRIVER = Path(__file__).with_name("rivals_drivers.py")
# One thread, nothing fetched; RouteLLM will not be imported without a key, however false.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_API_KEY": "none",
    "MPLBACKEND": "Agg",
    "PYTHONWARNINGS": "ignore",
}
WEAK_AND_STRONG = ("Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview")
# Ours, and the one of theirs that is most alike; None: the best of theirs.
MANY: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "knn": ("knn", {}, "knnrouter (k = √N, cosine, distance)"),
    "linear": ("linear", {}, "svmrouter"),
    "mlp": ("mlp", {}, "mlprouter"),
    "factorization": ("factorization", {}, "mfrouter"),
    "category-router": ("category-router", {}, None),
}
PAIR: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "knn": ("knn", {}, "mf"),
    "linear": ("linear", {}, "mf"),
    "linear (target = gap)": ("linear", {"target": "gap"}, "mf"),
    "mlp": ("mlp", {}, "mf"),
    "category-router": ("category-router", {}, "mf"),
    "factorization": ("factorization", {}, "mf"),
    "similarity-weighted": ("similarity-weighted", {}, "sw_ranking"),
}


class Given(Encoder):
    """The vectors of known texts, looked up."""

    name = "given"

    def __init__(self, texts: Sequence[str], vectors: Vectors) -> None:
        self.vectors, self.dim = vectors, vectors.shape[1]
        self.row = {text: number for number, text in enumerate(texts)}

    def __deepcopy__(self, memo: object) -> Given:
        return self

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Shape (texts, dim); KeyError for a text that was not given."""
        return self.vectors[[self.row[text] for text in texts]]

    def fingerprint(self) -> str:
        """Its name."""
        return self.name

    def to_arrays(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Not supported."""
        raise NotImplementedError("a look-up is not kept")

    @classmethod
    def from_arrays(cls, params: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Given:
        """Not supported."""
        raise NotImplementedError("a look-up is not kept")


@dataclass
class Line:
    """One router over the folds: scores, preferences for the last expert, mean seconds."""

    side: str
    name: str
    scores: FloatArray
    preference: FloatArray
    folds: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def add(self, seconds: Mapping[str, float]) -> None:
        """The mean over folds of what each took."""
        self.folds += 1
        for key, value in seconds.items():
            before = self.seconds.get(key, 0.0)
            self.seconds[key] = before + (value - before) / self.folds


@dataclass(frozen=True)
class Case:
    """Records, their vectors and the folds that are judged."""

    records: Records
    vectors: Vectors
    folds: list[tuple[Rows, Rows]]

    def line(self, side: str, name: str) -> Line:
        """A router that has routed nothing yet."""
        return Line(side, name, np.full(len(self.records), np.nan), np.full(len(self.records), 0.0))


def read_case(folder: Path, folds: int, experts: Sequence[str] = ()) -> Case:
    """Complete records with the static encoder's vectors, and the first of five folds.

    ``experts`` are all, in the records' order, unless they are given.
    """
    records = complete(read_records(folder))
    records = records.select(experts) if experts else records
    vectors = StaticEncoder().encode([query.text for query in records.queries])
    parts = records.folds(FOLDS, 0)[:folds]
    rest = [np.setdiff1d(np.arange(len(records)), part) for part in parts]
    return Case(records, vectors, list(zip(rest, parts, strict=True)))


def ours(case: Case, kinds: Mapping[str, tuple[str, dict[str, Any], str | None]]) -> list[Line]:
    """Our routers, each choosing the expert of the highest estimated quality."""
    encoder = Given([query.text for query in case.records.queries], case.vectors)
    lines = []
    for name, (kind, settings, _) in kinds.items():
        line = case.line("coterie", name)
        for train, test in case.folds:
            router = plugins.load("routers", kind)(encoder=encoder, **settings)
            line.add(route_fold(line, router, case.records, train, test))
        lines.append(line)
        print(f"coterie: {name} done", file=sys.stderr)
    return lines


def route_fold(
    line: Line, router: Router, records: Records, train: Rows, test: Rows
) -> dict[str, float]:
    """Fit, route one by one and all at once; scores and preferences go into the line."""
    known, asked = records.take(train), [records.queries[row] for row in test]
    _, training = timed(lambda: router.fit(known))
    _, single = timed(lambda: [decide(router, [query]) for query in asked[:SINGLE]])
    (chosen, preference), batch = timed(lambda: decide(router, asked))
    line.scores[test] = records.quality[test, [records.experts.index(name) for name in chosen]]
    line.preference[test] = preference
    one = single / len(asked[:SINGLE])
    return {"train_s": training, "single_s": one, "batch_s": batch / len(asked)}


def decide(router: Router, queries: Sequence[Query]) -> tuple[list[str], FloatArray]:
    """The chosen experts, and by how much the last expert is better than the first."""
    estimates = router.predict(queries)
    decisions = Utility().decide(queries, estimates)
    gap: FloatArray = estimates.quality[:, -1] - estimates.quality[:, 0]
    return [decision.experts[0] for decision in decisions], gap


def baselines(case: Case) -> list[Line]:
    """Any expert, the best single one of the training rows, and the best of every question."""
    quality = case.records.quality
    lines = [case.line("baseline", name) for name in ("random", "best single", "oracle")]
    for train, test in case.folds:
        best = int(mean_or(quality[train], 0.0).argmax())
        rows = quality[test].mean(axis=1), quality[test, best], quality[test].max(axis=1)
        for line, scores in zip(lines, rows, strict=True):
            line.scores[test] = scores
    return lines


def theirs(case: Case, kind: str, rivals: Path) -> tuple[list[Line], dict[str, str]]:
    """A rival's routers on the case, through the driver in its environment; and its versions."""
    with tempfile.TemporaryDirectory() as scratch:
        write_task(case, Path(scratch))
        rows, problem = drive(rivals, kind, Path(scratch))
    lines: dict[str, Line] = {}
    for row in rows:
        if "router" not in row:
            continue
        line = lines.setdefault(row["router"], case.line(kind, row["router"]))
        if "error" in row:
            line.note = row["error"]
        else:
            keep_fold(line, row, case)
    if problem:
        lines[kind] = case.line(kind, kind)
        lines[kind].note = problem
    return list(lines.values()), next((row["versions"] for row in rows if "versions" in row), {})


def keep_fold(line: Line, row: Mapping[str, Any], case: Case) -> None:
    """What a rival chose on a fold; from win rates the last expert at 0.5 or more."""
    test = case.folds[row["fold"]][1]
    if "preference" in row:
        line.preference[test] = row["preference"]
        chosen = np.where(line.preference[test] >= 0.5, len(case.records.experts) - 1, 0)
    else:
        chosen = np.array(row["chosen"])
    line.scores[test] = case.records.quality[test, chosen]
    line.add({key: value for key, value in row.items() if key.endswith("_s")})


def write_task(case: Case, folder: Path) -> None:
    """What the driver reads; ``order`` lists experts from best to worst on the training rows."""
    quality = case.records.quality
    folds = []
    for train, test in case.folds:
        order = np.argsort(-quality[train].mean(axis=0), kind="stable")
        folds.append({"train": train.tolist(), "test": test.tolist(), "order": order.tolist()})
    texts = [query.text for query in case.records.queries]
    task = {"texts": texts, "experts": list(case.records.experts), "folds": folds}
    (folder / "task.json").write_text(json.dumps(task))
    np.save(folder / "vectors.npy", case.vectors)
    np.save(folder / "scores.npy", quality)


def drive(rivals: Path, kind: str, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """The driver's results, and what went wrong; ``apgr`` is RouteLLM's evaluation."""
    package = {"apgr": "routellm"}.get(kind, kind)
    python, results = rivals / package / "bin" / "python", folder / "results.jsonl"
    if not python.exists():
        return [], f"not installed: {python} is missing; `make bench-rivals` installs it"
    command = [str(python), str(DRIVER), kind, str(folder), str(results)]
    run = subprocess.run(command, env={**os.environ, **ENVIRONMENT}, stderr=subprocess.PIPE)
    said = run.stderr.decode(errors="replace").strip()
    print(said, file=sys.stderr)
    rows = (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )
    return rows, f"stopped: {said.splitlines()[-1:]}" if run.returncode else ""


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
    kinds: Mapping[str, tuple[str, dict[str, Any], str | None]],
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


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """The result and the CPU seconds of this process, which other work does not lengthen."""
    start = time.process_time()
    result = run()
    return result, time.process_time() - start


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
