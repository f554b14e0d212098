"""The native folder of queries.parquet, records.parquet and experts.toml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from coterie.errors import InputError
from coterie.formats.base import check_mapping
from coterie.records import Records

NAME = "native"


def matches(path: Path) -> bool:
    """Whether the folder holds queries.parquet and experts.toml."""
    return (path / "queries.parquet").is_file() and (path / "experts.toml").is_file()


def read(path: Path, columns: Mapping[str, str]) -> Records:
    """The records as they were written; no column mapping."""
    check_mapping(columns, (), path)
    try:
        return Records.read(path)
    except (ValueError, OverflowError, MemoryError) as error:  # column names that are no text
        raise InputError(f"cannot be read as records: {str(error)[:100]}", path=path) from None
