import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coterie.errors import InputError
from coterie.records import Records
from coterie.selection import (
    CategoryTable,
    Limits,
    category_table,
    choose,
    choose_subset,
    cross_validate,
    frontier,
    marginal_values,
)
from coterie.selection.mapping import affordable
from coterie.selection.subsets import Outcomes, learn
from coterie.selection.validation import validate_subset
from coterie.types import FloatArray, Query

GRID = st.integers(0, 8).map(lambda i: i / 8)
UNKNOWN = np.full((4, 3), np.nan)
EXAMPLE = CategoryTable(
    experts=("E7", "E27", "E70"),
    categories=("coding", "math", "medical", "general"),
    share=np.array([0.3, 0.2, 0.1, 0.4]),
    score=np.array(
        [[0.40, 0.55, 0.56], [0.35, 0.45, 0.60], [0.60, 0.58, 0.57], [0.38, 0.57, 0.54]]
    ),
    parameters=np.array([7.6, 27.2, 70.6]),
    cost=UNKNOWN,
)


def records(quality: Any, categories: Any = None, **more: Any) -> Records:
    quality = np.asarray(quality, float)
    labels = categories or [None] * len(quality)
    asked = (
        Query(f"q{i}", ({"role": "user", "content": f"question {i}"},), category=label)
        for i, label in enumerate(labels)
    )
    return Records(tuple(asked), tuple("abcdefghijklmnop"[: quality.shape[1]]), quality, **more)


# The mapping of Composition of Experts


@pytest.mark.parametrize("method", ["auto", "milp"])
@pytest.mark.parametrize(
    ("limits", "mapping", "quality", "active", "total"),
    [
        (Limits(), "E70 E70 E7 E27", 0.576, 46.94, 105.4),
        (Limits(parameters=10), "E7 E7 E7 E7", 0.402, 7.6, 7.6),
        (Limits(parameters=30), "E27 E27 E27 E27", 0.541, 27.2, 27.2),
        (Limits(parameters=36), "E27 E27 E7 E27", 0.543, 25.24, 34.8),
        (Limits(parameters=98), "E70 E70 E27 E27", 0.574, 48.9, 97.8),
        (Limits(active=20), "E7 E27 E7 E27", 0.498, 19.36, 34.8),
        (Limits(active=36), "E27 E70 E7 E27", 0.573, 33.92, 105.4),
    ],
)
def test_the_worked_example_of_the_specification(
    method: Any, limits: Limits, mapping: str, quality: float, active: float, total: float
) -> None:
    found = choose(EXAMPLE, limits, method)
    assert list(found.mapping.values()) == mapping.split()
    assert found.quality == pytest.approx(quality, abs=1e-12)
    assert found.active == pytest.approx(active)
    assert found.parameters == pytest.approx(total)


@st.composite
def tables(draw: st.DrawFn) -> CategoryTable:
    categories, experts = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    share = draw(arrays(float, categories, elements=st.integers(1, 4).map(float)))
    return CategoryTable(
        experts=tuple("abcd"[:experts]),
        categories=tuple("xyz"[:categories]),
        share=share / share.sum(),
        score=draw(arrays(float, (categories, experts), elements=GRID)),
        parameters=draw(arrays(float, experts, elements=st.integers(1, 9).map(float))),
        cost=draw(arrays(float, (categories, experts), elements=GRID)),
    )


def every_mapping(table: CategoryTable) -> list[dict[str, float]]:
    """All mappings one by one, slow and plain."""
    found = []
    rows = np.arange(len(table.categories))
    for columns in itertools.product(range(len(table.experts)), repeat=len(table.categories)):
        owned = list(set(columns))
        facts = {
            "size": len(owned),
            "parameters": table.parameters[owned].sum(),
            "active": table.share @ table.parameters[list(columns)],
            "cost": table.share @ table.cost[rows, list(columns)],
            "quality": table.share @ table.score[rows, list(columns)],
        }
        found.append({name: float(value) for name, value in facts.items()})
    return found


