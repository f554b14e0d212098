"""LLMRouter's routing data: JSON Lines, one line a question and model.

``{task_name, query, ground_truth, metric, model_name, response, token_num, input_tokens,
output_tokens, response_time, performance, embedding_id}``. A question is what the project itself
counts as one: task, query, ground truth and metric (``embedding_id`` numbers the same thing). Costs
are not in these files. Its ``dcrouter_preprocessed`` JSON is the ``routerdc`` format.

Source: github.com/ulab-uiuc/LLMRouter llmrouter/data/README.md at 322c2cf.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from coterie.formats.base import Matrix, Row, check_mapping, tail
from coterie.formats.tables import files, peek, rows
from coterie.records import Records

NAME = "llmrouter"


def matches(path: Path) -> bool:
    """Whether the first record has a query, a model and a performance."""
    return {"query", "model_name", "performance"} <= peek(path)


def read(path: Path, columns: Mapping[str, str]) -> Records:
    """The records, files of a folder together."""
    check_mapping(columns, (), path)
    matrix = Matrix(path)
    for file in files(path):
        for row in tail(rows(file), file):
            _row(matrix, row)
    return matrix.records()


def split(path: Path, columns: Mapping[str, str]) -> dict[str, str]:
    """Train or test where the files' names say so; the first file with a question counts."""
    parts: dict[str, str] = {}
    for file in files(path):
        named = next((part for part in ("train", "test", "val") if part in file.stem), None)
        if named:
            for row in rows(file):
                parts.setdefault(_id(row), named)
    return parts


def _id(row: Row) -> str:
    names = ("task_name", "query", "ground_truth", "metric")
    known = "\x00".join(row.text(name) or "" for name in names)
    digest = hashlib.sha256(known.encode()).hexdigest()[:16]
    return f"{row.text('task_name') or 'query'}/{digest}"


def _row(matrix: Matrix, row: Row) -> None:
    index = matrix.query(
        _id(row),
        row.required("query"),
        row.place,
        category=row.text("task_name"),
        reference=row.text("ground_truth"),
    )
    matrix.outcome(
        index,
        row.required("model_name"),
        row.score("performance"),
        row.place,
        text=row.text("response"),
        latency=row.amount("response_time"),
        prompt_tokens=row.amount("input_tokens"),
        completion_tokens=row.amount("output_tokens"),
    )
