import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coterie.errors import InputError
from coterie.policies import (
    RULES,
    Budget,
    Certified,
    Guarded,
    Policy,
    Recruit,
    Utility,
    allocate,
    distinct_experts,
    paper_chances,
    released_chances,
    softmax,
    switch_share,
)
from coterie.policies.certified import upper_bound
from coterie.policies.guarded import paired_gain
from coterie.records import Records
from coterie.routers.base import Router
from coterie.routers.baselines import Always, BestSingle
from coterie.routers.routereval import RouterEvalCluster
from coterie.routers.skills import Skills
from coterie.testing import make_records, with_quality
from coterie.types import Decision, Estimates, FloatArray, Query, Support

PROFILES = np.array([[10, 3, -6], [4, 8, 2], [-2, 1, 5]])  # algebra, biology, chemistry
TOTALS = PROFILES.sum(axis=1).astype(float)
SUITABILITY = PROFILES[:, [0, 2]].sum(axis=1).astype(float)  # algebra and chemistry
EXPERTS = ("ann", "bob", "cid", "dee")
UNIT = st.floats(0, 1, width=16)


def queries(count: int) -> list[Query]:
    return [Query.from_text(f"q{i}", f"question {i}") for i in range(count)]


def estimates(quality: Any, cost: Any = None, **more: Any) -> Estimates:
    quality = np.asarray(quality, float)
    cost = np.zeros(quality.shape) if cost is None else np.asarray(cost, float)
    return Estimates(EXPERTS[: quality.shape[1]], quality, cost, **more)


def skilled(quality: Any) -> Estimates:
    """With skill scores that agree with the qualities."""
    local = 2 * np.asarray(quality, float) - 1
    return estimates(quality, suitability=local, strength=np.ones(local.shape[1]))


def matrix(elements: st.SearchStrategy[float]) -> st.SearchStrategy[FloatArray]:
    return arrays(float, (5, 4), elements=elements)


# Symbolic-MoE, as published and as released


def test_the_test_vectors_start_from_the_totals_and_sums_of_the_paper() -> None:
    assert TOTALS.tolist() == [7, 14, 4]
    assert SUITABILITY.tolist() == [4, 6, 3]


def test_paper_chances_are_those_of_the_specification() -> None:
    chances = paper_chances(SUITABILITY, TOTALS)
    np.testing.assert_allclose(chances, [0.011172, 0.985722, 0.003106], atol=5e-7)


def test_released_chances_are_those_of_the_specification() -> None:
    chances = released_chances(SUITABILITY, TOTALS)
    np.testing.assert_allclose(chances, [0.138028, 0.828169, 0.033803], atol=5e-7)


def test_released_chances_fall_back_to_shifted_scores_where_none_is_positive() -> None:
    chances = released_chances(np.array([-3.0, 0.0, -1.0]), TOTALS)
    np.testing.assert_allclose(chances, [0.055619, 0.889898, 0.054484], atol=5e-7)


@pytest.mark.parametrize(
    ("totals", "strength"),
    [
        ((7, 14, 4), (0.187739, 0.750958, 0.061303)),
        ((7, -3, 0), (0.876812, 0.007246, 0.115942)),
    ],
)
def test_released_strength_is_that_of_the_specification(
    totals: tuple[int, ...], strength: tuple[float, ...]
) -> None:
    equal = released_chances(np.ones(3), np.array(totals, float))
    np.testing.assert_allclose(equal, strength, atol=5e-7)


def test_released_chances_leave_out_who_has_no_positive_score() -> None:
    chances = released_chances(np.array([5.0, -1.0, 0.0]), TOTALS)
    assert chances.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("chances", [paper_chances, released_chances])
@pytest.mark.parametrize(
    ("suitability", "totals"),
    [((1, 2, 3), (-2, 1, 1)), ((0, 0, 0), (0, 0, 0)), ((5, 0, 0), (0, 4, 0)), ((-9, -9, -9), ())],
)
def test_awkward_profiles_still_give_a_distribution(
    chances: Any, suitability: tuple[int, ...], totals: tuple[int, ...]
) -> None:
    strength = np.array(totals or (-3, -3, -3), float)
    found = chances(np.array(suitability, float), strength)
    assert found.sum() == pytest.approx(1.0)
    assert (found >= 0).all()


@given(arrays(float, 4, elements=st.floats(-1e6, 1e6)), st.floats(0.01, 100))
def test_softmax_is_a_distribution_that_keeps_the_order(
    values: FloatArray, temperature: float
) -> None:
    shares = softmax(values, temperature)
    assert shares.sum() == pytest.approx(1.0)
    assert shares[values.argmax()] == shares.max()


