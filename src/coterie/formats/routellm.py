"""RouteLLM's benchmark responses: ``prompt`` and a True/False column for each of two models.

CSV or Parquet, one file or a folder such as ``evals/mmlu/responses``; ``<model>_response`` columns
hold answers. Two models beside a prompt are no sign by themselves: the files are called
``mmlu_<subject>`` or ``<set>_responses``, or hold a response of each model. The format has no ids:
a question is its file's name and its number in it (both models stand in one row). The file's name,
without ``mmlu_`` and ``_responses``, is the category. MT-Bench judgements (scores of 1 to 10 in
another layout) are not read.

Source: github.com/lm-sys/RouteLLM routellm/evals/mmlu/responses at c5e4ef6 and
routellm/evals/gsm8k/gsm8k_responses.csv at c2ad693.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from coterie.formats.base import Matrix, Row, check_mapping, tail
from coterie.formats.tables import DELIMITED, PARQUET, files, peek, rows
from coterie.records import Records

NAME = "routellm"
RESPONSE = "_response"
SUFFIXES = (*DELIMITED, *PARQUET)


def matches(path: Path) -> bool:
    """Whether there are a prompt, two models, nothing but their responses, and a sign of it."""
    listed = files(path, SUFFIXES)
    if not listed or listed[0].suffix.lower() not in SUFFIXES:
        return False
    found = peek(listed[0])
    models = _models(found)
    if "prompt" not in found or len(models) != 2 or not found <= {"prompt", "", *_all(models)}:
        return False
    named = listed[0].stem.startswith("mmlu_") or listed[0].stem.endswith("_responses")
    return named or _all(models) <= found


def read(path: Path, columns: Mapping[str, str]) -> Records:
    """The records, files of a folder together."""
    check_mapping(columns, (), path)
    matrix = Matrix(path)
    for file in files(path, SUFFIXES):
        for number, row in enumerate(tail(rows(file), file), start=1):
            _row(matrix, row, number)
    return matrix.records()


def _models(names: frozenset[str]) -> set[str]:
    """The columns that are neither the prompt nor a response."""
    return {name for name in names if name and name != "prompt" and not name.endswith(RESPONSE)}


def _all(models: set[str]) -> set[str]:
    return models | {model + RESPONSE for model in models}


def _row(matrix: Matrix, row: Row, number: int) -> None:
    stem = row.place.path.stem
    category = stem.removeprefix("mmlu_").removesuffix("_responses") or None
    text = row.text(row.first("prompt")) or ""
    index = matrix.query(f"{stem}/{number}", text, row.place, category=category)
    models = _models(frozenset(map(str, row.values)))
    if len(models) != 2:
        raise row.error(f"expected the columns of two models, found {len(models)}")
    for model in (name for name in row.values if name in models):
        answer = row.text(model + RESPONSE)
        matrix.outcome(index, model, row.score(model), row.place, text=answer)
