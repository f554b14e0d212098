import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from coterie.errors import CoterieError
from coterie.exports import export
from coterie.formats import read_records
from coterie.records import NUMBERS, Records
from coterie.testing import make_records
from coterie.types import Query

NAN = float("nan")
SMALL = Records(
    (replace(Query.from_text("a", 'say "x",\nplease'), category="k"), Query.from_text("b", "?")),
    ("ann", "bob"),
    np.array([[1.0, 0.0], [NAN, 0.5]]),
    cost=np.array([[0.25, NAN], [NAN, 2.0]]),
    texts=np.array([["x", ""], [None, None]], object),
    references=("x", None),
)


def test_a_csv_has_a_row_a_query_and_a_column_an_expert(tmp_path: Path) -> None:
    assert export(SMALL, tmp_path / "r.csv") == "csv"
    header, *_, last = (tmp_path / "r.csv").read_text().splitlines()
    assert header == '"query_id","text","category","ann","bob"'
    assert last == '"b","?",,,0.5'


def test_a_line_a_cell_holds_all_that_is_known_of_it(tmp_path: Path) -> None:
    export(SMALL, tmp_path / "r.jsonl")
    first, second, third = map(json.loads, (tmp_path / "r.jsonl").read_text().splitlines())
    query = {"query_id": "a", "text": 'say "x",\nplease', "category": "k", "reference": "x"}
    assert first == {**query, "expert": "ann", "score": 1.0, "cost": 0.25, "answer": "x"}
    assert second == {**query, "expert": "bob", "score": 0.0, "answer": ""}
    assert third == {"query_id": "b", "text": "?", "expert": "bob", "score": 0.5, "cost": 2.0}


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_what_was_exported_can_be_imported(tmp_path: Path, ending: str) -> None:
    records = make_records(9)
    export(records, tmp_path / f"r.{ending}")
    found = read_records(tmp_path / f"r.{ending}")
    assert [q.text for q in found.queries] == [q.text for q in records.queries]
    assert (found.experts, found.categories) == (records.experts, records.categories)
    names = NUMBERS if ending == "jsonl" else ("quality",)
    for name in names:
        np.testing.assert_array_equal(getattr(found, name), getattr(records, name))


def test_llmrouter_reads_its_own_names(tmp_path: Path) -> None:
    export(SMALL, tmp_path / "r.jsonl", "llmrouter")
    row = json.loads((tmp_path / "r.jsonl").read_text().splitlines()[0])
    assert (row["task_name"], row["model_name"], row["performance"]) == ("k", "ann", 1.0)
    found = read_records(tmp_path / "r.jsonl", "llmrouter")
    np.testing.assert_array_equal(found.quality, SMALL.quality)


def test_a_wide_parquet_leaves_open_cells_null(tmp_path: Path) -> None:
    export(SMALL, tmp_path / "r.parquet")
    assert pq.read_table(tmp_path / "r.parquet")["ann"].to_pylist() == [1.0, None]


@pytest.mark.parametrize("name", ["r.xlsx", "r"])
def test_an_unknown_ending_brings_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(CoterieError, match="name one of csv, parquet, jsonl, llmrouter"):
        export(SMALL, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_expert_called_like_a_column_is_refused_in_wide_files(tmp_path: Path) -> None:
    records = SMALL.select(["ann"])
    records = replace(records, experts=("text",))
    with pytest.raises(
        CoterieError, match=r"'text': is also the name of a column; export to .json"
    ):
        export(records, tmp_path / "r.csv")
    assert export(records, tmp_path / "r.jsonl") == "jsonl"
