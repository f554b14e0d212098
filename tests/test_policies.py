import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coterie.errors import InputError
from coterie.policies import (
    RULES,
    Recruit,
    Utility,
    distinct_experts,
    paper_chances,
    released_chances,
    softmax,
)
from coterie.types import Decision, Estimates, FloatArray, Query

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


@pytest.mark.parametrize("policy", [Utility(), *(Recruit(rule=rule) for rule in RULES)])
def test_no_queries_give_no_decisions(policy: Utility | Recruit) -> None:
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