# Utility


def test_utility_weighs_quality_against_cost() -> None:
    expected = estimates([[0.9, 0.6]], [[10.0, 1.0]])
    for willingness, first in ((0, "bob"), (20, "bob"), (40, "ann"), (float("inf"), "ann")):
        (decision,) = Utility(willingness).decide(queries(1), expected)
        assert decision.experts[0] == first
        assert sorted(decision.experts) == ["ann", "bob"]


def test_equal_quality_is_decided_by_cost_and_then_by_order() -> None:
    (cheap,) = Utility().decide(queries(1), estimates([[0.5, 0.5, 0.5]], [[3.0, 1.0, 2.0]]))
    (first,) = Utility().decide(queries(1), estimates([[0.5, 0.5, 0.5]], [[1.0, 1.0, 1.0]]))
    assert cheap.experts == ("bob", "cid", "ann")
    assert first.experts == ("ann", "bob", "cid")


@settings(deadline=None)
@given(matrix(UNIT), matrix(st.floats(0, 1e3, width=16)), st.lists(st.floats(0, 1e6), max_size=6))
def test_the_mean_cost_never_falls_as_the_willingness_to_pay_rises(
    quality: FloatArray, cost: FloatArray, willingness: list[float]
) -> None:
    paid = []
    for value in [*sorted(willingness), float("inf")]:
        decisions = Utility(value).decide(queries(5), estimates(quality, cost))
        chosen = [EXPERTS.index(d.experts[0]) for d in decisions]
        paid.append(cost[np.arange(5), chosen].mean())
    assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(paid))


@given(matrix(UNIT), matrix(UNIT), st.permutations(range(4)))
def test_the_chosen_utility_does_not_depend_on_the_order_of_the_experts(
    quality: FloatArray, cost: FloatArray, order: list[int]
) -> None:
    turned = Estimates(tuple(EXPERTS[j] for j in order), quality[:, order], cost[:, order])
    first = Utility(2.0).decide(queries(5), estimates(quality, cost))
    second = Utility(2.0).decide(queries(5), turned)
    assert [d.utility for d in first] == [d.utility for d in second]


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_senseless_willingness_to_pay_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="'willingness_to_pay': expected at least 0"):
        Utility(value)


# Recruit


def test_greedy_recruits_the_best_and_among_equals_the_cheapest() -> None:
    expected = estimates([[0.1, 0.9, 0.5, 0.5]], [[1.0, 1.0, 2.0, 1.0]])
    (decision,) = Recruit(k=3).decide(queries(1), expected)
    assert decision.experts == ("bob", "dee", "cid")
    assert decision.weights == (0.9, 0.5, 0.5)


def test_greedy_recruits_everyone_where_k_is_larger_than_the_pool() -> None:
    (decision,) = Recruit(k=9).decide(queries(1), estimates([[0.1, 0.9]]))
    assert decision.experts == ("bob", "ann")


def test_top_p_recruits_the_smallest_set_with_that_share() -> None:
    quality = np.log([[0.5, 0.3, 0.15, 0.05]]) + 1  # at temperature 1 the shares are these
    for p, count in ((0.0, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.9, 3), (1.0, 4)):
        policy = Recruit(k=4, rule="top-p", temperature=1.0, p=p)
        (decision,) = policy.decide(queries(1), estimates(quality))
        assert decision.experts == EXPERTS[:count]


def test_top_p_never_exceeds_k() -> None:
    policy = Recruit(k=2, rule="top-p", p=1.0)
    (decision,) = policy.decide(queries(1), estimates([[0.5, 0.5, 0.5, 0.5]]))
    assert decision.experts == ("ann", "bob")


@pytest.mark.parametrize(("rule", "chances"), [("paper", paper_chances), ("released", None)])
def test_draws_follow_the_distribution_and_repeat_experts(rule: str, chances: Any) -> None:
    count = 4000
    local = np.tile([0.4, 0.6, 0.3], (count, 1))
    expected = estimates(np.full((count, 3), 0.5), suitability=local, strength=TOTALS)
    decisions = Recruit(k=3, rule=rule).decide(queries(count), expected)
    drawn = [EXPERTS.index(e) for d in decisions for e in d.experts]
    shares = np.bincount(drawn, minlength=3) / len(drawn)
    wanted = (chances or released_chances)(local[0], TOTALS)
    np.testing.assert_allclose(shares, wanted, atol=0.015)
    assert distinct_experts(decisions) < 3