@settings(max_examples=40, deadline=None)
@given(tables(), st.integers(1, 4), st.integers(1, 30))
def test_program_and_enumeration_agree_with_trying_every_mapping(
    table: CategoryTable, size: int, total: int
) -> None:
    limits = Limits(size=size, parameters=max(float(total), table.parameters.min()))
    inside = [m for m in every_mapping(table) if m["size"] <= size]
    inside = [m for m in inside if m["parameters"] <= (limits.parameters or 0) + 1e-9]
    best = max(m["quality"] for m in inside)
    least = min(m["active"] for m in inside if m["quality"] >= best - 1e-9)
    for method in ("enumerate", "milp"):
        found = choose(table, limits, method)
        assert found.quality == pytest.approx(best, abs=1e-9)
        assert found.active == pytest.approx(least, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(tables(), st.floats(0, 1), st.sampled_from(["active", "cost"]))
def test_limits_on_what_is_used_agree_with_trying_every_mapping(
    table: CategoryTable, share: float, name: str
) -> None:
    mappings = every_mapping(table)
    values = sorted(m[name] for m in mappings)
    least = table.parameters.min() if name == "active" else values[0]
    limit = max(round(values[0] + share * (values[-1] - values[0]), 3), least) + 1e-4
    limits = Limits(active=limit) if name == "active" else Limits(cost=limit)
    found = choose(table, limits)
    best = max(m["quality"] for m in mappings if m[name] <= limit)
    assert found.quality == pytest.approx(best, abs=1e-6)
    assert getattr(found, name) <= limit + 1e-6


ROUNDED = CategoryTable(  # two mappings of one cost, by sums that differ in the last digit
    experts=tuple("abcd"),
    categories=tuple("xyz"),
    share=np.array([2.0, 3.0, 1.0]) / 6,
    score=np.array([[0.125, 0, 0, 0], [0.125, 0, 0, 0], [0, 0, 0, 0]]),
    parameters=np.ones(4),
    cost=np.array([[0.875, 0.125, 0.125, 0.125], [0.5, 0, 0, 0], [0, 0, 0, 0]]),
)


@example(ROUNDED, "cost")
@settings(max_examples=40, deadline=None)
@given(tables(), st.sampled_from(["parameters", "active", "cost"]))
def test_the_frontier_is_every_budget_that_buys_more(table: CategoryTable, by: Any) -> None:
    wanted: list[tuple[float, float]] = []
    for mapping in sorted(every_mapping(table), key=lambda m: (round(m[by], 9), -m["quality"])):
        if not wanted or mapping["quality"] > wanted[-1][1] + 1e-9:
            wanted.append((mapping[by], mapping["quality"]))
    found = [(getattr(c, by), c.quality) for c in frontier(table, by)]
    assert found == [pytest.approx(point, abs=1e-9) for point in wanted]


def test_a_large_pool_has_the_same_frontier_by_program_as_by_enumeration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = np.random.default_rng(0)
    table = CategoryTable(
        tuple("abcdefg"),
        tuple("vwxyz"),
        np.full(5, 0.2),
        generator.random((5, 7)),
        generator.integers(1, 50, 7).astype(float),
        np.full((5, 7), np.nan),
    )
    enumerated = frontier(table)
    monkeypatch.setattr("coterie.selection.mapping.SMALL", 0)
    assert [c.experts for c in frontier(table)] == [c.experts for c in enumerated]
    assert len(enumerated) > 3


def test_ties_go_to_fewer_active_parameters_then_to_the_first() -> None:
    score, cost = np.full((1, 3), 0.5), np.full((1, 3), np.nan)
    table = CategoryTable(tuple("abc"), ("x",), np.ones(1), score, np.array([9.0, 3, 3]), cost)
    for method in ("enumerate", "milp"):
        assert choose(table, Limits(), method).experts == ("b",)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(parameters=5), r"no expert fits into 5: the smallest has 7\.6 billion"),
        (Limits(active=5), "'active': no expert fits into 5"),
        (Limits(cost=1), "'cost': the cost of expert 'E7' is not known"),
        (Limits(size=0), "'size': expected at least 1"),
    ],
)
def test_impossible_limits_are_explained(limits: Limits, message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose(EXAMPLE, limits)


def test_who_could_answer_alone_within_the_limits() -> None:
    assert affordable(EXAMPLE, Limits(parameters=30)) == ("E7", "E27")
    assert affordable(EXAMPLE, Limits(size=1)) == ("E7", "E27", "E70")


# The table from records


def test_a_table_holds_shares_means_sizes_and_costs() -> None:
    quality = [[1.0, 0.0], [0.0, np.nan], [1.0, 1.0], [0.5, 1.0]]
    cost = np.array([[1.0, 2.0], [3.0, np.nan], [1.0, 4.0], [1.0, 6.0]])
    known = records(quality, ["x", "x", "y", "y"], cost=cost, facts={"b": {"parameters": 7.0}})
    table = category_table(known)
    assert table.categories == ("x", "y")
    assert table.share.tolist() == [0.5, 0.5]
    assert table.score.tolist() == [[0.5, 0.0], [0.75, 1.0]]
    assert table.cost.tolist() == [[2.0, 2.0], [1.0, 5.0]]
    assert np.isnan(table.parameters[0])
    assert table.parameters[1] == 7.0


def test_an_expert_not_seen_in_a_category_counts_by_its_overall_mean() -> None:
    table = category_table(records([[1.0, np.nan], [0.0, 0.25]], ["x", "y"]))
    assert table.score.tolist() == [[1.0, 0.25], [0.0, 0.25]]


def test_the_general_category_takes_its_share_and_scores_like_all_together() -> None:
    quality = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]
    table = category_table(records(quality, ["x", "x", "y", "y"]), general=0.2)
    assert table.categories == ("x", "y", "general")
    np.testing.assert_allclose(table.share, [0.4, 0.4, 0.2])
    np.testing.assert_allclose(table.score[2], [0.625, 0.375])


