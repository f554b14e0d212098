"""The benchmark of cascades at a small size: it replays what it learns."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coterie.testing import make_records

RECORDS = make_records(60).select(["sums", "generalist"])


@pytest.fixture
def cascades(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("cascades")


def test_a_learnt_cascade_keeps_to_its_budget_and_beats_coins(cascades: Any) -> None:
    row = cascades.crossed(RECORDS, cascades.frugal(4.0))
    found = cascades.said(row, RECORDS.quality[:, 1], RECORDS)
    assert found["cost"] <= 4100  # in thousandths
    assert found["score"] > 0.6
    assert found["over coins"] > 0
    assert cascades.crossed(RECORDS, cascades.routing(100.0)).scores.mean() > 0.6


def test_coins_between_two_experts_are_a_straight_line(cascades: Any) -> None:
    low, high = RECORDS.quality.mean(axis=0)
    assert cascades.coins(RECORDS, 2.5) == pytest.approx((low + high) / 2)
    assert cascades.coins(RECORDS, 4.0) == pytest.approx(high)


def test_the_least_sure_share_goes_to_the_strong_expert(cascades: Any) -> None:
    quality = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert cascades.escalated(np.array([0.1, 0.9, 0.2, 0.8]), quality, 0.5) == 1.0
    assert cascades.escalated(np.array([0.9, 0.1, 0.8, 0.2]), quality, 0.5) == 0.25