def test_a_question_without_skills_is_put_to_anyone() -> None:
    count = 3000
    local = np.full((count, 3), np.nan)
    expected = estimates(np.full((count, 3), 0.5), suitability=local, strength=TOTALS)
    decisions = Recruit(k=3, rule="paper").decide(queries(count), expected)
    drawn = [EXPERTS.index(e) for d in decisions for e in d.experts]
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), 1 / 3, atol=0.02)


@pytest.mark.parametrize("rule", RULES)
@settings(deadline=None)
@given(quality=matrix(UNIT), order=st.permutations(range(5)))
def test_a_decision_does_not_depend_on_the_other_queries(
    rule: str, quality: FloatArray, order: list[int]
) -> None:
    asked = queries(5)
    policy = Recruit(k=2, rule=rule)
    together = policy.decide(asked, skilled(quality))
    shuffled = policy.decide([asked[i] for i in order], skilled(quality[order]))
    alone = [policy.decide([q], skilled(quality[[i]]))[0] for i, q in enumerate(asked)]
    assert together == alone
    assert [together[i] for i in order] == shuffled


@pytest.mark.parametrize("rule", ["paper", "released"])
def test_another_seed_draws_others(rule: str) -> None:
    expected = skilled(np.full((50, 4), 0.7))
    first, again, other = (
        Recruit(k=1, rule=rule, seed=seed).decide(queries(50), expected) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("rule", RULES)
def test_trimming_keeps_who_gets_five_percent_and_freezes_it(rule: str) -> None:
    quality = np.full((100, 3), 0.2)
    quality[:96, 0], quality[96:, 1], quality[:, 2] = 1.0, 1.0, 0.0
    expected = estimates(quality, suitability=quality * 40 - 20, strength=np.ones(3))
    policy = Recruit(k=1, rule=rule)
    trimmed = policy.trimmed(queries(100), expected)
    assert trimmed.keep == ("ann",)
    assert {e for d in trimmed.decide(queries(100), expected) for e in d.experts} == {"ann"}


def test_trimming_keeps_exactly_five_percent() -> None:
    quality = np.zeros((100, 2))
    quality[:95, 0], quality[95:, 1] = 1.0, 1.0
    assert Recruit(k=1).trimmed(queries(100), estimates(quality)).keep == ("ann", "bob")


def test_slots_of_the_trimmed_are_filled_from_the_kept() -> None:
    policy = Recruit(k=5, rule="paper", keep=("bob", "cid"))
    decisions = policy.decide(queries(20), skilled(np.full((20, 4), 0.5)))
    assert all(len(d.experts) == 5 for d in decisions)
    assert {e for d in decisions for e in d.experts} == {"bob", "cid"}


@pytest.mark.parametrize("rule", RULES)
def test_kept_experts_without_a_chance_are_recruited_all_the_same(rule: str) -> None:
    local = np.array([[9.0, -9.0]])
    expected = estimates([[1.0, 0.0]], suitability=local, strength=np.array([9.0, 1.0]))
    (decision,) = Recruit(k=1, rule=rule, keep=("bob",)).decide(queries(1), expected)
    assert decision.experts == ("bob",)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"rule": "gready"}, "rule"),
        ({"k": 0}, "k"),
        ({"k": 1.5}, "k"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
    ],
)
def test_senseless_settings_are_refused_by_name(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=f"field '{field}': expected"):
        Recruit(**settings)


def test_keeping_nobody_of_the_pool_is_refused() -> None:
    with pytest.raises(InputError, match="none of"):
        Recruit(keep=("zoe",)).decide(queries(1), estimates([[0.5, 0.5]]))


@pytest.mark.parametrize(
    "policy",
    [
        Utility(),
        Budget(1.0),
        Guarded("ann"),
        Certified("ann"),
        *(Recruit(rule=rule) for rule in (*RULES, "budgeted")),
    ],
)
def test_no_queries_give_no_decisions(policy: Policy) -> None:
    assert policy.decide([], estimates(np.empty((0, 4)))) == []


def test_the_reason_holds_the_evidence_and_the_expected_qualities() -> None:
    expected = estimates([[0.25, 0.75]], evidence=("skills: sums",))
    (decision,) = Utility().decide(queries(1), expected)
    assert decision.reason == "skills: sums; expected quality: bob (0.75), ann (0.25)"


