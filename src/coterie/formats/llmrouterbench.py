"""LLMRouterBench: one JSON file for each model, data set and split, alone or in a folder tree.

``{"model_name", "dataset_name", "split", "records": [{index, origin_query, prompt, prompt_tokens,
completion_tokens, cost, score, prediction, ground_truth, raw_output}]}``. A question is data set,
split and ``index``, and its ``origin_query`` must be the same for every model. Files marked
``demo`` are passed over; of several files of one model, data set and split the one with the latest
date in its name counts, both as the benchmark's own loader has it. A record without a score is
unobserved.

Source: github.com/ynulihao/LLMRouterBench data_collector/storage.py at 46d48d4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from coterie.formats.base import Matrix, Place, Row, check_mapping, shown
from coterie.formats.tables import document, files, peek
from coterie.records import Records

NAME = "llmrouterbench"


def matches(path: Path) -> bool:
    """Whether the first file has a model, a data set and records."""
    found = peek(path)
    return {"model_name", "dataset_name"} <= found and bool(found & {"records", "counts"})


def read(path: Path, columns: Mapping[str, str]) -> Records:
    """The records of every file; raises InputError where one is no result file."""
    check_mapping(columns, (), path)
    matrix = Matrix(path)
    latest: dict[tuple[str, str, str], Row] = {}
    for file in sorted(files(path, (".json",)), key=_date):
        result = Row({"result": document(file)}, Place(file, "record", 1)).inner("result")
        if not result.values.get("demo"):
            named = (result.text("split") or "", result.required("model_name"))
            latest[result.required("dataset_name"), *named] = result
    for (dataset, split, model), result in latest.items():
        _result(matrix, result, "/".join(part for part in (dataset, split) if part), model)
    return matrix.records()


def split(path: Path, columns: Mapping[str, str]) -> dict[str, str]:
    """The split of each question."""
    queries = read(path, columns).queries
    return {q.id: parts[-2] for q in queries if len(parts := q.id.split("/")) > 2}


def _date(file: Path) -> tuple[str, str]:
    found = re.search(r"(\d{8}_\d{6})\.json$", file.name)
    return found[1] if found else "", str(file)


def _result(matrix: Matrix, result: Row, prefix: str, model: str) -> None:
    listed = result.values.get("records")
    if not isinstance(listed, list):
        raise result.error(f"expected a list, got {shown(listed)}", "records")
    for number, value in enumerate(listed, start=1):
        place = Place(result.place.path, "record", number)
        record = Row({"record": value}, place).inner("record")
        text = record.text(record.first("origin_query", "prompt")) or ""
        id = f"{prefix}/{record.required('index')}"
        reference = _shown_text(record, "ground_truth")
        dataset = prefix.split("/")[0]
        row = matrix.query(id, text, place, category=dataset, reference=reference)
        matrix.outcome(
            row,
            model,
            record.score("score"),
            place,
            text=_shown_text(record, "prediction"),
            cost=record.amount("cost"),
            prompt_tokens=record.amount("prompt_tokens"),
            completion_tokens=record.amount("completion_tokens"),
        )


def _shown_text(record: Row, name: str) -> str | None:
    """A text, or None for the lists and objects that some tasks have there."""
    return None if isinstance(record.values.get(name), list | dict) else record.text(name)
