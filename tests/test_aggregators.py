import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.aggregators import Aggregator, ByExpert, Calibrated, Majority, Weighted
from coterie.answers import arrow, number
from coterie.errors import InputError
from coterie.types import Call, Completion, Query

QUERY = Query.from_text("q", "What is 37 plus 58?", max_tokens=48)
NAMES = ("ann", "bob", "cid", "dee")
EVERY: list[Aggregator] = [Majority(), Weighted(), ByExpert("dee")]


def said(*texts: str | None) -> list[Completion]:
    """Completions with these texts; None is a failure."""
    return [
        Completion(name, error="out of order") if text is None else Completion(name, text)
        for name, text in zip(NAMES, texts, strict=False)
    ]


def merge(how: Aggregator, completions: list[Completion], *weights: float) -> Completion:
    outcome = how(QUERY, completions, weights or (0.5,) * len(completions), 0)
    assert isinstance(outcome, Completion)
    return outcome


@pytest.mark.parametrize(
    ("texts", "speaker"),
    [
        (("94", "95", "95"), "bob"),
        (("94", "95", "96"), "ann"),
        (("94", "95", "95", "94"), "ann"),
        ((None, "95", "94", "95"), "bob"),
        ((None, None, "94"), "cid"),
        (("95", " 95. "), "ann"),
    ],
)
def test_the_majority_wins_and_ties_go_to_whoever_was_first(
    texts: tuple[str | None, ...], speaker: str
) -> None:
    assert merge(Majority(), said(*texts)).expert == speaker


def test_the_majority_is_taken_over_extracted_answers() -> None:
    completions = said("a long way => 94", "so => 95", "thus => 95")
    assert merge(Majority(arrow), completions).expert == "bob"
    assert merge(Majority(), completions).expert == "ann"


def test_the_majority_does_not_look_at_weights() -> None:
    assert merge(Majority(), said("94", "95", "95"), 0.99, 0.01, 0.01).expert == "bob"


@pytest.mark.parametrize(
    ("weights", "speaker"),
    [((0.9, 0.3, 0.3), "ann"), ((0.9, 0.6, 0.7), "cid"), ((0.5, 0.5, 0.5), "bob")],
)
def test_weighted_votes_add_up_log_odds(weights: tuple[float, ...], speaker: str) -> None:
    assert merge(Weighted(number), said("94", "95", "95"), *weights).expert == speaker


def test_the_weight_is_the_log_odds_of_nitzan_and_paroush() -> None:
    assert Weighted(choices=2).log_odds(0.8) == pytest.approx(math.log(4))
    assert Weighted(choices=10).log_odds(0.1) == pytest.approx(0.0)
    assert Weighted(choices=2).log_odds(1.0) == Weighted(choices=2).log_odds(0.99)


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.floats(0, 1)), min_size=1, max_size=4))
def test_the_winner_has_the_largest_total(votes: list[tuple[str, float]]) -> None:
    how = Weighted(choices=4)
    winner = merge(how, said(*(t for t, _ in votes)), *(q for _, q in votes))
    totals = {t: sum(how.log_odds(q) for u, q in votes if u == t) for t, _ in votes}
    assert totals[winner.text] == pytest.approx(max(totals.values()))


def test_two_answers_make_no_sense_below_two_choices() -> None:
    with pytest.raises(InputError, match="'choices': expected at least 2, got 1"):
        Weighted(choices=1)


@pytest.mark.parametrize("how", EVERY)
def test_where_all_failed_so_does_the_answer_and_says_who(how: Aggregator) -> None:
    outcome = merge(how, said(None, None))
    assert outcome.failed
    assert outcome.error == "every expert failed (ann: out of order; bob: out of order)"


@pytest.mark.parametrize("how", EVERY)
def test_nobody_asked_is_a_failed_answer(how: Aggregator) -> None:
    assert merge(how, []).error == "every expert failed (no expert was asked)"


def asked(how: ByExpert, completions: list[Completion]) -> Call:
    outcome = how(QUERY, completions, (0.5,) * len(completions), 7)
    assert isinstance(outcome, Call)
    return outcome


def test_the_aggregating_expert_reads_question_and_answers_without_names() -> None:
    call = asked(ByExpert("dee"), said("it is 94", None, "it is 95"))
    prompt = call.messages[0]["content"]
    assert (call.expert, call.purpose) == ("dee", "aggregate")
    assert dict(call.options) == {"max_tokens": 48, "seed": 7}
    assert "What is 37 plus 58?" in prompt
    assert "Model 1: it is 94\nModel 2: it is 95\n" in prompt
    assert not any(name in prompt for name in NAMES)


def test_thoughts_are_not_shown_to_the_aggregating_expert() -> None:
    texts = "<think>94? no</think> 95", "no thoughts", "<think>a</think>b</think>c"
    prompt = ByExpert("dee", template="{answers}").prompt("", texts)
    assert prompt == "Model 1: 95\nModel 2: no thoughts\nModel 3: c"


def test_brief_shows_extracted_answers_of_what_was_said_after_thinking() -> None:
    how = ByExpert("dee", arrow, "{question}|{answers}", brief=True)
    texts = ["first 90 => 94", "<think>=> 1</think>95"]
    assert how.prompt("37 + 58", texts) == "37 + 58|Model 1: 94\nModel 2: 95"


def test_braces_in_question_and_answers_stay_as_they_are() -> None:
    prompt = ByExpert("dee").prompt("what is {answers}?", [r"\boxed{95} {0} {question}"])
    assert "what is {answers}?" in prompt
    assert r"Model 1: \boxed{95} {0} {question}" in prompt


@pytest.mark.parametrize("template", [r"\boxed{95} {question}", "{}", "{0}", "{question", "{q!z}"])
def test_a_template_with_other_braces_is_refused_at_once(template: str) -> None:
    with pytest.raises(InputError, match=r"'template': expected \{question\} and \{answers\}"):
        ByExpert("dee", template=template)


def test_a_confident_answer_outweighs_an_unsure_one_of_a_better_expert() -> None:
    vote = Calibrated(intercept=-3.0, quality=0.3, surprise=-1.0)
    sure = Completion("a", "95", logprob=-0.001)
    unsure = Completion("b", "85", logprob=-0.5)
    query = Query.from_text("q", "37 + 58?")
    assert vote(query, [unsure, sure], [0.9, 0.6], 0) is sure


def test_without_log_probabilities_the_calibrated_vote_is_the_weighted_one() -> None:
    vote = Calibrated(intercept=-3.0, quality=0.3, surprise=-1.0)
    assert vote.log_odds(Completion("a", "95"), 0.8) == Weighted().log_odds(0.8)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", True, 10**20])
def test_a_calibrated_vote_refuses_what_is_no_finite_number(value: Any) -> None:
    with pytest.raises(InputError, match="field 'surprise': expected a"):
        Calibrated(0.0, 1.0, value)
