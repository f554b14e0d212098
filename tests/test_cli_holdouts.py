"""What ``coterie evaluate`` holds out on demand, and ``coterie records suggest``."""

import json
from pathlib import Path

import pytest
from cli_world import Project

from coterie.questions import read_questions
from coterie.testing import make_records

FEW = ("evaluate", "records", "--routers", "knn(k=5, shrinkage=1, temperature=1)", "--folds", "3")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    make_records(60).write(tmp_path / "records")
    return Project(tmp_path)


def test_evaluate_holds_out_what_is_asked_for_in_80_columns(project: Project) -> None:
    run = project.main(*FEW, "--transfer", "--cold-start", "--robustness", "--json", "panel.json")
    assert run.returncode == 0, run.stderr
    held_out = run.stdout.partition("categories held out whole")[2]
    assert "3 newcomers, 20 test questions" in held_out
    assert "choices that stay" in held_out
    assert max(len(line) for line in held_out.splitlines()) <= 80
    facts = json.loads((project.folder / "panel.json").read_text())
    assert {row["name"] for row in facts["transfer"]["rows"]} >= {"stack", FEW[3]}
    assert set(facts["cold_start"]["curves"]) >= {"best single", FEW[3]}
    assert {row["name"] for row in facts["robustness"]["rows"]} >= {"stack", FEW[3]}


def test_evaluate_holds_out_nothing_unasked(project: Project) -> None:
    facts = json.loads(project.main(*FEW, "--json", "-").stdout)
    assert {"transfer", "cold_start", "robustness"}.isdisjoint(facts)


def test_suggest_writes_questions_to_profile(project: Project) -> None:
    run = project.main("records", "suggest", "records", "--size", "6", "-o", "q.jsonl")
    assert (run.returncode, run.stderr) == (0, "")
    assert max(len(line) for line in run.stdout.splitlines()) <= 80
    read = read_questions(project.folder / "q.jsonl")
    known = {q.id: q for q in make_records(60).queries}
    assert [q.text for q in read.queries] == [known[q.id].text for q in read.queries]
    assert [q.category for q in read.queries] == [known[q.id].category for q in read.queries]
    assert (len(read), set(read.references)) == (6, {"right"})


def test_suggest_prints_questions_or_reasons(project: Project) -> None:
    project.main("records", "suggest", "records", "--size", "6", "-o", "q.jsonl")
    printed = project.main("records", "suggest", "records", "--size", "6")
    assert printed.stdout == (project.folder / "q.jsonl").read_text()
    facts = json.loads(
        project.main("records", "suggest", "records", "--size", "6", "--json").stdout
    )
    ids = [json.loads(line)["id"] for line in printed.stdout.splitlines()]
    assert [each["id"] for each in facts["questions"]] == ids
    assert facts["path"] is None


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("records", "--size", "61"), "field 'size': expected 1 to 60"),
        (("nowhere",), "nowhere: no such folder"),
        (("records", "--encoder", "stati"), "did you mean 'static'"),
        (("records", "-o", "."), ". is a folder"),
        (("records", "-o", "records/queries.parquet"), "lies in the input records"),
    ],
)
def test_mistakes_end_in_one_line_and_write_nothing(
    project: Project, args: tuple[str, ...], message: str
) -> None:
    before = (project.folder / "records" / "queries.parquet").read_bytes()
    run = project.main("records", "suggest", *args)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
    assert message in run.stderr
    assert (project.folder / "records" / "queries.parquet").read_bytes() == before
