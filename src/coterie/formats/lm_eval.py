"""lm-evaluation-harness: what ``lm_eval --log_samples --output_path DIR`` writes.

A folder with one sub-folder a model (or one model's folder) that holds ``results_<date>.json`` and
``samples_<task>_<date>.jsonl``. The model's name is ``model_name`` of its newest results file, else
the folder's name. Of several dates of a task the newest counts, as the harness itself has it.

A question is identified by task, ``doc_id`` and ``doc_hash``: another hash is another question, so
models that ran on different versions of a data set are never joined. Its text is the document's
question with its choices, if it has such fields, else the prompt that was sent (which may hold
few-shot examples and a chat template, and then counts as of the first model). ``target`` becomes
the reference, a generated filtered reply the answer.

The score is the first of ``METRICS`` that a task's samples have, in the first of ``FILTERS``; a
mapping says otherwise: ``columns={"metric": "acc_norm,exact_match", "filter": "flexible-extract",
"text": "passage"}``; ``max_score`` divides it, as BLEU up to 100 needs. Costs and times are not in
these files.

Source: github.com/EleutherAI/lm-evaluation-harness, lm_eval/evaluator.py (the sample's fields) and
lm_eval/loggers/evaluation_tracker.py at 034ab03 (files and folders).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coterie.errors import InputError
from coterie.formats.base import (
    Matrix,
    Row,
    best_score,
    check_mapping,
    clean,
    mapping_hint,
)
from coterie.formats.tables import document, rows
from coterie.records import Records

NAME = "lm-eval"
METRICS = """
exact_match acc acc_norm pass@1 pass_at_1 math_verify em prompt_level_strict_acc mcc f1 rougeL bleu
""".split()  # noqa: SIM905 (a list of this length is better read as text)
FILTERS = ("none", "strict-match", "flexible-extract", "custom-extract")
QUESTIONS = ("question", "problem", "query", "prompt", "instruction", "goal", "sentence", "input")
FILE = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[\d\-.:]+)\.jsonl")


def matches(path: Path) -> bool:
    """Whether there are files called samples_<task>_<date>.jsonl."""
    if path.is_dir():
        return next(path.rglob("samples_*.jsonl"), None) is not None
    return FILE.fullmatch(path.name) is not None


def read(path: Path, columns: Mapping[str, str]) -> Records:
    """The records; raises InputError for a task whose metric cannot be told."""
    check_mapping(columns, ("metric", "filter", "text", "max_score"), path)
    matrix = Matrix(path)
    for (folder, task), file in _newest(path).items():
        _task(matrix, file, task, _model(folder), columns)
    return matrix.records()


def _newest(path: Path) -> dict[tuple[Path, str], Path]:
    """The file with the latest date of every folder and task."""
    found: dict[tuple[Path, str], Path] = {}
    for file in sorted(path.rglob("samples_*.jsonl")) if path.is_dir() else [path]:
        name = FILE.fullmatch(file.name)
        task = name["task"] if name else file.stem.removeprefix("samples_")
        found[file.parent, task] = file  # dates sort as text
    if not found:
        raise InputError("holds no samples_<task>_<date>.jsonl", path=path)
    return found


def _model(folder: Path) -> str:
    """The model whose results lie in the folder."""
    for file in sorted(folder.glob("results_*.json"), reverse=True):
        results = document(file)
        name = results.get("model_name") if isinstance(results, dict) else None
        if isinstance(name, str) and name.strip():
            return clean(name)
    return folder.resolve().name.replace("__", "/")


def _task(matrix: Matrix, file: Path, task: str, model: str, columns: Mapping[str, str]) -> None:
    samples = list(rows(file))
    if not samples:
        raise InputError("holds no samples", path=file)
    chosen = _filter(samples, columns.get("filter"))
    samples = [sample for sample in samples if _named_filter(sample) == chosen]
    metric = _metric(samples[0], columns.get("metric"))
    for sample in samples:
        hashed = (sample.text("doc_hash") or "")[:12]
        id = "/".join(part for part in (task, sample.required("doc_id"), hashed) if part)
        row = matrix.query(
            id,
            _text(sample, columns.get("text")),
            sample.place,
            category=task,
            reference=sample.text("target"),
            same_text=not hashed,
        )
        score = sample.score(metric, best_score(columns, file))
        matrix.outcome(row, model, score, sample.place, text=_answer(sample))


def _named_filter(sample: Row) -> str:
    return sample.text("filter") or "none"


def _filter(samples: list[Row], wanted: str | None) -> str:
    """The filter to read: the one asked for, a known one, or the file's first."""
    there = list(dict.fromkeys(_named_filter(sample) for sample in samples))
    if wanted is None:
        return next((name for name in FILTERS if name in there), there[0])
    if wanted not in there:
        raise samples[0].error(f"no filter {wanted!r}; there are {', '.join(there)}", "filter")
    return wanted


def _metric(sample: Row, wanted: str | None) -> str:
    """The metric to read: the first asked for, the first known, or the only one."""
    options = [name.strip() for name in wanted.split(",")] if wanted else METRICS
    known = next((name for name in options if name in sample), None)
    if known is not None:
        return known
    listed = sample.values.get("metrics")
    own = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    if len(own) == 1 and not wanted and own[0] in sample:
        return own[0]
    hint = f"name one: {mapping_hint('metric', own[0])}" if own else "are they log_samples?"
    there = ", ".join(own) or "unknown"
    message = f"none of {', '.join(options)} is there; the metrics are {there}"
    raise sample.error(f"{message}; {hint}")


def _text(sample: Row, field: str | None) -> str:
    """The document's question and choices, else the prompt that was sent."""
    if field is None and not isinstance(sample.values.get("doc"), dict):
        return _sent(sample)
    document = sample.inner("doc")
    names = (field,) if field else QUESTIONS
    name = next((n for n in names if isinstance(document.values.get(n), str)), None)
    if name is None:
        if field:
            raise sample.error(f"the document has no text {field!r}", "doc")
        return _sent(sample)
    return "\n".join([document.text(name) or "", *_choices(document.values.get("choices"))])


def _choices(value: Any) -> list[str]:
    """Lettered options, out of a list of texts or an object with a list ``text``."""
    listed = value.get("text") if isinstance(value, dict) else value
    if not isinstance(listed, list) or not all(isinstance(option, str) for option in listed):
        return []
    return [f"{chr(65 + n)}. {clean(option)}" for n, option in enumerate(listed[:26])]


def _sent(sample: Row) -> str:
    """The first argument of the first request: the prompt."""
    value: Any = sample.values.get("arguments")
    for _ in range(2):
        if isinstance(value, dict):
            value = next(iter(value.values()), None)
        elif isinstance(value, list):
            value = value[0] if value else None
    return clean(value) if isinstance(value, str) else ""


def _answer(sample: Row) -> str | None:
    """The filtered reply where it is a text; likelihoods of options are none."""
    value: Any = sample.values.get("filtered_resps")
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return clean(value) if isinstance(value, str) else None
