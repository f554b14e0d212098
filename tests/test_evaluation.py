from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie import plugins
from coterie.aggregators import Calibrated, Majority, Weighted
from coterie.answers import Extractor, arrow, whole
from coterie.compositions import recruit, single
from coterie.errors import InputError, NotRecordedError
from coterie.evaluation import (
    answers_row,
    best_single_row,
    calibrate,
    calibrated_scores,
    category_decisions,
    category_row,
    column_row,
    complete,
    confidence_row,
    cross_fitted,
    oracle_row,
    random_row,
    replay_row,
    static_vote,
)
from coterie.policies import Recruit, Utility
from coterie.records import Records
from coterie.routers.base import Router
from coterie.testing import EXPERTS, make_records, with_quality
from coterie.types import Answer, Completion, Decision, Estimates, Query

RECORDS = make_records(24)


def noisy(seed: int) -> Records:
    generator = np.random.default_rng(seed)
    scored = with_quality(
        RECORDS,
        generator.integers(0, 2, (24, 4)),
        cost=generator.random((24, 4)),
    )
    return replace(scored, texts=RECORDS.texts)


ROUTERS: dict[str, Router] = {n: plugins.load("routers", n)() for n in plugins.names("routers")}


@pytest.mark.parametrize("name", ROUTERS)
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 1000))
def test_no_router_is_better_than_the_oracle(name: str, seed: int) -> None:
    if name == "agent-graph":
        pytest.importorskip("torch_geometric", reason="the extra graph is not installed")
    records = noisy(seed)
    estimates = ROUTERS[name].fit(records).predict(records.queries)
    decisions = Utility().decide(records.queries, estimates)
    columns = np.array([records.experts.index(d.experts[0]) for d in decisions])
    row = column_row(name, records, columns, "text")
    assert (oracle_row(records).scores >= row.scores).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_rows_are_ordered_as_theory_demands(seed: int) -> None:
    records = noisy(seed)
    oracle, best = oracle_row(records), best_single_row(records, records)
    table, chance = category_row(records, records), random_row(records)
    assert oracle.scores.mean() >= table.scores.mean() >= best.scores.mean() - 1e-9
    assert best.scores.mean() >= chance.scores.mean() - 1e-9


def test_the_oracle_pays_for_the_cheapest_of_the_best() -> None:
    row = oracle_row(with_quality(RECORDS, np.ones((24, 4))))
    assert row.costs.tolist() == [1.0] * 24
    assert row.reads == "the reference"


def test_the_oracle_does_without_costs() -> None:
    row = oracle_row(with_quality(RECORDS, RECORDS.quality, cost=np.full((24, 4), np.nan)))
    assert row.scores.tolist() == [1.0] * 24


def test_best_single_is_chosen_on_training_not_on_test() -> None:
    training = with_quality(RECORDS, np.tile([0.0, 0.0, 1.0, 0.0], (24, 1)))
    row = best_single_row(training, RECORDS)
    assert row.name == "best single (reversal)"
    assert row.scores.mean() == pytest.approx(1 / 3)


def test_an_expert_nobody_observed_is_not_the_best_single() -> None:
    quality = RECORDS.quality.copy()
    quality[:, 1] = np.nan
    row = best_single_row(with_quality(RECORDS, quality), RECORDS)
    assert row.name == "best single (generalist)"


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (3, 0, 1, 2)])
def test_experts_go_by_name_where_training_lists_them_differently(order: tuple[int, ...]) -> None:
    training = RECORDS.select([EXPERTS[j] for j in order])
    assert best_single_row(training, RECORDS).name == "best single (generalist)"
    assert category_row(training, RECORDS).scores.tolist() == [1.0] * 24
    test = RECORDS.select(["sorting", "generalist"])
    assert best_single_row(training, test).name == "best single (generalist)"


def test_a_category_goes_to_its_best_expert() -> None:
    row = category_row(RECORDS, RECORDS)
    assert row.scores.tolist() == [1.0] * 24
    assert row.reads == "category"


def test_a_category_that_training_lacks_goes_to_the_best_overall() -> None:
    training = RECORDS.take([i for i, c in enumerate(RECORDS.categories) if c != "sums"])
    row = category_row(training, RECORDS.take([0]))
    (decision,) = category_decisions(training, RECORDS.take([0]), 2)
    assert decision.experts[0] in ("sorting", "reversal", "generalist")
    assert row.scores.tolist() == [RECORDS.quality[0, EXPERTS.index(decision.experts[0])]]


