"""Cascades that decide from agreement, token probabilities or an expert's own verdict."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.answers import number
from coterie.compositions import Composition
from coterie.compositions.consistent import Consistent
from coterie.compositions.unsure import Unsure
from coterie.compositions.verified import Verified, approves, confidence
from coterie.drivers.replay import replay
from coterie.errors import InputError, NotRecordedError
from coterie.policies import Chain
from coterie.testing import Reply, converse, fail, make_records
from coterie.types import Call, Completion, Decision, Estimates, Query

QUERY = Query.from_text("q", "What is 37 plus 58?", max_tokens=48)
TRIO = Decision("any", ("ann", "bob", "cid"), (0.4, 0.6, 0.9))


def saying(**texts: str | Completion) -> Reply:
    """What each expert answers; those not named fail."""

    def reply(call: Call) -> Completion:
        said = texts.get(call.expert)
        if isinstance(said, Completion):
            return said
        return fail(call) if said is None else Completion(call.expert, said)

    return reply


def held(composition: Composition, reply: Reply) -> tuple[list[list[str]], Completion]:
    rounds, answer = converse(composition, reply, TRIO, QUERY)
    return [[call.expert for call in calls] for calls in rounds], answer


def test_agreeing_cheap_experts_spare_the_last_one() -> None:
    rounds, answer = held(Consistent(), saying(ann="95", bob=" 95.", cid="96"))
    assert rounds == [["ann", "bob"]]
    assert answer.text == "95"


@pytest.mark.parametrize(("agreement", "asked"), [(1.0, 2), (0.5, 1), (0.0, 1)])
def test_too_little_agreement_asks_the_last_expert(agreement: float, asked: int) -> None:
    rounds, _ = held(Consistent(agreement), saying(ann="94", bob="95", cid="96"))
    assert len(rounds) == asked


def test_agreement_is_on_extracted_answers_and_a_failure_agrees_with_nobody() -> None:
    said = saying(ann="I say 95", bob="surely 95", cid="96")
    assert held(Consistent(extract=number), said)[1].expert == "ann"
    assert held(Consistent(), said)[1].expert == "cid"
    assert held(Consistent(), saying(ann="95", cid="96"))[1].expert == "cid"


def test_the_majority_stands_where_the_last_expert_fails() -> None:
    assert held(Consistent(), saying(ann="94", bob="95"))[1].text == "94"


@given(st.permutations(["94", "95", "95"]))
def test_the_share_that_agrees_does_not_depend_on_the_order(texts: Sequence[str]) -> None:
    completions = [Completion("x", text) for text in texts]
    assert Consistent().share(completions) == pytest.approx(2 / 3)


def sure(expert: str, logprobs: Sequence[float], margin: float | None = None) -> Completion:
    mean = float(np.mean(logprobs)) if logprobs else None
    return Completion(expert, expert, logprob=mean, logprobs=tuple(logprobs), margin=margin)


def test_every_measure_is_its_formula() -> None:
    answer = sure("ann", (-0.1, -0.2, -3.0, -0.3), margin=0.7)
    assert Unsure().confidence(answer) == pytest.approx(-0.9)
    assert Unsure(measure="quantile", quantile=0.0).confidence(answer) == -3.0
    assert Unsure(measure="quantile", quantile=0.5).confidence(answer) == pytest.approx(-0.25)
    assert Unsure(measure="margin").confidence(answer) == 0.7
    assert Unsure(measure="margin").confidence(Completion("ann", "95")) == -math.inf


def test_one_doubtful_token_of_a_long_answer_escalates_by_quantile_not_by_mean() -> None:
    said = saying(ann=sure("ann", [-0.01] * 99 + [-5.0]), bob="95", cid="96")
    assert held(Unsure(-0.5), said)[1].expert == "ann"
    assert held(Unsure(-0.5, "quantile", 0.0), said)[1].expert == "cid"


def test_two_readings_of_each_token_are_asked_for_only_where_they_count() -> None:
    for measure, readings in (("mean", None), ("margin", 2), ("quantile", 2)):
        rounds, _ = converse(Unsure(0.0, measure), decision=TRIO, query=QUERY)
        assert rounds[0][0].options.get("top_logprobs") == readings


def test_the_surest_answer_stands_where_the_last_expert_fails() -> None:
    said = saying(ann=sure("ann", [-1.0]), bob=sure("bob", [-2.0]))
    assert held(Unsure(-0.5), said)[1].expert == "ann"


@given(st.lists(st.floats(-5, 0), min_size=2, max_size=2))
def test_a_lower_threshold_never_asks_more(thresholds: list[float]) -> None:
    low, high = sorted(thresholds)
    said = saying(ann=sure("ann", [-1.0]), bob=sure("bob", [-2.5]), cid="96")
    assert len(held(Unsure(low), said)[0]) <= len(held(Unsure(high), said)[0])


def judging(share: float, samples: int = 4) -> Reply:
    """Answers, and verdicts of which this share is good."""
    given = iter(range(10**6))

    def reply(call: Call) -> Completion:
        if call.purpose != "judge":
            return Completion(call.expert, f"{call.expert} says 95")
        good = next(given) % samples < share * samples
        return Completion(call.expert, f"Hm. Verdict: {'correct' if good else 'incorrect'}")

    return reply


@pytest.mark.parametrize(("share", "expert"), [(1.0, "ann"), (0.75, "ann"), (0.5, "cid")])
def test_an_answer_that_verifies_itself_often_enough_stands(share: float, expert: str) -> None:
    rounds, answer = converse(Verified(0.75), judging(share), TRIO, QUERY)
    assert answer.expert == expert
    assert [len(calls) for calls in rounds] == ([1, 4] if expert == "ann" else [1, 4, 1, 4, 1])


def test_the_verifier_reads_question_and_answer_and_may_be_another_expert() -> None:
    rounds, _ = converse(Verified(verifier="dee", samples=2), judging(1.0, 2), TRIO, QUERY)
    (judge, other) = rounds[1]
    assert (judge.expert, judge.purpose, judge.options["temperature"]) == ("dee", "judge", 0.7)
    assert "37 plus 58" in judge.messages[0]["content"]
    assert "ann says 95" in judge.messages[0]["content"]
    assert judge.options["seed"] != other.options["seed"]


def test_a_verdict_is_read_from_its_last_line() -> None:
    assert approves("The answer is wrong? No. Verdict: correct")
    assert not approves("Looks correct. Verdict: not correct")
    assert not approves("Verdict: maybe")
    said = [Completion("a", "Verdict: correct"), Completion("a", "yes"), fail(Call("a", ()))]
    assert confidence(said) == pytest.approx(2 / 3)


def test_nothing_is_verified_from_records_that_hold_no_verdicts() -> None:
    records = make_records(3)
    decisions = [Decision("cascade-verified", ("sums", "generalist"), (0.5, 0.5))] * 3
    with pytest.raises(NotRecordedError, match="judge call to 'sums'"):
        replay(records.queries, decisions, Verified(), records)


@pytest.mark.parametrize("composition", [Consistent(), Unsure(-0.5)])
def test_a_cascade_runs_in_replay(composition: Composition) -> None:
    records = make_records(30)
    chain = Decision("any", ("sums", "sums", "generalist"), (0.5,) * 3)
    answers = replay(records.queries, [chain] * 30, composition, records)
    assert {a.completion.expert for a in answers} <= {"sums", "generalist"}
    assert all(a.cost > 0 for a in answers)


def test_unsure_experts_escalate_in_replay_and_shuffled_confidence_loses_the_gain() -> None:
    records = make_records(300)
    chain = [Decision("any", ("sums", "generalist"), (0.5, 0.5))] * 300

    def quality(logprob: np.ndarray) -> float:
        answers = replay(records.queries, chain, Unsure(-0.5), replace(records, logprob=logprob))
        return float(np.mean([a.completion.text == "=> right" for a in answers]))

    shuffled = np.random.default_rng(0).permutation(records.logprob[:, 0])
    noise = np.column_stack([shuffled, records.logprob[:, 1:]])
    assert quality(records.logprob) == pytest.approx(2 / 3, abs=0.01)
    assert quality(noise) < 0.55


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Consistent(agreement=1.5), "agreement"),
        (lambda: Unsure(measure="mode"), "measure"),
        (lambda: Unsure(quantile=2.0), "quantile"),
        (lambda: Verified(samples=0), "samples"),
        (lambda: Verified(verifier=""), "verifier"),
        (lambda: Chain(experts=("a", "a")), "experts"),
        (lambda: Chain(most=0), "most"),
    ],
)
def test_settings_out_of_range_are_refused(make: object, field: str) -> None:
    with pytest.raises(InputError, match=field):
        make()  # type: ignore[operator]


def estimated() -> Estimates:
    quality = np.array([[0.3, 0.9, 0.6, 0.8], [0.9, 0.8, 0.7, 0.6]])
    return Estimates(("a", "b", "c", "d"), quality, np.tile([1.0, 9.0, 3.0, 2.0], (2, 1)))


def test_a_chain_goes_from_the_cheapest_expert_to_the_best_one() -> None:
    queries = [QUERY, replace(QUERY, id="r")]
    first, second = Chain().decide(queries, estimated())
    assert (first.experts, second.experts) == (("a", "d", "b"), ("a",))
    assert first.composition == "cascade"


def test_a_fixed_chain_is_every_querys() -> None:
    queries = [QUERY, replace(QUERY, id="r")]
    decisions = Chain("cascade-consistent", ("c", "b")).decide(queries, estimated())
    assert {d.experts for d in decisions} == {("c", "b")}
    assert [d.weights for d in decisions] == [(0.6, 0.9), (0.7, 0.8)]
    with pytest.raises(InputError, match="no expert 'z'"):
        Chain(experts=("z",)).decide(queries, estimated())
