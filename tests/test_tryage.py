"""Tryage: predicted losses, penalties on what experts are, and its experiment in small."""

import importlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.compositions import single
from coterie.config import read_config
from coterie.drivers.replay import replay
from coterie.errors import InputError
from coterie.panel.specs import parse_spec, policy_factory
from coterie.policies import Penalties, Utility
from coterie.policies.penalties import pareto, tradeoff
from coterie.routers.linear import Linear
from coterie.routers.tryage import Tryage, losses
from coterie.testing import converse, make_records
from coterie.types import Decision, Estimates, Query

TRAITS: dict[str, Any] = {
    "small": {"size": 1, "age": 3, "tags": ["code"]},
    "large": {"size": 70, "age": 1, "tags": ["code", "law"]},
    "old": {"size": 7, "age": 9, "tags": []},
}
NAMES = tuple(TRAITS)
QUALITY = [0.6, 0.9, 0.8]


def asking(tags: tuple[str, ...] = (), **routing: Any) -> Query:
    params = {"max_tokens": 5, **({"routing": routing} if routing else {})}
    return Query("q", ({"role": "user", "content": "?"},), params, tags)


def chosen(query: Query, quality: Any = QUALITY, **settings: Any) -> str:
    estimates = Estimates(NAMES, np.array([quality]), np.array([[0.1, 2.0, 0.5]]))
    (decision,) = Penalties(TRAITS, **settings).decide([query], estimates)
    return decision.experts[0]


def test_losses_are_their_formulas() -> None:
    scores = np.array([1.0, 0.5, 0.0, np.nan])
    assert losses(scores, "error") == pytest.approx([0, 0.5, 1, np.nan], nan_ok=True)
    assert losses(scores, "nats") == pytest.approx([0, math.log(2), 16, np.nan], nan_ok=True)


def test_with_the_loss_as_error_the_router_is_a_regression_of_scores() -> None:
    records = make_records()
    expected = Linear().fit(records).predict(records.queries).quality
    found = Tryage(features=0).fit(records).predict(records.queries).quality
    assert found == pytest.approx(expected)
    nats = Tryage(loss="nats").fit(records).predict(records.queries).quality
    assert (nats.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(InputError, match=r"loss.*'bits'"):
        Tryage(loss="bits").fit(make_records())
    with pytest.raises(InputError, match="features"):
        Tryage(features=-1).fit(make_records())


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_without_weights_it_is_pure_quality(quality: list[float]) -> None:
    assert quality[NAMES.index(chosen(asking(), quality))] == max(quality)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.floats(0, 1), st.floats(0, 1))
def test_more_weight_never_chooses_a_larger_expert(
    quality: list[float], one: float, two: float
) -> None:
    low, high = sorted((one, two))
    sizes = [TRAITS[chosen(asking(), quality, weights={"size": w})]["size"] for w in (low, high)]
    assert sizes[1] <= sizes[0]


def test_utility_is_quality_less_the_weighted_traits() -> None:
    estimates = Estimates(NAMES, np.array([QUALITY]), np.array([[0.1, 2.0, 0.5]]))
    weights = {"size": 0.01, "age": 0.02, "cost": 0.05}
    (decision,) = Penalties(TRAITS, weights).decide([asking()], estimates)
    assert decision.utility == pytest.approx(0.6 - 0.01 - 0.06 - 0.005)
    assert decision.experts == ("small", "old", "large")
    assert "size weighs 0.01" in decision.reason


def test_a_request_raises_flags_weights_limits_and_tags() -> None:
    flags = {"small": {"size": 0.005}, "fresh": {"age": 0.1}}
    assert chosen(asking(), flags=flags) == "large"
    assert chosen(asking(flags=["small"]), flags=flags) == "old"
    assert chosen(asking(tags=("flag:small", "flag:fresh")), flags=flags) == "large"
    assert chosen(asking(weights={"size": 0.005})) == "old"
    assert chosen(asking(limits={"size": 7})) == "old"
    assert chosen(asking(limits={"cost": 0.2})) == "small"
    assert chosen(asking(tags=("require:law",)), weights={"size": 1.0}) == "large"


