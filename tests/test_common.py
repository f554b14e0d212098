"""Every registered router and composition keeps the contract that we ship for strangers' ones."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from coterie import plugins, testing
from coterie.aggregators import ByExpert, Majority, Weighted
from coterie.answers import arrow
from coterie.compositions import Composition, bound, cascade, confident, recruit
from coterie.evaluation import best_single_row, oracle_row
from coterie.records import Records
from coterie.routers.base import Router
from coterie.routers.baselines import Always, BestSingle
from coterie.routers.linear import Linear
from coterie.routers.neighbors import KNN
from coterie.routers.skills import Skills
from coterie.scorers import learn_scorer
from coterie.testing import (
    COMPOSITION_CHECKS,
    DECISION,
    EXPERTS,
    ROUTER_CHECKS,
    MakeComposition,
    MakeRouter,
    converse,
    make_records,
)
from coterie.types import Call, Completion, Decision, Estimates, Flow, Query, Seed

VARIANTS: dict[str, MakeRouter] = {
    "knn, lexical, no shrinkage": lambda: KNN(k=3, shrinkage=0.0, encoder="lexical"),
    "linear, lexical": lambda: Linear(encoder="lexical"),
    "skills, tags": lambda: Skills(annotator="tags"),
}
ROUTERS: dict[str, MakeRouter] = {
    **{name: plugins.load("routers", name) for name in plugins.names("routers")},
    **VARIANTS,
    "always": lambda: Always("sums"),
}
NAMES_ONE = "its estimates go by the name of an expert, not by scores"
DRAWS = "its estimates are drawn by position, not learnt from scores"
PACKAGES = {"agent-graph": "torch_geometric"}  # what a router needs from an extra
READS_ANSWERS = "it learns from answers of at least three experts, not from scores"
EXEMPT = {
    ("random", "check_order_of_experts_does_not_matter"): DRAWS,
    ("random", "check_equal_experts_are_judged_alike"): DRAWS,
    ("always", "check_equal_experts_are_judged_alike"): NAMES_ONE,
    ("oracle", "check_unseen_queries_are_estimated"): "it knows recorded queries only",
    ("oracle", "check_one_recorded_query_is_enough"): "it knows recorded queries only",
    ("smoothie", "check_equal_experts_are_judged_alike"): READS_ANSWERS,
    ("smoothie", "check_missing_cells_are_tolerated"): READS_ANSWERS,
    ("smoothie", "check_one_recorded_query_is_enough"): READS_ANSWERS,
}
MERGING: dict[str, Composition] = {
    "recruit, weighted": lambda q, d, s: recruit(q, d, s, aggregator=Weighted(arrow)),
    "recruit, by expert": lambda q, d, s: recruit(q, d, s, aggregator=ByExpert("generalist")),
    "cascade, never content": lambda q, d, s: cascade(q, d, s, accept=confident(0.0)),
}
SCORER = learn_scorer(make_records(24), arrow)[0]
NEEDS: dict[str, dict[str, Any]] = {  # settings that a composition cannot do without
    "cascade-executed": {"runner": "generalist"},
    "cascade-routing": {"scorer": SCORER},
    "cascade-scored": {"scorer": SCORER},
}
COMPOSITIONS: dict[str, Composition] = {
    **{
        name: bound(plugins.load("compositions", name), NEEDS.get(name, {}))
        for name in plugins.names("compositions")
    },
    **MERGING,
}


@pytest.mark.parametrize("name", ROUTERS)
@pytest.mark.parametrize("check", ROUTER_CHECKS)
def test_a_router_keeps_its_promise(check: Callable[[MakeRouter], None], name: str) -> None:
    if reason := EXEMPT.get((name, check.__name__)):
        pytest.skip(reason)
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name], reason="its extra is not installed")
    check(ROUTERS[name])


@pytest.mark.parametrize("name", COMPOSITIONS)
@pytest.mark.parametrize("check", COMPOSITION_CHECKS)
def test_a_composition_keeps_its_promise(
    check: Callable[[MakeComposition], None], name: str
) -> None:
    check(lambda: COMPOSITIONS[name])


@pytest.mark.parametrize("check", sorted({check for _, check in EXEMPT}))
def test_an_exemption_names_a_check_that_exists(check: str) -> None:
    assert check in {c.__name__ for c in ROUTER_CHECKS}
    assert {name for name, _ in EXEMPT} <= set(ROUTERS)


@pytest.mark.parametrize("prefix", ["ROUTER", "COMPOSITION"])
def test_a_check_has_a_docstring_that_states_the_promise(prefix: str) -> None:
    checks = getattr(testing, f"{prefix}_CHECKS")
    assert all((check.__doc__ or "").split("\n")[0].endswith(".") for check in checks)
    assert len(set(checks)) == len(checks)


def test_the_synthetic_world_has_the_optimum_it_says() -> None:
    records = make_records(60, seed=3)
    assert oracle_row(records).scores.mean() == 1.0
    best = best_single_row(records, records)
    assert (best.name, best.scores.mean()) == ("best single (generalist)", 0.5)


def test_the_synthetic_world_depends_on_its_seed_alone() -> None:
    first, same, other = make_records(9), make_records(9), make_records(9, seed=1)
    assert first.queries == same.queries
    assert [q.text for q in first.queries] != [q.text for q in other.queries]


class Broken(BestSingle):
    """A router to break in one place at a time."""

    name = "best-single"

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def fit(self, records: Records) -> Self:
        if self.fault == "learns from labels":
            labels = np.nan_to_num(records.quality).argmax(axis=1)
            won = (labels[:, None] == np.arange(len(records.experts))).mean(axis=0)
            super().fit(records)
            self.quality_ = won
            return self
        if self.fault == "remembers earlier fits" and hasattr(self, "quality_"):
            return self
        if self.fault == "changes the records":
            super().fit(records)
            records.cost[:] = 0
            return self
        if self.fault == "changes a parameter":
            super().fit(records)
            self.fault = "changed"
            return self
        if self.fault == "uses global randomness":
            super().fit(records)
            self.quality_ = np.random.random(len(records.experts))
            return self
        return super().fit(records)

    def predict(self, queries: Sequence[Query]) -> Estimates:
        estimates = super().predict(queries)
        quality = estimates.quality.copy()
        if self.fault == "gives NaN":
            quality[:] = np.nan
        if self.fault == "scales by the batch" and len(queries) > 1:
            quality *= 0.5
        if self.fault == "flattens a single row" and len(queries) == 1:
            quality = quality[0]
        if self.fault == "exceeds one":
            quality += 1
        return Estimates(estimates.experts, quality, estimates.cost)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("learns from labels", testing.check_equal_experts_are_judged_alike),
        ("remembers earlier fits", testing.check_fit_forgets),
        ("changes the records", testing.check_fit_and_predict_leave_records_alone),
        ("changes a parameter", testing.check_fit_keeps_the_parameters),
        ("uses global randomness", testing.check_fit_repeats_itself),
        ("gives NaN", testing.check_estimates_are_scores_and_costs),
        ("gives NaN", testing.check_missing_cells_are_tolerated),
        ("scales by the batch", testing.check_queries_do_not_influence_each_other),
        ("flattens a single row", testing.check_one_query_and_none),
        ("exceeds one", testing.check_unseen_queries_are_estimated),
    ],
)
def test_a_check_finds_the_router_that_breaks_its_promise(
    fault: str, check: Callable[[MakeRouter], None]
) -> None:
    check(Broken)
    with pytest.raises(AssertionError):
        check(lambda: Broken(fault))


class Hasty(BestSingle):
    """Its constructor does more than store."""

    def __init__(self, k: int = 3) -> None:
        self.k = k + 1


class Deaf(BestSingle):
    """It predicts before it is fitted, and restores whatever it finds."""

    def predict(self, queries: Sequence[Query]) -> Estimates:
        return Estimates((), np.empty((len(queries), 0)), np.empty((len(queries), 0)))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        return cls().fit(make_records())


@pytest.mark.parametrize(
    ("make", "check"),
    [
        (Hasty, testing.check_constructor_only_stores),
        (Deaf, testing.check_predict_needs_fit),
        (Deaf, testing.check_estimates_have_their_shapes),
        (Deaf, testing.check_damaged_artifacts_are_refused),
        (Deaf, testing.check_records_without_scores_are_refused),
    ],
)
def test_a_check_finds_the_class_that_breaks_its_promise(
    make: type[Router], check: Callable[[MakeRouter], None]
) -> None:
    check(BestSingle)
    with pytest.raises(AssertionError):
        check(make)


def ask_one(query: Query, seed: object, **options: Any) -> Call:
    return Call("sums", query.messages, options={**query.params, "seed": seed, **options})


def reads_a_file(query: Query, decision: Decision, seed: Seed) -> Flow:
    Path(__file__).read_bytes()
    (completion,) = yield [ask_one(query, seed)]
    return completion


def lists_a_folder(query: Query, decision: Decision, seed: Seed) -> Flow:
    os.listdir(".")
    (completion,) = yield [ask_one(query, seed)]
    return completion


def rolls_dice(query: Query, decision: Decision, seed: Seed) -> Flow:
    (completion,) = yield [ask_one(query, int(np.random.randint(2**31)))]
    return completion


def asks_nobody(query: Query, decision: Decision, seed: Seed) -> Flow:
    yield []
    return Completion("sums", "from nowhere")


def asks_a_stranger(query: Query, decision: Decision, seed: Seed) -> Flow:
    (completion,) = yield [Call("stranger", query.messages, options={"seed": seed})]
    return completion


def forgets_the_seed(query: Query, decision: Decision, seed: Seed) -> Flow:
    first, _ = yield [ask_one(query, 1), ask_one(query, 1)]
    return first


def forgets_the_options(query: Query, decision: Decision, seed: Seed) -> Flow:
    (completion,) = yield [Call("sums", query.messages, options={"seed": seed})]
    return completion


def trusts_everyone(query: Query, decision: Decision, seed: Seed) -> Flow:
    (completion,) = yield [ask_one(query, seed)]
    assert completion.text.strip(), "an expert said nothing"
    return completion


def hides_failure(query: Query, decision: Decision, seed: Seed) -> Flow:
    yield [ask_one(query, seed)]
    return Completion("sums", "all is well")


def starts_at_once(query: Query, decision: Decision, seed: Seed) -> Flow:
    flow = recruit(query, decision, seed)
    next(flow)
    return flow


def answers_as_a_stranger(query: Query, decision: Decision, seed: Seed) -> Flow:
    yield [ask_one(query, seed)]
    return Completion("stranger", "95")


def counts_on_three(query: Query, decision: Decision, seed: Seed) -> Flow:
    first, _, _ = yield [ask_one(query, (seed, i)) for i, _ in enumerate(decision.experts)]
    return first


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (reads_a_file, testing.check_does_no_io),
        (lists_a_folder, testing.check_does_no_io),
        (rolls_dice, testing.check_is_deterministic),
        (asks_nobody, testing.check_asks_known_experts),
        (asks_a_stranger, testing.check_asks_known_experts),
        (forgets_the_seed, testing.check_every_call_has_its_own_seed),
        (forgets_the_seed, testing.check_the_seed_of_the_run_counts),
        (forgets_the_options, testing.check_request_options_reach_the_experts),
        (trusts_everyone, testing.check_some_experts_may_fail),
        (trusts_everyone, testing.check_odd_answers_are_tolerated),
        (hides_failure, testing.check_every_expert_failing_is_a_failed_answer),
        (starts_at_once, testing.check_nothing_happens_before_it_is_driven),
        (answers_as_a_stranger, testing.check_answers_with_a_completion),
        (counts_on_three, testing.check_one_expert_is_enough),
    ],
)
def test_a_check_finds_the_composition_that_breaks_its_promise(
    broken: Composition, check: Callable[[MakeComposition], None]
) -> None:
    check(lambda: recruit)
    with pytest.raises((AssertionError, ValueError)):
        check(lambda: broken)


def test_converse_gives_the_rounds_and_the_answer() -> None:
    rounds, answer = converse(lambda q, d, s: recruit(q, d, s, aggregator=Majority(arrow)))
    assert [[call.expert for call in calls] for calls in rounds] == [list(DECISION.experts)]
    assert answer.expert == EXPERTS[0]
