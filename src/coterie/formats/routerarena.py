"""RouterArena's cached results: one JSON Lines file a model, alone or in a folder.

``{global_index, question, llm_selected, generated_answer, token_usage: {input_tokens,
output_tokens}, success, evaluation_result: {score, ground_truth, inference_cost}, run_number}``. A
question is its ``global_index``, its category what stands before the index's last ``_``. The model
is ``llm_selected``, else the file's name. Flat ``score`` and ``cost`` are read too. A call that
failed (no success, no evaluation) is not observed; of repeated runs the first counts.

Source: github.com/RouteWorks/RouterArena cached_results/gemini-2.0-flash-001.jsonl at 2fd498f.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from coterie.formats.base import Matrix, Row, check_mapping, tail
from coterie.formats.tables import LINES, files, peek, rows
from coterie.records import Records

NAME = "routerarena"


def matches(path: Path) -> bool:
    """Whether the first record has a global_index and an answer or a score."""
    found = peek(path)
    return "global_index" in found and bool(found & {"evaluation_result", "llm_selected", "score"})


def read(path: Path, columns: Mapping[str, str]) -> Records:
    """The records of every model's file."""
    check_mapping(columns, (), path)
    matrix = Matrix(path)
    for file in files(path, LINES):
        for row in tail(rows(file), file):
            if row.number("run_number") in (None, 1.0):
                _row(matrix, row)
    return matrix.records()


def _row(matrix: Matrix, row: Row) -> None:
    nested = isinstance(row.values.get("evaluation_result"), dict)
    judged = row.inner("evaluation_result") if nested else row
    used = row.inner("token_usage") if isinstance(row.values.get("token_usage"), dict) else row
    id = row.required("global_index")
    text = row.text(row.first("question", "prompt")) or ""
    answer = judged.values.get("ground_truth")
    reference = None if isinstance(answer, list | dict) else judged.text("ground_truth")
    category = id.rpartition("_")[0] or None
    index = matrix.query(id, text, row.place, category=category, reference=reference)
    failed = row.values.get("success") is False
    matrix.outcome(
        index,
        row.text("llm_selected") or row.place.path.stem,
        None if failed else judged.score("score"),
        row.place,
        text=row.text("generated_answer"),
        cost=judged.amount("inference_cost" if "inference_cost" in judged else "cost"),
        prompt_tokens=used.amount("input_tokens"),
        completion_tokens=used.amount("output_tokens"),
    )
