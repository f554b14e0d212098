"""RouterBench, wide: one row a prompt with a column a model for score, response and cost.

``sample_id``, ``prompt``, ``eval_name``, ``<model>``, ``<model>|model_response``,
``<model>|total_cost``, as CSV or Parquet. A model is whatever has a ``|total_cost`` or
``|model_response`` column. Prompts and responses that were saved as lists of one text are unlisted;
``eval_name`` becomes the category. The published pickles are pandas data frames and are refused.

Source: github.com/shuhao02/RouterDC datasets/routerbench_zs/mbpp_test.csv at 1963d68 (an extract of
RouterBench 0-shot); github.com/withmartian/routerbench convert_data.py at 30e0925.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from coterie.errors import InputError
from coterie.formats.base import Matrix, Row, check_mapping, tail, unlisted
from coterie.formats.tables import files, peek, rows
from coterie.formats.unpickle import PANDAS
from coterie.records import Records

NAME = "routerbench"
COST, RESPONSE = "|total_cost", "|model_response"


def matches(path: Path) -> bool:
    """Whether the first record has a sample_id and costs or responses of models."""
    found = peek(path)
    return "sample_id" in found and any(name.endswith((COST, RESPONSE)) for name in found)


def read(path: Path, columns: Mapping[str, str]) -> Records:
    """The records; raises InputError for a pickle, with what to do."""
    check_mapping(columns, (), path)
    if path.suffix.lower() in (".pkl", ".pickle"):
        raise InputError(f"is a pickle, which is refused; {PANDAS}", path=path)
    matrix = Matrix(path)
    for file in files(path):
        for row in tail(rows(file), file):
            _row(matrix, row)
    return matrix.records()


def _row(matrix: Matrix, row: Row) -> None:
    text = unlisted(row.text(row.first("prompt")) or "")
    category = row.text("eval_name")
    index = matrix.query(row.required("sample_id"), text, row.place, category=category)
    for model in _models(row):
        response = row.text(model + RESPONSE)
        matrix.outcome(
            index,
            model,
            row.score(model),
            row.place,
            text=None if response is None else unlisted(response),
            cost=row.amount(model + COST),
        )


def _models(row: Row) -> list[str]:
    """The columns that also have a response or a cost, in the file's order."""
    models = [str(n) for n in row.values if n + COST in row or n + RESPONSE in row]
    if not models:
        raise row.error("expected columns <model> with <model>|total_cost")
    return models
