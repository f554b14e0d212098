import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie import native
from coterie.answers import normalise
from coterie.errors import CoterieError, InputError
from coterie.records import NUMBERS, Records
from coterie.testing import make_records
from coterie.types import FloatArray, Query

TWO = (Query.from_text("a", "2 + 2?"), Query.from_text("b", "2 + 3?"))
SMALL = Records(TWO, ("ann", "bob"), np.array([[1.0, 0.0], [np.nan, 0.5]]))
NONE = np.full((2, 2), np.nan)
FACTS = {
    "ann": {
        "parameters": 7.0,
        "description": 'of "seven"\n\x7f',
        "tasks": ["a", "b"],
        "open": True,
    },
    "bob": {"input_price": 0.25, "layers": {"total": 3}, "a key": -1, "0": float("inf")},
}


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
    def change(table: pa.Table) -> pa.Table:
        if name not in table.column_names:
            return table.append_column(name, values)
        return table.set_column(table.column_names.index(name), name, values)

    return change


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
        ({"cost": np.full((2, 2), -1.0)}, "'cost': -1.0 for query 'a', expert 'ann' is no finite"),
        ({"cost": np.array([[1, 2], [np.inf, np.nan]])}, "'cost': inf for query 'b', expert 'ann'"),
        ({"latency": np.array([[0, -0.1], [np.nan, 1]])}, "'latency': -0.1 for query 'a', expert "),
        ({"latency": np.full((2, 2), np.inf)}, "'latency': inf for query 'a'"),
        ({"prompt_tokens": np.full((2, 2), -1)}, "'prompt_tokens': -1.0 for query 'a'"),
        ({"completion_tokens": np.full((2, 2), np.inf)}, "'completion_tokens': inf"),
        ({"propensity": np.full((2, 2), 1.5)}, r"is a probability outside \(0, 1\]"),
        ({"propensity": np.zeros((2, 2))}, r"0.0 for query 'a', .* outside \(0, 1\]"),
        ({"experts": ("ann", "ann")}, "'expert': 'ann' occurs more than once"),
        ({"queries": (TWO[0], TWO[0])}, "'id': 'a' occurs more than once"),
    ],
)
def test_records_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SMALL, **change)


@pytest.mark.parametrize("name", [n for n in NUMBERS if n != "quality"])
def test_numbers_nobody_gave_take_no_memory_and_stay_so(name: str) -> None:
    for records in (
        SMALL,
        SMALL.take(
            [
                1,
                0,
            ]
        ),
        SMALL.select(["bob"]),
        replace(SMALL, cost=NONE),
    ):
        array = getattr(records, name)
        assert (array.shape, any(array.strides)) == (records.quality.shape, False)
        assert np.isnan(array).all()


def test_texts_nobody_gave_take_no_memory_and_stay_so() -> None:
    for records in (SMALL, SMALL.take([1]), SMALL.select(["bob"]), SMALL.take([]).take([])):
        assert (records.texts.shape, any(records.texts.strides)) == (records.quality.shape, False)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scores_keep_the_float_type_and_the_memory_they_come_in(dtype: type) -> None:
    quality: FloatArray = np.ones((2, 2), dtype)
    records = replace(SMALL, quality=quality)
    assert np.shares_memory(records.quality, quality)
    assert records.take([1]).select(["bob"]).quality.dtype == dtype


def test_whole_numbers_and_truth_values_become_floats() -> None:
    for dtype in (int, bool):
        records = replace(SMALL, quality=np.eye(2, dtype=dtype))
        assert records.quality.dtype == np.float64
        assert records.quality.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_facts_follow_the_experts() -> None:
    records = replace(SMALL, facts=FACTS | {"zoe": {"parameters": 1}})
    assert (records.facts, records.take([0]).facts) == (FACTS, FACTS)
    assert records.select(["bob"]).facts == {"bob": FACTS["bob"]}


def test_a_row_cannot_be_taken_twice() -> None:
    with pytest.raises(InputError, match="'id': 'a' occurs more than once"):
        SMALL.take([0, 0])


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


def texts_of(*texts: str) -> Records:
    """Records of these questions, one expert."""
    queries = tuple(Query.from_text(f"q{i}", text) for i, text in enumerate(texts))
    return Records(queries, ("ann",), np.ones((len(texts), 1)))


def test_repeated_questions_are_held_out_together() -> None:
    records = texts_of(*(f"Question {i % 12}?" for i in range(30)), "question  3? ", "QUESTION 3?")
    text = [normalise(query.text) for query in records.queries]
    for seed in range(20):
        sides = [{text[i] for i in fold} for fold in records.folds(5, seed)]
        assert sum(map(len, sides)) == 12
        assert all(sides)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.integers(1, 9), st.integers(0, 9))
