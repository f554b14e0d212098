"""Any other table (CSV, TSV, JSON Lines, JSON or Parquet), with a mapping of columns.

Long, one row a question and expert: ``query``, ``expert`` and ``score``. Wide, one row a question:
``scores`` names the columns, separated by commas, or a pattern whose star is the expert's name
(``*/score``); without it every column that is not known by name must be an expert's score. A wide
table may have ``costs`` and ``answers`` in the same manner (patterns only).

Further fields, each optional: ``text``, ``category``, ``subject``, ``reference``, ``split`` and, in
a long table, ``cost``, ``latency``, ``prompt_tokens``, ``completion_tokens``, ``logprob``,
``propensity``, ``answer``. The mapping gives a field's column, for example ``columns={"query":
"qid", "expert": "model", "score": "acc"}``; without it the usual names of ``USUAL`` are tried. A
wide table without ids numbers its rows. ``max_score`` is no column but the best possible score,
which scores are divided by. Separators are commas, semicolons or tabs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from coterie.errors import InputError
from coterie.formats.base import (
    Matrix,
    Row,
    Unmapped,
    best_score,
    check_mapping,
    mapping_hint,
    tail,
)
from coterie.formats.tables import TABLES, files, peek, rows
from coterie.records import Records

NAME = "csv"
USUAL: dict[str, tuple[str, ...]] = {
    "query": ("query_id", "question_id", "sample_id", "instance_id", "prompt_id", "id"),
    "expert": ("expert", "model", "model_name", "model_id", "llm"),
    "score": ("score", "quality", "performance", "correct", "accuracy", "label"),
    "text": ("text", "prompt", "question", "query", "input"),
    "category": ("category", "dataset", "task", "task_name", "eval_name"),
    "subject": ("subject",),
    "reference": ("reference", "gold", "ground_truth", "target"),
    "split": ("split",),
    "answer": ("answer", "response", "prediction", "output"),
    "cost": ("cost", "cost_usd", "total_cost", "est_cost_usd"),
    "latency": ("latency", "response_time"),
    "prompt_tokens": ("prompt_tokens", "input_tokens"),
    "completion_tokens": ("completion_tokens", "output_tokens"),
    "logprob": ("logprob",),
    "propensity": ("propensity",),
}
WIDE = ("scores", "costs", "answers")
SHARED = ("query", "text", "category", "subject", "reference", "split")  # of both shapes
AMOUNTS = ("cost", "latency", "prompt_tokens", "completion_tokens")


def matches(path: Path) -> bool:
    """Whether it is a table with more than one column."""
    listed = files(path)
    return bool(listed) and listed[0].suffix.lower() in TABLES and len(peek(path)) > 1


def check(path: Path) -> None:
    """Raise InputError that says why a file that should hold a table holds none."""
    found = list(next(_rows(path)).values)
    if len(found) < 2:
        message = f"expected several columns, found {str(found)[:60]}"
        raise InputError(f"{message}; commas, semicolons or tabs separate them", path=path)


def read(path: Path, columns: Mapping[str, str]) -> Records:
    """The records; raises InputError that says which mapping is missing."""
    check_mapping(columns, (*USUAL, *WIDE, "max_score"), path)
    matrix, best = Matrix(path), best_score(columns, path)
    for number, row in enumerate(_rows(path), start=1):
        where = fields(row, columns)
        if _is_long(where, columns):
            _long(matrix, row, where, best)
        else:
            _wide(matrix, row, where, columns, number, best)
    return matrix.records()


def unmapped(path: Path, columns: Mapping[str, str]) -> Unmapped:
    """Columns of every file's first row that were left out or only guessed to be scores."""
    left, guessed = dict[str, None](), dict[str, None]()
    for file in files(path):
        for row in islice(rows(file), 1):
            where = fields(row, columns)
            used = set(where.values())
            if not _is_long(where, columns):
                scores = _experts(row, where, columns.get("scores"))
                used = {where[field] for field in SHARED if field in where}
                used |= {*scores.values(), *_all_beside(scores, columns)}
                guessed |= dict.fromkeys(() if "scores" in columns else scores)
            left |= dict.fromkeys(name for name in map(str, row.values) if name not in used)
    left.pop("", None)  # the index that pandas writes
    return Unmapped(tuple(left), tuple(guessed))


def _is_long(where: Mapping[str, str], columns: Mapping[str, str]) -> bool:
    return "expert" in where and "scores" not in columns


