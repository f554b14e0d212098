"""Reading and checking the native form of records: two Parquet files and ``experts.toml``.

Everything a row holds is checked by whole columns; an error names file, row (from 1) and field.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coterie import dense
from coterie.columns import (
    NUMBERS,
    check_numbers,
    column_names,
    floats,
    positions,
    read_batches,
    read_table,
)
from coterie.errors import InputError
from coterie.types import FloatArray, IntArray, Query

if TYPE_CHECKING:
    import pyarrow as pa

MANY = 1_000_000  # cells from which on arrays are memory-mapped and keep a narrow float type
QUERY_COLUMNS = ("query_id", "text", "category", "subject", "reference", "skills")
REQUIRED = ("query_id", "expert", "score")
CELL_COLUMNS = ("query_id", "expert", "sample", "score", *NUMBERS[1:])


def read_folder(base: Path, texts: bool = True) -> dict[str, Any]:
    """The arguments of ``Records``, by name, from a folder in the native form.

    Without ``texts`` the column ``answer`` is not read. Raises InputError.
    """
    _check_folder(base)
    asked = read_table(base / "queries.parquet", QUERY_COLUMNS, ("query_id", "text"))
    ids = asked["query_id"].to_pylist()
    experts, facts = read_experts(base / "experts.toml")
    _refuse_repeated(ids, base / "queries.parquet", "query_id")
    _refuse_repeated(experts, base / "experts.toml", "expert")
    arrays, answers = _read_arrays(base, ids, experts, texts)
    found = {name: values.to_pylist() for name, values in asked.items()}
    made = {
        "queries": _queries(found),
        "experts": tuple(experts),
        "references": tuple(found.get("reference", ())),
        "facts": facts,
        **arrays,
    }
    return made if answers is None else {**made, "texts": answers}


def _check_folder(base: Path) -> None:
    """Raise InputError that says how to make records where there are none."""
    missing = [name for name in dense.FILES if not (base / name).exists()]
    if not missing:
        return
    what = f"no folder of records: it has no {missing[0]}" if base.is_dir() else "no such folder"
    if base.is_file():
        what = "a file, no folder of records"
    hint = "`coterie records import SOURCE -o FOLDER` makes one"
    raise InputError(f"{what}; {hint}", path=base)


def _read_arrays(
    base: Path, ids: Sequence[str], experts: Sequence[str], texts: bool
) -> tuple[dict[str, FloatArray], NDArray[np.object_] | None]:
    """Number arrays and answers; of big folders the former come from ``dense/``, once built."""
    path, shape = base / "records.parquet", (len(ids), len(experts))
    if len(ids) * len(experts) < MANY:
        cells = Cells.read(path, ids, experts, texts)
        return cells.arrays(float), cells.answers()
    try:
        key = dense.key_of(base)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=error.filename) from None
    arrays = dense.load(base, key, shape)
    if arrays is None:
        arrays = _streamed(path, ids, experts)
        if arrays is None:
            arrays = Cells.read(path, ids, experts, texts=False).arrays(None)
        if dense.save(base, key, arrays):
            arrays = dense.load(base, key, shape) or arrays
    if not texts or "answer" not in column_names(path):
        return arrays, None
    return arrays, Cells.read(path, ids, experts, numbers=False).answers()


def _streamed(
    path: Path, ids: Sequence[str], experts: Sequence[str]
) -> dict[str, FloatArray] | None:
    """Number arrays, filled a million rows at a time; None where a cell has several samples."""
    import pyarrow as pa

    known, names = pa.array(ids, pa.string()), pa.array(experts, pa.string())
    size, rows = len(ids) * len(experts), 0
    seen, arrays = np.zeros(size, bool), {}
    columns = tuple(name for name in CELL_COLUMNS if name != "sample")
    for before, table in read_batches(path, columns, REQUIRED):
        cells = _cells_of(table, known, names, path, before)
        rows, seen[cells] = rows + len(cells), True
        for name, column in _numbers(table):
            values = floats(column, None)
            if name not in arrays:
                arrays[name] = np.full(size, np.nan, values.dtype)
            arrays[name][cells] = values
    if np.count_nonzero(seen) != rows:
        return None
    return {name: array.reshape(len(ids), len(experts)) for name, array in arrays.items()}


def _cells_of(
    table: Mapping[str, pa.ChunkedArray], ids: pa.Array, experts: pa.Array, path: Path, before: int
) -> IntArray:
    """The number of each row's cell, row-major, its scores and costs checked."""
    rows = positions(table["query_id"], ids, path, "query_id", "queries.parquet", before)
    columns = positions(table["expert"], experts, path, "expert", "experts.toml", before)
    check_numbers(table, path, before)
    return rows.astype(np.int64) * len(experts) + columns


def _numbers(table: Mapping[str, pa.ChunkedArray]) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """The number columns that hold anything, by the name of their array."""
    for name in NUMBERS:
        column = table.get("score" if name == "quality" else name)
        if column is not None and column.null_count < len(column):
            yield name, column