def test_distinct_experts_is_a_mean_over_queries() -> None:
    decisions = [Decision("recruit", tuple(names), (1.0,) * 3) for names in ("aaa", "abc")]
    assert distinct_experts(decisions) == 2.0
    assert distinct_experts([]) == 0.0


@pytest.mark.parametrize("rule", ["paper", "released"])
def test_the_papers_rules_refuse_a_router_without_skills(rule: str) -> None:
    with pytest.raises(InputError, match="needs skill scores; fit the skills router"):
        Recruit(rule=rule).decide(queries(1), estimates([[0.5, 0.5]]))


def test_a_cascade_asks_the_cheaper_first_and_the_best_last() -> None:
    expected = estimates([[0.9, 0.5, 0.7, 0.1]], [[3.0, 1.0, 2.0, 9.0]])
    (decision,) = Utility(composition="cascade").decide(queries(1), expected)
    assert decision.experts == ("bob", "cid", "ann")
    assert decision.utility == 0.9


# Budget


def linear_program(quality: FloatArray, cost: FloatArray, mean_cost: float) -> float:
    """The optimal mean quality, from HiGHS."""
    from scipy.optimize import linprog

    count, experts = quality.shape
    one_each = np.kron(np.eye(count), np.ones(experts))
    solved = linprog(
        -quality.ravel(),
        A_ub=cost.reshape(1, -1),
        b_ub=[mean_cost * count],
        A_eq=one_each,
        b_eq=np.ones(count),
    )
    return float(-solved.fun / count)


@settings(max_examples=30, deadline=None)
@given(matrix(UNIT), matrix(UNIT), st.floats(0, 1))
def test_the_budget_is_worth_what_a_linear_program_finds(
    quality: FloatArray, cost: FloatArray, share: float
) -> None:
    least = cost.min(axis=1).mean()
    budget = float(least + share * (cost.max(axis=1).mean() - least))
    found = allocate(quality, cost, budget)
    assert found.value == pytest.approx(linear_program(quality, cost, budget), abs=1e-6)


@settings(deadline=None)
@given(matrix(UNIT), matrix(UNIT), st.floats(0, 1))
def test_rounding_keeps_the_budget_and_loses_less_than_one_query(
    quality: FloatArray, cost: FloatArray, share: float
) -> None:
    least = cost.min(axis=1).mean()
    budget = float(least + share * (cost.max(axis=1).mean() - least))
    decisions = Budget(budget).decide(queries(5), estimates(quality, cost))
    chosen = [EXPERTS.index(d.experts[0]) for d in decisions]
    rows = np.arange(5)
    assert cost[rows, chosen].mean() <= budget * (1 + 1e-9) + 1e-12
    best = allocate(quality, cost, budget).value
    assert quality[rows, chosen].mean() >= best - 1 / 5 - 1e-9


def test_the_dual_price_is_in_the_reason_and_freezes_into_a_utility() -> None:
    expected = estimates([[0.5, 0.9], [0.5, 0.6]], [[1.0, 3.0], [1.0, 3.0]])
    first, second = Budget(2.0).decide(queries(2), expected)
    assert (first.experts[0], second.experts[0]) == ("bob", "ann")
    assert (
        "dual price 0.05 (willingness to pay 20)"
        in Budget(2.5).decide(queries(2), expected)[0].reason
    )
    frozen = Budget(2.5).frozen(queries(2), expected)
    assert frozen.willingness_to_pay == pytest.approx(20.0)
    assert [d.experts[0] for d in frozen.decide(queries(2), expected)] == ["bob", "ann"]


def test_a_budget_that_does_not_bind_takes_the_best() -> None:
    (decision,) = Budget(9.0).decide(queries(1), estimates([[0.5, 0.9]], [[1.0, 3.0]]))
    assert decision.experts[0] == "bob"
    assert "does not bind" in decision.reason
    assert decision.evidence["willingness_to_pay"] is None


def test_a_budget_nobody_can_keep_names_the_cheapest_mean() -> None:
    expected = estimates([[0.5, 0.9], [0.5, 0.9]], [[1.0, 3.0], [2.0, 3.0]])
    with pytest.raises(InputError, match=r"'mean_cost'.*cheapest possible mean cost is 1\.5"):
        Budget(1.4).decide(queries(2), expected)
    assert len(Budget(1.5).decide(queries(2), expected)) == 2


def test_a_budget_needs_known_costs() -> None:
    with pytest.raises(InputError, match="needs every expected cost"):
        Budget(1.0).decide(queries(1), estimates([[0.5, 0.9]], [[1.0, np.nan]]))


