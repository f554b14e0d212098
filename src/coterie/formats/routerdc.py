"""RouterDC's JSON, also LLMRouter's ``dcrouter_preprocessed``: a list of questions with scores.

``[{"question": text, "scores": {model: score}, "cluster_id": n}]``, one file or a folder. The
format has no ids: a question is its file's name and its number in it, which is safe since all
models' scores stand in one record. The file's name without ``_train`` or ``_test`` is the category,
the cluster number the subject.

Sources: github.com/shuhao02/RouterDC datasets/split2_model7_cluster/humaneval_train.json at
dadb872; github.com/ulab-uiuc/LLMRouter data/dcrouter_preprocessed/test.json at 17e4c69.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from coterie.formats.base import Matrix, Row, check_mapping, tail
from coterie.formats.tables import files, peek, rows
from coterie.records import Records

NAME = "routerdc"
PART = re.compile(r"[-_]?(train|test|val)$")


def matches(path: Path) -> bool:
    """Whether the first record has a question and scores."""
    return {"question", "scores"} <= peek(path)


def read(path: Path, columns: Mapping[str, str]) -> Records:
    """The records, files of a folder together."""
    check_mapping(columns, (), path)
    matrix = Matrix(path)
    for file in files(path):
        category = PART.sub("", file.stem) or None
        for row in tail(rows(file), file):
            id = f"{file.stem}/{row.place.number}"
            text = row.text("question") or ""
            subject = row.text("cluster_id")
            index = matrix.query(id, text, row.place, category=category, subject=subject)
            scores = row.inner("scores")
            for model in scores.values:
                matrix.outcome(index, _named(model, row), scores.score(model), row.place)
    return matrix.records()


def split(path: Path, columns: Mapping[str, str]) -> dict[str, str]:
    """Train or test where the file's name ends so."""
    parts = {file.stem: PART.search(file.stem) for file in files(path)}
    stems = ((query.id, parts[query.id.rpartition("/")[0]]) for query in read(path, {}).queries)
    return {id: part[1] for id, part in stems if part}


def _named(model: str, row: Row) -> str:
    if not model.strip():
        raise row.error("a model has no name", "scores")
    return Row({"model": model}, row.place).required("model")
