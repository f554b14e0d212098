"""Requests to the Responses API as chats: what is translated, and what is refused by name."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.gateway.chats import Untranslatable, to_chat, untranslatable
from coterie.gateway.wire import decode_fields, encode_fields

FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "rain"}


def chat(input: Any = "hi", bound_name: str = "max_tokens", **fields: Any) -> dict[str, Any]:
    body = json.dumps({"model": "m", "input": input, **fields}).encode()
    made: dict[str, Any] = json.loads(encode_fields(to_chat(decode_fields(body), bound_name)))
    return made


def refused(**fields: Any) -> str:
    return untranslatable(decode_fields(json.dumps({"input": "hi", **fields}).encode()))


def test_a_text_is_what_the_user_says_and_instructions_are_the_systems() -> None:
    system = {"role": "system", "content": "be brief"}
    assert chat(instructions="be brief")["messages"] == [system, {"role": "user", "content": "hi"}]


def test_system_messages_in_a_row_are_one() -> None:
    more = [{"role": "developer", "content": "b"}, {"role": "user", "content": "c"}]
    first, second = chat(more, instructions="a")["messages"]
    assert (first, second["content"]) == ({"role": "system", "content": "a\n\nb"}, "c")


def test_parts_are_translated_and_a_single_text_is_a_plain_one() -> None:
    seen = {"type": "input_image", "image_url": "data:x", "detail": "low"}
    said = {"type": "input_text", "text": "see"}
    answer = {"type": "output_text", "text": "a cat", "annotations": []}
    items = [
        {"role": "user", "content": [said, seen]},
        {"type": "message", "role": "assistant", "id": "msg_1", "content": [answer]},
    ]
    image = {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}}
    assert [message["content"] for message in chat(items)["messages"]] == [
        [{"type": "text", "text": "see"}, image],
        "a cat",
    ]


def test_calls_belong_to_what_the_assistant_said_and_results_follow() -> None:
    items = [{"role": "assistant", "content": "so"}, CALL, {**CALL, "call_id": "d"}, OUTPUT, CALL]
    first, result, last = chat(items)["messages"]
    assert [call["id"] for call in first["tool_calls"]] == ["c", "d"]
    assert first["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert result == {"role": "tool", "tool_call_id": "c", "content": "rain"}
    assert (last["content"], len(last["tool_calls"])) == (None, 1)


def test_tools_and_the_choice_among_them_have_a_chats_form() -> None:
    made = chat(
        tools=[FUNCTION], tool_choice={"type": "function", "name": "f"}, parallel_tool_calls=False
    )
    function = {"name": "f", "parameters": {"type": "object"}, "strict": True}
    assert made["tools"] == [{"type": "function", "function": function}]
    assert made["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert made["parallel_tool_calls"] is False
    without = chat(tools=[], tool_choice="auto", parallel_tool_calls=True)
    assert without.keys() == {"messages"}


def test_bounds_formats_and_effort_have_other_names() -> None:
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    made = chat(
        max_output_tokens=9, text={"format": form}, reasoning={"effort": "low", "summary": None}
    )
    schema = {"name": "n", "schema": {"type": "object"}, "strict": True}
    assert made["response_format"] == {"type": "json_schema", "json_schema": schema}
    assert (made["max_tokens"], made["reasoning_effort"]) == (9, "low")
    assert chat(max_output_tokens=9, bound_name="max_completion_tokens").keys() == {
        "messages",
        "max_completion_tokens",
    }


def test_what_a_chat_has_too_stays_and_what_is_the_gateways_does_not_pass() -> None:
    made = chat(temperature=0.5, top_p=None, user="u", store=True, metadata={"a": "b"}, stream=True)
    assert {name: made[name] for name in made if name != "messages"} == {
        "temperature": 0.5,
        "user": "u",
    }


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"include": ["reasoning.encrypted_content"]}, "include"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_tokens": 5}, "max_tokens"),  # a chat's own bound would get past a budget's
        ({"tools": [{"type": "web_search"}]}, "a tool of type 'web_search'"),
        ({"tool_choice": {"type": "file_search"}}, "a tool_choice of type 'file_search'"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "'input_file'"),
        ({"input": [{"type": "item_reference", "id": "i"}]}, "an item of type 'item_reference'"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "an item of type 'reasoning'"),
        ({"input": []}, "input"),
        ({"input": [{**CALL, "arguments": None}]}, "an item without arguments"),
        ({"text": {"format": {"type": "grammar"}}}, "text"),
    ],
)
def test_what_a_chat_has_no_words_for_is_named(fields: dict[str, Any], named: str) -> None:
    assert named in refused(**fields)


def test_what_asks_for_nothing_is_no_obstacle() -> None:
    idle = {
        "background": False,
        "include": [],
        "truncation": "disabled",
        "previous_response_id": None,
    }
    assert refused(**idle, conversation=None, prompt=None) == ""


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text())).filter(bool))
def test_every_text_arrives_in_its_order(said: list[tuple[str, str]]) -> None:
    items = [{"role": role, "content": [{"type": "input_text", "text": t}]} for role, t in said]
    messages = chat(items)["messages"]
    assert [(message["role"], message["content"]) for message in messages] == said


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from(["message", "user", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "role", "content", "format", "text"]), inner)
    ),
    max_leaves=6,
)


@given(
    st.sampled_from(["input", "tools", "text", "reasoning", "tool_choice", "instructions"]), JSON
)
def test_whatever_a_field_holds_it_is_translated_or_refused(name: str, value: Any) -> None:
    asked = {"input": "hi", name: value}
    if why := refused(**asked):
        with pytest.raises(Untranslatable, match=re.escape(why)):
            chat(**asked)
    else:
        assert chat(**asked)["messages"]
