import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coterie.errors import CoterieError, InputError
from coterie.records import NUMBERS, Records
from coterie.testing import make_records
from coterie.types import Query

TWO = (Query.from_text("a", "2 + 2?"), Query.from_text("b", "2 + 3?"))
SMALL = Records(TWO, ("ann", "bob"), np.array([[1.0, 0.0], [np.nan, 0.5]]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_records(6).write(tmp_path / "records")
    return tmp_path / "records"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def edit(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def with_value(name: str, row: int, value: Any) -> Callable[[pa.Table], pa.Table]:
    """Replaces one cell, the column's type following the value."""

    def change(table: pa.Table) -> pa.Table:
        values = table[name].to_pylist()
        values[row] = value
        return table.set_column(table.column_names.index(name), name, pa.array(values))

    return change


def without(name: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.drop_columns([name])


def as_column(name: str, values: Any) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(name), name, values)


# in memory


def test_what_was_not_given_is_not_observed() -> None:
    assert SMALL.observed.tolist() == [[True, True], [False, True]]
    assert all(np.isnan(getattr(SMALL, n)).all() for n in NUMBERS if n != "quality")
    assert (SMALL.references, SMALL.categories) == ((None, None), (None, None))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quality": np.zeros((2, 3))}, r"'quality': expected shape \(2, 2\), got \(2, 3\)"),
        ({"cost": np.zeros(4)}, r"'cost': expected shape \(2, 2\), got \(4,\)"),
        ({"texts": np.empty((1, 2), object)}, r"'texts': expected shape \(2, 2\)"),
        ({"references": ("4",)}, "'references': expected 2, got 1"),
        ({"references": ("x", "y", "z")}, "'references': expected 2, got 3"),
        ({"quality": np.array([[0, 1], [2, 0.0]])}, "2.0 for query 'b', expert 'ann' is outside"),
        ({"quality": np.full((2, 2), -0.1)}, "-0.1 for query 'a', expert 'ann'"),
        ({"quality": np.full((2, 2), np.inf)}, "inf for query 'a'"),
        ({"cost": np.full((2, 2), -1.0)}, "a cost is negative"),
        ({"experts": ("ann", "ann")}, "'expert': 'ann' occurs more than once"),
        ({"queries": (TWO[0], TWO[0])}, "'id': 'a' occurs more than once"),
    ],
)
def test_records_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SMALL, **change)


def test_rows_are_taken_with_everything_that_belongs_to_them() -> None:
    records = make_records(6)
    part = records.take([4, 1])
    assert [q.id for q in part.queries] == ["q4", "q1"]
    assert part.categories == ("sorting", "sorting")
    np.testing.assert_array_equal(part.quality, records.quality[[4, 1]])
    assert part.texts.tolist() == records.texts[[4, 1]].tolist()


@pytest.mark.parametrize("rows", [[], np.array([], int)])
def test_no_rows_may_be_taken(rows: Any) -> None:
    part = make_records(6).take(rows)
    assert (len(part), part.quality.shape, part.texts.shape) == (0, (0, 4), (0, 4))


def test_experts_are_selected_in_the_order_asked_for() -> None:
    records = make_records(6)
    part = records.select(["generalist", "sums"])
    assert part.experts == ("generalist", "sums")
    np.testing.assert_array_equal(part.cost, records.cost[:, [3, 0]])


def test_selecting_an_unknown_expert_brings_the_known_ones() -> None:
    with pytest.raises(InputError, match="no records of expert 'zoe'; there are ann, bob"):
        SMALL.select(["ann", "zoe"])


@pytest.mark.parametrize(("rows", "count"), [(10, 3), (2, 5), (9, 9), (1, 1)])
def test_folds_are_disjoint_and_cover_every_row(rows: int, count: int) -> None:
    folds = make_records(rows).folds(count)
    sizes = [len(fold) for fold in folds]
    assert sorted(np.concatenate(folds)) == list(range(rows))
    assert (len(folds), max(sizes) - min(sizes) <= 1) == (count, True)


def test_folds_depend_on_the_seed_alone() -> None:
    first, same, other = (make_records(30).folds(3, seed)[0].tolist() for seed in (0, 0, 1))
    assert first == same
    assert first != other


def test_a_recorded_completion_comes_with_its_numbers() -> None:
    completion = make_records(3).completion(0, "sums")
    assert completion is not None
    assert (completion.text, completion.cost, completion.logprob) == ("=> right", 1.0, -0.1)
    assert SMALL.completion(0, "ann") is None


def test_an_answer_that_was_empty_is_a_failure_in_replay_as_it_was_live() -> None:
    records = replace(SMALL, texts=np.array([["", "5"], [None, "5"]], object))
    failed, given = records.completion(0, "ann"), records.completion(0, "bob")
    assert failed is not None
    assert failed.error == "ann: had no answer when it was recorded"
    assert given is not None
    assert given.error is None


