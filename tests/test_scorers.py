"""Learnt scorers, thresholds chosen on records, and the cascades that use them."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.answers import arrow
from coterie.artifacts import write_artifact
from coterie.compositions.cascade_routing import CascadeRouting, expected_maximum, next_expert
from coterie.compositions.scored import Scored, learn_cascade
from coterie.drivers.replay import replay
from coterie.errors import ArtifactError, InputError
from coterie.evaluation import replay_row
from coterie.policies import Chain
from coterie.records import Records
from coterie.routers.linear import Linear
from coterie.scorers import Scorer, learn_scorer, load_scorer
from coterie.testing import make_records
from coterie.thresholds import (
    best_plan,
    best_thresholds,
    certified_threshold,
    outcome,
    stops,
)
from coterie.types import Completion, Decision, FloatArray

RECORDS = make_records(90)
SCORER, CHANCES = learn_scorer(RECORDS, arrow)


def shuffled(records: Records) -> Records:
    """The same answers, each expert's handed to other questions than it was scored on."""
    generator = np.random.default_rng(0)
    order = np.argsort(generator.random(records.texts.shape), axis=0)
    logprob = np.full(records.logprob.shape, np.nan)
    return replace(records, texts=np.take_along_axis(records.texts, order, 0), logprob=logprob)


def test_a_scorer_tells_right_answers_from_wrong_ones_it_has_not_seen() -> None:
    right = RECORDS.quality == 1
    assert CHANCES[right].min() > CHANCES[~right].max()


def test_a_scorer_of_shuffled_answers_knows_nothing() -> None:
    _, chances = learn_scorer(shuffled(RECORDS.select(["generalist"])), arrow)
    right = RECORDS.select(["generalist"]).quality == 1
    assert abs(chances[right].mean() - chances[~right].mean()) < 0.15


def test_scores_do_not_depend_on_the_other_answers_in_the_batch() -> None:
    answers = [Completion(e, "=> right", logprob=-0.1) for e in RECORDS.experts]
    queries = RECORDS.queries[: len(answers)]
    together = SCORER.scores(queries, answers)
    alone = [SCORER.score(q, c) for q, c in zip(queries, answers, strict=True)]
    assert together == pytest.approx(alone)
    assert SCORER.score(queries[0], replace(answers[0], error="out of order")) == 0.0


def test_a_scorer_is_saved_and_loaded_as_it_was(tmp_path: Path) -> None:
    SCORER.save(tmp_path)
    again = load_scorer(tmp_path)
    assert repr(again) == repr(SCORER)
    answer = Completion("sums", "=> right")
    assert again.score(RECORDS.queries[0], answer) == SCORER.score(RECORDS.queries[0], answer)
    write_artifact(tmp_path, "scorer", {"experts": []}, {})
    with pytest.raises(ArtifactError, match="damaged"):
        load_scorer(tmp_path)


def test_what_a_scorer_has_not_seen_is_refused() -> None:
    with pytest.raises(InputError, match="no answer of 'stranger'; it knows sums"):
        SCORER.score(RECORDS.queries[0], Completion("stranger", "95"))
    with pytest.raises(InputError, match="no answer of 'stranger'"):
        Scored(SCORER, {"stranger": 0.5})
    with pytest.raises(InputError, match="both a score and an answer"):
        learn_scorer(replace(RECORDS, texts=np.full(RECORDS.texts.shape, None, object)))


def chain_of(rows: int, stages: int, seed: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    generator = np.random.default_rng(seed)
    quality = (generator.random((rows, stages)) < np.linspace(0.4, 0.9, stages)).astype(float)
    scores = np.clip(0.5 * quality[:, :-1] + 0.6 * generator.random((rows, stages - 1)), 0, 1)
    return scores, quality, np.tile(4.0 ** np.arange(stages), (rows, 1))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.integers(2, 3), st.floats(1, 25))
def test_no_thresholds_of_the_grid_are_better_within_the_budget(
    seed: int, stages: int, budget: float
) -> None:
    parts = chain_of(40, stages, seed)
    found = best_thresholds(*parts, budget, grid=4)
    assert found is not None
    worth, paid = (float(v.mean()) for v in outcome(*parts, found))
    assert paid <= budget + 1e-9
    grids = [[-np.inf, *np.quantile(c, np.linspace(0, 1, 4)), np.inf] for c in parts[0].T]
    for thresholds in itertools.product(*grids):
        other, cost = (float(v.mean()) for v in outcome(*parts, thresholds))
        assert other <= worth + 1e-9 or cost > budget - 1e-9