def test_category_decisions_are_weighted_by_training_scores() -> None:
    decisions = category_decisions(RECORDS, RECORDS, 2)
    assert decisions[0].experts == ("sums", "generalist")
    assert decisions[0].weights == (1.0, 0.5)


def test_a_static_vote_tries_every_subset() -> None:
    assert set(static_vote(RECORDS, 1, Majority(arrow)).experts) == {"generalist"}
    trio = static_vote(RECORDS, 3, Weighted(arrow, choices=2))
    row = replay_row(
        "vote",
        [trio] * 24,
        lambda q, d, s: recruit(q, d, s, aggregator=Majority(arrow)),
        RECORDS,
        arrow,
    )
    assert len(set(trio.experts)) == 3
    assert row.calls == 3


def test_a_static_vote_of_more_than_there_are_is_a_vote_of_all() -> None:
    assert sorted(static_vote(RECORDS, 9, Majority()).experts) == sorted(EXPERTS)


def test_a_static_vote_needs_every_answer() -> None:
    with pytest.raises(NotRecordedError, match=r"no answer of '.*' to 'q0'"):
        static_vote(with_quality(RECORDS, RECORDS.quality), 2, Majority())


def test_complete_leaves_out_rare_experts_and_then_open_rows() -> None:
    quality = RECORDS.quality.copy()
    quality[3:, 0] = np.nan
    quality[5, 2] = np.nan
    kept = complete(with_quality(RECORDS, quality), share=0.9)
    assert kept.experts == EXPERTS[1:]
    assert "q5" not in [q.id for q in kept.queries]
    assert len(kept) == 23


def test_complete_keeps_rare_experts_that_are_named() -> None:
    quality = RECORDS.quality.copy()
    quality[3:, 0] = np.nan
    kept = complete(with_quality(RECORDS, quality), keep=[EXPERTS[0]])
    assert (kept.experts, len(kept)) == (EXPERTS, 3)
    with pytest.raises(InputError, match="no records of expert 'nobody'"):
        complete(RECORDS, keep=["nobody"])


@pytest.mark.parametrize("holes", [np.ones((24, 4), bool), np.eye(24, 4, dtype=bool)])
def test_complete_says_where_nothing_is_left(holes: np.ndarray) -> None:
    quality = np.where(holes, np.nan, RECORDS.quality)
    records = with_quality(RECORDS, quality)
    if holes.all():
        with pytest.raises(InputError, match="no query was answered by every expert"):
            complete(records)
    else:
        assert len(complete(records, share=0.5)) == 20
    with pytest.raises(InputError, match="no query was answered"):
        complete(RECORDS.take([]))


def test_confidence_believes_the_surest_and_pays_for_all() -> None:
    row = confidence_row(RECORDS)
    assert row.scores.tolist() == [1.0] * 24
    assert (row.costs[0], row.calls) == (7.0, 4.0)


def test_failed_answers_and_missing_references_score_nothing() -> None:
    decision = Decision("single", ("sums",), (1.0,))
    right, failed = Completion("sums", "right"), Completion("sums", "right", error="late")
    answers = [Answer(f"q{i}", c, (c,), decision) for i, c in enumerate((right, failed, right))]
    records = replace(RECORDS.take([0, 1, 2]), references=("right", "right", None))
    row = answers_row("", answers, records, arrow)
    assert row.scores.tolist() == [1.0, 0.0, 0.0]


def test_a_replayed_row_scores_what_was_recorded() -> None:
    decisions = [Decision("single", (c or "",), (1.0,)) for c in RECORDS.categories]
    row = replay_row("", decisions, single, RECORDS, arrow)
    assert row.scores.tolist() == [1.0] * 24
    assert (row.costs.tolist(), row.calls) == ([1.0] * 24, 1.0)


def test_a_summary_compares_with_the_baseline_on_the_same_queries() -> None:
    best = best_single_row(RECORDS, RECORDS)
    summary = oracle_row(RECORDS).summary(best)
    assert summary["vs_best_single"]["diff"] == 0.5
    assert best.summary(best)["vs_best_single"] == {"diff": 0.0, "ci": [0.0, 0.0]}