# Guarded


def supported(differences: list[float], quality: Any, cost: Any = None) -> Estimates:
    """One query whose neighbours score so much more with bob than with ann."""
    known = np.column_stack([np.full(len(differences), 0.5), 0.5 + np.array(differences)])
    rows = np.arange(len(differences))[None, :]
    support = Support(rows, np.ones(rows.shape), known, tuple(f"text {i}" for i in rows[0]))
    return estimates(quality, cost, support=support)


def test_a_paired_gain_is_the_mean_difference_with_its_standard_error() -> None:
    differences = [0.5, 0.5, 0.0, 0.25, -0.25]
    gain = paired_gain(supported(differences, [[0.5, 0.6]]), 0)
    assert gain.mean[0, 1] == pytest.approx(np.mean(differences))
    assert gain.error[0, 1] == pytest.approx(np.std(differences, ddof=1) / math.sqrt(5))
    assert gain.pairs is not None
    assert gain.pairs.tolist() == [[5, 5]]
    assert gain.effective is not None
    np.testing.assert_allclose(gain.effective, [[5, 5]])


def test_weights_count_as_fewer_observations() -> None:
    known = np.array([[0.0, 1.0], [0.0, 0.0], [0.0, np.nan]])
    support = Support(np.array([[0, 1, 2]]), np.array([[3.0, 1.0, 9.0]]), known)
    gain = paired_gain(estimates([[0.5, 0.6]], support=support), 0)
    effective = 4**2 / (3**2 + 1)
    assert gain.mean[0, 1] == 0.75
    assert gain.error[0, 1] == pytest.approx(math.sqrt(0.75 * 0.25 / (effective - 1)))
    assert gain.effective is not None
    assert gain.effective[0, 1] == pytest.approx(effective)


def weighed(weights: list[float], differences: list[float]) -> Estimates:
    """``supported`` with neighbours of these weights."""
    made = supported(differences, [[0.5, 0.6]])
    assert made.support is not None
    return replace(made, support=replace(made.support, weights=np.array([weights])))


def test_two_near_neighbours_among_ten_are_no_ten_observations() -> None:
    expected = weighed([1.0, 0.9, *[0.01] * 8], [0.5, 0.5, *[0.0] * 8])
    (stays,) = Guarded("ann").decide(queries(1), expected)
    (leaves,) = Guarded("ann", minimum=2).decide(queries(1), expected)
    assert (stays.experts[0], leaves.experts[0]) == ("ann", "bob")
    guard = leaves.evidence["guard"]
    assert (guard["paired"], round(guard["effective"], 3)) == (10, 2.165)
    assert "on 10 paired records (effective number 2.17)" in leaves.reason


@pytest.mark.parametrize("weight", [1.0, 0.1, 1 / 3])
def test_observations_of_equal_weight_count_as_many_as_they_are(weight: float) -> None:
    expected = weighed([weight] * 8, [0.5, 0.25] * 4)
    assert Guarded("ann", minimum=8).decide(queries(1), expected)[0].experts[0] == "bob"
    assert Guarded("ann", minimum=9).decide(queries(1), expected)[0].experts[0] == "ann"


def test_where_no_record_is_paired_the_guard_says_so_and_stays() -> None:
    expected = weighed([1.0] * 8, [np.nan] * 8)
    (decision,) = Guarded("ann", z=0.0, minimum=1).decide(queries(1), expected)
    guard = decision.evidence["guard"]
    assert decision.experts[0] == "ann"
    assert (guard["gain"], guard["paired"], guard["effective"]) == (None, 0, 0.0)


def test_the_guard_leaves_only_for_a_gain_beyond_its_errors() -> None:
    noisy = supported([0.5, -0.5] * 8 + [0.5], [[0.5, 0.6]])
    clear = supported([0.5, 0.25] * 8, [[0.5, 0.6]])
    (stays,), (leaves,) = (Guarded("ann", z=1.0).decide(queries(1), e) for e in (noisy, clear))
    assert stays.experts == ("ann", "bob")
    assert leaves.experts == ("bob", "ann")
    assert leaves.reason.startswith("leaves ann for bob: gain +0.375, standard error 0.032 on 16")
    assert stays.reason.startswith("stays with ann: no gain beyond 1 standard errors")
    assert switch_share([stays, leaves], "ann") == 0.5


