"""What every reader shares: where a value came from, checked rows, and the matrix they fill."""

from __future__ import annotations

import ast
import math
import re
import warnings
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.records import Records
from coterie.types import FloatArray, IntArray, Query

MOST_CELLS = 400_000_000  # of a dense matrix: 8,567 experts x 24,000 questions fit
SPARSEST = 2_000  # cells for each outcome in a matrix that is not small
SMALL = 20_000_000
LONGEST_LITERAL = 1_000_000


class Unmapped(NamedTuple):
    """Columns that no mapping names: those left out, and those taken for experts' scores."""

    left_out: tuple[str, ...] = ()
    guessed: tuple[str, ...] = ()


class Reader(Protocol):
    """What a module under ``formats`` has: a name, a cheap look, and the reading."""

    NAME: str

    def matches(self, path: Path) -> bool:
        """Whether the file or folder looks like this format; never raises for a readable path."""

    def read(self, path: Path, columns: Mapping[str, str]) -> Records:
        """The records; raises InputError naming file and row."""


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, or a row or record of one that has no lines."""

    path: Path
    unit: str
    number: int

    def error(self, message: str, field: str | None = None) -> InputError:
        """An error that names the place."""
        if self.unit == "line":
            return InputError(message, path=self.path, line=self.number, field=field)
        return InputError(f"{self.unit} {self.number}: {message}", path=self.path, field=field)

    def __str__(self) -> str:
        return f"{self.unit} {self.number}"


@dataclass(frozen=True, slots=True)
class Row:
    """One record's values by field name, with the place that errors point at."""

    values: Mapping[str, Any]
    place: Place

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def error(self, message: str, field: str | None = None) -> InputError:
        """An error that names the row's place."""
        return self.place.error(message, field)

    def first(self, *names: str) -> str:
        """The first of these fields that the row has; raises InputError if it has none."""
        for name in names:
            if name in self.values:
                return name
        found = ", ".join(map(str, list(self.values)[:12]))
        raise self.error(f"expected a field {' or '.join(map(repr, names))}; found {found}")

    def text(self, name: str) -> str | None:
        """A string, or a number written as one; None where missing, null or NaN."""
        value = self.values.get(name)
        if value is None or isinstance(value, str):
            return None if value is None else clean(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(f"expected a text, got {shown(value)}", name)
        if isinstance(value, float) and math.isnan(value):
            return None
        return written(value, self.place, name)

    def required(self, name: str) -> str:
        """A text that is neither missing nor empty."""
        value = self.text(name)
        if value is None or not value.strip():
            raise self.error("expected a text, got nothing", name)
        return value

    def number(self, name: str) -> float | None:
        """A finite number, None where missing, null or an empty text; booleans are 0 and 1."""
        return number(self.values.get(name), self.place, name)

    def amount(self, name: str) -> float | None:
        """A finite number of at least 0: a cost, a time, a count."""
        value = self.number(name)
        if value is not None and value < 0:
            raise self.error(f"expected at least 0, got {value!r}", name)
        return value

    def score(self, name: str, best: float | None = None) -> float | None:
        """A number in [0, 1], None for "not observed".

        ``best`` is the best possible score, which it is divided by; None where the format has no
        mapping ``max_score``.
        """
        value = self.number(name)
        if value is not None and not 0 <= value <= (best or 1):
            hint = "divide by the best possible score first"
            if best is not None:
                hint = "if the best possible score is another, say so: --max-score 100"
                hint += " (in Python columns={'max_score': '100'})"
            shown = f"expected a score in [0, {best or 1:g}], got {value!r}"
            raise self.error(f"{shown}; {hint}", name)
        return value if value is None else value / (best or 1)

    def inner(self, name: str) -> Row:
        """The mapping in a field; raises InputError where there is something else."""
        value = self.values.get(name)
        if not isinstance(value, dict):
            raise self.error(f"expected an object, got {shown(value)}", name)
        return Row(value, self.place)


def number(value: Any, place: Place, field: str) -> float | None:
    """The value as a finite float; numbers in texts and booleans count, nothing is None."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if value in ("True", "False", "true", "false"):
        return float(value in ("True", "true"))
    try:
        found = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        hint = "leave it empty where nothing was observed"
        if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d*,\d+\s*", value):
            hint = "write decimals with a point"
        raise place.error(f"expected a finite number, got {shown(value)}; {hint}", field)
    return found


def written(value: float, place: Place, field: str) -> str:
    """The number as a text; whole floats as integers, since ids pass through data frames."""
    try:
        return str(int(value)) if value == int(value) else str(value)
    except (ValueError, OverflowError):
        raise place.error(f"expected a text, got {shown(value)}", field) from None


def shown(value: Any) -> str:
    """The value for a message, short; a broken one by its type."""
    try:
        return "nothing" if value is None else repr(value)[:60]
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} that cannot be shown"


def clean(text: str) -> str:
    """The text with halves of surrogate pairs replaced: UTF-8 has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def unlisted(text: str) -> str:
    r"""The texts of a list that was saved as one text, below each other; other texts unchanged.

    >>> unlisted("['What is it?']"), unlisted('["a", "b"]'), unlisted("[1]")
    ('What is it?', 'a\nb', '[1]')
    """
    trimmed = text.strip()
    quoted = trimmed[:2] in ("['", '["') and trimmed[-2:] in ("']", '"]')
    if not quoted or len(trimmed) > LONGEST_LITERAL:
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in a text is no concern of ours
            parts = ast.literal_eval(trimmed)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
    if isinstance(parts, list) and all(isinstance(part, str) for part in parts):
        return clean("\n".join(parts))
    return text


class Matrix:
    """Outcomes in order of appearance, checked one by one, until they become Records.

    ``repeats`` says what several outcomes of one question and expert mean: ``refuse`` (an error),
    ``mean`` (samples of one expert) or ``max``. Other values than the score are then the first's.
    """

    def __init__(self, path: Path, repeats: str = "refuse") -> None:
        self.path = path
        self.repeats = repeats
        self.queries: list[Query] = []
        self.references: list[str | None] = []
        self.experts: dict[str, int] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self._rows: dict[str, int] = {}
        self._places: list[Place] = []
        self._cells = (array("q"), array("q"))
        self._lines = array("q")
        self._sources: list[tuple[int, Place]] = []  # first outcome of every file
        self._scores = array("d")
        self._extras: dict[str, array[float]] = {}
        self._texts: dict[int, str] = {}

    def query(
        self,
        id: str,
        text: str,
        place: Place,
        *,
        category: str | None = None,
        subject: str | None = None,
        reference: str | None = None,
        same_text: bool = True,
    ) -> int:
        """The row of this question; one seen before must have the same text."""
        row = self._rows.get(id)
        if row is None:
            row = self._rows[id] = len(self.queries)
            messages = ({"role": "user", "content": text},)
            self.queries.append(Query(id, messages, {}, (), category, subject))
            self.references.append(reference)
            self._places.append(place)
        elif same_text and self.queries[row].text != text:
            where = seen_at(self._places[row], place)
            raise place.error(f"question {id!r} has another text in {where}; ids must agree")
        return row

    def __contains__(self, id: object) -> bool:
        return id in self._rows

    def expert(self, name: str) -> int:
        """The column of this expert, new or known."""
        return self.experts.setdefault(name, len(self.experts))

    def outcome(
        self,
        row: int,
        expert: str,
        score: float | None,
        place: Place,
        *,
        text: str | None = None,
        **extras: float | None,
    ) -> None:
        """Record one cell; a score of None leaves it unobserved."""
        column = self.expert(expert)
        if score is None:
            return
        number = len(self._scores)
        if not self._sources or self._sources[-1][1].path != place.path:
            self._sources.append((number, place))
        self._cells[0].append(row)
        self._cells[1].append(column)
        self._lines.append(place.number)
        self._scores.append(score)
        for name, value in extras.items():
            if value is not None:
                self._extra(name, number).append(value)
        if text is not None:
            self._texts[number] = text

    def _extra(self, name: str, length: int) -> array[float]:
        """The values of one further number so far, NaN where it was missing."""
        values = self._extras.setdefault(name, array("d"))
        if len(values) < length:
            values.frombytes(np.full(length - len(values), np.nan).tobytes())
        return values

    def records(self) -> Records:
        """All of it as Records; raises InputError where there is nothing or far too much."""
        if not self._scores:
            raise InputError("holds no scores", path=self.path)
        self._check_size()
        rows, columns = (np.array(part, np.intp) for part in self._cells)
        codes = rows * len(self.experts) + columns
        _, first, cell = np.unique(codes, return_index=True, return_inverse=True)
        if len(first) < len(codes) and self.repeats == "refuse":
            raise self._repeated(codes, first)
        at = (rows[first], columns[first])
        arguments: dict[str, Any] = {
            "queries": tuple(self.queries),
            "experts": tuple(self.experts),
            "quality": self._dense(at, self._merged(first, cell)),
            "references": tuple(self.references),
        }
        for name in self._extras:
            values = np.array(self._extra(name, len(self._scores)))
            arguments[name] = self._dense(at, values[first])
        if self._texts:
            arguments["texts"] = self._dense_texts(at, first)
        return Records(**arguments, facts=self.facts)

    def _check_size(self) -> None:
        cells = len(self.queries) * len(self.experts)
        dense = cells <= SMALL or cells <= SPARSEST * len(self._scores)
        if cells > MOST_CELLS or not dense:
            size = f"{len(self.queries):,} questions x {len(self.experts):,} experts"
            message = f"{size} with {len(self._scores):,} scores is too large a matrix to build"
            raise InputError(f"{message}; import a part of it", path=self.path)

    def _repeated(self, codes: IntArray, first: IntArray) -> InputError:
        """The error for the earliest outcome whose cell was taken."""
        again = int(np.setdiff1d(np.arange(len(codes)), first)[0])
        before = int(np.flatnonzero(codes[:again] == codes[again])[0])
        row, expert = divmod(int(codes[again]), len(self.experts))
        what = f"question {self.queries[row].id!r} and expert {list(self.experts)[expert]!r}"
        here = self._place(again)
        return here.error(f"{what} already have a score in {seen_at(self._place(before), here)}")

    def _place(self, number: int) -> Place:
        source = max(s for s in range(len(self._sources)) if self._sources[s][0] <= number)
        return replace(self._sources[source][1], number=self._lines[number])

    def _merged(self, first: IntArray, cell: IntArray) -> FloatArray:
        """One score a cell."""
        scores = np.array(self._scores)
        if self.repeats == "mean":
            return np.bincount(cell, scores) / np.bincount(cell)
        merged = scores[first]
        np.maximum.at(merged, cell, scores)
        return merged

    def _dense(self, at: tuple[IntArray, IntArray], values: FloatArray) -> FloatArray:
        array = np.full((len(self.queries), len(self.experts)), np.nan)
        array[at] = values
        return array

    def _dense_texts(self, at: tuple[IntArray, IntArray], first: IntArray) -> NDArray[np.object_]:
        texts = np.full((len(self.queries), len(self.experts)), None, object)
        texts[at] = [self._texts.get(number) for number in first.tolist()]
        return texts


def seen_at(place: Place, here: Place) -> str:
    """The earlier place as seen from here, with its file where that is another."""
    return str(place) if place.path == here.path else f"{place} of {place.path}"


def mapped(columns: Mapping[str, str], name: str, *defaults: str) -> tuple[str, ...]:
    """The field the user mapped to ``name``, else the defaults."""
    return (columns[name],) if name in columns else defaults


def mapping_hint(field: str, column: str) -> str:
    """How to say what a column holds, on the command line and in Python."""
    return f"--map '{field}={column}' (in Python columns={{'{field}': '{column}'}})"


def best_score(columns: Mapping[str, str], path: Path) -> float:
    """The number mapped to ``max_score``, 1 by default; raises InputError for none above 0."""
    given = columns.get("max_score", "1")
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        message = f"expected the best possible score, a number above 0, got {given!r}"
        raise InputError(message, path=path, field="max_score")
    return value


def check_mapping(columns: Mapping[str, str], allowed: tuple[str, ...], path: Path) -> None:
    """Raise InputError for a name in the column mapping that the format does not know."""
    for name in columns:
        if name not in allowed:
            if name == "max_score":
                message = "the format takes no best possible score; divide the scores first"
                raise InputError(message, path=path, field=name)
            options = f"it knows {', '.join(allowed)}" if allowed else "it takes none"
            raise InputError(f"the format takes no column mapping {name!r}; {options}", path=path)


def tail(rows: Iterator[Row], path: Path) -> Iterator[Row]:
    """The same rows; raises InputError where there is none."""
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise InputError("holds no records", path=path)
