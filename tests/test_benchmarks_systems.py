"""The page of systems on a tiny set of records."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coterie.panel import Entrant, judge
from coterie.plugins import names
from coterie.routers.neighbors import KNN
from coterie.testing import make_records

ROOT = Path(__file__).parents[1]


@pytest.fixture
def systems(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("systems")
    del sys.modules["systems"]


def test_a_part_is_the_same_questions_every_time(systems: Any, tmp_path: Path) -> None:
    make_records(30).write(tmp_path / "known")
    part = systems.Part("Known", "known", 12, 3)
    first, second = (systems.read(part, tmp_path) for _ in range(2))
    assert first.queries == second.queries
    assert (len(first), first.experts) == (12, ("sums", "sorting", "reversal"))


def test_the_page_shows_every_row_with_its_interval_and_every_note(systems: Any) -> None:
    panel = judge(make_records(30), [Entrant("knn", KNN)], 3)
    facts = {"name": "Known", "notes": ["a note"], **panel.to_dict(), "rows": systems.rows(panel)}
    page = systems.page([facts])
    assert "## Known\n\n30 questions, 4 experts." in page
    assert "| knn | text | 1.00 | 1 | 1.0000 | +" in page
    assert page.count("\n| ") == 1 + len(panel.rows)  # and the head
    assert page.endswith("- a note\n")


def test_most_routers_of_the_page_are_registered(systems: Any) -> None:
    listed = {spec.name for spec in systems.parse_specs(",".join(systems.ROUTERS))}
    assert {"centroid", "online-mean", "online-linear"} <= listed & set(names("routers"))
