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
    silent = tuple(Query.from_text(f"q{i}", " ") for i in range(24))
    replace(make_records(24), queries=silent).write(tmp_path / "silent")
    return made


def test_a_table_is_imported_with_a_mapping_of_columns(project: Project) -> None:
    done = project.main("records", "import", "wide.csv", "-o", "new", *MAPPED)
    assert (done.returncode, done.stderr) == (0, "")
    assert "wide.csv: csv, 6 queries, 2 experts\nexperts: big, small\nlint: " in done.stdout
    found = Records.read(project.folder / "new")
    assert (found.experts, found.queries[1].text) == (("big", "small"), "What is 940 of rivers?")
    assert found.quality[1].tolist() == [1.0, 0.5]


def test_an_import_for_machines_lists_what_lint_found(project: Project) -> None:
    done = project.main("records", "import", "wide.csv", "-o", "new", *MAPPED, "--json")
    facts = json.loads(done.stdout)
    assert (facts["format"], facts["experts"], facts["observed"]) == ("csv", ["big", "small"], 12)
    assert "missing cost" in [finding["check"] for finding in facts["findings"]]
    assert facts["path"] == "new"


def test_an_import_names_ten_experts_and_what_became_of_the_columns(project: Project) -> None:
    project.write("many.csv", "prompt,cost," + ",".join(f"m{i}" for i in range(12)) + "\n")
    done = project.main("records", "import", "many.csv", "-o", "new")
    assert "holds no records" in done.stderr
    project.write("many.csv", f"prompt,cost,{','.join(f'm{i}' for i in range(12))}\nx,2{',1' * 12}")
    out = project.main("records", "import", "many.csv", "-o", "new").stdout
    assert "\nexperts: m0, m1, m2, m3, m4, m5, m6, m7, m8, m9 and 2 more\n" in out
    assert "every column without a usual name counts as an expert" in out
    assert "\ncolumns left out: cost; --map FIELD=COLUMN says what one holds\n" in out


def test_records_are_replaced_only_where_that_is_asked_for(project: Project) -> None:
    (project.folder / "link").symlink_to("records")
    refused = project.main("records", "import", "wide.csv", "-o", "link", *MAPPED)
    assert (refused.returncode, len(Records.read(project.folder / "records"))) == (1, 24)
    done = project.main("records", "import", "wide.csv", "-o", "link", "--replace", *MAPPED)
    assert (done.returncode, len(Records.read(project.folder / "records"))) == (0, 6)
    assert (project.folder / "link").is_symlink()
    assert not [path for path in project.folder.iterdir() if path.name.startswith(".")]


def test_scores_in_percent_are_divided_by_the_best_possible_one(project: Project) -> None:
    project.write("percent.csv", "prompt,a,b\none,100,0\ntwo,50,25\n")
    args = ("records", "import", "percent.csv", "-o", "new")
    assert "--max-score 100" in project.main(*args).stderr
    assert project.main(*args, "--max-score", "100").returncode == 0
    assert Records.read(project.folder / "new").quality.tolist() == [[1, 0], [0.5, 0.25]]
    again = project.main("records", "import", "new", "-o", "other", "--max-score", "100")
    assert "takes no best possible score; divide the scores first" in again.stderr


def test_names_in_square_brackets_are_shown_as_they_are(project: Project) -> None:
    made = make_records(24)
    names = ("llama[/b]", "[bold]mistral", ":smile:", "d")
    queries = tuple(replace(q, id=f"[/i]{q.id}", category="math[/m]") for q in made.queries)
    replace(made, experts=names, queries=queries, facts={}).write(project.folder / "odd")
    out = project.main("records", "describe", "odd").stdout
    assert all(name in out for name in (*names, "math[/m]"))
    chosen = project.main("select", "odd", "--size", "2", "--folds", "2")
    assert (chosen.returncode, chosen.stderr, "own: " in chosen.stdout) == (0, "", True)
    done = project.main("records", "suggest", "odd", "--size", "3", "-o", "label.jsonl")
    assert (done.returncode, done.stdout.count("[/i]q"), "math[/m]" in done.stdout) == (0, 3, True)


def test_partial_records_say_which_means_do_not_compare(project: Project) -> None:
    made = make_records(24)
    quality = np.array(made.quality)
    quality[np.array(made.categories) == "sums", 0] = np.nan
    replace(made, quality=quality).write(project.folder / "partial")
    out = project.main("records", "describe", "partial").stdout
    assert "Means over different questions do not compare" in " ".join(out.split())
    assert (out.count("8 *"), out.count("* ")) == (1, 2)
    assert "do not compare" not in project.main("records", "describe", "records").stdout


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
    done = project.main("records", "import", "bad.csv", "-o", "records", "--replace", *MAPPED)
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
        (("describe", "nowhere"), "nowhere: no such folder; `coterie records import"),
        (("lint", "wide.csv"), "wide.csv: a file, no folder of records"),
        (("merge", "records", "nowhere", "-o", "new"), "nowhere: no such folder"),
        (("export", "records", "-o", "new.doc"), "no format is called 'doc'"),
        (("export", "nowhere", "-o", "new.csv"), "nowhere: no such folder"),
        (("export", "records", "-o", "records/records.parquet"), "lies in the input records"),
        (("export", "records", "-o", "records"), "records is a folder; --output is the name"),
        (("import", "wide.csv", "-o", "records", *MAPPED), "records holds records already; --rep"),
        (("import", "records", "-o", "records", "--replace"), "records is one of the inputs"),
        (("merge", "records", "-o", "records", "--replace"), "records is one of the inputs"),
        (("suggest", "silent"), "no question of the records has a text"),
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
    assert max(map(len, strict.stdout.splitlines())) < 300
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
