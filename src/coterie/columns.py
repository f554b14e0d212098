"""Columns of Parquet files, read and checked whole; an error names file, row (from 1) and field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.types import FloatArray, IntArray

if TYPE_CHECKING:
    import pyarrow as pa

NUMBERS = (
    "quality",
    "cost",
    "latency",
    "prompt_tokens",
    "completion_tokens",
    "logprob",
    "propensity",
)
AMOUNTS = ("cost", "latency", "prompt_tokens", "completion_tokens")  # finite and at least 0
CODED = ("query_id", "expert")  # few different values: read as codes into a list of them
TEXTS = (*CODED, "text", "category", "subject", "reference", "answer")
NEEDED = (*CODED, "text", "sample")  # null nowhere
BATCH = 1 << 20  # rows

Table: TypeAlias = "dict[str, pa.ChunkedArray]"


def column_names(path: Path) -> list[str]:
    """The columns of a Parquet file; raises InputError where it is none."""
    import pyarrow.parquet as pq

    with _reading(path):
        return list(pq.read_schema(path).names)


def read_table(path: Path, columns: Sequence[str], required: Sequence[str]) -> Table:
    """Those of ``columns`` that the file has, each in its type; raises InputError."""
    import pyarrow.parquet as pq

    present = _present(path, columns, required)
    with _reading(path):
        coded = _coded(path)
        table = pq.read_table(path, columns=present, partitioning=None, read_dictionary=coded)
    if table.num_rows == 0:
        raise InputError("holds no rows", path=path)
    return {name: _column(table[name], name, path, 0) for name in present}


def read_batches(
    path: Path, columns: Sequence[str], required: Sequence[str]
) -> Iterator[tuple[int, Table]]:
    """What ``read_table`` reads, about a million rows at a time, with the number of rows before."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    present, before = _present(path, columns, required), 0
    with _reading(path), pq.ParquetFile(path, read_dictionary=_coded(path)) as file:
        for batch in file.iter_batches(BATCH, columns=present):
            table = pa.Table.from_batches([batch])
            yield before, {n: _column(table[n], n, path, before) for n in present}
            before += len(batch)
    if not before:
        raise InputError("holds no rows", path=path)


def _present(path: Path, columns: Sequence[str], required: Sequence[str]) -> list[str]:
    names = column_names(path)
    for name in required:
        if name not in names:
            found = ", ".join(names)
            raise InputError(f"the column is missing; found {found}", path=path, field=name)
    return [name for name in columns if name in names]


def _coded(path: Path) -> list[str]:
    """The columns of ids that hold strings, and so can be read as codes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    return [f.name for f in pq.read_schema(path) if f.name in CODED and f.type == pa.string()]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What pyarrow raises over a damaged file, UnicodeDecodeError included, as InputError."""
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException, ValueError, OverflowError, MemoryError) as error:
        reason = (str(error).splitlines() or ["it is damaged"])[0]
        raise InputError(f"cannot be read as Parquet: {reason}", path=path) from None


def _column(values: pa.ChunkedArray, name: str, path: Path, before: int) -> pa.ChunkedArray:
    """The values as strings or numbers, as the column's name demands; ids and texts not null."""
    import pyarrow as pa

    kind = _kind(values.type, name)
    try:
        values.validate(full=True)
        values = values if kind is None else values.cast(kind)
    except (pa.ArrowException, ValueError) as error:
        reason = (str(error).splitlines() or ["it is damaged"])[0]
        raise InputError(f"expected {kind}: {reason}", path=path, field=name) from None
    if name in NEEDED and values.null_count:
        row = before + int(np.flatnonzero(values.is_null())[0]) + 1
        what = "a whole number" if name == "sample" else "a text"
        raise InputError(f"row {row}: expected {what}, got nothing", path=path, field=name)
    if name == "skills" and any(chunk.flatten().null_count for chunk in values.chunks):
        raise InputError("expected lists of texts, got nothing in one", path=path, field=name)
    return values


def _kind(found: pa.DataType, name: str) -> pa.DataType | None:
    """The type to cast a column to; None where it is left as it is."""
    import pyarrow as pa

    if name in CODED and pa.types.is_dictionary(found) and found.value_type == pa.string():
        return None
    if name in TEXTS:
        return None if pa.types.is_large_string(found) else pa.string()
    if name == "sample":
        return pa.int64()
    if name == "skills":
        return pa.list_(pa.string())
    if name in ("score", *NUMBERS):
        known = pa.types.is_floating(found) or pa.types.is_boolean(found)
        return None if known or pa.types.is_integer(found) else pa.float64()
    return None


def floats(column: pa.ChunkedArray, dtype: Any = float) -> FloatArray:
    """The numbers as ``dtype``, NaN for null; with None floats as they are, others as float32."""
    import pyarrow as pa

    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if not pa.types.is_floating(column.type):
        column = column.cast(pa.float32() if dtype is None else pa.float64(), safe=False)
    values: FloatArray = column.to_numpy()
    return values if dtype is None else values.astype(dtype, copy=False)


def positions(
    values: pa.ChunkedArray, known: pa.Array, path: Path, field: str, where: str, before: int = 0
) -> IntArray:
    """The place of every value among the ``known``; raises InputError for another."""
    import pyarrow.compute as pc

    coded = values.dictionary_encode().combine_chunks()
    place = pc.index_in(coded.dictionary.cast(known.type), value_set=known).fill_null(-1)
    found: IntArray = place.to_numpy()[coded.indices.to_numpy()]
    if (found < 0).any():
        row = int((found < 0).argmax())
        message = f"row {before + row + 1}: {values[row].as_py()!r} is not in {where}"
        raise InputError(message, path=path, field=field)
    return found


def check_numbers(table: Mapping[str, pa.ChunkedArray], path: Path, before: int = 0) -> None:
    """Scores are in [0, 1] and always given, amounts finite, propensities in (0, 1]."""
    scores = floats(table["score"], None)
    bad, hint = ~((scores >= 0) & (scores <= 1)), "; leave the row out if nothing was observed"
    _refuse(bad, table, "score", "expected a score in [0, 1]", path, before, hint)
    for name in [name for name in AMOUNTS if name in table]:
        amounts = floats(table[name], None)
        wrong = (amounts < 0) | np.isinf(amounts)
        _refuse(wrong, table, name, "expected a finite number of at least 0", path, before)
    if "propensity" in table:
        shares = floats(table["propensity"], None)
        outside = (shares <= 0) | (shares > 1)
        _refuse(outside, table, "propensity", "expected a probability above 0", path, before)


def _refuse(
    bad: NDArray[np.bool_],
    table: Mapping[str, pa.ChunkedArray],
    field: str,
    message: str,
    path: Path,
    before: int,
    hint: str = "",
) -> None:
    if bad.any():
        row = int(bad.argmax())
        came = f"got {table[field][row].as_py()!r}"
        message = f"row {before + row + 1}: {message}, {came}{hint}"
        raise InputError(message, path=path, field=field)
