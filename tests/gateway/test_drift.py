"""Requests of the embedded families, and a made-up world where the rate of alarms is known."""

import functools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import ArtifactError, InputError
from coterie.features import StaticEncoder
from coterie.gateway.drift import (
    DriftMonitor,
    share_bound,
    tail,
    threshold,
    training_vectors,
)
from coterie.questions import embedded_questions
from coterie.records import Records
from coterie.routers.baselines import BestSingle
from coterie.routers.neighbors import KNN
from coterie.types import FloatArray, Query


@functools.cache
def questions(split: str) -> tuple[FloatArray, list[str | None]]:
    """Shuffled vectors and families."""
    queries = embedded_questions(split).queries
    order = np.random.default_rng(0).permutation(len(queries))
    vectors = StaticEncoder().encode([q.text for q in queries])
    return vectors[order], [queries[i].category for i in order]


def without(split: str, family: str) -> tuple[FloatArray, FloatArray]:
    """Vectors of all other families, and of this one."""
    vectors, families = questions(split)
    own = np.array([each == family for each in families])
    return vectors[~own], vectors[own]


def crowd(count: int, seed: int) -> FloatArray:
    """Unit vectors around five directions."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(5, 16))
    vectors = centres[draw.integers(0, 5, count)] + draw.normal(size=(count, 16))
    unit: FloatArray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")
    return unit


def watch(monitor: DriftMonitor, vectors: FloatArray) -> DriftMonitor:
    for vector in vectors:
        monitor.observe(vector)
    return monitor


@pytest.mark.parametrize("family", ["add", "boolean", "multiply", "reverse", "unit"])
def test_it_rings_for_a_family_the_records_lack_and_recovers(family: str) -> None:
    known, _ = without("validation", family)
    ordinary, new = without("test", family)
    monitor = DriftMonitor.fit(known, fallback="always-best")
    assert not watch(monitor, ordinary).alarm
    assert monitor.alarms == 0
    assert watch(monitor, np.tile(new, (4, 1))[:256]).alarm
    assert "away from the records" in monitor.reason
    assert not watch(monitor, ordinary[:256]).alarm
    assert "as expected" in monitor.reason
    assert monitor.state()["alarms"] == 1


def test_questions_of_the_recorded_families_are_ordinary() -> None:
    monitor = DriftMonitor.fit(questions("validation")[0])
    watch(monitor, questions("test")[0])
    assert monitor.alarms == 0
    assert monitor.beyond / monitor.window < monitor.share


def test_false_alarms_are_as_rare_as_promised() -> None:
    alarms = 0
    for seed in range(20):  # one window in two of 50 requests may ring within 1,000
        monitor = DriftMonitor.fit(crowd(400, seed), window=50, rate=0.5, horizon=1000)
        alarms += watch(monitor, crowd(1000, 100 + seed)).alarms > 0
    assert alarms <= 10


def test_the_threshold_is_the_least_that_keeps_the_rate() -> None:
    wanted = threshold(256, 0.1, 1e-7)
    assert tail(256, 0.1, wanted) <= 1e-7 < tail(256, 0.1, wanted - 1)
    assert threshold(10, 1.0, 0.01) == 11
    strict = DriftMonitor(np.eye(2), np.ones(2), 1.0, 0.1, horizon=10**9)
    assert strict.threshold > DriftMonitor(np.eye(2), np.ones(2), 1.0, 0.1).threshold


@settings(max_examples=30)
@given(st.integers(1, 80), st.floats(0.01, 0.99), st.integers(0, 80))
def test_tails_are_those_of_drawn_trials(trials: int, share: float, count: int) -> None:
    drawn = np.random.default_rng(0).binomial(trials, share, 4000) >= count
    assert tail(trials, share, count) == pytest.approx(drawn.mean(), abs=0.04)


def test_the_bound_of_a_share_holds_as_often_as_it_says() -> None:
    counts = np.random.default_rng(0).binomial(100, 0.1, 1000)
    bounds = {count: share_bound(count, 100, 0.95) for count in set(counts.tolist())}
    assert np.mean([bounds[count] >= 0.1 for count in counts.tolist()]) >= 0.94
    assert share_bound(100, 100, 0.95) == 1.0


def test_distances_are_in_radii_of_the_nearest_centre() -> None:
    monitor = DriftMonitor(np.array([[0.0, 0.0], [9.0, 0.0]]), np.array([1.0, 3.0]), 2.0, 0.1)
    assert monitor.observe(np.array([0.0, 3.0], "f4")) == pytest.approx(3.0)
    assert monitor.observe(np.array([9.0, 3.0], "f4")) == pytest.approx(1.0)
    assert (monitor.seen, monitor.beyond) == (2, 1)


def test_a_saved_monitor_is_the_same_but_for_what_it_saw(tmp_path: Path) -> None:
    monitor = DriftMonitor.fit(crowd(200, 1), encoder="abc", fallback="cheap", window=99)
    watch(monitor, crowd(20, 2)).save(tmp_path / "drift")
    again = DriftMonitor.load(tmp_path / "drift")
    assert again.seen == 0
    monitor.reset()
    assert again.state() == monitor.state()
    vector = crowd(1, 3)[0]
    assert again.observe(vector) == monitor.observe(vector)
    with pytest.raises(ArtifactError):
        DriftMonitor.load(tmp_path)


def test_too_few_records_bound_nothing() -> None:
    with pytest.raises(InputError, match="at least 60 recorded queries, got 59"):
        DriftMonitor.fit(crowd(59, 1))


def test_vectors_are_those_a_router_keeps() -> None:
    queries = tuple(Query.from_text(f"q{i}", f"question number {i}") for i in range(12))
    records = Records(queries, ("ann", "bob"), np.tile([0.0, 1.0], (12, 1)))
    kept = training_vectors(KNN().fit(records))
    assert kept is not None
    assert kept.shape == (12, 128)
    assert training_vectors(BestSingle().fit(records)) is None