def test_the_guard_asks_twice_as_much_of_who_costs_more() -> None:
    differences = [0.5] * 5 + [-0.25] * 4  # gain 1/6, standard error 1/8: between one and two
    for cost, first in (([2.0, 2.0], "bob"), ([2.0, 3.0], "ann")):
        expected = supported(differences, [[0.5, 0.6]], [cost])
        (decision,) = Guarded("ann", z=1.0).decide(queries(1), expected)
        assert decision.experts[0] == first


def test_the_guard_needs_a_minimum_of_paired_observations() -> None:
    expected = supported([0.5, 0.25, 0.5], [[0.5, 0.6]])
    assert Guarded("ann", z=1.0).decide(queries(1), expected)[0].experts[0] == "ann"
    assert Guarded("ann", z=1.0, minimum=3).decide(queries(1), expected)[0].experts[0] == "bob"


def test_without_support_the_guard_uses_the_standard_errors() -> None:
    for error, first in ((0.05, "bob"), (0.08, "ann")):
        expected = estimates([[0.5, 0.6]], error=np.full((1, 2), error))
        (decision,) = Guarded("ann", z=1.0).decide(queries(1), expected)
        assert decision.experts[0] == first


@pytest.mark.parametrize("router", [Skills(), RouterEvalCluster(), Always()])
def test_a_guard_says_what_a_router_without_errors_or_support_lacks(router: Router) -> None:
    records = make_records(24)
    expected = router.fit(records).predict(records.queries)
    with pytest.raises(
        InputError, match=r"standard errors \(error\) or .* \(support\), this router"
    ):
        Guarded("sums").decide(records.queries, expected)


def test_a_guard_takes_the_errors_of_best_single() -> None:
    records = make_records(90)
    weak = with_quality(records, records.quality * [0.0, 1.0, 1.0, 1.0])
    expected = BestSingle().fit(weak).predict(records.queries)
    leaves, stays = (
        Guarded(name).decide(records.queries, expected) for name in ("sums", "sorting")
    )
    assert {d.experts[0] for d in leaves} == {"generalist"}
    assert {d.experts[0] for d in stays} == {"sorting"}  # two errors each of 1/3 against 1/2


def test_the_fallback_is_the_best_on_average_and_can_be_frozen() -> None:
    expected = supported([0.25, -0.5, -0.5], [[0.1, 0.9]])
    assert Guarded().frozen(queries(1), expected).fallback == "ann"
    assert Guarded().decide(queries(1), expected)[0].experts == ("ann", "bob")
    with pytest.raises(InputError, match="no expert 'zoe'; there are ann, bob"):
        Guarded("zoe").decide(queries(1), expected)


def test_a_willingness_to_pay_lets_in_who_saves_more_than_is_lost() -> None:
    expected = supported([-0.0625] * 8 + [0.0] * 8, [[0.5, 0.45]], [[5.0, 1.0]])
    for willingness, first in ((10.0, "bob"), (1000.0, "ann")):
        policy = Guarded("ann", willingness_to_pay=willingness)
        assert policy.decide(queries(1), expected)[0].experts[0] == first


# Certified


def planted(count: int, seed: int) -> tuple[list[Query], Estimates, Records]:
    """A world where switching to bob is right with the estimated chance, ann with 0.6."""
    generator = np.random.default_rng(seed)
    chances = np.column_stack([np.full(count, 0.6), generator.uniform(0.3, 1.0, count)])
    scores = (generator.random((count, 2)) < chances).astype(float)
    asked = queries(count)
    return asked, estimates(chances), Records(tuple(asked), EXPERTS[:2], scores)


def true_risk(threshold: float) -> float:
    """Chance that bob is chosen (uniform estimate, above the threshold), wrong, and ann right."""
    low = min(max(0.6 + threshold, 0.6), 1.0)
    return 0.6 * ((1 - low) ** 2 / 2) / 0.7


@pytest.mark.parametrize(("loss", "allowed"), [("worse", 0.1), ("shortfall", 0.1)])
def test_the_certified_risk_is_kept_at_the_stated_rate(loss: str, allowed: float) -> None:
    broken, switched, worlds = 0, 0, 100
    for seed in range(worlds):
        policy = Certified("ann", risk=0.03, confidence=1 - allowed, loss=loss)
        fitted = policy.calibrated(*planted(200, seed))
        broken += math.isfinite(fitted.threshold) and true_risk(fitted.threshold) > 0.03
        switched += fitted.threshold < 0.4
    assert broken <= worlds * allowed + 2 * math.sqrt(worlds * allowed * (1 - allowed))
    assert switched > 0.2 * worlds  # a guarantee that never switches would be empty


