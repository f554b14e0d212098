"""A folder of instances.parquet and records.parquet, joined on ``instance_id``.

instances.parquet: instance_id, prompt and optionally dataset, category, subject, split, gold;
records.parquet: instance_id, model, score and optionally pred, est_cost_usd. Beside them may lie
models.csv (one line a model; becomes ``facts``) and outputs.parquet (instance_id, model, output;
whole replies, used only where records.parquet has no ``pred``). ``pred`` is the answer's text: null
means that the model failed to give one (an empty text). Category falls back to the dataset.
``columns={"records": "records_extra.parquet"}`` reads another file of outcomes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coterie.formats.base import Matrix, Row, check_mapping
from coterie.formats.tables import peek, rows
from coterie.records import Records

NAME = "instances"


def matches(path: Path) -> bool:
    """Whether the folder holds instances.parquet and records.parquet."""
    return (path / "instances.parquet").is_file() and (path / "records.parquet").is_file()


def read(path: Path, columns: Mapping[str, str]) -> Records:
    """The records; raises InputError for an outcome whose instance is unknown."""
    check_mapping(columns, ("records",), path)
    matrix = Matrix(path)
    numbers = _instances(matrix, path / "instances.parquet")
    table = path / columns.get("records", "records.parquet")
    outputs = {} if "pred" in peek(table) else _outputs(path / "outputs.parquet")
    for row in rows(table):
        id, model = row.required("instance_id"), row.required("model")
        if id not in numbers:
            raise row.error(f"{id!r} is not in instances.parquet", "instance_id")
        text = (row.text("pred") or "") if "pred" in row else outputs.get((id, model))
        cost = row.amount("est_cost_usd")
        score = row.score(row.first("score"))
        matrix.outcome(numbers[id], model, score, row.place, text=text, cost=cost)
    matrix.facts.update(_models(path / "models.csv"))
    return matrix.records()


def split(path: Path, columns: Mapping[str, str]) -> dict[str, str]:
    """The split of every instance that has one."""
    table = rows(path / "instances.parquet")
    known = ((row.required("instance_id"), row.text("split")) for row in table)
    return {id: value for id, value in known if value is not None}


def _instances(matrix: Matrix, path: Path) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for row in rows(path):
        id = row.required("instance_id")
        if id in numbers:
            raise row.error(f"{id!r} is also in row {numbers[id] + 1}", "instance_id")
        category = row.text("category") or row.text("dataset")
        text, reference = row.text(row.first("prompt")) or "", row.text("gold")
        numbers[id] = matrix.query(
            id, text, row.place, category=category, subject=row.text("subject"), reference=reference
        )
    return numbers


def _outputs(path: Path) -> dict[tuple[str, str], str]:
    if not path.is_file():
        return {}
    return {
        (row.required("instance_id"), row.required("model")): row.text("output") or ""
        for row in rows(path)
    }


FACTS = {
    "params_b": "parameters",
    "size": "parameters",
    "usd_in_per_mtok": "input_price",
    "usd_out_per_mtok": "output_price",
}


def _models(path: Path) -> dict[str, dict[str, Any]]:
    """What is known of each model under the names that ``Records.facts`` has."""
    if not path.is_file():
        return {}
    facts: dict[str, dict[str, Any]] = {}
    for row in rows(path):
        model = row.required("model")
        if model in facts:
            raise row.error(f"{model!r} has a line already", "model")
        known = [name for name in row.values if name and name != "model" and row.text(name)]
        facts[model] = {FACTS.get(name, name): _fact(row, name) for name in known}
    return facts


def _fact(row: Row, name: str) -> float | bool | str:
    """A number, a size such as 7B in billions, a truth value, or the text."""
    text = row.text(name) or ""
    if text in ("True", "False"):
        return text == "True"
    digits = text.removesuffix("B") if name == "size" else text
    return float(digits) if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", digits) else text
