import json
from pathlib import Path

import pytest
from cli_world import Project

from coterie.testing import make_records


@pytest.fixture
def project(tmp_path: Path) -> Project:
    make_records(60).write(tmp_path / "records")
    return Project(tmp_path)


def test_evaluate_prints_the_panel_and_the_verdict_in_80_columns(project: Project) -> None:
    run = project.main("evaluate", "records", "--group-by", "category")
    assert run.returncode == 0, run.stderr
    for name in ("random", "best single", "per-category table", "stack", "oracle"):
        assert f"\n{name} " in run.stdout
    tables = run.stdout.partition("best single, chosen in training")[0]
    assert max(len(line) for line in tables.splitlines()) <= 80
    assert "declared in advance" in run.stdout


def test_evaluate_writes_json_for_machines(project: Project) -> None:
    run = project.main("evaluate", "records", "--routers", "linear", "--json", "panel.json")
    facts = json.loads((project.folder / "panel.json").read_text())
    assert (run.returncode, facts["schema"], facts["data"]["folds"]) == (0, 1, 5)
    names = [row["name"] for row in facts["panel"] if row["kind"] == "router"]
    assert names == ["linear", "stack"]
    printed = project.main("evaluate", "records", "--routers", "linear", "--json", "-").stdout
    for one, other in zip(json.loads(printed)["panel"], facts["panel"], strict=True):
        assert one["vs_best_single"] == other["vs_best_single"]


def test_evaluate_takes_routers_and_policies_of_ones_own(project: Project) -> None:
    project.write("mine_judged.py", "from coterie.routers.linear import Linear as Mine\n")
    args = ("--routers", "mine_judged:Mine", "--policies", "recruit(k=2)", "--folds", "2")
    run = project.main("evaluate", "records", *args, "--extract", "arrow", "--json", "-")
    names = {row["name"]: row["calls"] for row in json.loads(run.stdout)["panel"]}
    assert names["mine_judged:Mine, recruit(k=2)"] == 2.0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--routers", "kn"), "no router called 'kn'; did you mean 'knn'"),
        (("--policies", "guard"), "no policy called 'guard'"),
        (("--group-by", "mood"), "expected one of category, subject"),
        (("--keep", "nobody"), "no records of expert 'nobody'"),
        (("--extract", "teeth"), "no extractor called 'teeth'"),
        (("--folds", "99"), "expected 2 to 60"),
    ],
)
def test_mistakes_end_in_one_line(project: Project, args: tuple[str, ...], message: str) -> None:
    run = project.main("evaluate", "records", *args)
    assert (run.returncode, run.stdout) == (1, "")
    assert message in run.stderr
    assert run.stderr.count("\n") == 1


def test_records_that_are_not_there_are_named(project: Project) -> None:
    run = project.main("evaluate", "nowhere", "--json", "panel.json")
    assert run.returncode == 1
    assert "nowhere" in run.stderr
    assert not (project.folder / "panel.json").exists()


def test_several_jobs_print_the_same(project: Project) -> None:
    args = ("--routers", "linear, bradley-terry", "--folds", "2")
    one, two = (project.main("evaluate", "records", *args, "--jobs", n) for n in ("1", "2"))
    assert one.returncode == 0, one.stderr
    assert one.stdout == two.stdout


PAIRS = "id,prompt,model_a,model_b,winner\n" + "".join(
    f"q{i},question {i},{a},{b},model_a\n"
    for i, (a, b) in enumerate([("ann", "bob"), ("bob", "cid"), ("ann", "cid")] * 6)
)


def test_pairwise_records_have_their_rankings_judged(project: Project) -> None:
    project.write("pairs.csv", PAIRS)
    assert project.main("records", "import", "pairs.csv", "-o", "pairs").returncode == 0
    run = project.main("evaluate", "pairs", "--json", "pairs.json")
    assert run.returncode == 0, run.stderr
    assert "18 battles (0 ties), 3 experts" in run.stdout
    assert "note: knn was left out: it does not rank experts" in run.stdout
    rows = json.loads((project.folder / "pairs.json").read_text())["battles"]
    assert [row["name"] for row in rows][:3] == ["coin", "bradley-terry", "elo"]
    refused = project.main("evaluate", "pairs", "--policies", "guarded", "--transfer")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "error: --policies, --transfer: every question compares two" in refused.stderr
