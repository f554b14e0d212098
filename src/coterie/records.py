"""Performance records: what each expert made of each query.

On disk a folder: ``queries.parquet`` (query_id, text, category, subject, reference, skills),
``records.parquet`` (query_id, expert, sample, score, cost, latency, prompt_tokens,
completion_tokens, logprob, propensity, answer) and ``experts.toml`` with the experts in order and
what is known of each. Of several samples of a cell the numbers are averaged and the text is that of
the lowest sample number. In memory dense arrays, queries x experts, NaN where nothing was observed;
those of big folders are built once and memory-mapped (see ``dense``).
"""

from __future__ import annotations

import copy
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from coterie import dense, native
from coterie.columns import AMOUNTS, NUMBERS
from coterie.errors import CoterieError, InputError
from coterie.folds import fold_rows, text_groups
from coterie.native import MANY
from coterie.types import Completion, FloatArray, IntArray, Query, Usage

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FILES", "MANY", "NUMBERS", "Records"]

FILES = dense.FILES


def _nothing() -> FloatArray:
    return np.empty(0)


@dataclass(frozen=True, eq=False)
class Records:
    """Outcomes of experts on queries.

    Parameters
    ----------
    queries, experts
        Rows and columns; query ids and expert names are unique.
    quality
        Scores in [0, 1], shape (queries, experts); NaN is "not observed", neither right nor wrong.
    cost, latency, prompt_tokens, completion_tokens, logprob, propensity
        Same shape; cost in the pool's unit, latency in seconds, ``logprob`` the mean natural log
        probability of the answer's tokens, ``propensity`` the probability with which a logging
        policy chose the expert. All NaN where left out.
    texts
        Object array of the same shape: the completion's text, empty if it failed, or None.
    references
        One a query, None where unknown.
    facts
        What else is known of an expert, by its name: ``parameters`` and ``active_parameters`` in
        billions, ``input_price`` and ``output_price`` per million tokens, ``description``, and
        whatever ``experts.toml`` says. Facts of other experts are left out.

    Arrays of floats are kept as they come, memory-mapped or narrow; other numbers become float64
    (float32 from a million cells on). An array that is all missing takes no memory and cannot be
    written to.

    Raises
    ------
    InputError
        Where shapes disagree, names repeat, a score is outside [0, 1], a propensity outside (0, 1],
        or a cost, a latency or a number of tokens negative or infinite.
    """

    queries: tuple[Query, ...]
    experts: tuple[str, ...]
    quality: FloatArray
    cost: FloatArray = field(default_factory=_nothing)
    latency: FloatArray = field(default_factory=_nothing)
    prompt_tokens: FloatArray = field(default_factory=_nothing)
    completion_tokens: FloatArray = field(default_factory=_nothing)
    logprob: FloatArray = field(default_factory=_nothing)
    texts: NDArray[np.object_] = field(default_factory=lambda: np.empty(0, object))
    references: tuple[str | None, ...] = ()
    propensity: FloatArray = field(default_factory=_nothing)
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.queries), len(self.experts))
        for name in NUMBERS:
            array = _stored(getattr(self, name), shape, name)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "texts", _stored_texts(self.texts, shape))
        if not self.references:
            object.__setattr__(self, "references", (None,) * len(self.queries))
        if len(self.references) != len(self.queries):
            message = f"expected {len(self.queries)}, got {len(self.references)}"
            raise InputError(message, field="references")
        object.__setattr__(self, "facts", self._facts_of(self.experts))
        self._check_names()
        self._check_numbers()

    def _facts_of(self, experts: Sequence[str]) -> dict[str, dict[str, Any]]:
        return {name: dict(self.facts[name]) for name in experts if self.facts.get(name)}

    def _check_names(self) -> None:
        for name, values in (("id", [q.id for q in self.queries]), ("expert", self.experts)):
            repeated = [value for value, count in Counter(values).items() if count > 1]
            if repeated:
                raise InputError(f"{repeated[0]!r} occurs more than once", field=name)

    def _check_numbers(self) -> None:
        low, high = _bounds(self.quality)
        if low < 0 or high > 1:
            wrong = (self.quality < 0) | (self.quality > 1)
            self._refuse("quality", wrong, "is outside [0, 1]")
        for name in AMOUNTS:
            array = getattr(self, name)
            low, high = _bounds(array)
            if low < 0 or high == math.inf:
                self._refuse(
                    name, (array < 0) | np.isinf(array), "is no finite number of at least 0"
                )
        low, high = _bounds(self.propensity)
        if low <= 0 or high > 1:
            wrong = (self.propensity <= 0) | (self.propensity > 1)
            self._refuse("propensity", wrong, "is a probability outside (0, 1]")

    def _refuse(self, name: str, wrong: NDArray[np.bool_], message: str) -> None:
        row, column = np.argwhere(wrong)[0]
        where = f"query {self.queries[row].id!r}, expert {self.experts[column]!r}"
        message = f"{getattr(self, name)[row, column]} for {where} {message}"
        raise InputError(message, field="score" if name == "quality" else name)

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
        shape = (len(index), len(self.experts))
        return self._part(
            queries=tuple(self.queries[i] for i in index),
            references=tuple(self.references[i] for i in index),
            **{name: _cut(getattr(self, name), index, shape) for name in (*NUMBERS, "texts")},
        )

    def select(self, experts: Sequence[str]) -> Records:
        """The records of these experts, in this order; raises InputError for an unknown one."""
        column_of = {name: column for column, name in enumerate(self.experts)}
        if unknown := [e for e in experts if e not in column_of]:
            known = ", ".join(self.experts)
            raise InputError(f"no records of expert {unknown[0]!r}; there are {known}")
        index = np.array([column_of[e] for e in experts], dtype=np.intp)
        at, shape = (slice(None), index), (len(self), len(index))
        return self._part(
            experts=tuple(experts),
            facts=self._facts_of(experts),
            **{name: _cut(getattr(self, name), at, shape) for name in (*NUMBERS, "texts")},
        )

    def _part(self, **changes: Any) -> Self:
        """A copy with other rows or columns: what was checked once is not checked again."""
        part = copy.copy(self)
        for name, value in changes.items():
            object.__setattr__(part, name, value)
        part._check_names()
        return part

    @property
    def text_groups(self) -> IntArray:
        """A number a query, equal where texts are equal but for case and white space."""
        return text_groups(q.text for q in self.queries)

    def folds(self, count: int, seed: int = 0) -> list[NDArray[np.intp]]:
        """Row numbers in ``count`` disjoint parts of nearly equal size, shuffled by ``seed``.

        Queries of equal texts are in the same part; see ``folds.fold_rows``.
        """
        return [np.sort(part) for part in fold_rows(self.text_groups, count, seed)]

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

        A link stays a link. Raises CoterieError where that fails, or where the folder holds
        anything but records.
        """
        target, scratch = Path(os.path.realpath(folder)), None
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
        tables = self._record_tables()
        first = next(tables)
        path = folder / "records.parquet"
        with pq.ParquetWriter(path, first.schema, store_schema=False) as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table)
        text = native.experts_toml(self.experts, self.facts)
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

    def _record_tables(self) -> Iterator[pa.Table]:
        """The observed cells, row by row, in tables of about a million; at least one."""
        import pyarrow as pa

        ids = pa.array([q.id for q in self.queries], pa.string())
        names = pa.array(self.experts, pa.string())
        step = max(1, MANY // max(1, len(self.experts)))
        for start in range(0, max(1, len(self)), step):
            rows, columns = np.nonzero(~np.isnan(self.quality[start : start + step]))
            rows += start
            table: dict[str, Any] = {
                "query_id": pa.DictionaryArray.from_arrays(pa.array(rows.astype(np.int32)), ids),
                "expert": pa.DictionaryArray.from_arrays(pa.array(columns.astype(np.int32)), names),
                "sample": pa.array(np.zeros(len(rows), np.int32)),
            }
            table |= self._number_columns(rows, columns)
            if not _is_missing(self.texts):
                table["answer"] = _text_array(self.texts[rows, columns])
            yield pa.table(table)

    def _number_columns(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> dict[str, Any]:
        """Those of the numbers that are not all missing, in the float type they have."""
        import pyarrow as pa

        found = {}
        for name in NUMBERS:
            array = getattr(self, name)
            if name == "quality" or not _is_missing(array):
                values = array[rows, columns]
                column = "score" if name == "quality" else name
                found[column] = pa.array(values, mask=np.isnan(values))
        return found

    @classmethod
    def read(cls, folder: str | Path, texts: bool = True) -> Self:
        """Read a folder written by ``write``; raises InputError naming file, row and field.

        ``texts=False`` leaves the experts' answers out, which saves most of the memory of records
        that hold many. Reading a folder of a million cells or more for the first time writes
        ``dense/`` into it, where that is allowed.
        """
        return cls(**native.read_folder(Path(folder), texts))


def _is_constant(array: NDArray[Any]) -> bool:
    """Whether one value stands for the whole array, as where nothing was given."""
    return array.size == 0 or not any(array.strides)


def _is_missing(array: NDArray[Any]) -> bool:
    """Whether nothing is known, and no memory spent on it."""
    if array.size == 0 or not _is_constant(array):
        return array.size == 0
    value = array[0, 0]
    return value is None or value != value


def _stored(values: Any, shape: tuple[int, int], name: str) -> FloatArray:
    """The floats of one array, without memory where all are missing."""
    array = np.asarray(values)
    if array.dtype.kind != "f":
        array = array.astype(float if array.size < MANY else np.float32)
    if array.size == 0:
        return np.broadcast_to(np.float64(np.nan), shape)
    if array.shape != shape:
        raise InputError(f"expected shape {shape}, got {array.shape}", field=name)
    if not _is_constant(array) and np.isnan(array[0]).all() and np.isnan(array).all():
        return np.broadcast_to(array[0, 0], shape)
    return array


def _stored_texts(texts: NDArray[np.object_], shape: tuple[int, int]) -> NDArray[np.object_]:
    """The texts, without memory where there are none."""
    if texts.size and texts.shape != shape:
        raise InputError(f"expected shape {shape}, got {texts.shape}", field="texts")
    if all(text is None for text in texts[:1].flat) and all(text is None for text in texts.flat):
        return np.broadcast_to(np.array(None, object), shape)
    return texts


def _bounds(array: FloatArray) -> tuple[float, float]:
    """The lowest and the highest number; NaN where there is none. Copies nothing."""
    if _is_constant(array):
        array = array[:1, :1]
    if array.size == 0:
        return math.nan, math.nan
    return float(np.fmin.reduce(array, axis=None)), float(np.fmax.reduce(array, axis=None))


def _cut(array: NDArray[Any], at: Any, shape: tuple[int, int]) -> NDArray[Any]:
    """``array[at]``, still without memory where one value stands for all."""
    if array.size and _is_constant(array):
        return np.broadcast_to(np.array(array[0, 0], array.dtype), shape)
    part: NDArray[Any] = array[at]
    return part


def _text_array(texts: NDArray[np.object_]) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:
        return pa.array([_storable(text) for text in texts], pa.string())


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
    if foreign := [name for name in found if name not in FILES and not dense.is_part(name)]:
        message = f"{target} also holds {foreign[0]!r}, which is no part of records"
        raise CoterieError(f"{message}; move it or choose another name")
