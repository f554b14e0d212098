"""What commands write never replaces what they read, and names are printed as they are."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from cli_world import Project
from rich.console import Console

from coterie.cli.base import check_file, check_profile, check_records, check_router
from coterie.console import show_aggregators
from coterie.errors import CoterieError
from coterie.records import Records
from coterie.testing import make_records


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    make_records(24).write(tmp_path / "records")
    (tmp_path / "link").symlink_to("records")
    return made


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("evaluate", "records", "--json", "records/queries.parquet"), "choose another --json"),
        (("evaluate", "link", "--report", "records/queries.parquet"), "choose another --report"),
        (("evaluate", "records", "--json", "."), ". is a folder; --json is the name of a file"),
        (("scale", "records", "--plot", "link/records.parquet"), "choose another --plot"),
        (("fit", "records", "-o", "records"), "records is one of the inputs"),
        (("fit", "records", "-o", "link/router"), "link/router lies in the input records"),
        (("fit", "router", "-o", "records"), "records holds records; choose another --output"),
        (("profile", "pool.toml", "questions.jsonl", "-o", "link"), "records of another origin"),
        (("evaluate", "router"), "router: no folder of records: it has no queries.parquet;"),
        (("evaluate", "pool.toml"), "pool.toml: a file, no folder of records; `coterie records"),
    ],
)
def test_an_input_is_never_the_output(
    project: Project, args: tuple[str, ...], message: str
) -> None:
    before = {p: p.read_bytes() for p in project.folder.rglob("*") if p.is_file()}
    run = project.main(*args)
    assert (run.returncode, run.stdout) == (1, "")
    assert message in run.stderr
    assert {p: p.read_bytes() for p in project.folder.rglob("*") if p.is_file()} == before


def test_a_profile_is_written_again_where_its_journal_is(tmp_path: Path) -> None:
    make_records(24).write(tmp_path / "records")
    (tmp_path / "records.journal").touch()
    check_profile(tmp_path / "records", tmp_path / "records.journal")
    check_profile(tmp_path / "new", tmp_path / "new.journal")
    with pytest.raises(CoterieError, match=r"there is no .*other\.journal"):
        check_profile(tmp_path / "records", tmp_path / "other.journal")


def test_what_lies_apart_may_be_written(tmp_path: Path) -> None:
    make_records(24).write(tmp_path / "records")
    check_file("-", "--json", tmp_path / "records")
    check_file(tmp_path / "records.json", "--json", tmp_path / "records")
    check_records(tmp_path / "records", True, tmp_path / "other.csv")
    check_router(tmp_path / "router", tmp_path / "records")


def test_records_written_to_a_link_leave_it_a_link(project: Project) -> None:
    make_records(36).write(project.folder / "link")
    assert (project.folder / "link").is_symlink()
    assert len(Records.read(project.folder / "records")) == 36


def test_a_seed_is_never_negative(project: Project) -> None:
    run = project.main("evaluate", "records", "--seed", "-5")
    assert run.returncode == 2
    assert "--seed" in run.stderr


def test_evaluate_prints_names_in_square_brackets_as_they_are(project: Project) -> None:
    made = make_records(24)
    odd = {"sums": "math[/m]", "sorting": "[red]sort", "reversal": "[/]"}
    queries = tuple(replace(q, category=odd[str(q.category)]) for q in made.queries)
    names = ("llama[/b]", "[bold]mistral", "c", "d")
    replace(made, experts=names, queries=queries, facts={}).write(project.folder / "odd")
    args = ("--routers", "linear", "--folds", "2", "--group-by", "category", "--transfer")
    run = project.main("evaluate", "odd", *args)
    assert (run.returncode, run.stderr) == (0, "")
    assert all(run.stdout.count(name) >= 2 for name in odd.values())


def test_tables_of_experts_print_names_as_they_are() -> None:
    out = StringIO()
    show_aggregators({"llama[/b]": 0.5, "[bold]mistral": 0.25}, Console(file=out, width=80))
    assert "llama[/b]" in out.getvalue()
    assert "[bold]mistral" in out.getvalue()