def test_enough_records_certify_what_is_safe_and_say_so() -> None:
    asked, expected, records = planted(4000, 0)
    fitted = Certified("ann", risk=0.05).calibrated(asked, expected, records)
    assert 0 < true_risk(fitted.threshold) <= fitted.bound <= 0.05
    decision = fitted.decide(asked[:1], estimates([[0.6, 0.99]]))[0]
    assert decision.experts[0] == "bob"
    assert "certified on 4000 records: with 95% confidence at most 5.0% of" in decision.reason


def test_where_nothing_is_certified_everything_goes_to_the_fallback() -> None:
    asked, expected, records = planted(20, 0)  # 0 of 20 bounds the risk by 0.139 only
    fitted = Certified("ann", risk=0.05).calibrated(asked, expected, records)
    decisions = fitted.decide(asked, expected)
    assert switch_share(decisions, "ann") == 0.0
    assert decisions[0].reason.startswith("20 records certify nothing at risk 0.05")
    assert Certified("ann").decide(asked, expected)[0].reason.startswith("not calibrated: ann")


def test_certifying_stops_at_the_first_threshold_that_fails() -> None:
    """Down to 0.375 nothing switches, then bob answers and loses, from 0.25 cid does and does not.

    A later threshold that would pass again has to be out of reach: the order is fixed.
    """
    asked = queries(400)
    cost = np.tile([5.0, 5.0, 0.0], (400, 1))
    expected = estimates(np.tile([0.5, 0.875, 0.75], (400, 1)), cost)
    records = Records(tuple(asked), EXPERTS[:3], np.tile([1.0, 0.0, 1.0], (400, 1)))
    policy = Certified("ann", risk=0.05, willingness_to_pay=1.0)
    fitted = policy.calibrated(asked, expected, records)
    assert fitted.threshold == 0.38
    reached = {}
    for threshold in (0.38, 0.375, 0.25):
        decided = replace(policy, threshold=threshold).decide(asked[:1], expected)
        reached[threshold] = decided[0].experts[0]
    assert reached == {0.38: "ann", 0.375: "bob", 0.25: "cid"}


def test_a_missing_score_counts_as_lost() -> None:
    asked, expected, records = planted(500, 1)
    holes = records.quality.copy()
    holes[:, 1] = np.nan
    partial = Records(records.queries, records.experts, holes)
    full = Certified("ann", risk=0.1).calibrated(asked, expected, records)
    assert Certified("ann", risk=0.1).calibrated(asked, expected, partial).threshold > (
        full.threshold
    )


def test_calibration_refuses_records_of_other_queries() -> None:
    asked, expected, records = planted(5, 0)
    with pytest.raises(InputError, match="queries and records differ"):
        Certified("ann").calibrated(asked[::-1], expected, records)


def test_bounds_are_those_of_the_textbooks() -> None:
    assert upper_bound(0, 59, 0.95) == pytest.approx(1 - 0.05 ** (1 / 59))  # the rule of three
    assert upper_bound(10, 10, 0.95) == 1.0
    loose = upper_bound(3.0, 100, 0.95, "shortfall")
    assert upper_bound(3, 100, 0.95) < loose < 3 / 100 + math.sqrt(math.log(20) / 200)


# Recruit, budgeted


def test_budgeted_recruiting_stops_where_the_next_is_not_worth_its_cost() -> None:
    expected = estimates([[0.5, 0.8, 0.6]], [[1.0, 2.0, 1.0]])
    wanted = {0.0: ("ann",), 8.0: ("bob",), 10.0: ("bob", "cid"), 1e9: ("bob", "cid", "ann")}
    for willingness, names in wanted.items():
        policy = Recruit(k=3, rule="budgeted", willingness_to_pay=willingness)
        assert policy.decide(queries(1), expected)[0].experts == names
    assert Recruit(k=2, rule="budgeted").decide(queries(1), expected)[0].experts == ("bob", "cid")


@settings(deadline=None)
@given(matrix(UNIT), matrix(UNIT), st.floats(0, 50), st.integers(1, 4))
def test_every_recruited_expert_paid_when_it_was_added(
    quality: FloatArray, cost: FloatArray, willingness: float, k: int
) -> None:
    policy = Recruit(k=k, rule="budgeted", willingness_to_pay=willingness)
    for row, decision in enumerate(policy.decide(queries(5), estimates(quality, cost))):
        chosen = [EXPERTS.index(e) for e in decision.experts]
        wrong = 1 - quality[row, chosen[0]]
        for j in chosen[1:]:
            assert willingness * wrong * quality[row, j] >= cost[row, j]
            wrong *= 1 - quality[row, j]
        assert 1 <= len(set(chosen)) == len(chosen) <= k


