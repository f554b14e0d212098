"""EmbedLLM's CSV: one line a question and model.

``prompt_id`` (or ``question_id``), ``model_name`` (or ``model_id``), ``label`` in {0, 1},
``prompt`` and perhaps ``category``. The published files repeat some lines; of several labels of one
question and model the largest counts, as in the project's own code.

Source: github.com/richardzhuang0412/EmbedLLM algorithm/knn.py at 1152eb6.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from coterie.formats.base import Matrix, Row, check_mapping, tail
from coterie.formats.tables import files, peek, rows
from coterie.records import Records

NAME = "embedllm"
IDS = {"prompt_id", "question_id"}
MODELS = {"model_name", "model_id"}


def matches(path: Path) -> bool:
    """Whether the first record has a label for a numbered prompt and model."""
    found = peek(path)
    return "label" in found and bool(found & IDS) and bool(found & MODELS)


def read(path: Path, columns: Mapping[str, str]) -> Records:
    """The records, files of a folder together."""
    check_mapping(columns, (), path)
    matrix = Matrix(path, repeats="max")
    for file in files(path):
        for row in tail(rows(file), file):
            _row(matrix, row)
    return matrix.records()


def _row(matrix: Matrix, row: Row) -> None:
    id = row.required(row.first("prompt_id", "question_id"))
    category = row.text("category")
    index = matrix.query(id, row.text("prompt") or "", row.place, category=category)
    model = row.required(row.first("model_name", "model_id"))
    matrix.outcome(index, model, row.score(row.first("label")), row.place)