def test_queries_without_category_are_general_and_unknown_ones_go_there() -> None:
    known = records([[1.0, 0.0], [0.0, 1.0]], ["x", None])
    found = choose(category_table(known))
    assert dict(found.mapping) == {"general": "b", "x": "a"}
    assert [found.expert_for(c) for c in ("x", None, "unheard of")] == ["a", "b", "b"]
    assert found.scores(known).tolist() == [1.0, 1.0]


def test_records_without_categories_cannot_be_mapped() -> None:
    with pytest.raises(InputError, match="name no categories"):
        category_table(records([[1.0, 0.0]]))
    with pytest.raises(InputError, match="name no categories"):
        choose_subset(records([[1.0, 0.0]]), 1, "routing")


# Subsets


def answered(answers: list[list[str | None]], right: list[str]) -> Records:
    """Records of these answers, scored against the right ones; None was not observed."""
    texts = np.array(answers, object)
    score = [
        [np.nan if a is None else float(a == r) for a in row]
        for row, r in zip(answers, right, strict=True)
    ]
    return records(score, texts=texts)


@settings(max_examples=40, deadline=None)
@given(arrays(float, (6, 5), elements=GRID), st.integers(1, 5))
def test_greedy_covers_its_guaranteed_share_of_the_best_oracle(
    quality: FloatArray, size: int
) -> None:
    known = records(quality)
    exact, greedy = (choose_subset(known, size, "oracle", method) for method in ("exact", "greedy"))
    every = [quality[:, s].max(axis=1).mean() for s in itertools.combinations(range(5), size)]
    assert exact.value == pytest.approx(max(every))
    assert exact.value + 1e-12 >= greedy.value >= (1 - 1 / math.e) * exact.value - 1e-12
    assert (exact.method, greedy.method) == ("exact", "greedy")


def test_routing_by_subset_agrees_with_the_mapping_of_that_size() -> None:
    generator = np.random.default_rng(1)
    known = records(generator.integers(0, 2, (60, 6)), [*"xyz"] * 20)
    for size in (1, 2, 3):
        subset = choose_subset(known, size, "routing")
        assert subset.value == pytest.approx(
            choose(category_table(known), Limits(size=size)).quality
        )


def test_a_vote_is_won_by_the_answer_with_the_most_log_odds() -> None:
    known = answered([["1", "2", "2"], ["1", "1", "3"], ["4", "4", "4"]], ["2", "1", "4"])
    voting = learn(Outcomes.of(known), "voting")
    assert voting.scores(Outcomes.of(known), [0, 1, 2]).tolist() == [1.0, 1.0, 1.0]
    assert choose_subset(known, 3, "voting").value == 1.0


def test_who_gave_no_answer_abstains_and_nobody_observed_is_left_out() -> None:
    known = answered([["1", None], [None, None], ["2", "3"]], ["1", "1", "2"])
    voting = learn(Outcomes.of(known), "voting")
    np.testing.assert_array_equal(voting.scores(Outcomes.of(known), [0, 1]), [1.0, np.nan, 1.0])
    assert voting.value(Outcomes.of(known), [0, 1]) == 1.0


def test_an_empty_answer_was_observed_and_is_wrong() -> None:
    known = answered([["", "1"], ["", "1"]], ["1", "1"])
    assert choose_subset(known, 1, "voting").experts == ("b",)
    assert learn(Outcomes.of(known), "voting").value(Outcomes.of(known), [0]) == 0.0


def test_a_vote_needs_answers_and_a_subset_a_possible_size() -> None:
    with pytest.raises(InputError, match="hold no answers to vote with"):
        choose_subset(records([[1.0, 0.0]]), 1, "voting")
    with pytest.raises(InputError, match="expected between 1 and 2 experts, got 3"):
        choose_subset(records([[1.0, 0.0]]), 3, "oracle")


def test_greedy_voting_swaps_its_way_to_three_weak_voters_that_agree() -> None:
    answers: list[list[str | None]] = []
    for i in range(12):  # a is right on 7 of 12; b, c, d on 8 each and never two wrong together
        wrong = [i >= 7, i % 3 == 0, i % 3 == 1, i % 3 == 2]
        answers.append([f"w{j}" if w else "r" for j, w in enumerate(wrong)])
    known = answered(answers, ["r"] * 12)
    exact = choose_subset(known, 3, "voting", "exact")
    greedy = choose_subset(known, 3, "voting", "greedy")
    assert exact.value == greedy.value == 1.0


