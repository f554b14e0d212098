"""A2FM's adaptive reward as training targets."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.errors import InputError
from coterie.metrics.costs import cost_of_pass
from coterie.records import Records
from coterie.routers.adaptive import Adaptive, adaptive_targets, cheapest
from coterie.routers.linear import Linear
from coterie.testing import make_records
from coterie.types import Query

MODES = ("instant", "thinking")


def modes(instant: list[float], thinking: list[float]) -> Records:
    queries = tuple(Query.from_text(f"q{i}", f"question {i}") for i in range(len(instant)))
    cost = np.tile([1.0, 10.0], (len(queries), 1))
    return Records(queries, MODES, np.array([instant, thinking]).T, cost)


def test_the_reward_is_its_formula() -> None:
    records = modes([0.0, 0.5, 1.0, 0.25], [1.0, 1.0, 1.0, 0.5])
    reward = adaptive_targets(records, "instant").quality
    assert reward[:, 0].tolist() == [0.0, 0.5, 1.0, 0.25]
    assert reward[:, 1].tolist() == [1.0, 0.75, 0.0, 0.5 * (1 - 0.0625)]
    other = adaptive_targets(records, "instant", passes=np.full(4, 0.5)).quality
    assert other[:, 1].tolist() == [0.75, 0.75, 0.75, 0.375]


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 8))
def test_the_more_surely_the_cheap_mode_passes_the_less_the_dear_one_earns(
    one: float, two: float, alpha: float
) -> None:
    low, high = sorted((one, two))
    reward = adaptive_targets(modes([low, high], [1.0, 1.0]), "instant", alpha).quality[:, 1]
    assert reward[1] <= reward[0] <= 1
    assert adaptive_targets(modes([0.0], [one]), "instant", alpha).quality[0, 1] == one


def test_where_the_cheap_mode_was_not_observed_nothing_is_known_of_the_dear_one() -> None:
    reward = adaptive_targets(modes([np.nan, 1.0], [1.0, np.nan]), "instant").quality
    assert np.isnan(reward[0]).all()
    assert np.isnan(reward[1, 1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cheap": "slow"}, "no expert 'slow'; there are instant, thinking"),
        ({"cheap": "instant", "alpha": 0.0}, "alpha"),
        ({"cheap": "instant", "passes": np.array([2.0])}, "passes"),
        ({"cheap": "instant", "passes": np.zeros(3)}, "a chance for each of 1 queries"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InputError, match=message):
        adaptive_targets(modes([1.0], [1.0]), **settings)


def share_of_cheap(passes: float, fitted: bool = True) -> float:
    """Share of new questions of one kind that go to the cheap mode, which passes so often."""
    generator = np.random.default_rng(0)
    instant = (generator.random(200) < passes).astype(float)
    records = modes(instant.tolist(), [1.0] * 200)
    router = Adaptive() if fitted else Linear()
    chosen = router.fit(records).predict(records.queries).quality.argmax(axis=1)
    return float((chosen == 0).mean())


def test_the_cheap_mode_is_used_more_the_surer_it_passes() -> None:
    shares = [share_of_cheap(p) for p in (0.1, 0.5, 0.9)]
    assert shares == sorted(shares)
    assert shares[0] < 0.1 < 0.9 < shares[2]
    assert share_of_cheap(0.9, fitted=False) < 0.1  # plain scores never leave the dear mode


def specialist(seed: int) -> Records:
    """A cheap expert that is right on a third of the questions, and a perfect dear one."""
    records = make_records(90, seed=seed).select(["sums", "generalist"])
    return replace(records, quality=np.column_stack([records.quality[:, 0], np.ones(90)]))


def cost_and_quality(router: Adaptive | Linear, training: Records) -> tuple[float, float]:
    """Cost of a right answer and share of right answers on new questions."""
    new = specialist(1)
    chosen = router.fit(training).predict(new.queries).quality.argmax(axis=1)
    at = np.arange(len(new)), chosen
    return cost_of_pass(new.cost[at], new.quality[at]), float(new.quality[at].mean())


def test_a_right_answer_gets_cheaper_and_shuffled_passes_undo_it() -> None:
    records = specialist(0)
    plain, adaptive = (cost_and_quality(r, records) for r in (Linear(), Adaptive()))
    assert plain[1] == adaptive[1] == 1.0
    assert adaptive[0] == pytest.approx(3.0)  # a third of the questions are sums, at cost 1
    assert adaptive[0] < plain[0] - 0.5
    order = np.random.default_rng(0).permutation(90)
    noise = cost_and_quality(Adaptive(), replace(records, quality=records.quality[order]))
    assert noise[1] < 0.95 or noise[0] > 3.3  # right answers or the saving are lost


def test_the_cheapest_expert_is_taken_where_none_is_named() -> None:
    assert cheapest(modes([1.0], [1.0])) == "instant"
    unpriced = replace(modes([0.2, 0.4], [0.9, 1.0]), cost=np.full((2, 2), np.nan))
    assert cheapest(unpriced) == "instant"
    assert Adaptive("thinking").fit(modes([1.0] * 4, [0.0] * 4)).cheap_ == "thinking"


def test_any_router_can_be_fitted_on_the_rewards() -> None:
    records = make_records(48)
    for name in ("knn", "category", "kmeans"):
        router = Adaptive("sums", name).fit(records)
        estimates = router.predict(records.queries)
        sums = [q.category == "sums" for q in records.queries]
        assert (estimates.quality[sums].argmax(axis=1) == 0).all()
