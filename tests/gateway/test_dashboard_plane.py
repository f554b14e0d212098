"""The cost-quality plane and the savings, on numbers that can be worked out by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_world import POOL, entry, records

from coterie.gateway.dashboard import chart, plane
from coterie.gateway.dashboard.spending import savings
from coterie.gateway.entries import Candidate
from coterie.gateway.routing import Named
from coterie.policies import Guarded, Recruit, Utility
from coterie.routers.neighbors import KNN
from coterie.routers.stack import Stack
from coterie.types import Estimates, Query


def sample(quality: list[list[float]], cost: list[list[float]]) -> plane.Sample:
    made = np.array(quality), np.array(cost)
    queries = tuple(Query.from_text(f"q{i}", "") for i in range(len(quality)))
    names = POOL[: len(quality[0])]
    return plane.Sample(queries, Estimates(names, *made), np.ones(made[0].shape, bool), "a test")


TWO = sample([[0.9, 0.5], [0.6, 0.5]], [[4.0, 1.0], [4.0, 1.0]])


def test_a_higher_willingness_to_pay_moves_the_queries_that_gain_most_first() -> None:
    # ann gains 0.4 on the first and 0.1 on the second for 3 more: worth it from 7.5 and from 30.
    change = plane.change(TWO, Utility(1.0), Utility(10.0))
    assert change.share == 0.5
    assert change.before == plane.Point(0.5, 1.0)
    assert change.after.quality == pytest.approx(0.7)
    assert change.after.cost == 2.5
    assert change.moves == (("bob", "ann", 1),)


def test_the_curve_runs_from_the_cheapest_to_the_best() -> None:
    found = plane.plane_of(TWO)
    assert found.curve[0] == plane.Point(0.5, 1.0)
    assert found.curve[-1] == plane.Point(0.75, 4.0)
    assert found.singles == {"ann": plane.Point(0.75, 4.0), "bob": plane.Point(0.5, 1.0)}
    assert math.isinf(found.prices[-1])


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 12).flatmap(
        lambda n: st.lists(
            st.lists(st.tuples(st.floats(0, 1), st.floats(1e-6, 100)), min_size=3, max_size=3),
            min_size=n,
            max_size=n,
        )
    )
)
def test_quality_and_cost_never_fall_along_the_curve(rows: list[list[tuple[float, float]]]) -> None:
    table = np.array(rows)
    found = plane.plane_of(sample(table[:, :, 0].tolist(), table[:, :, 1].tolist()))
    quality = [point.quality for point in found.curve]
    cost = [point.cost for point in found.curve[:-1]]
    assert all(a <= b + 1e-9 for a, b in pairwise(quality))
    assert all(a <= b + 1e-6 for a, b in pairwise(cost))


def test_who_was_barred_is_barred_again() -> None:
    entries = [
        entry(i, "x", "bob", 1.0, candidates=[
            Candidate("ann", 0.9, 0.1, 4.0, "lacks tools" if i % 2 else ""),
            Candidate("bob", 0.5, 0.1, 2.0),
            Candidate("cid", 0.1, 0.1, 1.0),
        ])
        for i in range(20)
    ]  # fmt: skip
    found = plane.sample_of_traffic(entries, POOL)
    assert found is not None
    first = [decision.experts[0] for decision in plane.decided(found, Utility())]
    assert first == ["ann", "bob"] * 10
    assert plane.plane_of(found).curve[-1].quality == pytest.approx(0.7)


def test_too_few_requests_are_no_sample_and_those_by_name_do_not_count() -> None:
    named = [entry(i, "x", "ann", 1.0, candidates=[Candidate("ann")]) for i in range(50)]
    assert plane.sample_of_traffic(named, POOL) is None
    routed = [entry(i, "x", "ann", 1.0) for i in range(19)]
    assert plane.sample_of_traffic([*named, *routed], POOL) is None


def test_without_traffic_the_routers_own_questions_are_taken_also_those_of_a_member() -> None:
    router = KNN().fit(records(30))
    texts = plane.training_texts(router)
    assert len(texts) == 30
    found = plane.sample_of_texts(router, texts)
    assert found is not None
    assert found.estimates.experts == POOL
    assert "own training questions" in found.source
    stack = Stack.__new__(Stack)
    vars(stack)["members_"] = {"knn": router}
    assert plane.training_texts(stack) == texts
    assert plane.sample_of_texts(router, ()) is None


def test_a_policy_keeps_its_kind_where_it_minds_the_price() -> None:
    guarded = Named("guarded", Guarded(fallback="ann"), "single")
    changed = plane.priced(guarded, 2.0)
    assert isinstance(changed.policy, Guarded)
    assert changed.policy.willingness_to_pay == 2.0
    assert plane.priced(Named("r", Recruit(3), "recruit"), 2.0).policy == Utility(2.0)
    budgeted = Named("r", Recruit(3, rule="budgeted"), "recruit")
    assert isinstance(plane.priced(budgeted, 2.0).policy, Recruit)


def test_several_experts_cost_what_all_of_them_do() -> None:
    point = plane.point_of(TWO, Recruit(2).decide(TWO.queries, TWO.estimates))
    assert point.cost == 5.0


@pytest.mark.parametrize("cost", [[[0.0, 0.0]], [[1e-9, 1e-9]], [[0.0, 5.0]], [[1e9, 1.0]]])
def test_any_cost_can_be_drawn(cost: list[list[float]]) -> None:
    found = plane.plane_of(sample([[0.5, 0.5]], cost))
    drawn = repr(chart.drawing(found, found.curve[0], found.curve[-1]))
    assert "nan" not in drawn
    assert "inf" not in drawn


def test_the_slider_finds_a_price_again() -> None:
    prices = plane.prices_of(np.array([[0.5, 20.0]]))
    assert [plane.position(prices, prices[i]) for i in (0, 50, 96)] == [0, 50, 96]
    assert plane.position(prices, 0.0) == 0


def test_savings_are_a_share_of_always_best_with_a_paired_interval() -> None:
    found = savings([(1.0, 2.0), (2.0, 4.0)] * 20)
    assert found.share is not None
    assert tuple(found.share) == pytest.approx((0.5, 0.5, 0.5))  # the ratio never varies
    draw = np.random.default_rng(0)
    pairs = [(float(c), 3.0) for c in draw.uniform(0, 4, 200)]
    share = savings(pairs).share
    assert share is not None
    assert share.low < share.value < share.high
    assert share.value == pytest.approx(1 - sum(c for c, _ in pairs) / 600)


def test_few_requests_or_a_free_pool_have_no_share() -> None:
    assert savings([]).share is None
    assert savings([(1.0, 2.0)] * 9).share is None
    assert savings([(0.0, 0.0)] * 50).share is None
