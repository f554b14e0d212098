from collections.abc import Sequence
from dataclasses import replace

import pytest

from coterie.aggregators import ByExpert, Weighted
from coterie.answers import number
from coterie.compositions import Composition, annotate, cascade, confident, recruit, single
from coterie.testing import Reply, converse, fail
from coterie.types import Call, Completion, Decision, Final, Query, derive_seed

QUERY = Query.from_text("q", "What is 37 plus 58?", max_tokens=48)
TRIO = Decision("any", ("ann", "bob", "cid"), (0.9, 0.6, 0.4))


def replies(**texts: str | Completion) -> Reply:
    """What each expert says; those not named fail."""

    def reply(call: Call) -> Completion:
        text = texts.get(call.expert)
        if isinstance(text, Completion):
            return text
        return fail(call) if text is None else Completion(call.expert, text)

    return reply


def held(
    composition: Composition, reply: Reply, decision: Decision = TRIO
) -> tuple[list[list[str]], Completion]:
    """Names by round, and the answer."""
    rounds, answer = converse(composition, reply, decision, QUERY)
    return [[call.expert for call in calls] for calls in rounds], answer


def test_single_asks_the_preferred_expert_alone() -> None:
    rounds, answer = held(single, replies(ann="95", bob="94"))
    assert rounds == [["ann"]]
    assert answer.text == "95"


def test_single_goes_down_the_list_while_experts_fail() -> None:
    rounds, answer = held(single, replies(cid="95"))
    assert rounds == [["ann"], ["bob"], ["cid"]]
    assert (answer.expert, answer.text) == ("cid", "95")


def test_the_last_call_of_single_can_stream() -> None:
    with pytest.raises(StopIteration) as stop:
        next(single(QUERY, TRIO, 0))
    assert isinstance(stop.value.value, Final)
    assert stop.value.value.call.expert == "ann"


def test_cascade_stops_at_the_first_answer() -> None:
    rounds, answer = held(cascade, replies(bob="95", cid="94"))
    assert rounds == [["ann"], ["bob"]]
    assert answer.text == "95"


@pytest.mark.parametrize(("threshold", "asked"), [(-2.0, 1), (-1.0, 1), (-0.5, 2), (0.0, 3)])
def test_cascade_goes_on_while_experts_are_unsure(threshold: float, asked: int) -> None:
    reply = replies(
        ann=Completion("ann", "1", logprob=-1.0),
        bob=Completion("bob", "2", logprob=-0.5),
        cid=Completion("cid", "3", logprob=-9.0),
    )
    rounds, answer = held(lambda q, d, s: cascade(q, d, s, accept=confident(threshold)), reply)
    assert len(rounds) == asked
    assert answer.text == str(asked)


def test_an_expert_without_log_probabilities_is_never_confident() -> None:
    assert not confident(-99.0)(Completion("ann", "95"))
    assert confident(-99.0)(Completion("ann", "95", logprob=-98.0))


def test_a_declined_answer_is_better_than_a_failure_at_the_end_of_a_cascade() -> None:
    unsure = lambda q, d, s: cascade(q, d, s, accept=confident(0.0))  # noqa: E731
    _, answer = held(unsure, replies(ann="94", bob="95"))
    assert answer.text == "95"
    _, nothing = held(unsure, replies())
    assert nothing.error == "cid: out of order"


def test_recruit_asks_everyone_at_once_and_the_majority_decides() -> None:
    rounds, answer = held(recruit, replies(ann="94", bob="95", cid="95"))
    assert rounds == [["ann", "bob", "cid"]]
    assert answer.expert == "bob"


def test_an_expert_recruited_twice_has_two_voices_and_two_seeds() -> None:
    twice = replace(TRIO, experts=("ann", "bob", "bob"))
    rounds, answer = converse(recruit, replies(ann="94", bob="95"), twice, QUERY)
    seeds = [call.options["seed"] for call in rounds[0]]
    assert answer.text == "95"
    assert seeds == [derive_seed(0, 0, index) for index in range(3)]


def test_the_weights_of_the_decision_reach_the_aggregator() -> None:
    weighted: Composition = lambda q, d, s: recruit(q, d, s, aggregator=Weighted())  # noqa: E731
    reply = replies(ann="94", bob="95", cid="95")
    assert held(weighted, reply, replace(TRIO, weights=(0.99, 0.2, 0.2)))[1].text == "94"
    assert held(weighted, reply, replace(TRIO, weights=(0.5, 0.5, 0.5)))[1].text == "95"


def merged_by_dee(query: Query, decision: Decision, seed: int) -> object:
    return recruit(query, decision, seed, aggregator=ByExpert("dee", number))


def test_the_aggregating_expert_has_the_last_word() -> None:
    composition: Composition = merged_by_dee  # type: ignore[assignment]
    rounds, answer = held(composition, replies(ann="94", bob="95", dee="the answer is 96"))
    assert rounds == [["ann", "bob", "cid"], ["dee"]]
    assert answer.expert == "dee"


def test_the_vote_on_extracted_answers_stands_in_for_a_failing_aggregating_expert() -> None:
    composition: Composition = merged_by_dee  # type: ignore[assignment]
    texts = {"ann": "I say 94", "bob": "it must be 95", "cid": "surely 95"}
    _, answer = held(composition, replies(**texts))
    assert answer.text == "it must be 95"


def test_where_everyone_fails_the_aggregating_expert_is_not_asked() -> None:
    composition: Composition = merged_by_dee  # type: ignore[assignment]
    rounds, answer = held(composition, replies(dee="95"))
    assert rounds == [["ann", "bob", "cid"]]
    assert answer.failed


def samples(*texts: str | None) -> Reply:
    left = iter(texts)

    def reply(call: Call) -> Completion:
        text = next(left)
        return fail(call) if text is None else Completion(call.expert, text)

    return reply


@pytest.mark.parametrize(
    ("texts", "keywords"),
    [
        (["Keywords: sums, digits"] * 5, "sums, digits"),
        (["Keywords: sums", "sets", "Keywords: a. Keywords: Sums.", "", "logic"], "sums"),
        (["a", "b", "c", "d", "e"], ""),
        ([None, None, "sums", "sums", None], "sums"),
    ],
)
def test_annotate_keeps_keywords_that_two_samples_agree_on(
    texts: Sequence[str | None], keywords: str
) -> None:
    rounds, answer = held(annotate, samples(*texts))
    assert rounds == [["ann"] * 5]
    assert (answer.text, answer.error) == (keywords, None)


def test_annotate_samples_at_the_temperature_of_the_paper_with_five_seeds() -> None:
    rounds, _ = converse(annotate, replies(ann="sums"), TRIO, QUERY)
    options = [call.options for call in rounds[0]]
    assert {o["temperature"] for o in options} == {0.7}
    assert len({o["seed"] for o in options}) == 5
    assert "What is 37 plus 58?" in rounds[0][0].messages[0]["content"]


def test_annotate_fails_where_all_samples_failed() -> None:
    _, answer = held(annotate, replies())
    assert answer.failed
