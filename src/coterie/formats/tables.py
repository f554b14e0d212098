"""Rows out of CSV, JSON, JSON Lines and Parquet, every error with its line, row or record."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from coterie.errors import InputError
from coterie.formats.base import Place, Row, shown

DELIMITED = (".csv", ".tsv")
LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet", ".pq")
TABLES = (*DELIMITED, *LINES, *PARQUET, ".json")
HEAD = 1 << 20  # bytes looked at to recognise a file
LONGEST = 1 << 26  # characters in one CSV field


def files(path: Path, suffixes: tuple[str, ...] = TABLES) -> list[Path]:
    """The file itself, or a folder's files with one of the suffixes, sorted, hidden ones not."""
    if not path.is_dir():
        return [path]
    found = (p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
    return sorted(p for p in found if not any(part.startswith(".") for part in _inside(p, path)))


def _inside(path: Path, folder: Path) -> tuple[str, ...]:
    return path.relative_to(folder).parts


def rows(path: Path) -> Iterator[Row]:
    """The records of one file, by its suffix; raises InputError for a suffix or content unknown."""
    suffix = path.suffix.lower()
    if suffix in DELIMITED:
        yield from _delimited(path)
    elif suffix in LINES:
        yield from _json_lines(path)
    elif suffix in PARQUET:
        yield from _parquet(path)
    elif suffix == ".json":
        yield from _json_list(path)
    else:
        raise InputError(f"expected one of {', '.join(TABLES)}", path=path)


def _delimiter(path: Path, header: str) -> str:
    """A comma, a tab in .tsv; where the header has none of it, a semicolon or the other."""
    usual = "\t," if path.suffix.lower() == ".tsv" else ",\t"
    known = (mark for mark in (usual[0], ";", usual[1]) if mark in header)
    return next(known, usual[0])


def _delimited(path: Path) -> Iterator[Row]:
    limit = csv.field_size_limit(LONGEST)
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter = _delimiter(path, file.readline(HEAD))
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = _header(next(reader, []), path)
            for fields in reader:
                number = reader.line_num
                if fields:
                    place = Place(path, "line", number)
                    if len(fields) != len(header):
                        raise place.error(f"expected {len(header)} fields, got {len(fields)}")
                    yield Row(dict(zip(header, fields, strict=True)), place)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", path=path) from None
    except UnicodeDecodeError as error:
        message = f"not UTF-8 ({error.reason}), perhaps Latin-1; save the file as UTF-8"
        raise InputError(message, path=path, line=_undecodable(path)) from None
    except csv.Error as error:
        raise InputError(f"not CSV: {error}", path=path, line=number + 1) from None
    finally:
        csv.field_size_limit(limit)


def _undecodable(path: Path) -> int | None:
    """The first line that is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.decode("utf-8", "ignore").encode() != line:
                return number
    return None


def _header(names: list[str], path: Path) -> list[str]:
    if not names:
        raise InputError("is empty; expected a line of column names", path=path, line=1)
    for position, name in enumerate(names):
        if name and name in names[:position]:
            raise InputError("the column occurs twice", path=path, line=1, field=name)
    return names


def _json_lines(path: Path) -> Iterator[Row]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    place = Place(path, "line", number)
                    yield Row(_object(parse(line, place), place), place)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", path=path) from None


def _json_list(path: Path) -> Iterator[Row]:
    listed = document(path)
    if not isinstance(listed, list):
        raise InputError(f"expected a list of objects, got {type(listed).__name__}", path=path)
    for number, value in enumerate(listed, start=1):
        place = Place(path, "record", number)
        yield Row(_object(value, place), place)


def document(path: Path) -> Any:
    """The value in a JSON file; raises InputError naming the line where it breaks off."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", path=path) from None
    return parse(content, Place(path, "line", 1))


def parse(content: bytes, place: Place) -> Any:
    """The JSON value in the bytes, which begin at the place."""
    try:
        return json.loads(content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        at = Place(place.path, "line", place.number + error.lineno - 1)
        raise at.error(f"not JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        line = place.number + content.count(b"\n", 0, error.start)
        raise Place(place.path, "line", line).error(f"not UTF-8: {error.reason}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise place.error(f"not JSON that can be read: {str(error)[:100]}") from None


def _object(value: Any, place: Place) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise place.error(f"expected an object, got {shown(value)}")
    return value


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        table = pq.read_table(path, partitioning=None)
        table.validate(full=True)
        for batch in table.to_batches(max_chunksize=1 << 14):
            for values in batch.to_pylist():
                number += 1
                yield Row(values, Place(path, "row", number))
    except (OSError, pa.ArrowException, MemoryError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"cannot be read as Parquet: {reason}", path=path) from None


def peek(path: Path) -> frozenset[str]:
    """The field names of a file's first record, or of a folder's first file; empty if unreadable.

    Reads a megabyte at most; where the first record is longer, the quoted names in it count.
    """
    listed = files(path)
    if not listed or not listed[0].is_file():
        return frozenset()
    try:
        return _peek(listed[0])
    except (InputError, OSError, ValueError, StopIteration, RecursionError, csv.Error):
        return frozenset()


def _peek(path: Path) -> frozenset[str]:
    if path.suffix.lower() in PARQUET:
        return _parquet_names(path)
    if path.suffix.lower() in DELIMITED:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline(HEAD)
        return frozenset(next(csv.reader([line], delimiter=_delimiter(path, line))))
    with path.open("rb") as head:
        text = head.read(HEAD).decode("utf-8-sig", "ignore")
    start = text.find("{")
    try:
        return frozenset(json.JSONDecoder().raw_decode(text, start)[0]) if start >= 0 else NOTHING
    except ValueError:
        return frozenset(re.findall(r'"([^"\\\n]{1,80})"\s*:', text[: 1 << 16]))


NOTHING: frozenset[str] = frozenset()


def _parquet_names(path: Path) -> frozenset[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return frozenset(pq.read_schema(path).names)
    except (OSError, pa.ArrowException, MemoryError, ValueError):
        return NOTHING
