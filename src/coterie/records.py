"""Performance records: what each expert made of each query.

On disk a folder: ``queries.parquet`` (query_id, text, category, reference, skills),
``records.parquet`` (query_id, expert, sample, score, cost, latency, prompt_tokens,
completion_tokens, logprob, answer) and ``experts.toml`` with the experts in order. In memory dense
arrays, queries x experts, NaN where nothing was observed.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coterie.errors import CoterieError, InputError
from coterie.types import Completion, FloatArray, Query, Usage

if TYPE_CHECKING:
    import pyarrow as pa

FILES = ("queries.parquet", "records.parquet", "experts.toml")
TEXTS = ("query_id", "expert", "text", "category", "subject", "reference", "answer")
NUMBERS = ("quality", "cost", "latency", "prompt_tokens", "completion_tokens", "logprob")


@dataclass(frozen=True, eq=False)
class Records:
    """Outcomes of experts on queries.

    Parameters
    ----------
    queries, experts
        Rows and columns; query ids and expert names are unique.
    quality
        Scores in [0, 1], shape (queries, experts); NaN is "not observed", neither right nor wrong.
    cost, latency, prompt_tokens, completion_tokens, logprob
        Same shape; cost in the pool's unit, latency in seconds, ``logprob`` the mean natural log
        probability of the answer's tokens. All NaN where left out.
    texts
        Object array of the same shape: the completion's text, empty if it failed, or None.
    references
        One a query, None where unknown.

    Raises
    ------
    InputError
        Where shapes disagree, names repeat, a score is outside [0, 1] or a cost negative.
    """

    queries: tuple[Query, ...]
    experts: tuple[str, ...]
    quality: FloatArray
    cost: FloatArray = field(default_factory=lambda: np.empty(0))
    latency: FloatArray = field(default_factory=lambda: np.empty(0))
    prompt_tokens: FloatArray = field(default_factory=lambda: np.empty(0))
    completion_tokens: FloatArray = field(default_factory=lambda: np.empty(0))
    logprob: FloatArray = field(default_factory=lambda: np.empty(0))
    texts: NDArray[np.object_] = field(default_factory=lambda: np.empty(0, object))
    references: tuple[str | None, ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.queries), len(self.experts))
        for name in NUMBERS:
            array = np.asarray(getattr(self, name), float)
            if array.size == 0:
                array = np.full(shape, np.nan)
            if array.shape != shape:
                raise InputError(f"expected shape {shape}, got {array.shape}", field=name)
            object.__setattr__(self, name, array)
        if self.texts.size == 0:
            object.__setattr__(self, "texts", np.full(shape, None, object))
        if self.texts.shape != shape:
            raise InputError(f"expected shape {shape}, got {self.texts.shape}", field="texts")
        if not self.references:
            object.__setattr__(self, "references", (None,) * len(self.queries))
        if len(self.references) != len(self.queries):
            message = f"expected {len(self.queries)}, got {len(self.references)}"
            raise InputError(message, field="references")
        self._check()

    def _check(self) -> None:
        for name, values in (("id", [q.id for q in self.queries]), ("expert", self.experts)):
            repeated = [value for value, count in Counter(values).items() if count > 1]
            if repeated:
                raise InputError(f"{repeated[0]!r} occurs more than once", field=name)
        outside = (self.quality < 0) | (self.quality > 1)
        if outside.any():
            row, column = np.argwhere(outside)[0]
            where = f"query {self.queries[row].id!r}, expert {self.experts[column]!r}"
            message = f"{self.quality[row, column]} for {where} is outside [0, 1]"
            raise InputError(message, field="score")
        if (self.cost < 0).any():
            raise InputError("a cost is negative", field="cost")

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def categories(self) -> tuple[str | None, ...]:
        """One a query, None where unknown."""
        return tuple(q.category for q in self.queries)

    @property
    def observed(self) -> NDArray[np.bool_]:
        """Where there is a score, shape (queries, experts)."""
        return ~np.isnan(self.quality)

    def take(self, rows: Sequence[int] | NDArray[np.intp]) -> Records:
        """The records of these rows, in this order."""
        index = np.asarray(rows, dtype=np.intp)
        return replace(
            self,
            queries=tuple(self.queries[i] for i in index),
            references=tuple(self.references[i] for i in index),
            texts=self.texts[index],
            **{name: getattr(self, name)[index] for name in NUMBERS},
        )

    def select(self, experts: Sequence[str]) -> Records:
        """The records of these experts, in this order; raises InputError for an unknown one."""
        if unknown := [e for e in experts if e not in self.experts]:
            known = ", ".join(self.experts)
            raise InputError(f"no records of expert {unknown[0]!r}; there are {known}")
        index = [self.experts.index(e) for e in experts]
        columns = {name: getattr(self, name)[:, index] for name in NUMBERS}
        return replace(self, experts=tuple(experts), texts=self.texts[:, index], **columns)

    def folds(self, count: int, seed: int = 0) -> list[NDArray[np.intp]]:
        """Row numbers in ``count`` disjoint parts of nearly equal size, shuffled by ``seed``."""
        order = np.random.default_rng(seed).permutation(len(self))
        return [np.sort(part) for part in np.array_split(order, count)]

    def completion(self, row: int, expert: str) -> Completion | None:
        """The recorded completion of one cell, failed if empty; None where nothing was recorded."""
        column = self.experts.index(expert)
        text = self.texts[row, column]
        if text is None:
            return None

        def number(name: str) -> float:
            value = float(getattr(self, name)[row, column])
            return 0.0 if math.isnan(value) else value

        logprob = float(self.logprob[row, column])
        return Completion(
            expert=expert,
            text=text,
            error=None if text else f"{expert}: had no answer when it was recorded",
            usage=Usage(int(number("prompt_tokens")), int(number("completion_tokens"))),
            cost=number("cost"),
            latency=number("latency"),
            logprob=None if math.isnan(logprob) else logprob,
        )

    def write(self, folder: str | Path) -> None:
        """Write the folder in one piece: what was there stays until the new one is complete.

        Raises CoterieError where that fails, or where the folder holds anything but records.
        """
        target, scratch = Path(folder), None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
            self._write_files(scratch)
            _replace_folder(scratch, target)
        except OSError as error:
            raise CoterieError(f"{target}: records could not be written: {error}") from error
        finally:
            if scratch is not None:
                shutil.rmtree(scratch, ignore_errors=True)

    def _write_files(self, folder: Path) -> None:
        import pyarrow.parquet as pq

        folder.chmod(0o755)
        pq.write_table(self._query_table(), folder / "queries.parquet")
        pq.write_table(self._record_table(), folder / "records.parquet")
        names = (json.dumps(name, ensure_ascii=False) for name in self.experts)
        text = "\n".join(f"[[expert]]\nname = {name}\n" for name in names)
        (folder / "experts.toml").write_text(text, encoding="utf-8")

    def _query_table(self) -> pa.Table:
        import pyarrow as pa

        columns = {
            "query_id": [q.id for q in self.queries],
            "text": [_storable(q.text) for q in self.queries],
            "category": list(self.categories),
            "subject": [q.subject for q in self.queries],
            "reference": list(self.references),
        }
        table = {k: pa.array(v, pa.string()) for k, v in columns.items()}
        table["skills"] = pa.array([list(q.tags) for q in self.queries], pa.list_(pa.string()))
        return pa.table(table)

    def _record_table(self) -> pa.Table:
        import pyarrow as pa

        rows, columns = np.nonzero(self.observed)
        table: dict[str, Any] = {
            "query_id": pa.array([self.queries[i].id for i in rows], pa.string()),
            "expert": pa.array([self.experts[j] for j in columns], pa.string()),
            "sample": pa.array(np.zeros(len(rows), np.int32)),
        }
        for name in NUMBERS:
            column = "score" if name == "quality" else name
            values = getattr(self, name)[rows, columns]
            table[column] = pa.array(values, pa.float64(), mask=np.isnan(values))
        answers = [_storable(text) for text in self.texts[rows, columns]]
        table["answer"] = pa.array(answers, pa.string())
        return pa.table(table)

    @classmethod
    def read(cls, folder: str | Path) -> Records:
        """Read a folder written by ``write``; raises InputError naming file, row and field."""
        base = Path(folder)
        queries = _read_table(base / "queries.parquet", ("query_id", "text"))
        table = _read_table(base / "records.parquet", ("query_id", "expert", "score"))
        experts = _read_experts(base / "experts.toml")
        row_of = _numbered(queries["query_id"], base / "queries.parquet", "query_id")
        column_of = _numbered(experts, base / "experts.toml", "expert")
        path = base / "records.parquet"
        rows = _positions(table["query_id"], row_of, path, "query_id", "queries.parquet")
        columns = _positions(table["expert"], column_of, path, "expert", "experts.toml")
        _check_scores(table, rows, columns, path)
        shape = (len(row_of), len(experts))
        arrays = {}
        for name in NUMBERS:
            values = table.get("score" if name == "quality" else name)
            arrays[name] = np.full(shape, np.nan)
            if values is not None:
                arrays[name][rows, columns] = [np.nan if v is None else v for v in values]
        texts = np.full(shape, None, object)
        texts[rows, columns] = table.get("answer", [None] * len(rows))
        _check_costs(table.get("cost", ()), path)
        return cls(
            queries=_queries(queries),
            experts=tuple(experts),
            texts=texts,
            references=tuple(queries.get("reference", ())),
            **arrays,
        )


def _storable(text: str | None) -> str | None:
    """The text with lone surrogates replaced: UTF-8 has none."""
    return None if text is None else text.encode("utf-8", "replace").decode()


def _replace_folder(new: Path, target: Path) -> None:
    if not target.exists():
        os.rename(new, target)
        return
    _check_replaceable(target)
    old = new.with_name(new.name + ".old")
    os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check_replaceable(target: Path) -> None:
    """Nothing but records is ever deleted."""
    found = sorted(path.name for path in target.iterdir()) if target.is_dir() else []
    if "records.parquet" not in found:
        raise CoterieError(f"{target} exists and holds no records; choose another name")
    if foreign := [name for name in found if name not in FILES]:
        message = f"{target} also holds {foreign[0]!r}, which is no part of records"
        raise CoterieError(f"{message}; move it or choose another name")


def _read_table(path: Path, required: tuple[str, ...]) -> dict[str, list[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"cannot be read as Parquet: {reason}", path=path) from None
    for name in required:
        if name not in table.column_names:
            found = ", ".join(table.column_names)
            raise InputError(f"the column is missing; found {found}", path=path, field=name)
    if table.num_rows == 0:
        raise InputError("holds no rows", path=path)
    return {name: _column(table[name], name, path) for name in table.column_names}


def _column(values: pa.ChunkedArray, name: str, path: Path) -> list[Any]:
    """The values as strings or floats, as the column's name demands; ids and texts are not null."""
    import pyarrow as pa

    kind = pa.string() if name in TEXTS else None
    if name in ("score", *NUMBERS):
        kind = pa.float64()
    try:
        values.validate(full=True)
        values = values if kind is None else values.cast(kind)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"expected {kind}: {reason}", path=path, field=name) from None
    if name in ("query_id", "expert", "text") and values.null_count:
        row = values.to_pylist().index(None) + 1
        raise InputError(f"row {row}: expected a text, got nothing", path=path, field=name)
    listed: list[Any] = values.to_pylist()
    return listed