# to disk and back


def test_what_was_written_is_read_back(folder: Path) -> None:
    written, found = make_records(6), Records.read(folder)
    assert (found.queries, found.experts) == (written.queries, written.experts)
    assert (found.references, found.categories) == (written.references, written.categories)
    assert found.texts.tolist() == written.texts.tolist()
    for name in NUMBERS:
        np.testing.assert_array_equal(getattr(found, name), getattr(written, name))


def test_open_cells_and_experts_nobody_saw_survive(tmp_path: Path) -> None:
    quality = np.array([[1.0, np.nan], [0.5, np.nan]])
    replace(SMALL, quality=quality).write(tmp_path / "r")
    found = Records.read(tmp_path / "r")
    assert found.experts == ("ann", "bob")
    np.testing.assert_array_equal(found.quality, quality)


@pytest.mark.parametrize("name", ["🦙 llama", 'a "b" \\ c', "tab\tand\nline", "ж", "model=x"])
def test_any_name_survives(tmp_path: Path, name: str) -> None:
    queries = (replace(TWO[0], id=name, tags=(name,)), TWO[1])
    replace(SMALL, queries=queries, experts=(name, "bob")).write(tmp_path / "text=1" / "r")
    found = Records.read(tmp_path / "text=1" / "r")
    assert found.experts == (name, "bob")
    assert (found.queries[0].id, found.queries[0].tags) == (name, (name,))


def test_half_a_character_does_not_cost_the_run(tmp_path: Path) -> None:
    texts = np.array([["x\ud800", "y"], [None, "z"]], object)
    replace(SMALL, texts=texts).write(tmp_path / "r")
    assert Records.read(tmp_path / "r").texts[0, 0] == "x?"


def test_writing_again_replaces_the_old_records(folder: Path) -> None:
    SMALL.write(folder)
    assert [q.id for q in Records.read(folder).queries] == ["a", "b"]
    assert [path.name for path in folder.parent.iterdir()] == ["records"]


