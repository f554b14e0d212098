import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.config import read_config
from coterie.errors import InputError
from coterie.policies import Budget, Explore, Guarded, Policy, Recruit, Utility
from coterie.types import Decision, Estimates, Query

EXPERTS = ("ann", "bob", "cid")


def queries(count: int) -> list[Query]:
    return [Query.from_text(f"q{i}", f"question {i}") for i in range(count)]


def estimates(count: int, quality: Any = (0.2, 0.9, 0.4)) -> Estimates:
    tiled = np.tile(np.asarray(quality, float), (count, 1))
    return Estimates(EXPERTS, tiled, np.tile([1.0, 4.0, 2.0], (count, 1)))


def decide(policy: Policy, count: int = 4000, **more: Any) -> list[Decision]:
    return policy.decide(queries(count), estimates(count, **more))


def test_an_expert_is_asked_as_often_as_its_propensity_says() -> None:
    made = decide(Explore(Utility(), 0.3))
    said = {d.experts[0]: d.evidence["propensity"] for d in made}
    shares = {name: n / 4000 for name, n in Counter(d.experts[0] for d in made).items()}
    assert said == pytest.approx({"bob": 0.8, "ann": 0.1, "cid": 0.1})
    assert shares == pytest.approx(said, abs=0.02)


def test_weighted_by_the_propensity_what_was_seen_estimates_every_expert() -> None:
    made, true = decide(Explore(Utility(), 0.3)), {"ann": 0.25, "bob": 0.5, "cid": 1.0}
    for name, value in true.items():
        seen = [value / d.evidence["propensity"] for d in made if d.experts[0] == name]
        assert sum(seen) / len(made) == pytest.approx(value, rel=0.15)


@given(st.floats(0, 1), st.sets(st.sampled_from(EXPERTS)))
def test_propensities_of_all_experts_sum_to_one(rate: float, among: set[str]) -> None:
    policy = Explore(Utility(), rate, tuple(sorted(among)))
    said: dict[str, float] = {}
    for decision in decide(policy, 60):
        said[decision.experts[0]] = decision.evidence["propensity"]
    assert sum(said.values()) <= 1 + 1e-9
    if {"bob", *(among or EXPERTS)} <= set(said):
        assert sum(said.values()) == pytest.approx(1.0)


def test_without_a_rate_the_decisions_are_the_policys() -> None:
    plainly, explored = decide(Utility(3.0), 5), decide(Explore(Utility(3.0), 0.0), 5)
    for plain, wrapped in zip(plainly, explored, strict=True):
        assert (wrapped.experts, wrapped.weights) == (plain.experts, plain.weights)
        assert wrapped.evidence["propensity"] == 1.0


def test_a_decision_does_not_depend_on_the_other_queries() -> None:
    policy = Explore(Utility(), 0.5)
    together = decide(policy, 20)
    alone = [policy.decide([q], estimates(1))[0] for q in queries(20)]
    assert together == alone
    assert decide(Explore(Utility(), 0.5, seed=1), 20) != together


def test_who_is_not_eligible_is_never_drawn() -> None:
    unknown = decide(Explore(Utility(), 1.0), 200, quality=(np.nan, 0.9, 0.4))
    assert {d.experts[0] for d in unknown} == {"bob", "cid"}
    among = decide(Explore(Utility(), 0.9, ("ann",)), 200)
    assert {(d.experts[0], round(d.evidence["propensity"], 9)) for d in among} == {
        ("ann", 0.9),
        ("bob", 0.1),
    }


def test_where_nobody_is_eligible_the_policys_choice_is_certain() -> None:
    (decision,) = decide(Explore(Utility(), 1.0, ("ann",)), 1, quality=(np.nan, 0.9, 0.4))
    assert decision.experts[0] == "bob"
    assert decision.evidence["propensity"] == 1.0


def test_a_drawn_expert_goes_first_and_the_others_stand_in() -> None:
    drawn = next(d for d in decide(Explore(Utility(10.0), 1.0), 50) if d.experts[0] == "ann")
    assert drawn.experts == ("ann", "bob", "cid")
    assert drawn.weights == (0.2, 0.9, 0.4)
    assert drawn.utility == pytest.approx(10 * 0.2 - 1)
    assert drawn.evidence["chosen"][0]["expert"] == "ann"
    assert drawn.evidence["runner_up"]["expert"] == "bob"
    assert drawn.reason.startswith("explores ann by chance (propensity 0.333) instead of bob")
    assert Decision.from_dict(json.loads(json.dumps(drawn.to_dict(), allow_nan=False))) == drawn


def test_where_several_answer_a_drawn_expert_answers_alone() -> None:
    made = decide(Explore(Recruit(2), 0.5), 100)
    assert {d.experts for d in made} >= {("bob", "cid"), ("ann",), ("cid",)}
    assert {d.composition for d in made} == {"recruit"}


def test_a_policy_of_the_batch_is_frozen_inside() -> None:
    policy = Explore(Budget(2.0), 0.5)
    frozen = policy.frozen(queries(4), estimates(4))
    assert isinstance(frozen.policy, Utility)
    assert not hasattr(Explore(Utility(), 0.5), "frozen")


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"policy": Utility(), "rate": 1.5}, "rate"),
        ({"policy": Utility(), "rate": -0.1}, "rate"),
        ({"policy": "utility"}, "policy"),
        ({"policy": Utility(), "among": "ann"}, "among"),
    ],
)
def test_senseless_settings_are_refused_by_name(settings: Mapping[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=f"field '{field}': expected"):
        Explore(**settings)


def test_drawing_from_a_stranger_is_refused() -> None:
    with pytest.raises(InputError, match="no expert 'zoe'"):
        decide(Explore(Utility(), 0.5, ("zoe",)), 1)


def test_a_pool_file_puts_one_policy_into_another(tmp_path: Path) -> None:
    pool = """
[pool]
name = "small"

[policy]
name = "explore"
rate = 0.2

[policy.policy]
name = "guarded"
fallback = "ann"

[[expert]]
name = "ann"
kind = "openai"
url = "http://127.0.0.1:1/v1"
model = "m"
"""
    file = tmp_path / "pool.toml"
    file.write_text(pool)
    policy = read_config(file).policy(seed=7)
    assert policy == Explore(Guarded("ann"), 0.2, seed=7)
