"""What is compared by ``rivals.py``: records with vectors and folds, and routers run on them.

Ours run here, theirs through ``rivals_drivers.py`` in environments of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coterie import plugins
from coterie.evaluation import complete
from coterie.features import Encoder, StaticEncoder, Vectors
from coterie.formats import read_records
from coterie.policies import Utility
from coterie.records import Records
from coterie.routers.base import Router, mean_or
from coterie.types import FloatArray, Query

Rows: TypeAlias = NDArray[np.intp]
# By name: plug-in, settings, and the one of theirs that is most alike; None for the best of theirs.
Kinds: TypeAlias = Mapping[str, tuple[str, dict[str, Any], str | None]]

FOLDS = 5
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


def ours(case: Case, kinds: Kinds) -> list[Line]:
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


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """The result and the CPU seconds of this process, which other work does not lengthen."""
    start = time.process_time()
    result = run()
    return result, time.process_time() - start