def test_where_no_question_repeats_folds_are_those_of_a_plain_shuffle(
    rows: int, count: int, seed: int
) -> None:
    records = texts_of(*(f"question {i}" for i in range(rows)))
    plain = np.array_split(np.random.default_rng(seed).permutation(rows), count)
    found = records.folds(count, seed)
    assert [fold.tolist() for fold in found] == [sorted(part.tolist()) for part in plain]


def test_questions_without_a_text_do_not_repeat_each_other() -> None:
    sizes = [len(fold) for fold in texts_of(*[""] * 10, *["  "] * 10).folds(4)]
    assert sizes == [5, 5, 5, 5]


def test_fewer_different_questions_than_folds_are_split_row_by_row() -> None:
    folds = texts_of("a", "a", "A", "b", "b", "b").folds(3)
    assert [len(fold) for fold in folds] == [2, 2, 2]


def test_one_question_asked_often_leaves_no_fold_empty() -> None:
    folds = texts_of(*["again"] * 50, "a", "b", "c", "d").folds(5)
    assert sorted(len(fold) for fold in folds) == [1, 1, 1, 1, 50]


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


def numbered(shape: tuple[int, int], values: Any) -> Any:
    return st.lists(values, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]).map(
        lambda flat: np.array(flat, float).reshape(shape)
    )


@st.composite
def some_records(draw: Any) -> Records:
    """Any small records with at least one score."""
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
    ids = draw(st.lists(text, min_size=1, max_size=4, unique=True))
    experts = draw(st.lists(text, min_size=1, max_size=3, unique=True))
    shape = (len(ids), len(experts))
    label = st.none() | text
    quality: FloatArray = draw(numbered(shape, st.just(float("nan")) | st.floats(0, 1)))
    quality[0, 0] = 1.0
    observed = ~np.isnan(quality)
    cost = draw(numbered(shape, st.just(float("nan")) | st.floats(0, 9)))
    flat = draw(st.lists(label, min_size=quality.size, max_size=quality.size))
    texts = np.array(flat, object).reshape(shape)
    texts[~observed] = None
    queries = [replace(Query.from_text(i, draw(text)), subject=draw(label)) for i in ids]
    return Records(
        tuple(queries),
        tuple(experts),
        quality,
        cost=np.where(observed, cost, np.nan),
        texts=texts,
        references=tuple(draw(label) for _ in ids),
        facts={e: {draw(text): draw(st.integers() | text)} for e in experts},
    )


