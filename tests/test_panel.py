import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import pytest

from coterie.answers import whole
from coterie.errors import InputError, NotRecordedError
from coterie.evaluation import best_single_row, oracle_row
from coterie.panel import Entrant, Panel, judge
from coterie.panel.setting import filled_costs
from coterie.panel.specs import all_routers, make_entrants, parse_specs, policy_factory
from coterie.panel.sweeps import best_by_utility, pair_metrics, sweep
from coterie.panel.table import verdict
from coterie.panel.votes import answer_codes, best_vote, winners
from coterie.policies import Recruit, Utility
from coterie.records import Records
from coterie.routers.base import Router, mean_or, spread
from coterie.routers.neighbors import KNN
from coterie.testing import EXPERTS, make_records, with_quality
from coterie.types import Decision, Estimates, Query

RECORDS = make_records(60)


class ByCategory(Router):
    """Knows that in this world each category has one expert of its name."""

    name = "by-category"

    def fit(self, records: Records) -> Self:
        self.experts_, self.cost_ = records.experts, mean_or(records.cost, 0.0)
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        quality = np.array([[0.9 * (e == q.category) for e in self.experts_] for q in queries])
        return Estimates(self.experts_, quality, spread(self.cost_, queries))


class Backwards(ByCategory):
    """The same with its experts in another order."""

    def predict(self, queries: Sequence[Query]) -> Estimates:
        known = super().predict(queries)
        return Estimates(known.experts[::-1], known.quality[:, ::-1], known.cost[:, ::-1])


class Peeking(ByCategory):
    """Remembers which queries it was fitted on."""

    def fit(self, records: Records) -> Self:
        self.seen_ = {q.id for q in records.queries}
        return super().fit(records)

    def predict(self, queries: Sequence[Query]) -> Estimates:
        assert self.seen_.isdisjoint(q.id for q in queries)
        return super().predict(queries)


class Refusing(ByCategory):
    def fit(self, records: Records) -> Self:
        raise InputError("wants skills")


def entrant(kind: Callable[[], Router] = ByCategory, name: str = "router", **more: Any) -> Entrant:
    return Entrant(name, kind, **more)


@pytest.fixture(scope="module")
def panel() -> Panel:
    guard = Entrant("guarded", ByCategory, lambda training: Utility())
    return judge(RECORDS, [entrant(), guard], default="guarded")


def test_what_must_be_printed_is_there_unasked() -> None:
    names = [row.name for row in judge(RECORDS).rows]
    assert names == [
        "random",
        "best single",
        "static best-3 vote",
        "per-category table",
        "oracle",
        "cheapest-correct oracle",
        "additive-null oracle",
    ]


def test_rows_say_what_they_read(panel: Panel) -> None:
    reads = {row.name: row.reads for row in panel.rows}
    assert reads["random"] == reads["best single"] == "nothing"
    assert reads["per-category table"] == "category"
    assert reads["static best-3 vote"] == "every answer"
    assert reads["router"] == "text"
    assert reads["oracle"] == "the reference"


def test_bounds_and_baselines_are_those_of_the_records(panel: Panel) -> None:
    assert panel["random"].quality.value == pytest.approx(RECORDS.quality.mean())
    assert panel["oracle"].quality.value == oracle_row(RECORDS).scores.mean()
    assert panel["cheapest-correct oracle"].costs.tolist() == oracle_row(RECORDS).costs.tolist()
    assert panel.best_single.scores.tolist() == best_single_row(RECORDS, RECORDS).scores.tolist()


def test_the_best_single_expert_is_chosen_in_training() -> None:
    quality = np.zeros((20, 2))
    folds = with_quality(make_records(20), np.zeros((20, 4))).select(EXPERTS[:2]).folds(2, 0)
    quality[folds[0], 0] = 1.0  # best where fold 1 is held out
    quality[folds[1], 1] = 1.0
    records = with_quality(make_records(20).select(EXPERTS[:2]), quality)
    judged = judge(records, folds=2)
    assert judged.best_single.quality.value == 0.0
    assert judged.best_experts() == {EXPERTS[0]: 1, EXPERTS[1]: 1}


def test_a_router_is_never_fitted_on_what_it_is_judged_on() -> None:
    assert judge(RECORDS, [entrant(Peeking)])["router"].quality.value == 1.0


def test_experts_go_by_name_where_a_router_orders_them_differently() -> None:
    row = judge(RECORDS, [entrant(Backwards)])["router"]
    assert row.scores.tolist() == [1.0] * 60
    assert row.expected is not None
    assert row.expected[0].argmax() == EXPERTS.index(str(RECORDS.queries[0].category))


