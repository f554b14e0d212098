import json
from pathlib import Path

import numpy as np
import pytest
from cli_world import Project

from coterie.synthetic import World, write
from coterie.testing import make_records, with_quality


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_records_give_a_curve_of_every_asked_size(project: Project) -> None:
    make_records(40).write(project.folder / "records")
    run = project.main("scale", "records", "-m", "2,3,9", "--json")
    facts = json.loads(run.stdout)
    assert (run.returncode, facts["experts"], facts["too_large"]) == (0, 4, [9])
    assert [row["m"] for row in facts["curve"]] == [1, 2, 3, 4]
    assert facts["curve"][-1]["oracle"] == 1.0
    assert facts["curve"][0]["oracle"] == pytest.approx(facts["random"])


def test_items_without_every_score_are_named_in_the_table(project: Project) -> None:
    records = make_records(12)
    quality = records.quality.copy()
    quality[0, 0] = np.nan
    with_quality(records, quality).write(project.folder / "records")
    run = project.main("scale", "records", "-m", "2")
    assert "1 items without a score of every expert were left out" in run.stdout


def test_some_experts_may_be_chosen(project: Project) -> None:
    make_records(12).write(project.folder / "records")
    run = project.main("scale", "records", "--experts", "sums, sorting", "-m", "2", "--json")
    assert json.loads(run.stdout)["experts"] == 2
    run = project.main("scale", "records", "--experts", "nobody")
    assert (run.returncode, "no records of expert 'nobody'" in run.stderr) == (1, True)


def test_routers_are_judged_and_drawn(project: Project) -> None:
    write(World(experts=30, items=200, dim=8), project.folder / "world")
    run = project.main("scale", "world", "-m", "3", "--routers", "--plot", "curves.html")
    assert run.returncode == 0, run.stderr
    assert "routereval-mlp (minibatch)" in run.stdout
    assert run.stdout.count("strong_to_weak") == 9
    page = (project.folder / "curves.html").read_text(encoding="utf-8")
    assert "routereval-knn, all_weak" in page
    assert '<script src="http' not in page


def test_a_bare_matrix_has_curves_and_no_routers(project: Project) -> None:
    np.save(project.folder / "scores.npy", World(experts=9, items=30).scores())
    assert project.main("scale", "scores.npy", "-m", "3").returncode == 0
    run = project.main("scale", "scores.npy", "--routers", "--plot", "curves.html")
    assert (run.returncode, "routers need texts" in run.stderr) == (1, True)
    assert not (project.folder / "curves.html").exists()


@pytest.mark.parametrize("sizes", ["", "0", "three", "3,-1", "2.5"])
def test_odd_sizes_are_refused(project: Project, sizes: str) -> None:
    np.save(project.folder / "scores.npy", World(experts=9, items=30).scores())
    run = project.main("scale", "scores.npy", "-m", sizes)
    assert (run.returncode, "expected numbers of at least 1" in run.stderr) == (1, True)
