from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from coterie import plugins
from coterie.errors import InputError
from coterie.features import StaticEncoder
from coterie.policies import Guarded
from coterie.records import Records
from coterie.routers.base import Router, load_router
from coterie.routers.linear import Linear
from coterie.routers.neighbors import KNN
from coterie.routers.skills import Skills
from coterie.routers.stack import (
    BEST_SINGLE,
    COMBINATION,
    CategoryStack,
    Stack,
    _cross_combined,
    best_of,
    combine,
)
from coterie.testing import make_records, with_quality
from coterie.types import Estimates, FloatArray, Query

QUICK = ("category-router", "linear")


def noise(queries: int = 120, best: float = 0.7, seed: int = 1) -> Records:
    """Experts of different strength and nothing else to learn; all texts differ."""
    chances = np.array([0.5, 0.5, 0.5, best])
    drawn = np.random.default_rng(seed).random((queries, 4)) < chances
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


class Memory(Router):
    """Knows the scores of the texts that it has seen, of others the means."""

    name = "memory"

    def fit(self, records: Records) -> Self:
        self.experts_, self.means = records.experts, records.quality.mean(axis=0)
        self.seen = {q.text: row for q, row in zip(records.queries, records.quality, strict=True)}
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        quality = np.array([self.seen.get(q.text, self.means) for q in queries])
        return Estimates(self.experts_, quality, 0 * quality)


def test_a_member_that_remembers_its_records_gains_nothing_from_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records, rows = noise(240, best=0.5), np.arange(240)
    assert len(set(records.text_groups)) == 240
    remembered = Memory().fit(records).predict(records.queries).quality.argmax(axis=1)
    assert records.quality[rows, remembered].mean() - records.quality.mean(axis=0).max() > 0.2
    encoder = StaticEncoder()
    monkeypatch.setattr(plugins, "load", lambda kind, name: Memory)
    stack = Stack(("memory",), encoder=encoder).fit(records)
    assert abs(stack.gains_["memory"][0]) < 0.1
    assert stack.chosen_ == BEST_SINGLE


def test_a_combination_of_a_fold_has_the_weights_of_the_other_folds() -> None:
    crossed = np.random.default_rng(0).random((2, 90, 3))
    fold_of = np.repeat([0, 1], 45)
    quality = np.where(fold_of[:, None] == 0, crossed[0], crossed[1])
    found = _cross_combined(crossed, quality, fold_of)
    wanted = np.where(fold_of[:, None] == 0, crossed[1], crossed[0])
    found, wanted = (table - table.mean(axis=1, keepdims=True) for table in (found, wanted))
    np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_a_member_that_is_best_single_itself_gains_exactly_nothing() -> None:
    """Two experts are right on half of the rows each.

    So all rows' means are a tie, while those outside a fold favour who is worse in it.
    """
    right = np.random.default_rng(5).permutation(60) < 30
    records = with_quality(make_records(60), np.array([right, ~right, 0 * right, 0 * right]).T)
    gains = Stack(("best-single",)).fit(records).gains_
    assert gains["best-single"] == [0.0, 0.0]


def test_a_gain_within_its_errors_is_no_reason_to_switch() -> None:
    switched, lucky = [], []
    for seed in range(15):
        records = noise(60, best=0.5, seed=seed)
        switched.append(Stack(("random",)).fit(records).chosen_ != BEST_SINGLE)
        lucky.append(Stack(("random",), errors=0.0).fit(records).chosen_ != BEST_SINGLE)
    assert sum(switched) <= 1
    assert sum(lucky) >= 4


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


def test_the_best_single_expert_comes_with_the_standard_errors_of_the_means() -> None:
    records = noise(400)
    estimates = Stack(("random",)).fit(records.take(range(20))).predict(records.queries)
    stack = Stack(("random",)).fit(records)
    own = stack.predict(records.queries)
    assert stack.chosen_ == BEST_SINGLE
    assert own.error is not None
    assert estimates.error is not None
    np.testing.assert_allclose(own.error[0], records.quality.std(axis=0) / 20, rtol=0.01)
    assert (estimates.error > own.error).all()
    assert own.error.shape == own.quality.shape


def test_a_guard_decides_on_a_stack_that_is_best_single() -> None:
    records = noise(400)
    estimates = Stack(("random",)).fit(records).predict(records.queries)
    best, weak = records.experts[3], records.experts[0]
    for fallback in (best, weak):
        decisions = Guarded(fallback).decide(records.queries, estimates)
        assert {d.experts[0] for d in decisions} == {best}


def combination(members: list[Router], weights: list[float], records: Records) -> Stack:
    """A stack whose combination of these members was best."""
    stack = Stack(("random",)).fit(records)
    stack.members_ = tuple(member.fit(records) for member in members)
    stack.chosen_, stack.weights_ = COMBINATION, np.array(weights)
    return stack


def test_the_error_of_a_combination_weighs_its_members_as_their_differences_do() -> None:
    records = noise(60)
    parts = [kind().fit(records).predict(records.queries) for kind in (KNN, Linear)]
    whole = combination([KNN(), Linear()], [0.5, 0.25], records).predict(records.queries)
    gains = [p.quality - p.quality[:, [0]] for p in (whole, *parts)]
    inside = ((whole.quality > 0) & (whole.quality < 1)).all(axis=1)
    assert inside.any()
    np.testing.assert_allclose(gains[0][inside], (gains[1] / 2 + gains[2] / 4)[inside])
    assert whole.error is not None
    np.testing.assert_allclose(whole.error, parts[0].error / 2 + parts[1].error / 4)  # type: ignore


def test_records_stand_behind_a_member_alone_and_not_behind_a_combination() -> None:
    records = make_records(60)
    alone = Stack(("knn",)).fit(records)
    assert alone.chosen_ == "knn"
    assert alone.predict(records.queries).support is not None
    several = combination([KNN(), Linear()], [0.5, 0.5], records)
    assert several.predict(records.queries).support is None


def test_a_member_without_standard_errors_claims_none_for_the_combination() -> None:
    records = make_records(60)
    estimates = combination([KNN(), Skills()], [0.5, 0.5], records).predict(records.queries)
    assert estimates.error is None
    with pytest.raises(InputError, match="a guard needs standard errors"):
        Guarded("sums").decide(records.queries, estimates)


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