def test_calibration_learns_that_confidence_tells_right_from_wrong() -> None:
    generator = np.random.default_rng(0)
    right = (generator.random((200, 1)) < 0.5).astype(float)
    records = Records(
        tuple(Query.from_text(f"q{i}", f"question {i}") for i in range(200)),
        ("a",),
        right,
        logprob=np.where(right == 1, -0.01, -0.3) * generator.uniform(0.5, 2, (200, 1)),
        texts=np.full((200, 1), "text", object),
    )
    vote = calibrate([Decision("recruit", ("a",), (0.5,))] * 200, records, whole)
    assert vote is not None
    assert vote.surprise < -1
    sure, unsure = Completion("a", "x", logprob=-0.01), Completion("a", "x", logprob=-0.3)
    assert vote.log_odds(sure, 0.5) > vote.log_odds(unsure, 0.5) + 2


def test_nothing_is_calibrated_without_log_probabilities() -> None:
    records = Records((Query.from_text("q", "?"),), ("a",), np.ones((1, 1)))
    assert calibrate([Decision("recruit", ("a",), (0.5,))], records, whole) is None


def noise(rows: int, experts: int = 4, seed: int = 0) -> Records:
    """Every question is another one and every outcome the toss of a coin: nothing can be learnt."""
    generator = np.random.default_rng(seed)
    words = generator.integers(0, 26, (rows, 12, 6)) + ord("a")
    texts = [" ".join("".join(map(chr, word)) for word in line) for line in words.tolist()]
    return Records(
        tuple(Query.from_text(f"q{i}", text) for i, text in enumerate(texts)),
        EXPERTS[:experts],
        generator.integers(0, 2, (rows, experts)).astype(float),
        logprob=-generator.random((rows, experts)),
        texts=np.array([[f"{i} {j}" for j in range(experts)] for i in range(rows)], object),
        references=tuple(f"{i} 0" for i in range(rows)),
    )


class Memory(Router):
    """Knows the scores of the questions it was fitted on by heart, of others the means."""

    name = "memory"

    def fit(self, records: Records) -> Self:
        self.experts_, self.mean_ = records.experts, records.quality.mean(axis=0)
        self.known_ = {q.text: row for q, row in zip(records.queries, records.quality, strict=True)}
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        quality = np.array([self.known_.get(q.text, self.mean_) for q in queries])
        return Estimates(self.experts_, quality, np.zeros_like(quality))


def routed(records: Records, decisions: Sequence[Decision]) -> float:
    columns = [records.experts.index(d.experts[0]) for d in decisions]
    return float(records.quality[np.arange(len(records)), columns].mean())


def test_what_is_learnt_by_heart_gains_nothing_where_it_is_cross_fitted() -> None:
    records = noise(400)
    by_heart = Memory().fit(records).predict(records.queries)
    fitted = Recruit(1).decide(records.queries, by_heart)
    crossed = cross_fitted(Memory, records, {"one": Recruit(1)})["one"]
    assert routed(records, fitted) > 0.9
    assert routed(records, crossed) == pytest.approx(0.5, abs=0.06)


def test_a_repeated_question_is_not_answered_from_memory() -> None:
    records = noise(120)
    twice = Records(
        tuple(replace(q, id=f"{i} {q.id}") for i in range(2) for q in records.queries),
        records.experts,
        np.tile(records.quality, (2, 1)),
    )
    crossed = cross_fitted(Memory, twice, {"one": Recruit(1)})["one"]
    assert routed(twice, crossed) == pytest.approx(0.5, abs=0.1)


def test_a_vote_is_calibrated_without_the_questions_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records, seen = noise(40), []
    decisions = [Decision("recruit", EXPERTS, (0.5,) * 4)] * 40

    def watched(some: Sequence[Decision], known: Records, extract: Extractor) -> Calibrated | None:
        seen.append({q.id for q in known.queries})
        return calibrate(some, known, extract)

    monkeypatch.setattr("coterie.evaluation.calibrate", watched)
    composed = lambda aggregator: partial(recruit, aggregator=aggregator)  # noqa: E731
    assert calibrated_scores(decisions, records, whole, composed) is not None
    folds = [{records.queries[i].id for i in rows} for rows in records.folds(5)]
    assert [fitted & asked for fitted, asked in zip(seen, folds, strict=True)] == [set()] * 5
    assert all(len(fitted) == 32 for fitted in seen)