def test_equal_records_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    make_records(6).write(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(folder)


def test_a_folder_with_other_things_in_it_is_never_replaced(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    with pytest.raises(CoterieError, match=r"also holds 'notes\.txt'"):
        SMALL.write(folder)
    assert contents(folder) == before


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_holds_no_records_is_never_replaced(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "mine"
    if kind == "folder":
        target.mkdir()
        (target / "thesis.tex").write_text("mine")
    else:
        target.write_text("mine")
    with pytest.raises(CoterieError, match="exists and holds no records; choose another name"):
        SMALL.write(target)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CoterieError, match="records could not be written"):
        SMALL.write(tmp_path / "file" / "records")


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """What a full disk does, by the operating system's own limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 1000, 6000])
def test_a_full_disk_leaves_the_old_records_untouched(folder: Path, size: int) -> None:
    before = contents(folder)
    with (
        files_no_larger_than(size),
        pytest.raises(CoterieError, match="records could not be written"),
    ):
        make_records(3000).write(folder)
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["records"]


def test_a_killed_write_leaves_the_old_records_untouched(folder: Path) -> None:
    before = contents(folder)
    code = (
        "import os, sys\n"
        "from coterie import records\n"
        "from coterie.testing import make_records\n"
        "records._replace_folder = lambda new, target: os.kill(os.getpid(), 9)\n"
        "make_records(30).write(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
    assert done.returncode == -9
    assert contents(folder) == before


def test_a_write_that_fails_at_the_last_step_puts_the_old_records_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename = contents(folder), os.rename

    def fails_for_new_records(source: Path, target: Path) -> None:
        if target == folder and not source.name.endswith(".old"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr("coterie.records.os.rename", fails_for_new_records)
    with pytest.raises(CoterieError, match="could not be written"):
        SMALL.write(folder)
    assert contents(folder) == before


# bad input

QUERIES, RECORDS, EXPERTS = "queries.parquet", "records.parquet", "experts.toml"
LATIN = pa.array([b"caf\xe9", *[b"a"] * 5]).view(pa.binary())
BROKEN = pa.Array.from_buffers(pa.string(), 6, LATIN.buffers())


@pytest.mark.parametrize(
    ("file", "change", "field", "message"),
    [
        (QUERIES, without("query_id"), "query_id", "the column is missing; found text"),
        (QUERIES, without("text"), "text", "the column is missing"),
        (RECORDS, without("score"), "score", "the column is missing; found query_id, expert"),
        (RECORDS, without("expert"), "expert", "the column is missing"),
        (QUERIES, with_value("query_id", 3, "q1"), "query_id", "row 4: 'q1' is also in row 2"),
        (QUERIES, with_value("query_id", 3, None), "query_id", "row 4: expected a text, got not"),
        (QUERIES, with_value("text", 2, None), "text", "row 3: expected a text, got nothing"),
        (QUERIES, as_column("text", BROKEN), "text", "expected string: "),
        (QUERIES, as_column("text", LATIN), "text", "expected string: "),
        (RECORDS, with_value("expert", 5, "zoe"), "expert", "row 6: 'zoe' is not in experts.toml"),
        (RECORDS, with_value("query_id", 0, "q9"), "query_id", "row 1: 'q9' is not in queries."),
        (RECORDS, with_value("query_id", 0, None), "query_id", "row 1: expected a text"),
        (RECORDS, with_value("query_id", 4, "q0"), "query_id", "row 5: same query and expert as"),
        (RECORDS, with_value("score", 2, float("nan")), "score", "row 3: expected a score in"),
        (RECORDS, with_value("score", 2, None), "score", "got None; leave the row out if nothing"),
        (RECORDS, with_value("score", 2, 1.5), "score", "row 3: expected a score in [0, 1], got"),
        (RECORDS, with_value("score", 2, -1.0), "score", "got -1.0"),
        (RECORDS, as_column("score", pa.array(["good"] * 24)), "score", "expected double: "),
        (RECORDS, as_column("score", pa.array([[1.0]] * 24)), "score", "expected double: "),
        (RECORDS, as_column("cost", pa.array(["cheap"] * 24)), "cost", "expected double: "),
        (RECORDS, with_value("cost", 7, -1.0), "cost", "row 8: expected at least 0, got -1.0"),
        (RECORDS, lambda table: table.slice(0, 0), None, "holds no rows"),
        (QUERIES, lambda table: table.slice(0, 0), None, "holds no rows"),
    ],
)
def test_a_bad_table_is_named_with_row_and_field(
    folder: Path,
    file: str,
    change: Callable[[pa.Table], pa.Table],
    field: str | None,
    message: str,
) -> None:
    edit(folder / file, change)
    with pytest.raises(InputError) as caught:
        Records.read(folder)
    assert (Path(str(caught.value.path)).name, caught.value.field) == (file, field)
    assert message in str(caught.value)


@pytest.mark.parametrize("file", [QUERIES, RECORDS])
@pytest.mark.parametrize("keep", [0, 1, 100, -1, -20])
def test_a_truncated_table_is_named(folder: Path, file: str, keep: int) -> None:
    path = folder / file
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=f"{file}: cannot be read as Parquet: "):
        Records.read(folder)


@pytest.mark.parametrize("file", [QUERIES, RECORDS, EXPERTS])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    os.unlink(folder / file)
    with pytest.raises(InputError, match=f"{file}: cannot be read"):
        Records.read(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "expected [[expert]] tables with a name"),
        (b"expert = 3", "expected [[expert]] tables"),
        (b"[expert]\nname = 'a'", "expected [[expert]] tables"),
        (b"[[expert]]\nnom = 'a'", "expected [[expert]] tables with a name: 'name'"),
        (b"[[expert]\n", "expected [[expert]] tables"),
        (b"[[expert]]\nname = 'caf\xe9'", "expected [[expert]] tables"),
        (b"[[expert]]\nname='sums'\n[[expert]]\nname='sums'", "row 2: 'sums' is also in row 1"),
    ],
)
def test_a_bad_list_of_experts_is_named(folder: Path, text: bytes, message: str) -> None:
    (folder / EXPERTS).write_bytes(text)
    with pytest.raises(InputError) as caught:
        Records.read(folder)
    assert Path(str(caught.value.path)).name == EXPERTS
    assert message in str(caught.value)


def test_numbers_of_other_types_and_integer_ids_are_understood(folder: Path) -> None:
    ids = [str(i) for i in range(6) for _ in range(4)]
    edit(folder / QUERIES, as_column("query_id", pa.array(range(6))))
    edit(folder / RECORDS, as_column("query_id", pa.array(ids)))
    edit(folder / RECORDS, as_column("score", pa.array([True, False] * 12)))
    found = Records.read(folder)
    assert [q.id for q in found.queries] == list("012345")
    assert found.quality[:, :2].tolist() == [[1.0, 0.0]] * 6


def test_optional_columns_may_be_missing(folder: Path) -> None:
    for name in ("skills", "category", "reference"):
        edit(folder / QUERIES, without(name))
    for name in ("cost", "answer", "logprob", "sample"):
        edit(folder / RECORDS, without(name))
    found = Records.read(folder)
    assert (found.references, found.categories) == ((None,) * 6, (None,) * 6)
    assert np.isnan(found.cost).all()
    assert found.completion(0, "sums") is None
