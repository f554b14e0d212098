import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coterie.errors import InputError
from coterie.metrics import bootstrap_mean, paired_difference
from coterie.types import FloatArray

SCORES = arrays(float, st.integers(1, 30), elements=st.floats(0, 1, width=16))


@settings(max_examples=15)
@given(SCORES)
def test_the_interval_lies_within_the_scores_around_their_mean(scores: FloatArray) -> None:
    value, low, high = bootstrap_mean(scores)
    assert value == pytest.approx(scores.mean())
    assert scores.min() - 1e-9 <= low <= high <= scores.max() + 1e-9


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(120):
        _, low, high = bootstrap_mean((generator.random(80) < 0.7).astype(float), seed)
        hits += low <= 0.7 <= high
    assert 0.88 <= hits / 120 <= 1.0


def test_the_interval_has_the_width_of_the_normal_one() -> None:
    scores = np.repeat([0.0, 1.0], 200)
    interval = bootstrap_mean(scores)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(400), rel=0.05)


def test_the_interval_depends_on_the_seed_alone() -> None:
    scores = np.random.default_rng(0).random(20)
    assert bootstrap_mean(scores, 3) == bootstrap_mean(scores, 3)
    assert bootstrap_mean(scores, 3) != bootstrap_mean(scores, 4)


@settings(max_examples=15)
@given(SCORES)
def test_the_difference_of_identical_scores_is_exactly_zero(scores: FloatArray) -> None:
    assert paired_difference(scores, scores.copy()) == (0.0, 0.0, 0.0)


def test_pairing_cancels_what_both_find_hard() -> None:
    hard = np.random.default_rng(0).random(100)
    difference = paired_difference(hard + 0.01, hard)
    assert difference.low == pytest.approx(0.01)
    assert bootstrap_mean(hard + 0.01).low < hard.mean()


def test_turning_the_comparison_turns_the_interval() -> None:
    one, two = np.random.default_rng(0).random((2, 50))
    there, back = paired_difference(one, two), paired_difference(two, one)
    assert (there.value, there.low) == pytest.approx((-back.value, -back.high))


def test_many_scores_are_resampled_in_bounded_blocks() -> None:
    scores = np.random.default_rng(0).random(2000)
    _, low, high = bootstrap_mean(scores)
    assert high - low == pytest.approx(2 * 1.96 * scores.std() / np.sqrt(2000), rel=0.05)


def test_means_and_differences_go_by_what_was_observed() -> None:
    one, two = np.random.default_rng(0).random((2, 60))
    holes = np.arange(60) % 5 == 0
    partial = np.where(holes, np.nan, one)
    assert bootstrap_mean(partial) == bootstrap_mean(one[~holes])
    assert paired_difference(partial, two) == paired_difference(one[~holes], two[~holes])
    assert paired_difference(two, partial) == paired_difference(two[~holes], one[~holes])


@pytest.mark.parametrize("scores", [np.full(3, np.nan), np.empty(0)])
def test_where_nothing_was_observed_there_is_no_mean(scores: FloatArray) -> None:
    with pytest.raises(InputError, match="no score was observed"):
        bootstrap_mean(scores)
    with pytest.raises(InputError, match="no score was observed"):
        paired_difference(scores, np.zeros(len(scores)))
