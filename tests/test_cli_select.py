"""coterie select, through the real command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_world import Project

from coterie.records import Records
from coterie.types import Query

LABELS = ["x", "y"] * 30


def project(
    folder: Path, categories: bool = True, facts: bool = True, holes: bool = False
) -> Project:
    """A folder with records of two specialists and a generalist."""
    generator = np.random.default_rng(0)
    chances = np.array([[0.95, 0.1, 0.6], [0.1, 0.95, 0.6]] * 30)
    quality = (generator.random(chances.shape) < chances).astype(float)
    if holes:
        quality[generator.random(quality.shape) < 0.2] = np.nan
    texts = np.where(quality == 1, "right", np.array(["u", "v", "w"])).astype(object)
    asked = (
        Query(f"q{i}", ({"role": "user", "content": f"{i}?"},), category=c if categories else None)
        for i, c in enumerate(LABELS)
    )
    sizes = {"a": 7.0, "b": 8.0, "c": 70.0}
    Records(
        tuple(asked),
        tuple("abc"),
        quality,
        cost=np.tile([1.0, 2.0, 9.0], (60, 1)) if facts else np.empty(0),
        texts=texts,
        facts={e: {"parameters": p} for e, p in sizes.items()} if facts else {},
    ).write(folder / "records")
    return Project(folder)


def facts_of(made: Project, *args: str) -> dict[str, Any]:
    done = made.main("select", "records", *args, "--json")
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


@pytest.mark.parametrize("args", [("--size", "2"), ("--params", "16"), ("--budget", "1.6")])
def test_limits_choose_the_specialists_and_show_what_they_gain(
    tmp_path: Path, args: tuple[str, ...]
) -> None:
    facts = facts_of(project(tmp_path), *args)
    assert facts["choice"]["mapping"] == {"x": "a", "y": "b"}
    assert facts["choice"]["parameters"] == 15.0
    assert facts["validation"]["gain_ci"][0] > 0
    assert facts["frontier"]["by"] == {"--size": "size", "--params": "parameters"}.get(
        args[0], "cost"
    )
    assert {"a", "b"} == set(facts["marginal"]["owned"])


def test_an_active_budget_is_one_of_the_frontier(tmp_path: Path) -> None:
    facts = facts_of(project(tmp_path), "--active", "7.4")
    points = [p["active"] for p in facts["frontier"]["points"]]
    assert facts["choice"]["active"] == pytest.approx(points[0])
    assert points[0] == pytest.approx(7.0)
    assert points == sorted(points)


def test_sizes_can_be_given_and_experts_of_unknown_size_are_left_out(tmp_path: Path) -> None:
    made = project(tmp_path, facts=False)
    facts = facts_of(made, "--params", "9", "--parameters", "a=7", "--parameters", "b=8")
    assert facts["left_out"] == ["c"]
    assert facts["choice"]["experts"] in (["a"], ["b"])


def test_voting_and_oracle_choose_by_number(tmp_path: Path) -> None:
    made = project(tmp_path)
    voting, oracle = (
        facts_of(made, "--for", purpose, "--size", "2") for purpose in ("voting", "oracle")
    )
    assert oracle["choice"]["experts"] == ["a", "b"]
    assert [row["size"] for row in voting["sizes"]] == [1, 2]
    assert voting["choice"]["method"] == "exact"


def test_partial_records_are_good_enough(tmp_path: Path) -> None:
    made = project(tmp_path, holes=True)
    assert facts_of(made, "--size", "2")["choice"]["experts"] == ["a", "b"]
    assert facts_of(made, "--size", "2", "--for", "voting")["validation"]["queries"] <= 60


def test_people_get_frontier_mapping_values_and_the_plain_sentence(tmp_path: Path) -> None:
    shown = project(tmp_path).main("select", "records", "--size", "2").stdout
    for words in (
        "frontier by size: 2 budgets",
        "own: a, b",
        "  x: a",
        "gain over the best single",
    ):
        assert words in shown
    alone = Project(tmp_path).main("select", "records", "--size", "1").stdout
    assert "does not beat it" in alone


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--budget", "1"), "hold none for any expert; leave --budget out"),
        (("--params", "9"), "hold none for any expert; give some: --parameters NAME=BILLIONS"),
        (("--params", "9", "--parameters", "z=7"), "'z=7' names no expert; there are a, b, c"),
        (("--params", "9", "--parameters", "a=x"), "expected NAME=BILLIONS, got 'a=x'"),
        (("--params", "5", "--parameters", "a=7"), "no expert fits into 5: the smallest has 7"),
        (("--for", "voting"), "--for voting needs --size"),
        (("--for", "oracle", "--active", "9"), "--for oracle chooses by number"),
    ],
)
def test_what_is_impossible_is_said_in_one_line(
    tmp_path: Path, args: tuple[str, ...], words: str
) -> None:
    done = project(tmp_path, facts=False).main("select", "records", *args)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_categories_there_is_no_mapping_but_a_vote(tmp_path: Path) -> None:
    made = project(tmp_path, categories=False)
    done = made.main("select", "records", "--size", "2")
    assert "name no categories" in done.stderr
    assert facts_of(made, "--for", "voting", "--size", "3")["choice"]["experts"] == ["a", "b", "c"]