def test_entrants_with_the_same_router_share_its_fits(panel: Panel) -> None:
    fits = []

    class Counting(ByCategory):
        def fit(self, records: Records) -> Self:
            fits.append(1)
            return super().fit(records)

    judge(RECORDS, [entrant(Counting), entrant(Counting, "again", policy=lambda t: Utility())])
    assert len(fits) == 5
    assert panel["guarded"].chosen is not None
    assert panel["guarded"].chosen.tolist() == panel["router"].chosen.tolist()  # type: ignore[union-attr]


def test_the_plain_choice_is_that_of_the_utility_policy() -> None:
    generator = np.random.default_rng(0)
    quality, cost = np.round(generator.random((50, 4)), 1), np.round(generator.random((50, 4)), 1)
    queries = tuple(Query.from_text(str(i), "?") for i in range(50))
    for price in (0.0, 0.7, np.inf):
        decisions = Utility(price).decide(queries, Estimates(EXPERTS, quality, cost))
        columns = [EXPERTS.index(d.experts[0]) for d in decisions]
        assert best_by_utility(quality, cost, price).tolist() == columns


def test_the_default_is_not_corrected_and_the_others_are() -> None:
    generator = np.random.default_rng(3)
    noise = with_quality(RECORDS, generator.integers(0, 2, (60, 4)))
    judged = judge(noise, [entrant(), entrant(Backwards, "other")], default="router")
    default, other = judged["router"].versus, judged["other"].versus
    assert default.adjusted == default.p == other.p
    assert other.adjusted > other.p or other.p == 1.0
    assert judged["oracle"].versus.adjusted == judged["oracle"].versus.p


def test_without_a_gain_the_verdict_says_so() -> None:
    equal = with_quality(RECORDS, np.ones((60, 4)))
    lines = verdict(judge(equal, [entrant()], default="router"))
    assert any("does not beat best single (p = 1.000)" in line for line in lines)
    won = verdict(judge(RECORDS, [entrant()], default="router"))
    assert any("beats best single by +50.0" in line for line in won)


def test_matched_random_asks_every_expert_as_often(panel: Panel) -> None:
    row = panel["router"]
    assert row.shares is not None
    assert row.matched is not None
    expected = float((RECORDS.quality @ row.shares).mean())
    assert row.matched_score == pytest.approx(expected)
    assert row.matched.value == pytest.approx(1.0 - expected)
    assert panel["random"].matched is None


def test_the_closed_gap_is_all_for_a_perfect_router_and_none_for_best_single(panel: Panel) -> None:
    assert panel.closed(panel["router"])["oracle"] == 1.0
    assert panel.closed(panel.best_single) == {"oracle": 0.0, "null": 0.0}
    equal = judge(with_quality(RECORDS, np.ones((60, 4))))
    assert equal.closed(equal["oracle"])["oracle"] is None


def test_switching_is_measured_against_the_best_single_of_training(panel: Panel) -> None:
    moved = panel.switching(panel["router"])
    assert moved == {"share": 1.0, "gain": 0.5}
    assert panel.switching(panel["oracle"]) is None


def test_rare_experts_and_open_rows_are_left_out_by_name() -> None:
    quality = RECORDS.quality.copy()
    quality[:30, 0] = np.nan
    quality[7, 1] = np.nan
    judged = judge(replace(RECORDS, quality=quality), keep=[EXPERTS[1]])
    assert judged.left_out == (EXPERTS[0],)
    assert judged.queries_left_out == 1
    assert any("left out, observed too seldom: " + EXPERTS[0] in x for x in verdict(judged))
    kept = judge(with_quality(RECORDS, quality), keep=EXPERTS[:2])
    assert (kept.left_out, len(kept.records)) == ((), 30)
    with pytest.raises(InputError, match="no records of expert 'nobody'"):
        judge(RECORDS, keep=["nobody"])


def test_a_vote_follows_the_majority_and_the_first_named_in_ties() -> None:
    codes = np.array([[0, 1, 1, -1], [0, 1, 2, 3], [-1, -1, 0, 0], [-1, -1, -1, -1]])
    assert winners(codes, (0, 1, 2)).tolist() == [1, 0, 2, 0]
    assert winners(codes, (2, 1, 0)).tolist() == [2, 2, 2, 2]


def test_equal_answers_get_equal_codes_and_failures_none() -> None:
    texts = np.array([["B", " b. ", "C", ""]] * 60, object)
    codes = answer_codes(replace(RECORDS, texts=texts), whole)
    assert codes is not None
    assert codes[0].tolist() == [0, 0, 1, -1]
    none = np.full((60, 4), None, object)
    assert answer_codes(replace(RECORDS, texts=none), whole) is None