# Validation


def test_noise_is_bought_in_sample_and_worth_nothing_held_out() -> None:
    generator = np.random.default_rng(0)
    known = records(generator.integers(0, 2, (200, 8)), [f"c{i % 40}" for i in range(200)])
    outcomes = Outcomes.of(known)
    bought = choose_subset(outcomes, 4, "routing").value
    checked = validate_subset(outcomes, known, 4, "routing")
    assert bought > 0.75
    assert checked.quality.high < 0.65
    assert checked.gain.low < 0 < checked.gain.high
    assert len(checked.chosen) == 5


def test_specialists_are_worth_their_gain_on_held_out_queries() -> None:
    generator = np.random.default_rng(0)
    labels = ["x", "y"] * 100
    chances = np.array([[0.9, 0.2, 0.6], [0.2, 0.9, 0.6]] * 100)
    known = records((generator.random((200, 3)) < chances).astype(float), labels)

    def again(training: Records) -> Any:
        made = choose(category_table(training), Limits(size=2))
        return made.experts, made.scores

    checked = cross_validate(known, again)
    assert set(checked.chosen) == {("a", "b")}
    assert checked.gain.low > 0.15
    values = marginal_values(Outcomes.of(known), known, ("a", "b"), checked.chosen)
    owned, further = values.owned["a"], values.further["c"]
    assert owned is not None
    assert owned.low > 0
    assert further is not None
    assert further.value == pytest.approx(0.0, abs=0.02)
    assert values.folds == {"a": 5, "b": 5, "c": 0}


def noise(seed: int, rows: int, experts: int, categories: int = 1) -> Records:
    """Right and wrong by the toss of a coin: nothing can be learnt, and no choice is worth any."""
    tosses = np.random.default_rng(seed).integers(0, 2, (rows, experts))
    return records(tosses, [f"c{i % categories}" for i in range(rows)])


def test_a_choice_made_without_the_queries_flatters_experts_of_noise_less() -> None:
    flattered: list[float] = []
    judged: list[float] = []
    for seed in range(16):
        known = noise(seed, 80, 16, 4)
        outcomes = Outcomes.plain(known)
        owned = choose_subset(outcomes, 2, "routing").experts
        chosen = validate_subset(outcomes, known, 2, "routing").chosen
        for values, sets in ((flattered, [owned] * 5), (judged, chosen)):
            found = marginal_values(outcomes, known, owned, sets).owned.values()
            values += [each.value for each in found if each is not None]
    assert np.mean(flattered) > 0.05
    assert np.mean(judged) < 0.7 * np.mean(flattered)


def test_an_owned_expert_that_no_fold_chose_has_no_held_out_value() -> None:
    known = noise(0, 30, 3)
    values = marginal_values(Outcomes.of(known), known, ("a",), [("b", "c")] * 5)
    assert (values.owned["a"], values.further["b"]) == (None, None)
    facts = {"gain": None, "ci": None, "chosen_in_folds": 0}
    assert values.to_dict()["owned"] == {"a": facts}


def test_the_best_of_many_coins_is_no_better_than_a_coin_on_other_folds() -> None:
    def first(training: Records) -> Any:
        return ("a",), lambda new: new.quality[:, 0]

    worlds = [noise(seed, 60, 16) for seed in range(20)]
    best = np.mean([known.quality.mean(axis=0).max() for known in worlds])
    held_out = np.mean([cross_validate(known, first).best_single.mean() for known in worlds])
    assert best > 0.58
    assert held_out == pytest.approx(0.5, abs=0.04)


def test_unobserved_cells_are_left_out_of_a_comparison() -> None:
    quality = np.tile([1.0, 0.0], (10, 1))
    quality[::2, 0] = np.nan
    known = records(quality)
    checked = validate_subset(Outcomes.of(known), known, 1, "oracle")
    assert checked.to_dict()["queries"] == 5


def test_more_folds_than_queries_are_refused() -> None:
    known = records([[1.0, 0.0]] * 3)
    with pytest.raises(InputError, match="expected between 2 and the number of queries"):
        validate_subset(Outcomes.of(known), known, 1, "oracle", folds=4)


def test_a_vote_of_one_scores_what_the_expert_scores() -> None:
    texts = np.array([["", "1"], [None, "2"], ["", "2"], ["3", "3"]], object)
    known = records([[1.0, 0.0], [0.5, 1.0], [0.0, 1.0], [1.0, 1.0]], texts=texts)
    voting = learn(Outcomes.of(known), "voting")
    for j in (0, 1):
        scores = voting.scores(Outcomes.of(known), [j])
        np.testing.assert_array_equal(scores, known.quality[:, j])
