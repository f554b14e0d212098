"""RoRF (Not Diamond): one row a prompt, ``Input`` and a column ``<model>/score`` for each model.

CSV, Parquet or JSON Lines; ``<model>/response`` and ``<model>/cost`` are read where they stand. A
question is its ``id`` or ``sample_id``, else the file's name and the row's number (all models stand
in one row).

Source: github.com/Not-Diamond/RoRF rorf/router/dataloader.py at cf8024c.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from coterie.formats.base import Matrix, Row, check_mapping, tail
from coterie.formats.tables import files, peek, rows
from coterie.records import Records

NAME = "rorf"
SCORE = "/score"


def matches(path: Path) -> bool:
    """Whether the first record has an Input and scores of models."""
    found = peek(path)
    return "Input" in found and any(name.endswith(SCORE) for name in found)


def read(path: Path, columns: Mapping[str, str]) -> Records:
    """The records, files of a folder together."""
    check_mapping(columns, (), path)
    matrix = Matrix(path)
    for file in files(path):
        for number, row in enumerate(tail(rows(file), file), start=1):
            _row(matrix, row, f"{file.stem}/{number}")
    return matrix.records()


def _row(matrix: Matrix, row: Row, default: str) -> None:
    id = row.text("id") or row.text("sample_id") or default
    text = row.text(row.first("Input")) or ""
    index = matrix.query(id, text, row.place, category=row.text("category"))
    models = [str(name).removesuffix(SCORE) for name in row.values if name.endswith(SCORE)]
    for model in models:
        matrix.outcome(
            index,
            Row({"model": model}, row.place).required("model"),
            row.score(model + SCORE),
            row.place,
            text=row.text(f"{model}/response"),
            cost=row.amount(f"{model}/cost"),
        )