def split(path: Path, columns: Mapping[str, str]) -> dict[str, str]:
    """The split of each question that has one; raises InputError where a question has two."""
    parts: dict[str, str] = {}
    for number, row in enumerate(_rows(path), start=1):
        where = fields(row, columns)
        part = row.text(where["split"]) if "split" in where else None
        id = row.required(where["query"]) if "query" in where else str(number)
        if part is not None and parts.setdefault(id, part) != part:
            raise row.error(f"question {id!r} is in {part!r} and in {parts[id]!r}")
    return parts


def _rows(path: Path) -> Iterator[Row]:
    for file in files(path):
        yield from tail(rows(file), file)


def fields(row: Row, columns: Mapping[str, str]) -> dict[str, str]:
    """The column of every field that the row has, mapped or usual."""
    found: dict[str, str] = {}
    for field, usual in USUAL.items():
        if field in columns and columns[field] not in row:
            listed = ", ".join(map(str, list(row.values)[:20]))
            raise row.error(f"no column {columns[field]!r} for {field!r}; there are {listed}")
        names = (columns[field],) if field in columns else usual
        name = next((n for n in names if n in row and n not in found.values()), None)
        if name is not None:
            found[field] = name
    return found


def _query(matrix: Matrix, row: Row, where: Mapping[str, str], id: str) -> int:
    def optional(field: str) -> str | None:
        return row.text(where[field]) if field in where else None

    return matrix.query(
        id,
        optional("text") or "",
        row.place,
        category=optional("category"),
        subject=optional("subject"),
        reference=optional("reference"),
    )


def _long(matrix: Matrix, row: Row, where: Mapping[str, str], best: float) -> None:
    for field in ("query", "score"):
        if field not in where:
            found = ", ".join(map(str, row.values))
            hint = mapping_hint(field, "COLUMN")
            raise row.error(f"which column is the {field}? say {hint}; there are {found}")
    extras = {name: row.amount(where[name]) for name in AMOUNTS if name in where}
    if "logprob" in where:
        extras["logprob"] = row.number(where["logprob"])
    if "propensity" in where:
        extras["propensity"] = _propensity(row, where["propensity"])
    matrix.outcome(
        _query(matrix, row, where, row.required(where["query"])),
        row.required(where["expert"]),
        row.score(where["score"], best),
        row.place,
        text=row.text(where["answer"]) if "answer" in where else None,
        **extras,
    )


def _propensity(row: Row, name: str) -> float | None:
    value = row.score(name)
    if value == 0:
        raise row.error("expected a probability above 0", name)
    return value


def _wide(
    matrix: Matrix,
    row: Row,
    where: Mapping[str, str],
    columns: Mapping[str, str],
    number: int,
    best: float,
) -> None:
    id = row.required(where["query"]) if "query" in where else str(number)
    index = _query(matrix, row, where, id)
    experts = _experts(row, where, columns.get("scores"))
    for expert, column in experts.items():
        cost, answer = (_beside(columns.get(name), expert) for name in ("costs", "answers"))
        matrix.outcome(
            index,
            expert,
            _wide_score(row, column, best, "scores" in columns),
            row.place,
            text=row.text(answer) if answer else None,
            cost=row.amount(cost) if cost else None,
        )


def _wide_score(row: Row, column: str, best: float, named: bool) -> float | None:
    try:
        return row.score(column, best)
    except InputError as error:
        if named:
            raise
        hint = f"or say which columns are scores: {mapping_hint('scores', 'a,b')}"
        raise InputError(f"{error}; {hint}") from None


def _experts(row: Row, where: Mapping[str, str], scores: str | None) -> dict[str, str]:
    """Every expert with its score's column."""
    names = [str(name) for name in row.values]
    if scores is None:
        known = {*where.values(), ""}
        found = {name: name for name in names if name not in known}
    elif "*" in scores:
        before, _, after = scores.partition("*")
        fitting = (n for n in names if n.startswith(before) and n.endswith(after))
        found = {n[len(before) : len(n) - len(after)].strip(): n for n in fitting}
        found.pop("", None)
    else:
        found = {name.strip(): name.strip() for name in scores.split(",")}
    missing = [column for column in found.values() if column not in row]
    if missing or not found:
        what = f"no column {missing[0]!r}" if missing else "no column holds scores"
        raise row.error(f"{what}; there are {', '.join(names[:20])}", "scores")
    return found


def _all_beside(experts: Iterable[str], columns: Mapping[str, str]) -> list[str]:
    """The columns of the experts' costs and answers."""
    patterns = [columns[name] for name in ("costs", "answers") if name in columns]
    return [pattern.replace("*", expert, 1) for pattern in patterns for expert in experts]


def _beside(pattern: str | None, expert: str) -> str | None:
    return None if pattern is None else pattern.replace("*", expert, 1)