def independent(experts: int, seed: int = 0) -> tuple[Any, Any]:
    """Answers that are right with a chance of 0.4 to 0.8, else one of four wrong ones."""
    generator = np.random.default_rng(seed)
    right = generator.random((400, experts)) < np.linspace(0.4, 0.8, experts)
    return np.where(right, 0, generator.integers(1, 5, right.shape)), right.astype(float)


def test_the_best_vote_is_exact_in_small_pools() -> None:
    codes, quality = independent(5)
    members = best_vote(codes, quality, 3)
    rows = np.arange(400)
    score = quality[rows, winners(codes, members)].mean()
    other = quality[rows, winners(codes, (4, 3, 2))].mean()
    assert len(set(members)) == 3
    assert score >= other > quality.mean(axis=0).max()


def test_the_best_vote_grows_by_pairs_in_large_pools() -> None:
    codes, quality = independent(20)
    members = best_vote(codes, quality, 5)
    assert len(set(members)) == 5
    trio = best_vote(codes, quality, 3)
    scores = [quality[np.arange(400), winners(codes, m)].mean() for m in (members, trio)]
    assert scores[0] >= scores[1] > quality.mean(axis=0).max()


def test_recruited_experts_are_replayed_and_paid_for() -> None:
    recruit = Entrant("three", ByCategory, lambda training: Recruit(k=3))
    row = judge(RECORDS, [recruit])["three"]
    assert row.chosen is None
    assert row.calls.tolist() == [3.0] * 60
    assert (row.costs > 3.0 - 1e-9).all()
    assert row.matched is None


def test_single_decisions_among_recruiting_ones_ask_one() -> None:
    class Either:
        def decide(self, queries: Sequence[Query], estimates: Estimates) -> list[Decision]:
            kinds = ["single" if q.category == "sums" else "recruit" for q in queries]
            return [Decision(kind, EXPERTS, (1.0,) * 4) for kind in kinds]

    row = judge(RECORDS, [Entrant("either", ByCategory, lambda training: Either())])["either"]
    sums = np.array([c == "sums" for c in RECORDS.categories])
    assert np.array_equal(row.calls, np.where(sums, 1.0, 4.0))


def test_what_was_not_recorded_cannot_be_replayed() -> None:
    silent = with_quality(RECORDS, RECORDS.quality)  # without texts
    with pytest.raises(NotRecordedError):
        judge(silent, [Entrant("three", ByCategory, lambda training: Recruit(k=3))])


def test_costs_with_small_holes_are_filled_and_large_ones_mean_no_costs() -> None:
    cost = np.ones((200, 2)) * [1.0, 3.0]
    cost[0, 0] = np.nan
    queries = tuple(Query.from_text(str(i), "?") for i in range(200))
    records = Records(queries, ("a", "b"), np.ones((200, 2)), cost=cost)
    assert filled_costs(records)[0].tolist() == [1.0, 3.0]
    cost[:9, 0] = np.nan
    assert np.isnan(filled_costs(Records(queries, ("a", "b"), np.ones((200, 2)), cost=cost))).all()


def test_the_panel_does_without_costs_answers_and_categories() -> None:
    queries = tuple(Query.from_text(str(i), f"question {i}") for i in range(20))
    quality = np.random.default_rng(0).integers(0, 2, (20, 3)).astype(float)
    judged = judge(Records(queries, ("a", "b", "c"), quality), [entrant(KNN)])
    assert len(judged.notes) == 3
    assert judged.curves == {}
    facts = json.loads(json.dumps(judged.to_dict(), allow_nan=False))
    assert {row["cost"] for row in facts["panel"]} == {None}


def test_a_curve_runs_from_the_cheapest_to_the_best() -> None:
    generator = np.random.default_rng(0)
    quality = (generator.random((500, 2)) < [0.5, 0.8]).astype(float)
    cost = np.ones((500, 2)) * [1.0, 10.0]
    curve = sweep(quality * 0.8 + 0.1, cost, quality, cost)
    assert curve is not None
    assert (curve.cost[0], curve.peak) == (1.0, quality.max(axis=1).mean())
    assert (np.diff(curve.cost[:-1]) >= 0).all()
    assert curve.aiq > curve.zero_aiq
    assert curve.qnc < 0.6
    assert sweep(quality, cost, quality, np.ones((500, 2))) is None


def test_a_router_over_two_experts_has_the_metrics_of_routellm() -> None:
    two = RECORDS.select(["sums", "generalist"])
    pairs = judge(two, [entrant()]).pairs["router"]
    assert (pairs.weak, pairs.strong) == ("sums", "generalist")
    assert pairs.apgr > 1.0
    assert pairs.cpt_20 < pairs.cpt_80
    assert pair_metrics(two.quality, np.ones((60, 2)), two.experts, np.zeros(60, int)) is None


