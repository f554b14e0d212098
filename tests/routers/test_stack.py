from pathlib import Path

import numpy as np
import pytest

from coterie.errors import InputError
from coterie.records import Records
from coterie.routers.base import load_router
from coterie.routers.stack import BEST_SINGLE, COMBINATION, CategoryStack, Stack, best_of, combine
from coterie.testing import make_records, with_quality
from coterie.types import FloatArray

QUICK = ("category-router", "linear")


def noise(queries: int = 120) -> Records:
    """Experts of different strength and nothing else to learn."""
    chances = np.array([0.5, 0.5, 0.5, 0.7])
    drawn = np.random.default_rng(1).random((queries, 4)) < chances
    return with_quality(make_records(queries), drawn.astype(float))


def test_where_nothing_gains_all_queries_go_to_the_best_single_expert() -> None:
    records = noise()
    stack = Stack(QUICK, errors=2.0).fit(records)
    quality = stack.predict(records.queries).quality
    assert (stack.chosen_, stack.members_) == (BEST_SINGLE, ())
    assert set(quality.argmax(axis=1)) == {records.quality.mean(axis=0).argmax()}


def test_where_routing_gains_a_member_or_the_combination_is_taken() -> None:
    records, new = make_records(96), make_records(30, seed=5)
    stack = Stack(QUICK).fit(records)
    chosen = stack.predict(new.queries).quality.argmax(axis=1)
    assert stack.chosen_ != BEST_SINGLE
    assert new.quality[np.arange(30), chosen].mean() > 0.9


def test_what_each_candidate_gains_is_kept_with_its_standard_error() -> None:
    gains = Stack(QUICK).fit(make_records(96)).gains_
    assert set(gains) == {BEST_SINGLE, *QUICK, COMBINATION}
    assert gains[BEST_SINGLE] == [0.0, 0.0]
    assert all(gain > 0.3 and error > 0 for gain, error in map(gains.get, QUICK))  # type: ignore


def test_the_best_of_many_candidates_without_merit_passes_as_rarely_as_one() -> None:
    errors = np.random.default_rng(0).normal(size=(4000, 5)).max(axis=1)
    assert (errors > 2).mean() > 0.1
    assert abs((errors > best_of(5, 2.0)).mean() - 0.0228) < 0.005


def test_a_bound_that_asks_for_nothing_or_for_the_impossible_stays_what_it_is() -> None:
    assert [best_of(5, errors) for errors in (-np.inf, 0.0, 50.0)] == [-np.inf, 0.0, 50.0]


def test_a_stack_of_few_records_is_the_best_single_expert() -> None:
    stack = Stack(QUICK).fit(make_records(12))
    assert (stack.chosen_, stack.gains_) == (BEST_SINGLE, {})


def test_members_are_saved_with_the_stack(tmp_path: Path) -> None:
    records = make_records(60)
    stack = Stack(QUICK).fit(records)
    stack.save(tmp_path)
    again = load_router(tmp_path).predict(records.queries)
    np.testing.assert_array_equal(again.quality, stack.predict(records.queries).quality)


def test_a_stack_of_given_categories_says_that_it_reads_them() -> None:
    assert (Stack.reads, CategoryStack.reads) == ("text", "category")


@pytest.mark.parametrize("folds", [1, 0, 2.5])
def test_fewer_than_two_folds_are_refused(folds: int) -> None:
    with pytest.raises(InputError, match="'folds': expected at least 2"):
        Stack(QUICK, folds=folds).fit(make_records())


def planted(weights: list[float]) -> tuple[FloatArray, FloatArray]:
    """Predictions of two members, and scores that are their sum in these weights plus a level."""
    generator = np.random.default_rng(0)
    crossed = generator.random((2, 200, 3))
    return crossed, np.tensordot(weights, crossed, 1) + generator.random((200, 1))


def test_combining_finds_the_weights_whatever_the_questions_difficulty() -> None:
    np.testing.assert_allclose(combine(*planted([0.2, 0.5])), [0.2, 0.5], atol=1e-9)


def test_a_member_that_misleads_gets_no_weight() -> None:
    assert combine(*planted([0.6, -0.4])).min() == 0.0


def test_combining_tolerates_cells_that_were_not_observed() -> None:
    crossed, quality = planted([0.2, 0.5])
    quality[::3, 1] = np.nan
    assert np.abs(combine(crossed, quality) - [0.2, 0.5]).max() < 0.05
