"""Records as one file that other programs read: wide tables and long JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coterie.columns import NUMBERS
from coterie.errors import CoterieError, InputError
from coterie.files import replace_file
from coterie.records import Records

if TYPE_CHECKING:
    import pyarrow as pa

FIXED = ("query_id", "text", "category")  # columns of the wide table before the experts'


def export(records: Records, path: str | Path, format: str | None = None) -> str:
    """Write the records to one file in one step; returns the name of the format.

    ``format`` is one of ``FORMATS``, by default what the file's ending says: ``csv`` and
    ``parquet`` are wide (query_id, text, category, then a column of scores an expert), ``jsonl``
    has one object an observed cell, ``llmrouter`` the same under LLMRouter's names. Raises
    CoterieError for an unknown format or ending, and where the file cannot be written.
    """
    name = format or Path(path).suffix.removeprefix(".").lower()
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise CoterieError(f"{path}: no format is called {name!r}; name one of {known}")
    replace_file(path, FORMATS[name](records))
    return name


def _csv(records: Records) -> bytes:
    import pyarrow as pa
    from pyarrow import csv

    sink = pa.BufferOutputStream()
    csv.write_csv(_wide(records), sink)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def _parquet(records: Records) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(_wide(records), sink)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def _wide(records: Records) -> pa.Table:
    """One row a query; unobserved scores are empty."""
    import pyarrow as pa

    if taken := [name for name in records.experts if name in FIXED]:
        message = "is also the name of a column; export to .jsonl instead"
        raise InputError(message, field=taken[0])
    texts = [q.text.encode("utf-8", "replace").decode() for q in records.queries]
    columns = [[q.id for q in records.queries], texts, list(records.categories)]
    arrays = [pa.array(column, pa.string()) for column in columns]
    for j in range(len(records.experts)):
        scores = np.asarray(records.quality[:, j])
        arrays.append(pa.array(scores, mask=np.isnan(scores)))
    return pa.Table.from_arrays(arrays, names=[*FIXED, *records.experts])


def _jsonl(records: Records) -> str:
    """One object an observed cell with all that is known of it."""
    return _lines(_cells(records))


def _cells(records: Records) -> Iterator[dict[str, Any]]:
    names = {"quality": "score"}
    for row, query in enumerate(records.queries):
        known = {
            "query_id": query.id,
            "text": query.text,
            "category": query.category,
            "subject": query.subject,
            "reference": records.references[row],
        }
        shared = {key: value for key, value in known.items() if value is not None}
        numbers = {names.get(name, name): getattr(records, name)[row].tolist() for name in NUMBERS}
        for column in np.flatnonzero(~np.isnan(records.quality[row])):
            cell = {"expert": records.experts[column]}
            cell |= {k: v[column] for k, v in numbers.items() if v[column] == v[column]}
            text = records.texts[row, column]
            yield shared | cell | ({} if text is None else {"answer": text})


def _llmrouter(records: Records) -> str:
    """LLMRouter's long JSONL (its ``llmrouter/data/README.md``); what is not known is left out."""
    row_of = {query.id: row for row, query in enumerate(records.queries)}
    return _lines(
        {
            "task_name": cell.get("category", ""),
            "query": cell["text"],
            "ground_truth": cell.get("reference", ""),
            "metric": "",
            "model_name": cell["expert"],
            "response": cell.get("answer", ""),
            "performance": cell["score"],
            "embedding_id": row_of[cell["query_id"]],
            **_renamed(cell),
        }
        for cell in _cells(records)
    )


def _renamed(cell: dict[str, Any]) -> dict[str, Any]:
    """The numbers that LLMRouter knows under other names."""
    tokens = [cell.get(name) for name in ("prompt_tokens", "completion_tokens")]
    known = {
        "input_tokens": tokens[0],
        "output_tokens": tokens[1],
        "token_num": None if None in tokens else sum(filter(None, tokens)),
        "response_time": cell.get("latency"),
    }
    return {name: value for name, value in known.items() if value is not None}


def _lines(rows: Iterator[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


FORMATS: dict[str, Callable[[Records], str | bytes]] = {
    "csv": _csv,
    "parquet": _parquet,
    "jsonl": _jsonl,
    "llmrouter": _llmrouter,
}