def test_the_json_holds_every_row_and_what_was_judged(panel: Panel) -> None:
    facts = json.loads(json.dumps(panel.to_dict("category"), allow_nan=False))
    assert facts["schema"] == 1
    assert facts["data"]["queries"] == 60
    assert facts["data"]["default"] == "guarded"
    router = next(row for row in facts["panel"] if row["name"] == "router")
    assert {"name", "kind", "reads", "quality", "ci", "cost", "calls"} <= set(router)
    assert {"diff", "ci", "p", "p_raw"} == set(router["vs_best_single"])
    assert router["shares"]["sums"] == pytest.approx(1 / 3)
    assert sum(group["queries"] for group in facts["groups"]) == 60


def test_groups_partition_the_queries(panel: Panel) -> None:
    numbers = np.concatenate(list(panel.groups().values()))
    assert sorted(numbers.tolist()) == list(range(60))
    assert list(panel.groups("subject")) == ["-"]
    with pytest.raises(InputError, match="expected one of category, subject"):
        panel.groups("mood")


def test_an_entrant_that_refuses_is_an_error_unless_tolerated() -> None:
    with pytest.raises(InputError, match="wants skills"):
        judge(RECORDS, [entrant(Refusing)])
    judged = judge(RECORDS, [entrant(Refusing), entrant(ByCategory, "other")], tolerant=True)
    assert "router was left out: wants skills" in judged.notes
    assert judged["other"].quality.value == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entrants": [entrant(), entrant()]}, "two rows would be called 'router'"),
        ({"entrants": [entrant(name="oracle")]}, "two rows would be called 'oracle'"),
        ({"default": "nobody"}, "no entrant is called 'nobody'"),
        ({"folds": 61}, "expected 2 to 60"),
        ({"folds": 1}, "expected 2 to 60"),
    ],
)
def test_a_panel_that_cannot_be_held_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        judge(RECORDS, **change)


def test_the_panel_repeats_itself_and_depends_on_the_seed() -> None:
    one, two, other = (judge(RECORDS, [entrant(KNN)], seed=s) for s in (1, 1, 2))
    assert [r.versus for r in one.rows] == [r.versus for r in two.rows]
    assert one.fold_of.tolist() != other.fold_of.tolist()


def test_progress_counts_folds_of_routers() -> None:
    steps: list[tuple[str, int, int]] = []
    entrants = [entrant(), entrant(Backwards, "other")]
    judge(RECORDS, entrants, folds=2, report=lambda *step: steps.append(step))
    assert steps == [("router", 1, 4), ("other", 2, 4), ("router", 3, 4), ("other", 4, 4)]


def test_specs_are_names_with_settings() -> None:
    specs = parse_specs("knn(k=50, shrinkage=2.5), linear, my.module:Mine(a=word, b=[1, 2])")
    assert [s.name for s in specs] == ["knn", "linear", "my.module:Mine"]
    assert specs[0].settings == {"k": 50, "shrinkage": 2.5}
    assert specs[2].settings == {"a": "word", "b": [1, 2]}
    assert parse_specs("utility(willingness_to_pay=inf)")[0].settings == {
        "willingness_to_pay": np.inf
    }


@pytest.mark.parametrize("wrong", ["knn(50)", "knn(k=)", "knn(k=f(2))", "kn n", "knn(**{})"])
def test_a_spec_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(InputError, match="expected"):
        parse_specs(wrong)


def test_settings_that_a_plug_in_lacks_are_refused_with_those_it_has() -> None:
    with pytest.raises(InputError, match=r"field 'knn': no setting 'kk'; there are k, "):
        make_entrants("knn(kk=3)", "", "static", whole)


def test_every_router_is_entered_alone_and_with_every_policy() -> None:
    entrants, default = make_entrants("linear", "recruit(k=3)", "static", whole)
    names = [e.name for e in entrants]
    assert names[:2] == ["linear", "linear, recruit(k=3)"]
    assert default in names
    assert len(names) == len(set(names))
    assert "oracle" not in all_routers().split(",")


def test_a_policy_falls_back_to_the_best_single_of_training() -> None:
    (spec,) = parse_specs("guarded(z=0.5)")
    policy: Any = policy_factory(spec)(RECORDS)
    assert (policy.fallback, policy.z) == ("generalist", 0.5)
    named: Any = policy_factory(parse_specs("guarded(fallback=sums)")[0])(RECORDS)
    assert named.fallback == "sums"
