"""Router-R1: actions in both forms, rounds and what they come to, and replay."""

import json

import pytest

from coterie.compositions.actions import (
    NO_ACTION,
    Invalid,
    Respond,
    Route,
    known_expert,
    parse_tags,
    parse_tool_call,
    tool_schemas,
)
from coterie.compositions.multi_round import (
    HELP,
    ByExpert,
    Forward,
    MultiRound,
    RoundPolicy,
    Scripted,
    Trajectory,
    watch,
)
from coterie.drivers.replay import replay
from coterie.errors import InputError, NotRecordedError
from coterie.testing import Reply, converse, fail, make_records
from coterie.types import Call, Completion, Decision, Query

QUERY = Query.from_text("q", "Who wrote it, and when?", max_tokens=48)
POOL = Decision("multi-round", ("boss", "small", "large"), (0.5, 0.4, 0.9))


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("<think>a</think> <search> small : who? </search>", Route("small", "who?")),
        ("<search>small:at 10:30, or: later?</search>", Route("small", "at 10:30, or: later?")),
        ("<search>small:who?", Route("small", "who?")),
        ("<think><answer>no</answer></think><answer>yes</answer>", Respond("yes")),
        ("<search>a:b</search><answer>made up</answer>", Route("a", "b")),
        ("<search>who?</search>", Invalid("expected NAME:question, got 'who?'")),
        ("<search>:who?</search>", Invalid("expected the name of an expert and a question")),
        ("<search>small: </search>", Invalid("expected the name of an expert and a question")),
        ("<answer> </answer>", Invalid("the answer is empty")),
        ("I would say 1912.", NO_ACTION),
        ("<think>never closed <answer>x</answer>", Respond("x")),
        ("", NO_ACTION),
    ],
)  # fmt: skip
def test_the_released_tags_are_read(text: str, action: object) -> None:
    assert parse_tags(text) == action


CALL = {"name": "route", "arguments": {"expert": "org/model:7b", "question": "who: {x}?"}}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(CALL),
        f"I ask.\n```json\n{json.dumps(CALL)}\n```",
        f"<tool_call>{json.dumps(CALL)}</tool_call>",
        json.dumps({"type": "function", "function": CALL}),
        json.dumps({"name": "route", "arguments": json.dumps(CALL["arguments"])}),
        json.dumps({"name": "route", "expert": "org/model:7b", "question": "who: {x}?"}),
        f'<think>{{"name": "answer", "text": "no"}}</think>{json.dumps(CALL)}',
        f'{{"name": "other"}} {{ {json.dumps(CALL)}',
    ],
)
def test_a_tool_call_is_read_from_what_surrounds_it(text: str) -> None:
    assert parse_tool_call(text) == Route("org/model:7b", "who: {x}?")


def test_a_tool_call_may_answer_or_be_empty() -> None:
    assert parse_tool_call('{"name": "answer", "arguments": {"text": " 1912 "}}') == Respond("1912")
    assert parse_tool_call('{"name": "answer", "arguments": "1912"}') == Invalid(
        "the answer is empty"
    )
    assert parse_tool_call("[1, 2] {broken") == NO_ACTION


def test_the_schema_of_the_tools_names_the_experts() -> None:
    route, answer = (tool["function"] for tool in tool_schemas(["small", "large"]))
    assert route["parameters"]["properties"]["expert"]["enum"] == ["small", "large"]
    assert answer["parameters"]["required"] == ["text"]


@pytest.mark.parametrize(
    ("name", "found"),
    [("small", "small"), ("SMALL", "small"), ("smal", None), ("small-7b", None), ("Ann", None)],
)
def test_an_expert_is_known_by_its_whole_name(name: str, found: str | None) -> None:
    assert known_expert(name, ("small", "large", "ANN", "ann")) == found


def writes(*texts: str) -> Reply:
    """The boss writes these texts in turn; the others say their name, ``broken`` fails."""
    left = iter(texts)

    def reply(call: Call) -> Completion:
        if call.expert == "boss":
            return Completion("boss", next(left))
        return fail(call) if call.expert == "large" else Completion(call.expert, "1912", cost=2.0)

    return reply


def trajectory(reply: Reply, policy: RoundPolicy | None = None, rounds: int = 4) -> Trajectory:
    return watch(MultiRound(policy, rounds=rounds).talk(QUERY, POOL, 0), reply)


