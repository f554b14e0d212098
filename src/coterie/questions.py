"""Questions in: one JSON object a line, checked before anything is asked.

Fields: ``question`` (or ``messages`` in OpenAI form), and optionally ``id``, ``answer`` (the
reference) and ``category``. Without an id a question is numbered by its line.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from coterie.errors import InputError
from coterie.paging import Paged
from coterie.types import Query

LONGEST = 1_000_000  # bytes in one line


@dataclass(frozen=True, slots=True)
class Questions:
    """Queries with their references, None where not given."""

    queries: tuple[Query, ...]
    references: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def categories(self) -> tuple[str | None, ...]:
        """One a query, None where not given."""
        return tuple(q.category for q in self.queries)

    def take(self, rows: Sequence[int]) -> Questions:
        """The questions of these rows, in this order."""
        return Questions(
            tuple(self.queries[i] for i in rows), tuple(self.references[i] for i in rows)
        )


def embedded_questions(split: str) -> Questions:
    """The embedded pool's labelled questions: ``validation`` (400) or ``test`` (640)."""
    return read_questions(Path(__file__).parent / "embedded" / "questions" / f"{split}.jsonl")


def read_questions(path: str | Path) -> Questions:
    """Read a JSONL file, or standard input for ``-``; raises InputError naming line and field."""
    if str(path) == "-":
        if sys.stdin is None:
            raise InputError("is closed", path="standard input")
        return parse_questions(sys.stdin.buffer, "standard input")
    try:
        with Path(path).open("rb") as lines:
            return parse_questions(lines, str(path))
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot be read: {reason}", path=path) from None


@contextmanager
def open_queries(path: str | Path) -> Iterator[Sequence[Query]]:
    """The queries of a JSONL file, checked like ``read_questions`` does and read when needed.

    They take some bytes each in memory. Standard input (``-``) is copied to a scratch file.
    """
    if str(path) == "-":
        if sys.stdin is None:
            raise InputError("is closed", path="standard input")
        with tempfile.TemporaryFile() as scratch:
            shutil.copyfileobj(sys.stdin.buffer, scratch)
            scratch.seek(0)
            yield _paged(scratch, "standard input")
        return
    try:
        file = Path(path).open("rb")  # noqa: SIM115 (only its opening may fail here)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot be read: {reason}", path=path) from None
    with file:
        yield _paged(file, str(path))


def _paged(file: BinaryIO, path: str) -> Sequence[Query]:
    """Queries by their places in an open file that does not change."""
    places, numbers, ids = array("q"), array("q"), array("q")
    place = 0
    for number, line in enumerate(file, start=1):
        if line.strip():
            places.append(place)
            numbers.append(number)
            ids.append(hash(_read(line, path, number)[0].id))
        place += len(line)
    if not places:
        raise InputError(EMPTY, path=path)
    places.append(place)
    _, counts = np.unique(np.frombuffer(ids, np.int64), return_counts=True)
    if (counts > 1).any():  # equal hashes, so most likely equal ids
        file.seek(0)
        parse_questions(file, path)

    def read(first: int, stop: int) -> list[Query]:
        file.seek(places[first])
        lines = file.read(places[stop] - places[first]).split(b"\n")
        numbered = zip(numbers[first:stop], (row for row in lines if row.strip()), strict=True)
        return [_read(line, path, number)[0] for number, line in numbered]

    return Paged(len(numbers), read)


EMPTY = "holds no questions; expected one JSON object a line"


def parse_questions(lines: Iterable[bytes], path: str) -> Questions:
    """Questions from lines of JSON; ``path`` is what messages call the source."""
    queries: list[Query] = []
    references: list[str | None] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        query, reference = _read(line, path, number)
        if query.id in seen:
            message = f"{query.id!r} is also the id of line {seen[query.id]}; ids must differ"
            raise InputError(message, path=path, line=number, field="id")
        seen[query.id] = number
        queries.append(query)
        references.append(reference)
    if not queries:
        raise InputError(EMPTY, path=path)
    return Questions(tuple(queries), tuple(references))


def _read(line: bytes, path: str, number: int) -> tuple[Query, str | None]:
    """One line's query and reference."""
    data = _object(line, path, number)
    query = replace(_query(data, path, number), category=_optional(data, "category", path, number))
    return query, _optional(data, "answer", path, number)


def _object(line: bytes, path: str, number: int) -> Mapping[str, Any]:
    if len(line) > LONGEST:
        message = f"{len(line):,} bytes are more than the {LONGEST:,} a question may have"
        raise InputError(message, path=path, line=number)
    try:
        data = json.loads(line.decode("utf-8-sig"))
        if b"\\ud" in line.lower():  # JSON can spell half a character, UTF-8 cannot
            json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        message = "holds half of a surrogate pair (\\ud800 to \\udfff), which is no character"
        raise InputError(message, path=path, line=number) from None
    except UnicodeDecodeError as error:
        message = f"not UTF-8 at byte {error.start + 1}; save the file as UTF-8"
        raise InputError(message, path=path, line=number) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}", path=path, line=number) from None
    if not isinstance(data, dict):
        message = f"expected a JSON object, got {type(data).__name__}"
        raise InputError(message, path=path, line=number)
    return data


def _query(data: Mapping[str, Any], path: str, number: int) -> Query:
    id = data.get("id", str(number))
    if not isinstance(id, str | int) or isinstance(id, bool) or id == "":
        raise InputError(f"expected a string, got {_shown(id)}", path=path, line=number, field="id")
    if "messages" in data:
        return Query(str(id), _messages(data["messages"], path, number))
    text = data.get("question")
    if not isinstance(text, str) or not text.strip():
        message = f"expected the question's text, got {_shown(text)}"
        raise InputError(message, path=path, line=number, field="question")
    return Query.from_text(str(id), text)


def _messages(value: Any, path: str, number: int) -> tuple[dict[str, Any], ...]:
    entries = value if isinstance(value, list) else []
    well_formed = all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in entries
    )
    if not well_formed or not any(m["role"] == "user" and m["content"].strip() for m in entries):
        message = "expected a list of {role, content} with a user message that has text"
        raise InputError(message, path=path, line=number, field="messages")
    return tuple(entries)


def _optional(data: Mapping[str, Any], name: str, path: str, number: int) -> str | None:
    value = data.get(name)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    message = f"expected a string, got {_shown(value)}"
    raise InputError(message, path=path, line=number, field=name)


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:60]
