"""The commands on records, run as the command line runs them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_world import Project

from coterie.cli.records import columns_of
from coterie.errors import CoterieError
from coterie.records import Records
from coterie.testing import make_records
from coterie.types import Query

WIDE = "qid,question,big,small\n" + "".join(
    f"q{i},What is {i * 7919 % 997} of {word}?,{i % 2},{i % 3 / 2}\n"
    for i, word in enumerate(["apples", "rivers", "a long winter night", "Paris", "helium", "9"])
)
MAPPED = ("--map", "query=qid", "--map", "text=question", "--map", "scores=big,small")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    make_records(24).write(tmp_path / "records")
    made.write("wide.csv", WIDE)
    return made


def test_a_table_is_imported_with_a_mapping_of_columns(project: Project) -> None:
    done = project.main("records", "import", "wide.csv", "-o", "new", *MAPPED)
    assert (done.returncode, done.stderr) == (0, "")
    assert "wide.csv: csv, 6 queries, 2 experts\nlint: " in done.stdout
    found = Records.read(project.folder / "new")
    assert (found.experts, found.queries[1].text) == (("big", "small"), "What is 940 of rivers?")
    assert found.quality[1].tolist() == [1.0, 0.5]


def test_an_import_for_machines_lists_what_lint_found(project: Project) -> None:
    done = project.main("records", "import", "wide.csv", "-o", "new", *MAPPED, "--json")
    facts = json.loads(done.stdout)
    assert (facts["format"], facts["experts"], facts["observed"]) == ("csv", ["big", "small"], 12)
    assert "missing cost" in [finding["check"] for finding in facts["findings"]]
    assert facts["path"] == "new"


def test_a_strict_import_with_serious_findings_writes_nothing(project: Project) -> None:
    project.write("twice.csv", WIDE + "q9,What is 0 of apples?,1,1\n")
    done = project.main("records", "import", "twice.csv", "-o", "new", *MAPPED, "--strict")
    assert done.returncode == 1
    assert done.stderr == "error: --strict refuses duplicates; nothing is written\n"
    assert not (project.folder / "new").exists()


def test_a_strict_import_takes_records_with_ties(project: Project) -> None:
    done = project.main("records", "import", "wide.csv", "-o", "new", *MAPPED, "--strict")
    assert (done.returncode, done.stderr) == (0, "")
    assert "lint: ties: " in done.stdout
    assert len(Records.read(project.folder / "new")) == 6


def test_an_import_finds_leaks_across_a_split_that_not_every_question_has(
    project: Project,
) -> None:
    header, *lines = WIDE.splitlines()
    lines += ["q7,What is 0 of apples?,1,0"]
    parts = ["split", "train", "", "test", "test", "train", "test", "test"]
    text = "\n".join(f"{line},{part}" for line, part in zip([header, *lines], parts, strict=True))
    project.write("split.csv", text)
    done = project.main("records", "import", "split.csv", "-o", "new", *MAPPED)
    assert "lint: leak: 2 questions stand in several splits (1 in 'test', 1 in" in done.stdout
    assert "For example: q0 = q7" in done.stdout


def test_an_import_that_fails_leaves_the_old_records(project: Project) -> None:
    project.write("bad.csv", WIDE + "q9,one more?,1,7\n")
    done = project.main("records", "import", "bad.csv", "-o", "records", *MAPPED)
    assert done.returncode == 1
    assert "bad.csv, line 8" in done.stderr
    assert len(Records.read(project.folder / "records")) == 24


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("import", "nowhere.csv", "-o", "new"), "nowhere.csv: cannot be read: no such file"),
        (("import", "wide.csv", "-o", "new", "--format", "tsv9"), "no format called 'tsv9'"),
        (("import", "wide.csv", "-o", "new", "--map", "text"), "expected FIELD=COLUMN"),
        (("import", "wide.csv", "-o", ".", *MAPPED), "exists and holds no records"),
        (("describe", "nowhere"), "cannot be read as Parquet"),
        (("lint", "nowhere"), "cannot be read as Parquet"),
        (("merge", "records", "nowhere", "-o", "new"), "nowhere/queries.parquet: cannot be read"),
        (("export", "records", "-o", "new.doc"), "no format is called 'doc'"),
        (("export", "nowhere", "-o", "new.csv"), "cannot be read as Parquet"),
    ],
)
def test_what_goes_wrong_is_one_line_and_leaves_nothing(
    project: Project, args: tuple[str, ...], message: str
) -> None:
    before = sorted(path.name for path in project.folder.iterdir())
    done = project.main("records", *args)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in project.folder.iterdir()) == before


@pytest.mark.parametrize("pairs", [["a"], ["=b"], ["a="], ["a=b", "a=c"]])
def test_a_mapping_that_is_none_is_refused(pairs: list[str]) -> None:
    with pytest.raises(CoterieError, match="--map"):
        columns_of(pairs)


def test_a_mapping_may_hold_an_equals_sign_in_the_column() -> None:
    assert columns_of(["text=a=b", "score=s"]) == {"text": "a=b", "score": "s"}


def test_records_are_described_for_people(project: Project) -> None:
    done = project.main("records", "describe", "records")
    assert (done.returncode, done.stderr) == (0, "")
    assert "24 queries, 4 experts, 96 cells (100.0%)" in done.stdout
    for word in ("0.5 (generalist)", "share all wrong", "sorting", "reversal"):
        assert word in done.stdout


def test_records_are_described_for_machines(project: Project) -> None:
    facts = json.loads(project.main("records", "describe", "records", "--json").stdout)
    assert (facts["schema"], facts["queries"], facts["density"]) == (1, 24, 1.0)
    assert facts["figures"]["observed"]["headroom"] == 0.5
    assert [row["queries"] for row in facts["per_category"]] == [8, 8, 8]


def test_lint_prints_findings_and_fails_only_when_strict(project: Project) -> None:
    flat = replace(make_records(24), quality=np.ones((24, 4)))
    flat.write(project.folder / "flat")
    done = project.main("records", "lint", "flat", "--json")
    findings = json.loads(done.stdout)["findings"]
    assert done.returncode == 0
    assert {"check", "message", "count", "examples"} == set(findings[0])
    strict = project.main("records", "lint", "flat", "--strict")
    assert strict.returncode == 1
    assert strict.stdout.count("lint: ") == len(findings)
    assert strict.stderr == "error: flat: --strict refuses constant experts\n"


def test_lint_finds_questions_on_both_sides_of_a_given_split(project: Project) -> None:
    records = make_records(24)
    said = [" ".join(str(n * k * 7919 % 99991) for k in range(1, 9)) for n in range(1, 25)]
    said[20], said[21] = said[0], f"{said[1]} 7"
    queries = [Query.from_text(f"q{n}", text) for n, text in enumerate(said)]
    replace(records, queries=tuple(queries)).write(project.folder / "both")
    sides = "".join(f"q{i},{'train' if i < 12 else 'test'}\n" for i in range(24))
    project.write("sides.csv", "id,side\n" + sides)
    args = ("records", "lint", "both", "--split", "sides.csv", "--map", "split=side", "--strict")
    done = project.main(*args)
    assert done.returncode == 1
    assert "(2 in 'test', 2 in 'train'; 2 word for word, 2 nearly)" in done.stdout
    assert "leak" in done.stderr
    assert "leak" not in project.main("records", "lint", "both").stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,fold\nq1,train\n", "marks no split; expected a table with the columns id and split"),
        ("id,split\nz1,train\n", "no question of the records is in it; its ids are 'z1'"),
        ("id,split\nq1,train\nq1,test\n", "line 3: question 'q1' is in 'test' and in 'train'"),
    ],
)
def test_a_file_that_splits_other_questions_is_refused(
    project: Project, content: str, message: str
) -> None:
    project.write("sides.csv", content)
    done = project.main("records", "lint", "records", "--split", "sides.csv")
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert "sides.csv" in done.stderr


def test_halves_are_merged_into_the_whole(project: Project) -> None:
    records = make_records(24)
    records.select(["sums", "sorting"]).write(project.folder / "left")
    records.select(["reversal", "generalist"]).write(project.folder / "right")
    done = project.main("records", "merge", "left", "right", "-o", "both", "--json")
    assert json.loads(done.stdout)["observed"] == 96
    names = ("queries.parquet", "records.parquet", "experts.toml")
    both, whole = project.folder / "both", project.folder / "records"
    assert [(both / n).read_bytes() for n in names] == [(whole / n).read_bytes() for n in names]


def test_a_merge_that_disagrees_names_both_folders(project: Project) -> None:
    records = make_records(24)
    replace(records, quality=1 - records.quality).write(project.folder / "other")
    done = project.main("records", "merge", "records", "other", "-o", "both")
    assert done.returncode == 1
    assert "query 'q0', expert 'sums' is '1.0' in records, '0.0' in other" in done.stderr
    assert not (project.folder / "both").exists()


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl", "r.parquet"])
def test_what_was_exported_is_imported_again(project: Project, name: str) -> None:
    done = project.main("records", "export", "records", "-o", name)
    assert done.stdout == f"{name[2:]}, 24 queries, 4 experts: {name}\n"
    assert project.main("records", "import", name, "-o", "again").returncode == 0
    found = Records.read(project.folder / "again")
    np.testing.assert_array_equal(found.quality, make_records(24).quality)


def test_the_group_lists_its_commands(project: Project) -> None:
    done = project.main("records", "--help")
    assert done.returncode == 0
    for name in ("import", "describe", "lint", "merge", "export"):
        assert f"  {name} " in done.stdout
