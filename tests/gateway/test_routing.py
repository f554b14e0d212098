"""From a request to who is asked: names, constraints, estimates, what staying is worth."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from served_world import COST, QUALITY, router

from coterie.compositions import Composition, cascade, recruit
from coterie.errors import CoterieError
from coterie.gateway.asked import read_asked
from coterie.gateway.eligibility import Profile, narrowed
from coterie.gateway.entries import Entry
from coterie.gateway.explaining import explained
from coterie.gateway.observing import Memory, Observing
from coterie.gateway.routing import Named, Plan, Routing
from coterie.gateway.wire import ApiError
from coterie.policies import Explore, Guarded, Utility
from coterie.types import Estimates, Query

BEST = Named("best", Utility(), "single")
COMPOSITIONS: dict[str, Composition] = {"recruit": recruit, "cascade": cascade}


def routing(
    profiles: Mapping[str, Profile] | None = None,
    default: Named | None = BEST,
    quality: Mapping[str, float] = QUALITY,
    cost: Mapping[str, float] = COST,
    **settings: Any,
) -> Routing:
    known = {name: Profile(name) for name in quality} | dict(profiles or {})
    fitted = router(quality, cost)
    return Routing(known, fitted, default, compositions=COMPOSITIONS, **settings)


def plan(
    made: Routing,
    model: str = "auto",
    allowed: tuple[str, ...] = (),
    stay: str = "",
    id: str = "req_1",
    path: str = "/chat/completions",
    explain: bool = False,
    text: str = "hello",
    **fields: Any,
) -> Plan:
    said = {"messages": [{"role": "user", "content": text}]}
    words = {"input": text} if path in ("/embeddings", "/responses") else said
    body = json.dumps({"model": model, **words, **fields}).encode()
    return made.plan(read_asked(path, body, {}, 10_000, 8), id, allowed, stay, explain)


def refused(made: Routing, *args: Any, **fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        plan(made, *args, **fields)
    return caught.value


# -- names


def test_an_experts_own_name_wins_over_everything_it_looks_like() -> None:
    odd = {name: Profile(name) for name in ("recruit:2", "auto:best", "qwen:0.5b")}
    made = routing(odd, policies={"best": BEST})
    for name in odd:
        found = plan(made, name)
        assert (found.experts, found.policy, found.composition) == ((name,), "direct", "")
    assert plan(made, "recruit:3").composition == "recruit"


def test_auto_is_the_default_policy_and_auto_name_another_one() -> None:
    cheap = Named("cheap", Utility(1.0), "single")
    made = routing(policies={"cheap": cheap})
    assert plan(made).experts == ("ann", "bob", "cid")
    assert plan(made, "auto:cheap").experts == ("cid", "bob", "ann")
    assert plan(made, coterie={"policy": "cheap"}).policy == "cheap"
    assert refused(made, "auto:dear").code == "model_not_found"


def test_a_request_may_say_what_quality_is_worth() -> None:
    made = routing()
    assert plan(made, coterie={"willingness_to_pay": 1}).experts[0] == "cid"
    assert plan(made, coterie={"willingness_to_pay": 100}).experts[0] == "ann"
    assert refused(made, coterie={"willingness_to_pay": -1}).param == "coterie"


@pytest.mark.parametrize(("model", "count"), [("recruit", 3), ("recruit:2", 2), ("recruit:1", 1)])
def test_a_composition_asks_as_many_as_its_name_says(model: str, count: int) -> None:
    found = plan(routing(), model)
    assert (found.composition, len(found.experts)) == ("recruit", count)
    assert found.decision is not None
    assert found.decision.experts == found.experts


@pytest.mark.parametrize(
    "model",
    ["nobody", "recruit:x", "recruit:", "recruit:\u0663", "recruit:" + "9" * 9000, ":", "x:3"],
)
def test_what_is_no_model_is_not_found(model: str) -> None:
    told = refused(routing(), model)
    assert (told.status, told.code, told.param) == (404, "model_not_found", "model")


@pytest.mark.parametrize("model", ["recruit:0", "recruit:17"])
def test_there_are_bounds_to_how_many_are_recruited(model: str) -> None:
    assert refused(routing(), model).param == "model"


def test_without_a_router_only_experts_are_models() -> None:
    made = Routing({"ann": Profile("ann")}, None, None, compositions=COMPOSITIONS)
    assert made.models() == ["ann"]
    assert plan(made, "ann").experts == ("ann",)
    for model in ("auto", "recruit:2"):
        assert refused(made, model).code == "model_not_found"


def test_a_router_of_another_pool_is_refused() -> None:
    with pytest.raises(CoterieError, match="this pool lacks: bob, cid"):
        Routing({"ann": Profile("ann")}, router(), BEST)


# -- constraints

PROFILES = {
    "ann": Profile("ann", frozenset(), 100, frozenset({"eu", "fast"}), "eu"),
    "bob": Profile("bob", frozenset({"tools"}), None, frozenset({"eu"}), "us"),
    "cid": Profile("cid", frozenset({"tools", "vision"}), 50, frozenset(), None),
}


@pytest.mark.parametrize(
    ("fields", "left", "why"),
    [
        ({"coterie": {"max_cost": 2}}, "bob cid", "expected cost 4 > 2"),
        ({"coterie": {"max_latency": 1}}, "bob cid", "takes 3 s now, asked for 1"),
        ({"coterie": {"tags": ["eu", "fast"]}}, "ann", "lacks the tags eu, fast"),
        ({"coterie": {"region": "eu"}}, "ann", "in region us, asked for eu"),
        ({"coterie": {"experts": ["bob"]}}, "bob", "not among the experts asked for"),
        ({"coterie": {"exclude": ["ann"]}}, "bob cid", "excluded by the request"),
        ({"tools": [{}]}, "bob cid", "lacks tools"),
        ({"text": "x" * 180}, "ann bob", "its context holds 50"),
        ({"max_tokens": 99}, "bob", "its context holds 100"),
        ({"allowed": ("bob", "cid")}, "bob cid", "not allowed for this key"),
    ],
)
def test_constraints_bar_experts_and_say_why(fields: Any, left: str, why: str) -> None:
    made = routing(PROFILES, latency={"ann": 3.0, "bob": 0.5}.get)
    found = plan(made, **fields)
    assert found.experts == tuple(left.split())
    barred = [one.barred for one in found.candidates if one.barred]
    assert len(barred) == 3 - len(found.experts)
    assert any(why in one for one in barred)


def test_where_nobody_is_left_every_reason_is_told() -> None:
    told = refused(routing(PROFILES), tools=[{}], coterie={"region": "eu"})
    assert (told.status, told.code) == (400, "no_eligible_expert")
    for words in ("ann: lacks tools", "bob: in region us", "cid: in region None"):
        assert words in told.message
    alone = refused(routing(PROFILES), "ann", tools=[{}])
    assert (alone.code, "ann: lacks tools" in alone.message) == ("no_eligible_expert", True)


def test_who_speaks_chat_only_is_asked_for_a_response_that_a_chat_can_give() -> None:
    made = routing({"ann": Profile("ann", frozenset())})
    assert plan(made, path="/responses").experts == ("ann", "bob", "cid")
    found = plan(made, path="/responses", background=True)
    assert found.experts == ("bob", "cid")
    assert found.candidates[0].barred == "lacks responses, and background cannot be translated"


def test_who_has_no_vectors_is_left_out_before_anybody_is_asked() -> None:
    made = routing({"ann": Profile("ann", frozenset())})
    assert plan(made, "ann", path="/embeddings", models=["bob"]).experts == ("bob",)
    assert refused(made, "ann", path="/embeddings").code == "no_eligible_expert"


def test_a_named_expert_is_bound_by_max_cost_too() -> None:
    asked: dict[str, Any] = {"coterie": {"max_cost": 2}}
    made = routing({"dan": Profile("dan")}, price=lambda name, asked: 3.0)
    assert "ann: expected cost 4 > 2" in refused(made, "ann", **asked).message
    assert "dan: expected cost 3 > 2" in refused(made, "dan", **asked).message
    assert plan(made, "bob", **asked).experts == ("bob",)
    assert plan(made, "bob", models=["dan", "ann", "cid"], **asked).experts == ("bob", "cid")


def test_an_expert_that_the_key_may_not_ask_is_forbidden() -> None:
    for model in ("ann", "auto"):
        told = refused(routing({"dan": Profile("dan")}), model, ("dan",))
        assert (told.status, told.type, told.param) == (403, "permission_error", "model")
    assert refused(routing(), "nobody", ("bob",)).status == 404


def test_a_dry_run_counts_for_nothing() -> None:
    measured: list[str] = []

    class Counting(Observing):
        def measure(self, text: str) -> None:
            measured.append(text)

    made = routing(observing=Counting(Memory(None)))
    for _ in range(5):
        plan(made, explain=True)
    assert (made.best_single, measured) == (None, [])
    plan(made)
    assert (made.best_single, measured) == ("ann", ["hello"])


def test_a_list_of_models_is_the_order_of_fallbacks() -> None:
    made = routing({"dan": Profile("dan")})
    assert plan(made, "bob", models=["cid", "ann"]).experts == ("bob", "cid", "ann")
    assert plan(made, models=["cid", "dan"]).experts == ("ann", "cid", "dan")
    for model in ("auto", "bob"):
        assert refused(made, model, models=["nobody"]).code == "model_not_found"


def test_a_list_of_models_holds_no_expert_that_is_barred() -> None:
    made = routing({"dan": Profile("dan")})
    for model in ("auto", "bob"):
        found = plan(made, model, ("bob", "cid"), models=["ann", "dan", "cid"])
        assert found.experts == ("bob", "cid")
        reasons = {one.expert: one.barred for one in found.candidates}
        assert reasons["ann"] == reasons["dan"] == "not allowed for this key"


@pytest.mark.parametrize("fields", [{"tools": [{"type": "function"}]}, {"n": 2}])
def test_what_cannot_be_merged_is_answered_by_one(fields: dict[str, Any]) -> None:
    found = plan(routing(), "recruit:3", **fields)
    assert (found.composition, found.constraints["composition"][:6]) == ("", "single")
    assert found.experts == ("ann", "bob", "cid")


def test_no_expert_stands_in_for_another_where_vectors_are_asked_for() -> None:
    """Vectors of two models cannot be compared, and a router of answers says nothing of them."""
    for model in ("auto", "recruit:3"):
        assert refused(routing(), model, path="/embeddings").param == "model"
    assert plan(routing(), "bob", path="/embeddings").experts == ("bob",)
    # a list of models is the client's own word
    found = plan(routing(), "bob", path="/embeddings", models=["cid"])
    assert found.experts == ("bob", "cid")


def test_a_composition_costs_what_all_of_its_experts_do() -> None:
    found = plan(routing(), "recruit:3", coterie={"max_cost": 6.0})  # 4 + 2 + 1
    assert (found.composition, found.experts[0]) == ("", "ann")
    assert "7 of all > 6" in found.constraints["composition"]
    assert plan(routing(), "recruit:3", coterie={"max_cost": 7.0}).composition == "recruit"


def test_a_picture_is_never_lost_in_a_composition() -> None:
    parts = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    found = plan(routing(), "recruit:3", messages=[{"role": "user", "content": parts}])
    assert (found.composition, found.constraints["composition"][:14]) == ("", "single: vision")


def test_a_bound_that_is_no_number_bars_everybody() -> None:
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "x"}]}).encode()
    asked = read_asked("/chat/completions", body, {b"x-coterie-max-cost": b"nan"}, 10_000, 8)
    with pytest.raises(ApiError, match="expected cost 4 > nan"):
        routing().plan(asked, "req_1", ())


# -- staying

CACHED = {"bob": Profile("bob", prefix_saving=0.01)}


def test_a_conversation_stays_while_the_cache_saves_more_than_a_change_gains() -> None:
    made = routing(CACHED, Named("u", Utility(10.0), "single"), cost={**COST, "bob": 3.0})
    # ann: 9 - 4 = 5, bob: 7 - 3 = 4; a prompt of 100 tokens saves 1 of bob's cost
    assert plan(made, text="x" * 600).experts[0] == "ann"
    assert plan(made, text="x" * 200, stay="bob").experts[0] == "ann"
    found = plan(made, text="x" * 600, stay="bob")
    assert found.experts[0] == "bob"
    assert found.constraints["session"]["expert"] == "bob"
    assert found.constraints["session"]["saves"] > 1
    assert found.cost == 3.0  # what was expected, not what was made of it
    better = routing(
        CACHED, made.default, {**QUALITY, "ann": 1.0}, {**COST, "bob": 3.0, "ann": 1.0}
    )
    assert plan(better, text="x" * 9000, stay="bob").experts[0] == "ann"  # no more than its cost


def test_where_only_quality_counts_a_margin_keeps_a_conversation() -> None:
    made = routing(quality={"ann": 0.72, "bob": 0.7, "cid": 0.5}, stay_margin=0.03)
    assert plan(made).experts[0] == "ann"
    assert plan(made, stay="bob").experts[0] == "bob"
    assert plan(made, stay="cid").experts[0] == "ann"
    assert plan(made, stay="gone").experts[0] == "ann"
    assert plan(made, stay="bob", coterie={"exclude": ["bob"]}).experts[0] == "ann"


def test_an_expert_that_would_have_to_be_loaded_must_be_better_by_a_margin() -> None:
    away = {"ann"}
    made = routing(load_margin=0.3, loads=lambda: frozenset(away))
    found = plan(made)
    assert found.experts[0] == "bob"
    assert found.constraints["loading"] == ["ann"]
    assert found.quality == 0.7
    away |= {"bob", "cid"}
    assert plan(made).experts[0] == "ann"
    assert plan(routing(loads=lambda: frozenset({"ann"}))).experts[0] == "ann"


# -- exploring


def test_exploring_writes_down_its_chances() -> None:
    made = routing(explore=0.6)
    plans = [plan(made, id=f"req_{i}") for i in range(400)]
    chances = {found.experts[0]: found.propensity for found in plans}
    assert chances == pytest.approx({"ann": 0.6, "bob": 0.2, "cid": 0.2})
    share = sum(found.experts[0] == "ann" for found in plans) / len(plans)
    assert share == pytest.approx(0.6, abs=0.08)
    assert all(found.explored for found in plans if found.experts[0] != "ann")


def test_nobody_is_tried_out_that_is_barred_or_unwanted() -> None:
    made = routing(explore=1.0)
    ids = [f"req_{i}" for i in range(60)]
    kept = {plan(made, id=i, coterie={"exclude": ["cid"]}).experts[0] for i in ids}
    assert kept == {"ann", "bob"}
    assert {plan(made, id=i, coterie={"explore": False}).experts[0] for i in ids} == {"ann"}
    assert {plan(made, "recruit:2", id=i).experts for i in ids} == {("ann", "bob")}


def test_the_best_single_expert_is_that_of_the_traffic() -> None:
    made = routing()
    assert made.best_single is None
    plan(made)
    assert made.best_single == "ann"


# -- deciding in a hurry

numbers = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]) | st.floats(0, 10, allow_nan=False)
pairs = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6)
worths = st.sampled_from([0.0, 1.0, 4.0, float("inf")]) | st.floats(0, 100, allow_nan=False)


@given(pairs, worths, st.sampled_from(["single", "cascade"]))
def test_choosing_is_deciding_without_evidence(pairs: Any, worth: float, composition: str) -> None:
    quality, cost = zip(*pairs, strict=True)
    names = tuple("abcdef"[: len(cost)])
    estimates = Estimates(names, np.array([quality]), np.array([cost]))
    policy = Utility(worth, composition)
    (slow,), quick = policy.decide([Query.from_text("q", "")], estimates), policy.choose(estimates)
    assert (quick.experts, quick.composition) == (slow.experts, slow.composition)
    assert quick.utility == pytest.approx(slow.utility)
    assert quick.weights == pytest.approx(slow.weights)


@pytest.mark.parametrize("worth", [2.0, float("inf")])
def test_the_evidence_made_later_is_what_deciding_would_have_given(worth: float) -> None:
    made = routing(default=Named("u", Utility(worth), "single"))
    quick, slow = plan(made), plan(made, explain=True)
    assert quick.decision is not None
    assert slow.decision is not None
    assert "chosen" not in quick.decision.evidence
    entry = Entry("req_1", 0.0, candidates=quick.candidates, evidence=dict(quick.decision.evidence))
    later = explained(msgspec.json.decode(msgspec.json.encode(entry), type=Entry))
    assert later.evidence == msgspec.json.decode(msgspec.json.encode(slow.decision.evidence))


@given(st.lists(st.integers(0, 3), min_size=1, unique=True))
def test_estimates_of_some_experts_are_a_slice_of_all(columns: list[int]) -> None:
    draw = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        name: draw.random((1, 4)) for name in ("quality", "cost", "suitability", "error")
    }
    whole = Estimates(tuple("abcd"), strength=draw.random(4), **arrays)
    some = narrowed(whole, columns)
    assert some.experts == tuple("abcd"[j] for j in columns)
    for name, array in arrays.items():
        assert np.array_equal(getattr(some, name), array[:, columns])
    assert whole.strength is not None
    assert np.array_equal(np.asarray(some.strength), whole.strength[columns])


def test_any_policy_decides_on_what_constraints_have_left() -> None:
    for policy in (Guarded("cid"), Guarded("ann"), Guarded(), Explore(Utility(), 0.5)):
        found = plan(routing(default=Named("p", policy, "single")), coterie={"exclude": ["ann"]})
        assert "ann" not in found.experts


def test_a_response_that_goes_on_from_an_earlier_one_needs_its_expert_named() -> None:
    body = {"model": "auto", "input": "and then?", "previous_response_id": "resp_1"}
    asked = read_asked("/responses", json.dumps(body).encode(), {}, 10**6, 8)
    with pytest.raises(ApiError, match="name the expert"):
        routing().plan(asked, "q", ())