@given(st.integers(0, 99), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_threshold_never_stops_earlier(seed: int, one: float, two: float) -> None:
    scores, _, _ = chain_of(30, 3, seed)
    low, high = sorted((one, two))
    assert (stops(scores, [low] * 2) <= stops(scores, [high] * 2)).all()


def test_a_score_that_is_not_known_never_stops() -> None:
    assert stops(np.array([[np.nan]]), [-np.inf]).tolist() == [1]


@given(st.integers(0, 99))
def test_more_budget_never_loses_quality(seed: int) -> None:
    scores, quality, cost = chain_of(40, 3, seed)
    padded = np.column_stack([scores, np.zeros(40)])
    found = [best_plan(padded, quality, cost, budget, grid=6) for budget in (1.0, 3.0, 30.0)]
    assert [p.quality for p in found] == sorted(p.quality for p in found)
    assert found[0].chain == (0,)


def test_a_budget_below_the_cheapest_expert_is_refused() -> None:
    scores, quality, cost = chain_of(9, 2, 0)
    with pytest.raises(InputError, match="the cheapest expert costs 1 a query, more than"):
        best_plan(np.column_stack([scores, scores]), quality, cost, 0.5)


def test_a_certified_threshold_keeps_its_promise_on_new_queries() -> None:
    broken = 0
    for seed in range(20):
        scores, quality, _ = chain_of(300, 2, seed)
        threshold, bound = certified_threshold(scores, quality, 0.1, 0.9)
        new, better, _ = chain_of(4000, 2, 1000 + seed)
        stage = stops(new, [threshold])
        broken += (better[np.arange(4000), stage] < better[:, -1]).mean() > 0.1
        assert bound <= 0.1
    assert broken <= 6  # 2 are expected at most; 7 or more would come in 0.3 % of such tests


def test_without_evidence_nothing_is_certified() -> None:
    scores, quality, _ = chain_of(5, 2, 0)
    assert certified_threshold(scores, quality, 0.05) == (np.inf, 0.0)


def test_a_learnt_cascade_is_better_than_any_expert_of_its_price_and_runs_in_replay() -> None:
    learnt = learn_cascade(RECORDS, 2.5, arrow)
    new = make_records(90, seed=5)
    decisions = [Decision("cascade-scored", learnt.experts, (0.5,) * len(learnt.experts))] * 90
    row = replay_row("cascade", decisions, learnt.composition, new, arrow)
    assert row.costs.mean() <= 2.6
    assert row.scores.mean() > 0.6  # the specialists score a third, at cost 1
    assert learnt.plan.quality == pytest.approx(row.scores.mean(), abs=0.1)


def coins() -> Records:
    """A cheap expert, right on half of the questions whatever they ask, and a perfect one."""
    records = make_records(120).select(["sums", "generalist"])
    right = np.random.default_rng(3).random((120, 2)) < np.array([0.5, 1.0])
    texts = np.where(right, "=> right", "=> wrong").astype(object)
    return replace(records, quality=right.astype(float), texts=texts)


def test_a_cascade_learnt_from_shuffled_answers_gains_nothing_over_chance() -> None:
    records = coins()
    real = learn_cascade(records, 3.1, arrow).plan
    noise = learn_cascade(shuffled(records), 3.1, arrow).plan
    assert real.quality > 0.97
    assert 0.6 < noise.quality < 0.85  # half of the questions at random to the perfect one: .75


def test_rows_without_costs_leave_nothing_to_choose_from() -> None:
    unpriced = replace(RECORDS.take(range(9)), cost=np.full((9, 4), np.nan))
    with pytest.raises(InputError, match="no query has score, cost and answer"):
        learn_cascade(unpriced, 1.0, arrow)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.5)), min_size=1, max_size=5))
def test_the_expected_maximum_is_that_of_a_simulation(facts: list[tuple[float, float]]) -> None:
    mean, spread = (np.array(column) for column in zip(*facts, strict=True))
    draws = np.random.default_rng(0).normal(mean, spread, (20_000, len(mean))).max(axis=1)
    assert expected_maximum(mean, spread) == pytest.approx(draws.mean(), abs=0.02)
    assert expected_maximum(mean, spread) >= mean.max() - 1e-3


def test_routing_and_cascading_are_special_cases() -> None:
    mean, costs = np.array([0.5, 0.7, 0.6]), np.array([0.0, 0.1, 0.3])
    sure = np.zeros(3)
    assert next_expert(mean, sure, costs, (), 3) == 1  # routing: the largest utility
    assert next_expert(mean, sure, costs, (1,), 3) is None
    open_ = np.full(3, 0.4)
    assert next_expert(mean, open_, np.array([0.0, 0.01, 0.02]), (), 3) == 0  # the cheapest first
    known = np.array([0.05, 0.7, 0.6])
    assert next_expert(known, np.array([0, 0.4, 0.4]), costs, (0,), 3) == 1  # a bad answer goes on
    assert next_expert(np.array([0.99, 0.7, 0.6]), np.array([0, 0.2, 0.2]), costs, (0,), 3) is None


@given(st.permutations(range(3)))
def test_the_order_of_the_candidates_does_not_matter(order: list[int]) -> None:
    mean, spread, costs = np.array([0.4, 0.7, 0.6]), np.full(3, 0.3), np.array([0.01, 0.1, 0.05])
    place = next_expert(mean[order], spread[order], costs[order], (), 2)
    assert place is not None
    assert order[place] == next_expert(mean, spread, costs, (), 2)


def routed(price: float, scorer: Scorer = SCORER) -> tuple[float, float]:
    """Mean score and cost of cascade routing over new questions, replayed."""
    new = make_records(60, seed=9)
    estimates = Linear().fit(RECORDS).predict(new.queries)
    decisions = Chain("cascade-routing", RECORDS.experts, willingness_to_pay=price).decide(
        new.queries, estimates
    )
    answers = replay(new.queries, decisions, CascadeRouting(scorer), new)
    right = [a.completion.text == "=> right" for a in answers]
    return float(np.mean(right)), float(np.mean([a.cost for a in answers]))


def test_cascade_routing_pays_more_for_quality_the_more_it_is_worth() -> None:
    cheap, fair, dear = (routed(price) for price in (0.5, 20.0, 1e6))
    assert cheap[1] <= fair[1] <= dear[1]
    assert dear[0] == 1.0
    assert cheap[0] > 0.9  # the router knows the specialist of each topic


def test_too_many_candidates_are_refused() -> None:
    many = Decision("any", tuple("abcdefghijklm"), (0.5,) * 13)
    with pytest.raises(InputError, match="at most 12 candidates, got 13"):
        next(CascadeRouting(SCORER)(RECORDS.queries[0], many, 0))
