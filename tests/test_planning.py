import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import InputError
from coterie.policies import Recruit, Utility
from coterie.policies.planning import NOBODY, Options, cut, plan
from coterie.types import Decision, Estimates, Query

QUERIES = tuple(Query.from_text(f"q{i}", str(i)) for i in range(4))
QUALITY = np.array([[0.9, 0.5], [0.6, 0.5], [0.3, 0.2], [0.8, 0.1]])
COST = np.tile([4.0, 1.0], (4, 1))
ESTIMATES = Estimates(("dear", "cheap"), QUALITY, COST)


def options(policy: Utility | Recruit) -> Options:
    return Options.of(policy.decide(QUERIES, ESTIMATES), ESTIMATES)


def test_what_is_wanted_is_kept_where_it_fits() -> None:
    assert plan(options(Utility()), cost=16).tolist() == [1, 1, 1, 1]
    assert plan(options(Recruit(2)), cost=20, calls=8).tolist() == [2, 2, 2, 2]


def test_money_goes_where_it_buys_most() -> None:
    chosen = plan(options(Utility()), cost=10)
    assert chosen.tolist() == [1, 2, 2, 1]  # dear where that is much better


def test_what_is_worth_least_is_left_when_calls_are_short() -> None:
    assert plan(options(Utility()), calls=2).tolist() == [1, 0, 0, 1]
    assert plan(options(Utility()), cost=0).tolist() == [0, 0, 0, 0]


def test_several_are_worth_the_chance_that_one_is_right() -> None:
    several = options(Recruit(2))
    assert several.value[0].tolist() == pytest.approx([0, 0.9, 0.95])
    assert several.cost[0].tolist() == [0, 4, 5]
    assert several.calls[0].tolist() == [0, 1, 2]


def test_both_caps_hold_together() -> None:
    several = options(Recruit(2))
    chosen = plan(several, cost=13, calls=3)
    rows = np.arange(4)
    assert several.cost[rows, chosen].sum() <= 13
    assert several.calls[rows, chosen].sum() <= 3


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 4), st.floats(0, 12), st.integers(0, 10_000))
def test_a_plan_is_as_good_as_the_best_up_to_one_query(count: int, cap: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    estimates = Estimates(("a", "b"), random.random((count, 2)), random.random((count, 2)) * 5)
    made = Utility().decide(QUERIES[:count], estimates)
    open_to = Options.of(made, estimates)
    rows, chosen = np.arange(count), plan(open_to, cost=cap)
    assert open_to.cost[rows, chosen].sum() <= cap + 1e-9
    ways = [list(way) for way in itertools.product(range(3), repeat=count)]
    best = max(open_to.value[rows, w].sum() for w in ways if open_to.cost[rows, w].sum() <= cap)
    assert open_to.value[rows, chosen].sum() >= best - open_to.value.max(axis=1).max() - 1e-9


def test_a_decision_is_cut_to_its_first_experts_or_to_one() -> None:
    several = Decision("recruit", ("a", "b", "c"), (0.9, 0.8, 0.7), reason="best")
    assert cut(several, 2).experts == ("a", "b")
    assert cut(several, 3) is several
    alone = Decision("single", ("a", "b", "c"), (0.9, 0.8, 0.7))
    assert (cut(alone, 1), cut(alone, 2).experts) == (alone, ("b", "c"))
    assert cut(alone, 0) is NOBODY


def test_pages_of_different_width_are_joined() -> None:
    short = Options.of([Decision("recruit", ("dear",), (1.0,))], _rows(1))
    joined = Options.joined([options(Recruit(2)), short])
    assert joined.value.shape == (5, 3)
    assert plan(joined, calls=math.inf).tolist() == [2, 2, 2, 2, 1]


def _rows(count: int) -> Estimates:
    return Estimates(("dear", "cheap"), QUALITY[:count], COST[:count])


def test_a_cap_needs_costs() -> None:
    unknown = Estimates(("dear", "cheap"), QUALITY, np.full((4, 2), np.nan))
    with pytest.raises(InputError, match="a cap needs every expected cost"):
        Options.of(Recruit(2).decide(QUERIES, unknown), unknown)