@settings(max_examples=40)
@given(records=some_records())
def test_any_records_survive(records: Records, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any") / "r"
    records.write(folder)
    found = Records.read(folder)
    assert (found.queries, found.experts) == (records.queries, records.experts)
    assert (found.references, found.facts) == (records.references, records.facts)
    assert found.texts.tolist() == records.texts.tolist()
    for name in NUMBERS:
        np.testing.assert_array_equal(getattr(found, name), getattr(records, name))


def test_facts_and_propensities_survive(tmp_path: Path) -> None:
    propensity = np.array([[0.5, 1.0], [np.nan, 0.25]])
    replace(SMALL, facts=FACTS, propensity=propensity).write(tmp_path / "r")
    found = Records.read(tmp_path / "r")
    assert found.facts == FACTS
    np.testing.assert_array_equal(found.propensity, propensity)


def test_a_fact_that_is_no_value_is_refused_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="facts of expert 'ann': <object object"):
        replace(SMALL, facts={"ann": {"x": object()}}).write(tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_is_the_same_everywhere_survives(tmp_path: Path) -> None:
    replace(SMALL, cost=np.broadcast_to(2.0, (2, 2))).write(tmp_path / "r")
    assert Records.read(tmp_path / "r").cost.tolist()[0] == [2.0, 2.0]


def test_answers_may_be_left_on_disk(folder: Path) -> None:
    found = Records.read(folder, texts=False)
    assert not any(found.texts.strides)
    np.testing.assert_array_equal(found.quality, Records.read(folder).quality)


def test_samples_of_a_cell_are_averaged_and_the_lowest_one_speaks(tmp_path: Path) -> None:
    SMALL.write(tmp_path / "r")
    rows = {
        "query_id": ["a", "b", "a", "a"],
        "expert": ["ann", "bob", "ann", "ann"],
        "sample": [2, 0, 0, 1],
        "score": [1.0, 0.5, 0.0, 0.5],
        "cost": [3.0, None, None, 1.0],
        "answer": ["two", "bob's", "zero", "one"],
    }
    pq.write_table(pa.table(rows), tmp_path / "r" / RECORDS)
    found = Records.read(tmp_path / "r")
    np.testing.assert_array_equal(found.quality, [[0.5, np.nan], [np.nan, 0.5]])
    np.testing.assert_array_equal(found.cost, [[2.0, np.nan], [np.nan, np.nan]])
    assert found.texts.tolist() == [["zero", None], [None, "bob's"]]


def test_a_sample_that_occurs_twice_is_named_with_both_rows(folder: Path) -> None:
    edit(folder / RECORDS, lambda table: pa.concat_tables([table, table.slice(3, 1)]))
    with pytest.raises(InputError, match="row 25: same query and expert as row 4; several samples"):
        Records.read(folder)


# big folders


@pytest.fixture
def big(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that counts as big: its arrays are memory-mapped."""
    monkeypatch.setattr(native, "MANY", 24)
    return folder


def test_arrays_of_a_big_folder_are_built_once_and_mapped(big: Path) -> None:
    first = Records.read(big)
    built = (big / "dense" / "quality.npy").stat().st_mtime_ns
    again, written = Records.read(big), make_records(6)
    assert (big / "dense" / "quality.npy").stat().st_mtime_ns == built
    for found in (first, again):
        assert isinstance(found.quality.base, np.memmap)
        assert found.texts.tolist() == written.texts.tolist()
        for name in NUMBERS:
            np.testing.assert_array_equal(getattr(found, name), getattr(written, name))


def test_arrays_older_than_the_files_are_built_again(big: Path) -> None:
    Records.read(big)
    edit(big / RECORDS, with_value("score", 0, 0.25))
    assert Records.read(big).quality[0, 0] == 0.25
    assert Records.read(big).quality[0, 0] == 0.25


@pytest.mark.parametrize("name", ["key.json", "quality.npy", "cost.npy"])
@pytest.mark.parametrize("content", [b"", b"[]", b"\x93NUMPY\x01\x00"])
def test_damaged_arrays_are_built_again(big: Path, name: str, content: bytes) -> None:
    Records.read(big)
    (big / "dense" / name).write_bytes(content)
    np.testing.assert_array_equal(Records.read(big).cost, make_records(6).cost)
    assert (big / "dense" / name).read_bytes() != content


def test_a_folder_that_cannot_be_written_is_read_all_the_same(
    big: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refused)
    np.testing.assert_array_equal(Records.read(big).quality, make_records(6).quality)
    assert sorted(path.name for path in big.iterdir()) == sorted([QUERIES, RECORDS, EXPERTS])


def test_arrays_beside_the_records_are_replaced_with_them(big: Path) -> None:
    Records.read(big)
    SMALL.write(big)
    assert sorted(path.name for path in big.iterdir()) == sorted([QUERIES, RECORDS, EXPERTS])


def test_samples_of_a_big_folder_are_averaged_too(big: Path) -> None:
    def doubled(table: pa.Table) -> pa.Table:
        other = table.set_column(2, "sample", pa.array([1] * 24, pa.int32()))
        return pa.concat_tables([table, other.set_column(3, "score", pa.array([0.5] * 24))])

    edit(big / RECORDS, doubled)
    expected = (make_records(6).quality + 0.5) / 2
    np.testing.assert_array_equal(Records.read(big).quality, expected)


def test_a_bad_row_of_a_big_folder_is_named(big: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coterie.columns.BATCH", 5)
    edit(big / RECORDS, with_value("score", 12, 1.5))
    with pytest.raises(InputError, match=r"row 13: expected a score in \[0, 1\], got 1.5"):
        Records.read(big)
    assert not (big / "dense").exists()


def test_a_big_folder_keeps_narrow_floats(big: Path) -> None:
    records = make_records(6)
    replace(records, quality=records.quality.astype(np.float16)).write(big)
    assert Records.read(big).quality.dtype == np.float16
    np.testing.assert_array_equal(Records.read(big).quality, records.quality)


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
        (RECORDS, with_value("sample", 3, None), "sample", "row 4: expected a whole number, got"),
        (RECORDS, as_column("sample", pa.array(["x"] * 24)), "sample", "expected int64: "),
        (RECORDS, as_column("propensity", pa.array([0.5, 0.0] * 12)), "propensity", "row 2: expec"),
        (RECORDS, with_value("cost", 7, -1.0), "cost", "row 8: expected a finite number of at l"),
        (RECORDS, with_value("cost", 7, float("inf")), "cost", "row 8: expected a finite number"),
        (RECORDS, with_value("latency", 2, -0.5), "latency", "of at least 0, got -0.5"),
        (RECORDS, as_column("prompt_tokens", pa.array([3, -1] * 12)), "prompt_tokens", "row 2: ex"),
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
    with pytest.raises(InputError, match=f"no folder of records: it has no {file}; `coterie rec"):
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
