"""Published record formats, one small module each, and how a path finds its own.

A reader has ``NAME``, ``matches(path)`` (a cheap look) and ``read(path, columns)``; one whose
format marks a split also has ``split(path, columns)``, one that guesses columns
``unmapped(path, columns)``. Readers take scores as they stand and join
by id; nothing is scored here.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from coterie.errors import InputError
from coterie.formats.base import Reader, Unmapped
from coterie.formats.plain import NAME as ANY_TABLE
from coterie.formats.plain import check as check_table
from coterie.formats.tables import TABLES
from coterie.records import Records

# The first whose look succeeds reads: the most particular come first, any other CSV last.
MODULES = (
    "native",
    "instances",
    "lm_eval",
    "inspect_logs",
    "routereval",
    "routerbench",
    "llmrouterbench",
    "routerarena",
    "llmrouter",
    "routerdc",
    "pairs",
    "rorf",
    "embedllm",
    "routellm",
    "plain",
)


def readers() -> dict[str, Reader]:
    """Every reader by its name, in the order in which they are tried."""
    modules = [cast(Any, import_module(f"coterie.formats.{module}")) for module in MODULES]
    return {module.NAME: module for module in modules}


def names() -> list[str]:
    """The formats that can be read."""
    return list(readers())


def detect(path: str | Path) -> str:
    """The format of a file or folder.

    Raises InputError that lists the known ones, or says what is wrong with a table that no reader
    recognises.
    """
    if not Path(path).exists():
        raise InputError("cannot be read: no such file or folder", path=path)
    for name, reader in readers().items():
        if reader.matches(Path(path)):
            return name
    if Path(path).is_file() and Path(path).suffix.lower() in TABLES:
        check_table(Path(path))
        return ANY_TABLE
    known = f"there are {', '.join(names())}; tables end in {', '.join(TABLES)}"
    raise InputError(f"no known format; {known}", path=path)


def read_records(
    path: str | Path, format: str | None = None, columns: Mapping[str, str] | None = None
) -> Records:
    """Records from a file or folder of any known format.

    Parameters
    ----------
    path
        What to read.
    format
        One of ``names()``; found by a look at the path if left out.
    columns
        What a reader is told about fields, as its docstring says; for ``csv`` the column of each
        of ``query``, ``expert``, ``score`` and so on.

    Raises
    ------
    InputError
        Naming file and row, where the content is not what the format says, holds a score outside
        [0, 1] or two scores of one question and expert. Nothing found in a file is ever executed.
    """
    return _reader(path, format).read(Path(path), columns or {})


def read_split(
    path: str | Path, format: str | None = None, columns: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The split ("train", "test") of each query id, empty where the format marks none."""
    reader = _reader(path, format)
    find = getattr(reader, "split", None)
    return {} if find is None else dict(find(Path(path), columns or {}))


def read_unmapped(
    path: str | Path, format: str | None = None, columns: Mapping[str, str] | None = None
) -> Unmapped:
    """The columns that the reader left out or guessed; none where the format fixes them."""
    reader = _reader(path, format)
    find = getattr(reader, "unmapped", None)
    return Unmapped() if find is None else cast(Unmapped, find(Path(path), columns or {}))


def _reader(path: str | Path, format: str | None) -> Reader:
    name = detect(path) if format is None else format
    if name not in readers():
        raise InputError(f"no format called {name!r}; there are {', '.join(names())}")
    if not Path(path).exists():
        raise InputError("cannot be read: no such file or folder", path=path)
    return readers()[name]
