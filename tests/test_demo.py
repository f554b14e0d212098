"""The main job on a few questions: real models, real recruiting, real files."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from coterie.demo import run_demo, write_demo
from coterie.drivers.batch import Progress
from coterie.study import Study, summary, verdict


class Quiet:
    """A console that remembers the phases."""

    def __init__(self) -> None:
        self.phases: list[str] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[Callable[[Progress], None]]:
        self.phases.append(name)
        yield lambda progress: None

    def say(self, text: str) -> None:
        pass


@pytest.fixture(scope="module")
def study() -> Study:
    with patch("importlib.util.find_spec", return_value=None):  # as if smollm2 were not installed
        return asyncio.run(run_demo(Quiet(), limit=48))


def test_the_summary_has_what_scripts_read(study: Study) -> None:
    facts = json.loads(json.dumps(summary(study)))
    ways = {"random", "best_single", "static_best_k", "per_category", "coterie", "oracle"}
    assert set(facts["accuracy"]) == ways
    assert {"questions", "ci", "loads", "seconds"} <= set(facts)
    assert set(facts["loads"]) == {"actual", "naive", "lower_bound"}


def test_nobody_beats_the_oracle(study: Study) -> None:
    oracle = next(row for row in study.rows if row.name == "oracle")
    assert all(oracle.scores.mean() >= row.scores.mean() for row in study.rows)


def test_the_coterie_comes_to_what_its_replay_comes_to(study: Study) -> None:
    rule, vote = study.chosen["rule"], study.chosen["aggregator"]
    replayed = next(r for r in study.rows if r.name == f"recruit 3, {rule} rule, {vote} vote")
    assert abs(study.headline.scores.mean() - replayed.scores.mean()) <= 1 / len(study.test)


def test_experts_are_loaded_once_a_wave(study: Study) -> None:
    assert study.loads["actual"] == study.loads["lower_bound"] < study.loads["naive"]


def test_the_verdict_compares_with_every_rival(study: Study) -> None:
    text = "\n".join(verdict(study))
    for rival in ("best single", "static best-3 vote", "skills router", "per-category table"):
        assert rival in text
    assert "not installed, left out: smollm2" in text


def test_three_files_are_written_and_the_answers_carry_their_trace(
    study: Study, tmp_path: Path
) -> None:
    write_demo(study, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "report.html",
        "answers.jsonl",
        "summary.json",
    }
    lines = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert [row["id"] for row in rows] == [q.id for q in study.test.queries]
    assert all(len(row["trace"]) >= len(set(row["decision"]["experts"])) for row in rows)
