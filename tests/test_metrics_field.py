"""Metrics of the field against published figures and closed forms."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coterie.errors import InputError
from coterie.metrics import arena, calibration, costs, deferral, gains, hulls, routellm, selection
from coterie.metrics import routereval as re
from coterie.metrics.intervals import (
    bootstrap_mean,
    bootstrap_p,
    holm,
    interval,
    resampled_means,
)
from coterie.panel.sweeps import pair_metrics
from coterie.types import FloatArray

SCORES = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]], float)
TABLES = Path(__file__).parents[2] / "shared" / "data" / "routereval_tables" / "baselines.csv"


# RouterEval


def test_routereval_oracle_has_the_published_values() -> None:
    oracle = re.oracle_chances(SCORES)
    mean = re.mixed_mu(SCORES, 1.0)
    assert mean == 0.75
    assert re.best_single_value(mean, SCORES) == 1.5
    assert re.classification_bias(oracle) == pytest.approx(0.646241, abs=1e-6)


def test_routereval_half_oracle_has_the_published_values() -> None:
    mean = re.mixed_mu(SCORES, 0.5)
    assert mean == pytest.approx(0.541667, abs=1e-6)
    assert re.best_single_value(mean, SCORES) == pytest.approx(1.083333, abs=1e-6)
    assert re.classification_bias(re.mixed_chances(SCORES, 0.5)) == pytest.approx(
        1.392894, abs=1e-6
    )


def test_routereval_random_has_the_published_values() -> None:
    assert re.mixed_mu(SCORES, 0.0) == pytest.approx(1 / 3)
    assert re.classification_bias(re.mixed_chances(SCORES, 0.0)) == pytest.approx(
        1.584963, abs=1e-6
    )


def test_the_oracle_of_routereval_chooses_among_what_was_observed() -> None:
    scores = np.array([[1.0, np.nan, 0.0], [np.nan, 0.5, np.nan], [np.nan] * 3])
    assert re.mixed_mu(scores, 1.0) == 0.75
    assert re.mixed_mu(scores, 0.0) == 0.5
    with pytest.raises(InputError, match="no score was observed"):
        re.mixed_mu(np.full((2, 2), np.nan), 0.5)


def test_a_router_without_chances_has_no_bias() -> None:
    assert re.classification_bias(np.zeros((3, 4))) == 0.0


def test_every_published_v_r_is_mu_over_the_reference() -> None:
    if not TABLES.exists():
        pytest.skip(f"{TABLES} is not here")
    with TABLES.open() as file:
        rows = list(csv.DictReader(file))
    references = {name.replace(" ", "").casefold(): value for name, value in re.REFERENCE.items()}
    for row in rows:
        reference = references[row["benchmark"].replace(" ", "").casefold()]
        low, high = (re.reference_value(float(row["mu"]) + d, reference) for d in (-0.005, 0.005))
        assert low - 0.0051 <= float(row["V_R"]) <= high + 0.0051, row
    assert len(rows) == 192


# RouterBench

POINTS = arrays(
    float, st.tuples(st.integers(1, 12), st.just(2)), elements=st.floats(0, 1, width=16)
)


@settings(max_examples=60)
@given(POINTS)
def test_a_hull_is_concave_rising_and_above_every_point(points: FloatArray) -> None:
    hull = hulls.non_decreasing_hull(points[:, 0], points[:, 1])
    rises, runs = np.diff(hull[:, 1]), np.diff(hull[:, 0])
    assert (rises > 0).all()
    assert (runs > 0).all()
    assert (np.diff(rises / runs) <= 1e-9).all()
    assert (hulls.hull_at(hull, points[:, 0]) >= points[:, 1] - 1e-9).all()


def test_aiq_of_a_line_is_its_middle() -> None:
    cost, quality = np.array([1.0, 3.0]), np.array([0.4, 0.8])
    assert hulls.aiq(cost, quality, 1.0, 3.0) == pytest.approx(0.6)
    assert hulls.aiq(cost, quality, 1.0, 5.0) == pytest.approx(0.7)
    assert hulls.aiq_as_released(cost, quality, 3.0) == pytest.approx(0.4)
    assert hulls.aiq_as_released(cost, quality, 5.0) == pytest.approx(0.56)


def test_below_its_first_point_a_hull_is_mixed_with_no_answer() -> None:
    assert hulls.aiq(np.array([2.0]), np.array([0.8]), 0.0, 2.0) == pytest.approx(0.4)


def test_points_under_the_line_do_not_count() -> None:
    cost, quality = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.2, 0.3, 0.8, 0.7])
    assert hulls.non_decreasing_hull(cost, quality).tolist() == [[1.0, 0.2], [3.0, 0.8]]


def test_the_zero_router_is_the_hull_of_single_experts() -> None:
    cost = np.array([[1.0, 2.0, 4.0]] * 2)
    quality = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    assert hulls.zero_router(cost, quality).tolist() == [[1.0, 0.5], [4.0, 1.0]]


def test_the_zero_router_goes_by_what_was_observed() -> None:
    cost = np.array([[1.0, np.nan, np.nan], [np.nan, 2.0, np.nan]])
    quality = np.array([[0.5, 1.0, 1.0], [np.nan, 0.5, 1.0]])
    assert hulls.zero_router(cost, quality).tolist() == [[1.0, 0.5], [2.0, 0.75]]
    with pytest.raises(InputError, match="no expert has both a cost and a score"):
        hulls.zero_router(np.full((2, 3), np.nan), quality)


def test_hulls_and_aiq_need_something_to_measure() -> None:
    with pytest.raises(InputError, match="at least one point"):
        hulls.non_decreasing_hull(np.empty(0), np.empty(0))
    with pytest.raises(InputError, match="low < high"):
        hulls.aiq(np.array([1.0]), np.array([1.0]), 2.0, 2.0)


# RouteLLM


def pair(seed: int, n: int = 400) -> tuple[FloatArray, FloatArray, FloatArray]:
    generator = np.random.default_rng(seed)
    weak, strong = (generator.random((2, n)) < [[0.5], [0.8]]).astype(float)
    return weak, strong, generator.random(n)


def test_an_undecided_preference_is_exactly_half_of_the_gap() -> None:
    weak, strong, _ = pair(0)
    assert routellm.apgr(weak, strong, np.zeros(400)) == pytest.approx(0.5)
    assert routellm.cpt(weak, strong, np.zeros(400), 0.5) == pytest.approx(0.5)


def test_random_preferences_recover_half_of_the_gap_in_expectation() -> None:
    exact = [routellm.apgr(*pair(seed)) for seed in range(200)]
    binned = [routellm.apgr_as_released(*pair(seed)) for seed in range(200)]
    assert np.mean(exact) == pytest.approx(0.5, abs=0.03)
    assert np.mean(binned) == pytest.approx(0.5, abs=0.03)


def test_apgr_averages_over_every_order_of_a_tie() -> None:
    weak, strong = np.array([0.0, 0.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0, 1.0])
    tied = np.array([1.0, 1.0, 1.0, 0.0])
    generator = np.random.default_rng(0)
    orders = [routellm.apgr(weak, strong, tied + 0.1 * generator.random(4)) for _ in range(4000)]
    assert routellm.apgr(weak, strong, tied) == pytest.approx(np.mean(orders), abs=0.03)


def test_the_best_preference_needs_the_fewest_strong_calls() -> None:
    weak, strong = np.array([0.0, 0.0, 1.0, 1.0]), np.array([1.0, 0.0, 1.0, 1.0])
    assert routellm.cpt(weak, strong, strong - weak, 1.0) == pytest.approx(0.25)
    assert routellm.cpt(weak, strong, strong - weak, 0.5) == pytest.approx(0.125)
    assert routellm.apgr(weak, strong, strong - weak) == pytest.approx(0.875)


def test_the_binned_variant_comes_close_to_the_exact_one() -> None:
    weak, strong, noise = pair(3, 4000)
    wanted = strong - weak + 2 * noise
    exact = routellm.apgr(weak, strong, wanted)
    assert routellm.apgr_as_released(weak, strong, wanted) == pytest.approx(exact, abs=0.02)
    first = routellm.cpt_as_released(weak, strong, wanted, 0.5)
    assert first == pytest.approx(routellm.cpt(weak, strong, wanted, 0.5), abs=0.05)


def test_pgr_needs_a_stronger_strong_expert() -> None:
    assert routellm.pgr(0.7, 0.6, 0.8) == pytest.approx(0.5)
    with pytest.raises(InputError, match="strong expert above the weak"):
        routellm.pgr(0.5, 0.8, 0.6)


@pytest.mark.parametrize("strong", [0, 1])
def test_the_strong_expert_of_a_pair_is_the_better_one_wherever_it_is_listed(strong: int) -> None:
    generator = np.random.default_rng(0)
    quality = (generator.random((400, 2)) < [0.4, 0.7]).astype(float)
    quality = quality if strong else quality[:, ::-1]
    names = ("small", "large") if strong else ("large", "small")
    found = pair_metrics(quality, quality, names, np.zeros(400, int))
    assert found is not None
    assert (found.weak, found.strong) == ("small", "large")
    wanted = quality[:, strong] - quality[:, 1 - strong]
    apgr = routellm.apgr(quality[:, 1 - strong], quality[:, strong], wanted)
    assert found.apgr == apgr > 1.0
    assert found.cpt_20 < found.cpt_50 < found.cpt_80


def test_pairs_are_judged_on_queries_that_both_experts_answered() -> None:
    weak, strong, preference = pair(0)
    holes = np.arange(400) % 7 == 0
    partial = np.where(holes, np.nan, strong)
    for metric in (routellm.apgr, routellm.apgr_as_released):
        whole = metric(weak[~holes], strong[~holes], preference[~holes])
        assert metric(weak, partial, preference) == whole
    for threshold in (routellm.cpt, routellm.cpt_as_released):
        whole = threshold(weak[~holes], strong[~holes], preference[~holes], 0.5)
        assert threshold(weak, partial, preference, 0.5) == whole
    with pytest.raises(InputError, match="no query has a score of both experts"):
        routellm.apgr(weak, np.full(400, np.nan), preference)
    with pytest.raises(InputError, match="a preference is NaN"):
        routellm.apgr(weak, strong, np.full(400, np.nan))


# RouterArena, LLMRouterBench, UniRoute, costs


@pytest.mark.parametrize(
    ("accuracy", "cost", "score"),
    [
        (0.7976, 0.70, 0.7621),
        (0.7396, 10.02, 0.6432),
        (0.6721, 2.06, 0.6387),
        (0.4704, 0.27, 0.4807),
        (0.3201, 0.07, 0.3375),
        (0.5869, 4.27, 0.5548),
    ],
)
def test_published_rows_of_the_arena(accuracy: float, cost: float, score: float) -> None:
    assert arena.arena_score(accuracy, cost) == pytest.approx(score, abs=1e-4)


def test_the_arena_clamps_costs_and_refuses_negative_ones() -> None:
    assert arena.arena_score(0.5, 0.0) == arena.arena_score(0.5, 0.0044)
    assert arena.arena_score(0.5, 999.0) == arena.arena_score(0.0, 200.0) == 0.0
    with pytest.raises(InputError, match="at least 0"):
        arena.arena_score(0.5, -1.0)


def test_gains_are_relative_and_averaged_over_data_sets() -> None:
    own, base = np.array([0.6, 0.3]), np.array([0.5, 0.2])
    assert gains.avg_acc(own) == pytest.approx(0.45)
    assert gains.gain_at_best(own, base) == pytest.approx((0.2 + 0.5) / 2)
    assert gains.gain_at_random(own, base) == gains.gain_at_best(own, base)
    assert gains.gap_at_oracle(own, np.array([0.8, 0.3])) == pytest.approx(0.125)
    assert gains.gain_at_best(own, np.array([0.5, 0.0])) == pytest.approx(0.2)
    assert np.isnan(gains.gain_at_best(own, np.zeros(2)))


def test_saving_counts_only_settings_as_good_as_best_single() -> None:
    accuracies, cost = np.array([0.5, 0.7, 0.8]), np.array([1.0, 4.0, 9.0])
    assert gains.perf_gain(accuracies, 0.7) == pytest.approx(1 / 7)
    assert gains.cost_save(accuracies, cost, 0.7, 10.0) == pytest.approx(0.6)
    assert np.isnan(gains.cost_save(accuracies, cost, 0.9, 10.0))


def test_settings_on_the_front_have_no_distance() -> None:
    front = np.array([[0.0, 0.0], [1.0, 0.5], [2.0, 1.0], [2.0, 0.2]])
    assert gains.pareto_front(front).tolist() == [[0.0, 0.0], [1.0, 0.5], [2.0, 1.0]]
    assert gains.pareto_dist(np.array([0.5]), np.array([1.0]), front) == 0.0
    assert gains.pareto_dist(np.array([0.2]), np.array([2.0]), front) == pytest.approx(
        0.583, abs=1e-3
    )


def test_qnc_is_the_cost_of_equal_quality() -> None:
    cost, quality = np.array([1.0, 3.0]), np.array([0.4, 0.8])
    assert deferral.qnc(cost, quality, 0.6, 4.0) == pytest.approx(0.5)
    assert deferral.qnc(cost, quality, 0.3, 4.0) == pytest.approx(0.25)
    assert deferral.qnc(cost, quality, 0.9, 4.0) == np.inf


@pytest.mark.parametrize(("first", "relative"), [(0.0, 1.0), (1.0, np.inf)])
def test_beside_a_free_best_expert_only_nothing_is_neutral(first: float, relative: float) -> None:
    assert deferral.qnc(np.array([first]), np.array([0.8]), 0.8, 0.0) == relative
    rising = deferral.qnc(np.array([0.0, 2.0]), np.array([0.5, 0.9]), 0.8, 0.0)
    assert rising == np.inf


def test_the_deferral_area_is_the_mean_height_of_the_curve() -> None:
    cost, quality = np.array([0.0, 2.0]), np.array([0.4, 0.8])
    assert deferral.deferral_area(cost, quality, 4.0) == pytest.approx(0.7)
    assert deferral.deferral_area(cost, quality, 4.0, 0.5) == pytest.approx(0.6)
    assert deferral.deferral_area(cost[1:], quality[1:], 2.0) == pytest.approx(0.4)
    assert deferral.peak_quality(quality) == 0.8


def test_a_right_answer_costs_more_where_few_are_right() -> None:
    assert costs.cost_of_pass(np.array([1.0, 1.0]), np.array([1.0, 0.0])) == 2.0
    assert costs.cost_of_pass(np.ones(2), np.zeros(2)) == np.inf


def test_the_lift_of_always_asking_the_large_expert_is_zero() -> None:
    base = costs.ibc(0.8, 5.0, 0.6, 1.0)
    assert base == pytest.approx(0.05)
    assert costs.ibc_lift(costs.ibc(0.75, 2.5, 0.6, 1.0), base) == pytest.approx(100.0)
    with pytest.raises(InputError, match="no benefit per cost"):
        costs.ibc(0.8, 1.0, 0.6, 1.0)
    with pytest.raises(InputError, match="no lift"):
        costs.ibc_lift(0.1, 0.0)


# Calibration, selection


def test_honest_expectations_are_calibrated_and_bold_ones_are_not() -> None:
    generator = np.random.default_rng(0)
    chance = generator.random(20_000)
    came = (generator.random(20_000) < chance).astype(float)
    assert calibration.ece(chance, came) < 0.02
    assert calibration.ece((chance > 0.5).astype(float), came) == pytest.approx(0.25, abs=0.02)
    assert calibration.brier(chance, came) == pytest.approx(1 / 6, abs=0.01)


def test_a_calibration_bin_reports_its_means_and_share() -> None:
    hoped, came, share = calibration.reliability(np.array([0.1, 0.2, 1.0]), np.array([0, 1, 1]), 2)
    assert hoped.tolist() == pytest.approx([0.15, 1.0])
    assert came.tolist() == [0.5, 1.0]
    assert share.tolist() == pytest.approx([2 / 3, 1 / 3])
    with pytest.raises(InputError, match="at least 1"):
        calibration.reliability(np.ones(1), np.ones(1), 0)


def test_calibration_is_judged_where_scores_were_observed() -> None:
    hoped, came = np.random.default_rng(0).random((2, 50, 3))
    holes = np.random.default_rng(1).random((50, 3)) < 0.4
    partial = np.where(holes, np.nan, came)
    for metric in (calibration.brier, calibration.ece):
        assert metric(hoped, partial) == metric(hoped[~holes], came[~holes])
        assert metric(np.where(holes, np.nan, hoped), partial) == metric(hoped, partial)
        with pytest.raises(InputError, match="no score was observed"):
            metric(hoped, np.full((50, 3), np.nan))
        with pytest.raises(InputError, match="an expectation is NaN"):
            metric(np.where(holes, np.nan, hoped), came)


def test_entropy_tells_a_collapsed_router_from_an_even_one() -> None:
    even, collapsed = np.array([0, 1, 2, 3]), np.array([2, 2, 2, 2])
    assert selection.selection_entropy(selection.selection_shares(even, 4)) == 2.0
    assert selection.selection_entropy(selection.selection_shares(collapsed, 4)) == 0.0


def test_the_gain_of_switching_counts_only_what_was_switched() -> None:
    chosen, scores = np.array([0, 1, 1, 0]), np.array([1.0, 1.0, 0.0, 0.0])
    baseline = np.array([1.0, 0.0, 0.0, 0.0])
    assert selection.switch_rate(chosen, 0) == 0.5
    assert selection.switch_gain(scores, baseline, chosen != 0) == 0.5
    assert selection.switch_gain(scores, baseline, np.zeros(4, bool)) == 0.0


# Intervals of a whole panel


def test_shared_resamples_give_the_interval_of_each_column() -> None:
    table = np.random.default_rng(0).random((300, 3))
    means = resampled_means(table)
    for column in range(3):
        shared, own = interval(0.5, means[:, column]), bootstrap_mean(table[:, column])
        assert shared.low == pytest.approx(own.low, abs=0.004)
        assert shared.high == pytest.approx(own.high, abs=0.004)


def test_shared_resamples_are_paired() -> None:
    hard = np.random.default_rng(0).random(200)
    means = resampled_means(np.column_stack([hard, hard + 0.01]), resamples=500)
    assert np.ptp(means[:, 1] - means[:, 0]) < 1e-9


def test_p_is_small_for_a_gain_and_one_for_none() -> None:
    generator = np.random.default_rng(0)
    assert bootstrap_p(generator.normal(5, 1, 9999)) == pytest.approx(2 / 10_000)
    assert bootstrap_p(np.zeros(9999)) == 1.0
    assert bootstrap_p(generator.normal(1.96, 1, 9999)) == pytest.approx(0.05, abs=0.01)


def test_p_values_of_noise_are_uniform() -> None:
    generator = np.random.default_rng(1)
    gains_ = [resampled_means(generator.normal(size=(60, 1)), s, 999)[:, 0] for s in range(200)]
    values = [bootstrap_p(g) for g in gains_]
    assert np.mean(np.array(values) < 0.1) == pytest.approx(0.1, abs=0.06)
    assert np.mean(values) == pytest.approx(0.5, abs=0.08)


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_helps_nor_reorders(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(a >= v for a, v in zip(adjusted, values, strict=True))
    assert max(adjusted) <= 1.0
    assert np.argsort(values, kind="stable").tolist() == np.lexsort((values, adjusted)).tolist()