def test_an_expert_thinks_asks_and_answers() -> None:
    seen = trajectory(
        writes("<search>small:when?</search>", "<think>ok</think><answer>in 1912</answer>")
    )
    assert seen.answer == Completion("boss", "in 1912")
    assert (seen.cost, seen.invalid) == (2.0, 0)
    assert seen.text.split("\n") == [
        "<search>small:when?</search>",
        "<information>1912</information>",
        "<think>ok</think><answer>in 1912</answer>",
    ]


def test_what_an_expert_makes_up_after_its_question_is_dropped() -> None:
    texts = "<search>small:when?</search><information>1066</information>", "<answer>x</answer>"
    assert "1066" not in trajectory(writes(*texts)).text


def test_unknown_and_failing_experts_are_invalid_and_shown_as_none() -> None:
    texts = "<search>sma:when?</search>", "<search>large:when?</search>", "hm", "<answer>x</answer>"
    seen = trajectory(writes(*texts))
    assert seen.invalid == 3
    assert [turn.information for turn in seen.turns[:3]] == ["None"] * 3


def test_after_the_last_round_an_answer_is_forced() -> None:
    ask = "<search>small:when?</search>"
    seen = trajectory(writes(ask, ask, "<think>well</think> It was 1912."), rounds=2)
    assert seen.answer == Completion("boss", "It was 1912.")
    stubborn = trajectory(writes(ask, ask, ask), rounds=2)
    assert stubborn.answer == Completion("small", "1912", cost=2.0)
    assert [turn.valid for turn in stubborn.turns] == [True, True, False]


def test_the_policy_is_told_of_its_turns_and_of_the_last_round() -> None:
    rounds, _ = converse(MultiRound(rounds=1), writes("eh", "<answer>x</answer>"), POOL, QUERY)
    first, second = (calls[0] for calls in rounds)
    assert (first.purpose, len(first.messages), len(second.messages)) == ("route", 1, 3)
    assert "no action was found" in second.messages[-1]["content"]
    assert second.messages[-1]["content"].endswith("Answer now.")


def test_descriptions_are_in_the_prompt_and_braces_are_left_alone() -> None:
    prompt = ByExpert("boss", {"small": "knows {dates}"}).prompt("What is {x}?", POOL.experts)
    assert "- small: knows {dates}\n- large\n" in prompt
    assert prompt.endswith("Question: What is {x}?")


def test_tools_are_the_other_form() -> None:
    texts = json.dumps(CALL | {"arguments": {"expert": "small", "question": "?"}}), "no", "yes"
    seen = trajectory(writes(*texts), ByExpert("boss", form="tools"), rounds=2)
    assert (seen.turns[0].valid, seen.turns[1].valid, seen.answer) == (
        True, False, Completion("boss", "yes"),
    )  # fmt: skip
    with pytest.raises(InputError, match="expected one of tags, tools, got 'xml'"):
        ByExpert("boss", form="xml")


def test_a_script_is_carried_out_action_by_action() -> None:
    script = Scripted((Route("small", "when?"), Route("nobody", "?"), Respond("1912!")))
    rounds, answer = converse(MultiRound(script), writes(), POOL, QUERY)
    assert [call.expert for calls in rounds for call in calls] == ["small"]
    (call,) = rounds[0]
    assert call.messages[0]["content"] == HELP.format(question="when?")
    assert (call.options["max_tokens"], call.options["temperature"]) == (48, 0.0)
    assert (answer.expert, answer.text) == ("small", "1912!")


def test_where_the_writer_fails_and_nobody_spoke_the_experts_are_asked() -> None:
    def reply(call: Call) -> Completion:
        return fail(call) if call.expert == "boss" else Completion(call.expert, "1912")

    rounds, answer = converse(MultiRound(), reply, POOL, QUERY)
    assert [calls[0].expert for calls in rounds] == ["boss", "boss", "small"]
    assert answer.text == "1912"


def test_a_rule_that_forwards_the_query_is_replayed_from_records() -> None:
    records = make_records(3)
    decisions = [Decision("multi-round", (e,), (1.0,)) for e in records.experts[:3]]
    forward = MultiRound(Forward())
    answers = replay(records.queries, decisions, forward, records)
    assert [answer.completion.text for answer in answers] == ["=> right"] * 3


def test_a_question_of_the_policys_own_is_in_no_record() -> None:
    records = make_records(1)
    script = MultiRound(Scripted((Route("sums", "another?"),)))
    decision = Decision("multi-round", ("sums",), (1.0,))
    with pytest.raises(NotRecordedError, match="use a live pool"):
        replay(records.queries, [decision], script, records)
