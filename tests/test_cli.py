"""The main path through the command line; what goes wrong is in test_bad_input."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_world import POOL, Project

import coterie
from coterie.panel import DEFAULT
from coterie.routers.base import load_router
from coterie.testing import make_records


def labelled(project: Project) -> None:
    rows = [{"id": f"q{i}", "question": f"{i}?", "answer": "yes"} for i in range(4)]
    project.write("labelled.jsonl", "\n".join(map(json.dumps, rows)))


def test_the_version_is_printed(tmp_path: Path) -> None:
    done = Project(tmp_path).main("--version")
    assert (done.returncode, done.stdout) == (0, f"{coterie.__version__}\n")


def test_without_a_command_there_is_help(tmp_path: Path) -> None:
    done = Project(tmp_path).main()
    assert done.returncode == 2
    assert "Usage: coterie" in done.stdout + done.stderr


@pytest.mark.parametrize("args", [("anser",), ("route", "--k", "0"), ("answer", "--pool")])
def test_a_wrong_command_line_exits_with_2(tmp_path: Path, args: tuple[str, ...]) -> None:
    done = Project(tmp_path).main(*args)
    assert done.returncode == 2
    assert "Usage: coterie" in done.stderr


def test_profile_fit_route_and_answer_follow_from_each_other(tmp_path: Path) -> None:
    project = Project(tmp_path)
    labelled(project)
    profiled = project.main("profile", "pool.toml", "labelled.jsonl", "-o", "records", "--json")
    assert [row["questions"] for row in json.loads(profiled.stdout)] == [4, 4, 4]
    assert "next: coterie fit records -o router" in profiled.stderr
    fit = project.main("fit", "records", "-o", "fitted", "--router", "knn", "--json")
    assert json.loads(fit.stdout)["experts"] == ["a", "b", "c"]
    route = project.main("route", "6?", "--router", "fitted", "--k", "2", "--json")
    assert len(json.loads(route.stdout)["experts"]) == 2
    answered = project.main("answer", "pool.toml", "questions.jsonl", "--router", "fitted")
    assert len(answered.stdout.splitlines()) == 10


def test_profiled_records_know_how_large_the_experts_are(tmp_path: Path) -> None:
    sized = POOL.replace('log = "calls.log"', 'log = "calls.log"\nparameters = 2_000_000_000')
    project = Project(tmp_path, sized)
    rows = [{"id": f"q{i}", "question": f"{i}?", "answer": "yes", "category": "x"} for i in "1234"]
    project.write("labelled.jsonl", "\n".join(map(json.dumps, rows)))
    assert project.main("profile", "pool.toml", "labelled.jsonl", "-o", "records").returncode == 0
    args = ("select", "records", "--params", "4", "--folds", "2", "--json")
    chosen = json.loads(project.main(*args).stdout)
    assert 1 <= len(chosen["choice"]["experts"]) <= 2
    assert chosen["left_out"] == []


def test_fit_takes_settings_as_evaluate_does(tmp_path: Path) -> None:
    project = Project(tmp_path)
    make_records(24).write(tmp_path / "records")
    args = ("fit", "records", "-o", "fitted", "--encoder", "lexical", "--router")
    done = project.main(*args, "knn(k=3, floor=0.5)")
    assert (done.returncode, done.stderr) == (0, "")
    fitted: Any = load_router(tmp_path / "fitted")
    assert (fitted.k, fitted.floor, fitted.encoder) == (3, 0.5, "lexical")


def test_fit_takes_the_default_of_the_panel_and_its_router_routes(tmp_path: Path) -> None:
    project = Project(tmp_path)
    made = make_records(40)
    bare = tuple(replace(q, tags=()) for q in made.queries)
    replace(made, queries=bare).write(tmp_path / "records")
    assert json.loads(project.main("fit", "records", "-o", "r", "--json").stdout)["router"] == (
        DEFAULT
    )
    route = project.main("route", "2 + 2?", "--router", "r", "--k", "2", "--json")
    assert len(json.loads(route.stdout)["experts"]) == 2
    paper = project.main("route", "2 + 2?", "--router", "r", "--rule", "paper")
    assert "'paper' needs skill scores; fit the skills router, or use greedy" in paper.stderr


def test_fit_takes_skills_where_an_annotator_named_some(tmp_path: Path) -> None:
    project = Project(tmp_path)
    made = make_records(24)
    tagged = tuple(replace(q, tags=(str(q.category),)) for q in made.queries)
    replace(made, queries=tagged).write(tmp_path / "records")
    done = project.main("fit", "records", "-o", "r")
    assert done.stdout.startswith("skills router on 24 queries: r\nit reads skills from the anno")
    assert project.main("fit", "records", "-o", "r", "--router", "linear").stdout.startswith(
        "linear router"
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--router", "knn(kk=3)"), "field 'knn': no setting 'kk'; there are k,"),
        (("--router", "knn,linear"), "expected one, NAME or NAME(setting=value, ...)"),
        (("--router", ""), "expected one, NAME or NAME(setting=value, ...)"),
        (("--router", "knn(k=10**20)"), "field 'knn': expected setting=value"),
        (("--router", f"knn(k={10**20})"), "field 'knn: k': expected a whole number"),
        (("--router", "mlp(seed=-1)"), "field 'mlp: seed': expected 0 to 4294967295, got -1"),
        (("--router", "stack(members=knn)"), "'stack: members': expected a list of words or None"),
        (("--router", "linear(target=3)"), "field 'linear: target': expected a word, got 3"),
        (("--router", "oracle", "--encoder", "static"), "field 'oracle': no setting 'encoder'"),
        (("--router", "knn(encoder=static)", "--encoder", "lexical"), "names one already"),
    ],
)
def test_what_fit_cannot_use_is_named(tmp_path: Path, args: tuple[str, ...], message: str) -> None:
    project = Project(tmp_path)
    make_records(24).write(tmp_path / "records")
    done = project.main("fit", "records", "-o", "r", *args)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert not (tmp_path / "r").exists()


def test_what_is_printed_for_people_says_the_same(tmp_path: Path) -> None:
    project = Project(tmp_path)
    labelled(project)
    profiled = project.main("profile", "pool.toml", "labelled.jsonl", "-o", "records")
    assert "a question (USD)" in profiled.stdout
    assert project.main("fit", "records", "-o", "r", "--router", "linear").stdout.startswith(
        "linear router on 4 queries: r"
    )
    lines = project.main("route", "6?", "--router", "r", "-w", "5").stdout.splitlines()
    assert lines[0] == "a answers; if it fails: b, c"
    assert lines[1].startswith("  a: expected quality ")
    assert lines[-1].startswith("why: ")


def test_a_router_in_the_pool_file_needs_no_option(tmp_path: Path) -> None:
    project = Project(tmp_path, POOL + '[router]\npath = "router"\n')
    done = project.main("answer", "pool.toml", "questions.jsonl", "-o", "out/answers.jsonl")
    assert done.returncode == 0
    assert done.stderr == (
        "10 questions, 30 calls, 0 from the journal, 3 loads, cost 15; answers: out/answers.jsonl\n"
    )
    assert (tmp_path / "out" / "answers.jsonl.journal").exists()


def test_answers_carry_decision_trace_and_cost(tmp_path: Path) -> None:
    project = Project(tmp_path, count=1)
    row = json.loads(project.answer("-").stdout)
    assert row["decision"]["experts"] == ["a", "b", "c"]
    assert [c["expert"] for c in row["trace"]] == ["a", "b", "c"]
    assert (row["cost"], row["error"]) == (1.5, None)
    assert row["answer"] in [c["text"] for c in row["trace"]]


def test_json_is_utf8_in_any_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    project = Project(tmp_path)
    project.write("questions.jsonl", '{"question": "wie heißt das?"}'.encode())
    done = project.run(*project.answer_args("-"))
    assert (done.returncode, "heißt" in done.stdout) == (0, True)


def test_routers_of_one_s_own_are_named_by_module(tmp_path: Path) -> None:
    project = Project(tmp_path, count=1)
    kind = "coterie.routers.baselines:BestSingle"
    assert project.answer("-", "--kind", kind).returncode == 0
    wrong = project.answer("-", "--kind", "coterie.routers.baselines:Random")
    assert "holds a router of kind 'best-single', expected 'random'" in wrong.stderr