@dataclass(frozen=True, eq=False)
class Cells:
    """Checked rows of ``records.parquet``, each with its cell; several samples a cell are averaged.

    ``cells`` numbers each row's cell (row-major, queries x experts). Where cells repeat, ``order``
    sorts the rows by cell and sample and ``starts`` are the first rows of each cell in it.
    """

    table: Mapping[str, pa.ChunkedArray]
    shape: tuple[int, int]
    cells: IntArray
    order: IntArray | None
    starts: IntArray | None

    @classmethod
    def read(
        cls,
        path: Path,
        ids: Sequence[str],
        experts: Sequence[str],
        texts: bool = True,
        numbers: bool = True,
    ) -> Cells:
        """Read and check the columns asked for; raises InputError naming row and field."""
        import pyarrow as pa

        wanted = CELL_COLUMNS if numbers else ("query_id", "expert", "sample", "score")
        columns = (*wanted, "answer") if texts else wanted
        table = read_table(path, columns, REQUIRED)
        shape = (len(ids), len(experts))
        known, names = pa.array(ids, pa.string()), pa.array(experts, pa.string())
        cells = _cells_of(table, known, names, path, 0)
        order, starts = _by_cell(cells, table.get("sample"), math.prod(shape), path)
        return cls(table, shape, cells, order, starts)

    def arrays(self, dtype: type[np.floating[Any]] | type[float] | None) -> dict[str, FloatArray]:
        """Number arrays by name, NaN where nothing was observed; what is all missing is left out.

        ``dtype`` None keeps the float type of the column, and float32 for whole numbers.
        """
        return {name: self._scattered(floats(c, dtype)) for name, c in _numbers(self.table)}

    def answers(self) -> NDArray[np.object_] | None:
        """The text of each cell's lowest sample, None where there is none; None without any."""
        column = self.table.get("answer")
        if column is None or column.null_count == len(column):
            return None
        values = np.array(column.to_pylist(), dtype=object)
        texts = np.full(math.prod(self.shape), None, object)
        first = slice(None) if self.order is None else self.order[self.starts]
        texts[self.cells[first]] = values[first]
        return texts.reshape(self.shape)

    def _scattered(self, values: FloatArray) -> FloatArray:
        array = np.full(math.prod(self.shape), np.nan, values.dtype)
        if self.order is None or self.starts is None:
            array[self.cells] = values
        else:
            first = self.order[self.starts]
            array[self.cells[first]] = _group_means(values[self.order], self.starts)
        return array.reshape(self.shape)


def _group_means(values: FloatArray, starts: IntArray) -> FloatArray:
    """Means of the runs that begin at ``starts`` over what is not NaN; NaN where nothing is."""
    seen = ~np.isnan(values)
    sums = np.add.reduceat(np.where(seen, values, 0).astype(float), starts)
    counts = np.add.reduceat(seen.astype(np.int64), starts)
    means = np.full(len(starts), np.nan, values.dtype)
    np.divide(sums, counts, out=means, where=counts > 0, casting="same_kind")
    return means


def _by_cell(
    cells: IntArray, samples: pa.ChunkedArray | None, size: int, path: Path
) -> tuple[IntArray | None, IntArray | None]:
    """The rows in order of cell and sample, and where cells begin; None where no cell repeats.

    Raises InputError where a sample occurs twice.
    """
    seen = np.zeros(size, bool)
    seen[cells] = True
    if np.count_nonzero(seen) == len(cells):
        return None, None
    number = np.zeros(len(cells), np.int64) if samples is None else samples.to_numpy()
    order = np.lexsort((number, cells))
    same = np.diff(cells[order]) == 0
    twice = same & (np.diff(number[order]) == 0)
    if twice.any():
        later, earlier = order[1:][twice], order[:-1][twice]
        at = int(later.argmin())
        message = f"row {later[at] + 1}: same query and expert as row {earlier[at] + 1}"
        hint = "several samples need different numbers in the column 'sample'"
        raise InputError(f"{message}; {hint}", path=path, field="query_id")
    return order, np.flatnonzero(np.concatenate([[True], ~same]))


def _refuse_repeated(names: Sequence[str], path: Path, field: str) -> None:
    first: dict[str, int] = {}
    for row, name in enumerate(names):
        if first.setdefault(name, row) != row:
            message = f"row {row + 1}: {name!r} is also in row {first[name] + 1}"
            raise InputError(message, path=path, field=field)


def _queries(columns: Mapping[str, list[Any]]) -> tuple[Query, ...]:
    none = [None] * len(columns["query_id"])
    optional = (columns.get(name, none) for name in ("skills", "category", "subject"))
    rows = zip(columns["query_id"], columns["text"], *optional, strict=True)
    return tuple(
        Query(id, ({"role": "user", "content": text},), {}, tuple(skills or ()), category, subject)
        for id, text, skills, category, subject in rows
    )


# ------------------------------------------------------------------------------------ experts


def read_experts(path: Path) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Names in order, and what else the file says of each; raises InputError."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        names = [str(entry["name"]) for entry in data["expert"]]
        tables = [{k: v for k, v in entry.items() if k != "name"} for entry in data["expert"]]
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=path) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"expected [[expert]] tables with a name: {error}", path=path) from None
    return names, {name: table for name, table in zip(names, tables, strict=True) if table}


def experts_toml(experts: Sequence[str], facts: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of ``experts.toml``; raises InputError for a fact that TOML cannot hold."""
    parts = []
    for name in experts:
        try:
            lines = [
                f"{_key(key)} = {_toml(value)}\n"
                for key, value in (
                    {"name": name} | dict(facts.get(name, {})) | {"name": name}
                ).items()
                if value is not None
            ]
        except TypeError as error:
            raise InputError(f"facts of expert {name!r}: {error}", field="facts") from None
        parts.append("[[expert]]\n" + "".join(lines))
    return "\n".join(parts)


def _key(name: str) -> str:
    """A bare key where that is possible."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(str(name))


def _toml(value: Any) -> str:
    """One value as TOML; raises TypeError for what is none."""
    if isinstance(value, np.generic):
        value = value.item()
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value)  # nan and inf are TOML too
        case str():
            clean = value.encode("utf-8", "replace").decode()
            return json.dumps(clean, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case Mapping():
            pairs = (f"{_key(k)} = {_toml(v)}" for k, v in value.items() if v is not None)
            return "{" + ", ".join(pairs) + "}"
    raise TypeError(f"{value!r} is no text, number, truth value, list or table")
