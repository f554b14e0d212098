"""Worlds in which every policy's value is known, and what the log tells of it."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.errors import InputError
from coterie.offpolicy import (
    Comparison,
    Logged,
    OverlapError,
    compare,
    cross_fitted,
    one_hot,
    supported,
)
from coterie.types import Decision, FloatArray

Earns = Callable[[FloatArray], FloatArray]
ARMS = ("ann", "bob", "cid")
SLOPES = np.array([[0.3, 0.0], [-0.3, 0.1], [0.0, -0.2]])


def linear(vectors: FloatArray) -> FloatArray:
    """What each arm earns on average, (requests, arms)."""
    quality: FloatArray = 0.5 + vectors @ SLOPES.T
    return quality


def crooked(vectors: FloatArray) -> FloatArray:
    """The same in a shape that no regression on these vectors finds."""
    corner = np.sign(vectors[:, 0] * vectors[:, 1])
    return np.stack([0.5 + 0.4 * corner, 0.5 - 0.4 * corner, np.full(len(vectors), 0.5)], axis=1)


def best(quality: FloatArray) -> FloatArray:
    certain: FloatArray = np.eye(len(ARMS))[quality.argmax(axis=1)]
    return certain


class World:
    """Requests, a policy that explores a third of the time, and one that is always right."""

    def __init__(self, count: int, seed: int, earns: Earns = linear) -> None:
        draw = np.random.default_rng(seed)
        self.vectors = draw.uniform(-1, 1, (count, 2))
        self.quality = earns(self.vectors)
        self.target = best(self.quality)
        self.logging = 0.7 * best(linear(self.vectors[:, ::-1])) + 0.1
        chosen = (draw.random((count, 1)) > self.logging.cumsum(axis=1)).sum(axis=1)
        rows = np.arange(count)
        reward = (draw.random(count) < self.quality[rows, chosen]).astype(float)
        self.log = Logged(ARMS, chosen, self.logging[rows, chosen], reward, self.vectors)

    def seen(self) -> Comparison:
        return compare(self.log, self.target)


def true_value(earns: Earns) -> float:
    vectors = np.random.default_rng(99).uniform(-1, 1, (200_000, 2))
    return float(earns(vectors).max(axis=1).mean())


@pytest.mark.parametrize("earns", [linear, crooked])
def test_estimates_are_right_on_average_and_intervals_hold_what_they_promise(earns: Earns) -> None:
    true, runs = true_value(earns), [World(1000, seed, earns).seen() for seed in range(200)]
    for name in ("ips", "snips", "doubly robust"):
        found = np.array([run.values[name].value for run in runs])
        inside = [run.values[name].low <= true <= run.values[name].high for run in runs]
        assert abs(found.mean() - true) < 4 * found.std() / np.sqrt(len(found))
        assert 0.90 <= np.mean(inside) <= 0.99
        errors = np.mean([run.values[name].error for run in runs])
        assert errors == pytest.approx(found.std(), rel=0.2)


def test_a_right_model_narrows_what_a_wrong_one_cannot_bend() -> None:
    right = [World(400, seed).seen().values for seed in range(60)]
    spread = {n: np.std([run[n].value for run in right]) for n in ("ips", "doubly robust")}
    assert spread["doubly robust"] < 0.8 * spread["ips"]
    wrong = [World(400, seed, crooked).seen().values for seed in range(60)]
    off = {n: np.mean([r[n].value for r in wrong]) - true_value(crooked) for n in wrong[0]}
    assert abs(off["direct"]) > 0.2
    assert abs(off["doubly robust"]) < 0.03


def test_what_was_logged_is_worth_the_plain_mean_of_its_rewards() -> None:
    world = World(500, 1)
    found = compare(world.log, world.logging)
    mean = float(world.log.reward.mean())
    for name in ("ips", "snips", "clipped ips"):
        assert found.values[name].value == pytest.approx(mean)
    assert found.logged.value == pytest.approx(mean)
    assert found.effective == pytest.approx(500)
    assert (found.max_weight, found.mean_weight.value) == (1.0, 1.0)
    assert not found.shown
    assert found.doubts == ()


def test_a_better_policy_is_told_from_the_logged_one() -> None:
    world = World(3000, 2)
    found = world.seen()
    rows = (world.logging * world.quality).sum(axis=1)
    gain = float(((world.target * world.quality).sum(axis=1) - rows).mean())
    assert found.shown
    assert found.difference.low <= gain <= found.difference.high
    assert found.difference.error < found.values["ips"].error
    assert found.agreement == pytest.approx(world.target[range(3000), world.log.chosen].mean())
    assert json.loads(json.dumps(found.to_dict()))["shown"] is True


def test_an_expert_scored_more_seldom_does_not_count_less() -> None:
    world, draw = World(20_000, 3), np.random.default_rng(0)
    kept = draw.random(20_000) < np.array([0.9, 0.2, 0.5])[world.log.chosen]
    reward = np.where(kept, world.log.reward, np.nan)
    found = compare(Logged(ARMS, world.log.chosen, world.log.propensity, reward), world.target)
    assert found.scored == int(kept.sum())
    for name in ("ips", "snips", "doubly robust"):
        value, error, *_ = found.values[name]
        assert abs(value - true_value(linear)) < 3 * error < 0.15
    assert found.logged.value == pytest.approx(np.mean(world.log.reward), abs=0.02)


def test_a_log_without_chance_is_refused_by_name() -> None:
    world = World(50, 4)
    rows = np.arange(50)
    certain = Logged(ARMS, np.zeros(50, int), np.ones(50), world.log.reward)
    with pytest.raises(OverlapError, match="would ask bob, of which the log has no reward"):
        compare(certain, np.tile([0.0, 1.0, 0.0], (50, 1)))
    both = Logged(ARMS, rows % 2, np.ones(50), world.log.reward)
    with pytest.raises(OverlapError, match="ask bob where the log was certain of another"):
        compare(both, np.tile([0.0, 1.0, 0.0], (50, 1)))
    left = supported(both, np.tile([0.0, 1.0, 0.0], (50, 1)))
    assert left.tolist() == (rows % 2 == 1).tolist()
    found = compare(both.take(left), np.tile([0.0, 1.0, 0.0], (25, 1)))
    assert found.values["ips"].value == pytest.approx(world.log.reward[1::2].mean())


def test_wrong_propensities_and_few_requests_are_doubted() -> None:
    world = World(400, 5)
    twice = Logged(ARMS, world.log.chosen, np.minimum(2 * world.log.propensity, 0.99),
                   world.log.reward)  # fmt: skip
    assert "instead of 1" in " ".join(compare(twice, world.target).doubts)
    assert "do not trust the intervals" in " ".join(World(60, 6).seen().doubts)


def test_the_reward_model_never_saw_the_request_it_predicts() -> None:
    world = World(60, 7)
    expected = cross_fitted(world.log)
    turned = np.where(np.arange(60) == 5, 1 - world.log.reward, world.log.reward)
    other = Logged(ARMS, world.log.chosen, world.log.propensity, turned, world.vectors)
    assert (cross_fitted(other)[5] == expected[5]).all()
    assert not (cross_fitted(other) == expected).all()


def test_a_routers_own_estimates_are_a_second_model() -> None:
    world = World(400, 8)
    log = Logged(ARMS, world.log.chosen, world.log.propensity, world.log.reward,
                 world.vectors, world.quality)  # fmt: skip
    found = compare(log, world.target).values
    assert found["router's own"].value == pytest.approx(world.quality.max(axis=1).mean())
    assert found["doubly robust, router's"].error < found["ips"].error
    assert "router's own" not in world.seen().values


def test_failures_too_rare_to_be_seen_are_reckoned_with() -> None:
    """One arm in ten is right 94 times in 100; the log asks it one time in thirty."""
    inside = []
    for seed in range(100):
        draw = np.random.default_rng(seed)
        chosen = np.where(draw.random(600) < 1 / 30, 1, 0)
        reward = (draw.random(600) < 0.94).astype(float)
        log = Logged(("old", "new"), chosen, np.where(chosen, 1 / 30, 29 / 30), reward)
        found = compare(log, np.tile([0.0, 1.0], (600, 1))).values["snips"]
        inside.append(found.low <= 0.94 <= found.high)
    assert np.mean(inside) >= 0.9


@given(st.integers(0, 10_000), st.floats(0.5, 20))
def test_truncated_weights_never_exceed_the_limit(seed: int, clip: float) -> None:
    world = World(30, seed)
    try:
        found = compare(world.log, world.target, clip=clip).values
    except OverlapError:
        return
    assert found["clipped ips"].value <= min(found["ips"].value, clip) + 1e-12


def test_decisions_become_certain_choices() -> None:
    made = [Decision("single", ("cid", "ann"), (0.9, 0.1)), Decision("single", ("ann",), (0.5,))]
    assert one_hot(made, ARMS).tolist() == [[0, 0, 1], [1, 0, 0]]
    with pytest.raises(InputError, match="'cid' is not in the log"):
        one_hot(made, ("ann", "bob"))


@pytest.mark.parametrize(
    ("field", "propensity", "reward"),
    [("propensity", [0.0, 0.5], [1.0, 1.0]), ("reward", [0.5, 0.5], [np.nan, np.nan]),
     ("reward", [0.5, 0.5], [1.0])],
)  # fmt: skip
def test_senseless_logs_are_refused(
    field: str, propensity: list[float], reward: list[float]
) -> None:
    with pytest.raises(InputError, match=f"field '{field}'"):
        Logged(ARMS, np.array([0, 1]), np.array(propensity), np.array(reward))