def _read_experts(path: Path) -> list[str]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        names = [str(entry["name"]) for entry in data["expert"]]
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=path) from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"expected [[expert]] tables with a name: {error}", path=path) from None
    return names


def _queries(columns: dict[str, list[Any]]) -> tuple[Query, ...]:
    none = [None] * len(columns["query_id"])
    optional = (columns.get(name, none) for name in ("skills", "category", "subject"))
    rows = zip(columns["query_id"], columns["text"], *optional, strict=True)
    return tuple(
        Query(id, ({"role": "user", "content": text},), {}, tuple(skills or ()), category, subject)
        for id, text, skills, category, subject in rows
    )


def _numbered(names: Sequence[str], path: Path, field: str) -> dict[str, int]:
    """Position of every name; raises InputError for one that occurs twice."""
    positions: dict[str, int] = {}
    for row, name in enumerate(names):
        if name in positions:
            message = f"row {row + 1}: {name!r} is also in row {positions[name] + 1}"
            raise InputError(message, path=path, field=field)
        positions[name] = row
    return positions


def _check_costs(costs: Sequence[float | None], path: Path) -> None:
    for row, cost in enumerate(costs, start=1):
        if cost is not None and cost < 0:
            message = f"row {row}: expected at least 0, got {cost!r}"
            raise InputError(message, path=path, field="cost")


def _positions(
    values: list[str], known: dict[str, int], path: Path, field: str, where: str
) -> NDArray[np.intp]:
    for row, value in enumerate(values, start=1):
        if value not in known:
            message = f"row {row}: {value!r} is not in {where}"
            raise InputError(message, path=path, field=field)
    return np.array([known[v] for v in values], dtype=np.intp)


def _check_scores(
    table: dict[str, list[Any]], rows: NDArray[np.intp], columns: NDArray[np.intp], path: Path
) -> None:
    seen: dict[tuple[int, int], int] = {}
    for number, (cell, score) in enumerate(
        zip(zip(rows.tolist(), columns.tolist(), strict=True), table["score"], strict=True), 1
    ):
        if score is None or not 0 <= score <= 1:
            hint = "leave the row out if nothing was observed"
            message = f"row {number}: expected a score in [0, 1], got {score!r}; {hint}"
            raise InputError(message, path=path, field="score")
        if cell in seen:
            message = f"row {number}: same query and expert as row {seen[cell]}"
            raise InputError(message, path=path, field="query_id")
        seen[cell] = number
