import json
from pathlib import Path

import pytest
from cli_world import Project

from coterie.testing import make_records


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def replayed(project: Project, *more: str) -> dict[str, object]:
    make_records(60).write(project.folder / "records")
    run = project.main(
        *("simulate", "--trace", "records", "--router", "category", "--recruits", "2", "--json"),
        *("--capacities", "2,3", "--window", "4", *more),
    )
    assert run.returncode == 0, run.stderr
    facts: dict[str, object] = json.loads(run.stdout)
    return facts


def test_the_nodes_have_their_knees(project: Project) -> None:
    facts = json.loads(project.main("simulate", "--counts", "40,60,150", "--json").stdout)
    seconds = {(row["node"], row["experts"]): row["seconds"] for row in facts["latencies"]}
    assert seconds["DGX A100", 40] < seconds["DGX A100", 60]
    assert seconds["DGX A100", 150] is None
    assert seconds["SN40L node", 150] < 1
    assert [node["fits"] for node in facts["nodes"]] == [39, 46, 46]


def test_people_read_a_table_that_says_out_of_memory(project: Project) -> None:
    run = project.main("simulate", "--counts", "10,150", "--size", "6.75")
    assert "experts of 6.75 GB" in run.stdout
    assert "out of memory" not in run.stdout
    run = project.main("simulate", "--counts", "10,150")
    assert run.stdout.count("out of memory") == 2


def test_records_are_replayed_under_every_rule(project: Project) -> None:
    facts = replayed(project)
    assert (facts["requests"], len(facts["experts"])) == (30, 4)  # type: ignore[arg-type]
    first = facts["capacities"][0]  # type: ignore[index]
    assert [row["rule"] for row in first["known_window"]][:2] == ["lru", "lfu"]
    loads = {row["rule"]: row["loads"] for row in first["known_window"]}
    assert loads["belady"] <= loads["look-ahead"] <= loads["lru"]
    assert max(row["overtaken"] for row in first["live_queue"]) <= 15
    assert facts == replayed(project)


def test_some_experts_may_be_chosen(project: Project) -> None:
    assert replayed(project, "--experts", "sums, sorting")["experts"] == ["sums", "sorting"]
    run = project.main("simulate", "--trace", "records", "--experts", "nobody")
    assert (run.returncode, "no records of expert 'nobody'" in run.stderr) == (1, True)


def test_reports_have_curves_and_make_no_request(project: Project) -> None:
    replayed(project, "--report", "trace.html")
    assert project.main("simulate", "--counts", "9", "--report", "nodes.html").returncode == 0
    for name, word in (("trace.html", "belady"), ("nodes.html", "DGX A100")):
        page = (project.folder / name).read_text(encoding="utf-8")
        assert word in page
        assert '<script src="http' not in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--counts", "three"], "expected numbers of at least 1"),
        (["--size", "0"], "gigabytes above 0"),
        (["--size", "400"], "do not fit into"),
        (["--trace", "nowhere"], "no such file or folder"),
        (["--trace", "records", "--router", "knn,linear"], "expected one router"),
        (["--trace", "records", "--router", "category", "--capacities", "2"], "needs 3 experts"),
        (["--trace", "records", "--router", "category", "--utilization", "0"], "utilization"),
    ],
)
def test_odd_settings_are_refused(project: Project, arguments: list[str], message: str) -> None:
    make_records(12).write(project.folder / "records")
    run = project.main("simulate", *arguments)
    assert (run.returncode, message in run.stderr) == (1, True), run.stderr