# Evidence

PRICES = st.floats(0, 20, width=16)
GRID = st.integers(0, 16).map(lambda i: i / 16)
POLICIES: dict[str, Callable[[float], Policy]] = {
    "utility": lambda w: Utility(w),
    "guarded": lambda w: Guarded("ann", z=1.0, willingness_to_pay=w),
    "certified": lambda w: Certified("ann", threshold=-0.25, willingness_to_pay=w),
    "budgeted": lambda w: Recruit(k=2, rule="budgeted", willingness_to_pay=w),
}


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=20, deadline=None)
@given(matrix(GRID), matrix(GRID), st.one_of(PRICES, st.just(math.inf)))
def test_the_choice_flips_exactly_where_the_evidence_says(
    name: str, quality: FloatArray, cost: FloatArray, price: float
) -> None:
    expected = estimates(quality, cost, error=np.full((5, 4), 0.03125))

    def chosen(row: int, willingness: float) -> tuple[str, ...]:
        decision = POLICIES[name](willingness).decide(queries(5), expected)[row]
        return decision.experts if name == "budgeted" else decision.experts[:1]

    for row, decision in enumerate(POLICIES[name](price).decide(queries(5), expected)):
        flip = decision.evidence["flips_at"]
        far = 1e7 if flip is None else flip
        away = far if math.isinf(price) else abs(far - price)
        near = 1e-6 * max(far, price if math.isfinite(price) else 0.0, 1.0)
        if away > 4 * near:
            low = far + near if math.isinf(price) else max(price - away + near, near)
            high = 1e7 if math.isinf(price) else price + away - near
            for between in np.linspace(low, high, 3):
                assert chosen(row, float(between)) == chosen(row, price)
        if flip is not None and flip > near:
            assert chosen(row, flip - near) != chosen(row, flip + near)


def test_evidence_names_chosen_runner_up_interval_and_nearest_records() -> None:
    support = Support(
        np.array([[1, 0]]), np.array([[0.9, 0.4]]), np.ones((2, 2)), ("x" * 99, "b\nc")
    )
    error = np.array([[0.05, 0.1]])
    expected = estimates([[0.5, 0.75]], [[1.0, 2.0]], error=error, support=support)
    evidence = Utility(10.0).decide(queries(1), expected)[0].evidence
    assert evidence["chosen"] == [
        {"expert": "bob", "quality": 0.75, "interval": [0.554, 0.946], "cost": 2.0}
    ]
    assert evidence["runner_up"]["expert"] == "ann"
    assert (evidence["flips_at"], evidence["flips_to"]) == (4.0, "ann")
    assert [(n["row"], n["text"]) for n in evidence["nearest"]] == [(1, "b c"), (0, "x" * 79 + "…")]


@pytest.mark.parametrize(
    "policy", [Utility(), Budget(0.5), Guarded("ann"), Certified("ann"), Recruit(rule="budgeted")]
)
def test_evidence_is_json_without_infinities(policy: Policy) -> None:
    support = Support(np.zeros((5, 2), int), np.zeros((5, 2)), np.full((3, 4), np.nan))
    expected = estimates(np.eye(5, 4), np.eye(5, 4) / 2, support=support)
    for decision in policy.decide(queries(5), expected):
        text = json.dumps(decision.to_dict(), allow_nan=False)
        assert Decision.from_dict(json.loads(text)) == decision


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Budget(-1.0), "mean_cost"),
        (lambda: Guarded(z=-1.0), "z"),
        (lambda: Guarded(minimum=0), "minimum"),
        (lambda: Certified(risk=2.0), "risk"),
        (lambda: Certified(loss="bad"), "loss"),
        (lambda: Recruit(rule="budgeted", willingness_to_pay=-1.0), "willingness_to_pay"),
    ],
)
def test_senseless_policies_are_refused_by_name(make: Any, field: str) -> None:
    with pytest.raises(InputError, match=f"field '{field}': expected"):
        make()


def test_a_count_beyond_reason_is_refused_by_its_key() -> None:
    with pytest.raises(InputError, match="field 'k': expected at most 1000000000"):
        Recruit(10**20, "paper")