@given(st.permutations(NAMES))
def test_the_order_of_the_experts_does_not_matter(order: list[str]) -> None:
    quality = np.array([[dict(zip(NAMES, QUALITY, strict=True))[name] for name in order]])
    estimates = Estimates(tuple(order), quality, np.zeros((1, 3)))
    (decision,) = Penalties(TRAITS, {"size": 0.004}).decide([asking()], estimates)
    assert decision.experts == ("old", "large", "small")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (asking(flags=["tiny"]), "the flag 'tiny'; there are none"),
        (asking(limits={"size": 0}), "no expert is within what query 'q' allows: size at most 0"),
        (asking(tags=("require:poetry",)), "tag poetry"),
        (asking(weights={"speed": 1}), "traits: speed"),
        (asking(weights={"size": -1}), "weights: size"),
        (asking(wishes=[]), "routing: wishes"),
        (asking(flags="small"), "expected a list"),
        (replace(asking(), params={"routing": 3}), "expected a table"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(query: Query, message: str) -> None:
    with pytest.raises(InputError, match=message):
        chosen(query)


def test_experts_never_see_what_is_meant_for_the_policy() -> None:
    query = asking(flags=["small"])
    rounds, _ = converse(single, decision=Decision("single", ("small",), (1.0,)), query=query)
    assert dict(rounds[0][0].options).keys() == {"max_tokens", "seed"}


def test_a_file_knows_sizes_and_prices(tmp_path: Path) -> None:
    text = """
[pool]
name = "mine"
[[expert]]
name = "a"
kind = "openai"
base_url = "http://127.0.0.1:1/v1"
model = "a"
parameters = 7_000_000_000
price = { prompt = 0.1, completion = 0.4 }
[policy]
name = "penalties"
weights = { size = 0.01 }
traits = { a = { age = 2 } }
"""
    (tmp_path / "coterie.toml").write_text(text)
    policy = read_config(tmp_path / "coterie.toml").policy()
    assert policy == Penalties({"a": {"size": 7.0, "price": 0.4, "age": 2}}, {"size": 0.01})


def test_in_a_panel_the_facts_of_the_records_are_the_traits() -> None:
    records = replace(make_records(6), facts={"sums": {"parameters": 7}})
    policy = policy_factory(parse_spec("penalties(weights={'parameters': 0.1})"))(records)
    assert policy == Penalties({"sums": {"parameters": 7}}, {"parameters": 0.1})


def test_decisions_run_in_replay() -> None:
    records = make_records(12)
    estimates = Tryage().fit(records).predict(records.queries)
    decisions = Penalties(weights={"cost": 0.5}).decide(records.queries, estimates)
    answers = replay(records.queries, decisions, single, records)
    assert {a.cost for a in answers} == {1.0}


def test_the_tradeoff_of_a_weight_is_what_the_policy_chooses() -> None:
    generator = np.random.default_rng(0)
    quality, size = generator.random((40, 3)), np.array([1.0, 70.0, 7.0])
    estimates = Estimates(NAMES, quality, np.zeros((40, 3)))
    points = tradeoff(estimates, quality, size, [0.0, 0.003, 1.0])
    queries = [replace(asking(), id=f"q{i}") for i in range(40)]
    for weight, (score, much) in zip([0.0, 0.003, 1.0], points, strict=True):
        made = Penalties(TRAITS, {"size": weight}).decide(queries, estimates)
        columns = [NAMES.index(d.experts[0]) for d in made]
        assert score == pytest.approx(quality[np.arange(40), columns].mean())
        assert much == pytest.approx(size[columns].mean())
    assert (np.diff(points[:, 1]) <= 0).all()
    assert len(pareto(points)) == 3


def test_no_penalties_decide_like_utility() -> None:
    records = make_records(12)
    estimates = Tryage().fit(records).predict(records.queries)
    both = (p.decide(records.queries, estimates) for p in (Penalties(), Utility()))
    mine, plain = ([d.experts[0] for d in made] for made in both)
    assert mine == plain
    assert Penalties().decide([], Tryage().fit(records).predict([])) == []


@pytest.fixture
def tryage(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("tryage")


def test_the_experiment_in_small_finds_the_optimum_more_often_than_any_single_model(
    tryage: Any,
) -> None:
    routers = {"tryage": lambda: Tryage(loss="nats")}
    found = tryage.measure(train=120, test=80, sentences=60, routers=routers)
    optimal = {name: row["optimal"] for name, row in found["rows"].items()}
    assert optimal["oracle"] == 1.0
    assert optimal["tryage"] > optimal["most often optimal"] + 0.1
    assert optimal["tryage, shuffled losses"] < optimal["tryage"] - 0.1
    assert found["sweep"] == sorted(found["sweep"], key=lambda point: point[1])


def test_a_tiny_language_model_is_a_distribution(tryage: Any) -> None:
    model = tryage.NGram(3).fit(["abab", "abba"])
    letters = [chr(32 + i) for i in range(tryage.ALPHABET)]
    chances = [math.exp(model.loss("a") - 2 * model.loss(f"a{c}")) for c in letters]
    assert sum(chances) == pytest.approx(1.0)
