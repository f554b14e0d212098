"""A request is read as far as routing needs; the rest stays as the client wrote it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.gateway.asked import Asked, read_asked
from coterie.gateway.usage import answers_made
from coterie.gateway.wire import ApiError, encode_fields

HELLO = [{"role": "user", "content": "hello"}]


def read(
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    path: str = "/chat/completions",
    **fields: Any,
) -> Asked:
    whole = {"model": "auto", "messages": HELLO, **fields}
    given = {key.encode(): value.encode() for key, value in (headers or {}).items()}
    return read_asked(path, body or json.dumps(whole).encode(), given, 1000, 4)


def refused(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(**fields)
    assert caught.value.status == 400
    return caught.value


def test_unknown_fields_their_order_and_their_numbers_stay_as_they_were_sent() -> None:
    body = (
        b'{"zeta":0.10,"model":"auto","big":1e400,"vendor":{"b": 1,"a":[1.0, -0]},'
        b'"messages":[{"role":"user","content":"h\\u00e9","x":1E2}],"n":null,"e":"\\/"}'
    )
    asked = read(body)
    assert encode_fields(asked.fields) == body
    assert asked.text == "hé"


def test_what_is_ours_is_taken_off_before_an_expert_sees_it() -> None:
    asked = read(coterie={"max_cost": 2.5}, models=["bob", "cid"], user="u")
    assert list(asked.fields) == ["model", "messages", "user"]
    assert asked.models == ("bob", "cid")
    assert asked.wishes.max_cost == 2.5


def test_wishes_come_from_headers_and_those_of_the_body_win() -> None:
    headers = {
        "x-coterie-max-cost": "3.5", "x-coterie-tags": "eu, fast", "x-coterie-explore": "false",
    }  # fmt: skip
    wishes = read(headers=headers, coterie={"max_cost": 1, "region": "eu"}).wishes
    assert (wishes.max_cost, wishes.tags, wishes.region) == (1.0, ["eu", "fast"], "eu")
    assert not wishes.explore
    assert read(headers=headers).wishes.max_cost == 3.5


def test_a_wish_that_the_body_takes_back_is_taken_back() -> None:
    wishes = read(headers={"x-coterie-region": "eu"}, coterie={"region": None}).wishes
    assert wishes.region is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": 3}, "model"),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"models": "bob"}, "models"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "no role"}]}, "messages"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": 1}, "stream_options"),
        ({"response_format": "json"}, "response_format"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"max_completion_tokens": 1001}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": 5}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": 1e300}, "n"),
        ({"max_tokens": [1]}, "max_tokens"),
        ({"coterie": {"max_price": 1}}, "coterie"),
        ({"coterie": {"max_cost": "much"}}, "coterie"),
        ({"coterie": {"mid_stream": "never"}}, "coterie"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields).param == param


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"model":"a"', b"\xff", b"[" * 9999])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError, match="could not parse") as caught:
        read(body or b" ")
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "headers", [{"x-coterie-max-cost": "cheap"}, {"x-coterie-maxcost": "1"}, {"x-coterie-": "1"}]
)
def test_a_wrong_header_is_refused(headers: dict[str, str]) -> None:
    assert refused(headers=headers).param == "coterie"


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({}, set()),
        ({"tools": [], "functions": None}, set()),
        ({"tools": [{"type": "function"}]}, {"tools"}),
        ({"functions": [{"name": "f"}]}, {"tools"}),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, {"json_schema"}),
        ({"response_format": {"type": "json_object"}}, set()),
        ({"logprobs": True}, {"logprobs"}),
        ({"logprobs": False}, set()),
        ({"logprobs": 5}, {"logprobs"}),  # as /completions has it
        ({"logprobs": None}, set()),
    ],
)
def test_capabilities_are_read_off_the_fields(fields: dict[str, Any], needs: set[str]) -> None:
    assert read(**fields).needs == needs


def test_pictures_and_sound_need_experts_that_take_them_and_are_not_counted_as_text() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}}
    sound = {"type": "input_audio", "input_audio": {"data": "A" * 400_000, "format": "wav"}}
    parts = [{"type": "text", "text": "what is this"}, picture, sound]
    asked = read(messages=[{"role": "user", "content": parts}])
    assert asked.needs == {"vision", "audio"}
    assert asked.text == "what is this"
    assert 1000 < asked.prompt_tokens < 5000


def test_the_prompt_is_estimated_by_its_length_with_its_tools() -> None:
    long = [{"role": "user", "content": "word " * 400}]
    plain = read(messages=long)
    assert 450 < plain.prompt_tokens < 550
    tools = [{"type": "function", "function": {"name": "f", "description": "d" * 4000}}]
    assert read(messages=long, tools=tools).prompt_tokens > plain.prompt_tokens + 950


def test_of_a_conversation_the_user_is_read_and_the_first_message_names_it() -> None:
    said = ("system", "be brief"), ("user", "one"), ("assistant", "1"), ("user", "two")
    asked = read(messages=[{"role": r, "content": c} for r, c in said])
    assert (asked.text, asked.opening, asked.turns) == ("one\ntwo", "one", 4)


@pytest.mark.parametrize(
    ("path", "fields", "text"),
    [
        ("/completions", {"prompt": "go on"}, "go on"),
        ("/completions", {"prompt": ["a", "b"]}, "a\nb"),
        ("/completions", {"prompt": [1, 2, 3]}, ""),
        ("/embeddings", {"input": "vector"}, "vector"),
        ("/responses", {"input": [{"role": "user", "content": [{"text": "hi"}]}]}, "hi"),
    ],
)
def test_other_endpoints_are_read_too(path: str, fields: dict[str, Any], text: str) -> None:
    body = json.dumps({"model": "auto", **fields}).encode()
    assert read(body, path=path).text == text
    with pytest.raises(ApiError) as caught:
        read(b'{"model":"auto"}', path=path)
    assert caught.value.param == next(iter(fields))


def test_bounds_of_the_answer_are_read_in_each_of_their_names() -> None:
    assert read(max_tokens=7, max_completion_tokens=9).answer_tokens == 9
    assert read(max_tokens=7).answer_tokens == 7
    assert read().answer_tokens is None
    assert read(max_output_tokens=7).answer_tokens is None  # of which chat knows nothing
    assert read(stream=True, stream_options={"include_usage": True}).wants_usage


def test_a_picture_in_an_input_is_seen_and_not_counted_as_text() -> None:
    picture = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 40_000}
    said = {"role": "user", "content": [{"type": "input_text", "text": "look"}, picture]}
    body = json.dumps({"model": "auto", "input": [said]}).encode()
    asked = read_asked("/responses", body, {}, 1000, 8)
    assert asked.needs == {"vision", "responses"}
    form = {"format": {"type": "json_schema", "name": "n", "schema": {}}}
    strict = json.dumps({"model": "m", "input": "hi", "text": form}).encode()
    assert read_asked("/responses", strict, {}, 1000, 8).needs == {"json_schema", "responses"}
    assert (asked.text.strip(), asked.prompt_tokens) == ("look", 1001)
    quoted = json.dumps({"model": "auto", "input": 'an "input_image" is no picture'}).encode()
    assert read_asked("/responses", quoted, {}, 1000, 8).needs == {"responses"}


@pytest.mark.parametrize("written", ["5.0", "5e0", "0.5E1"])
def test_a_whole_number_may_be_written_with_a_point(written: str) -> None:
    body = json.dumps({"model": "a", "prompt": "hi", "n": 1}).encode()[:-1]
    body += f', "max_tokens": {written}, "best_of": {written}, "temperature": 1.0}}'.encode()
    asked = read_asked("/completions", body, {}, 1000, 8)
    assert (asked.answer_tokens, answers_made(asked.fields)) == (5, 5)
    sent = {name: bytes(asked.fields[name]) for name in ("max_tokens", "temperature")}
    assert sent == {"max_tokens": b"5", "temperature": b"1.0"}


def test_only_a_prompt_may_be_completed_by_nothing() -> None:
    body = b'{"model": "a", "prompt": "hi", "max_tokens": 0, "echo": true}'
    assert read_asked("/completions", body, {}, 1000, 8).answer_tokens == 0
    assert "between 1 and" in refused(max_tokens=0).message


@given(st.text(), st.booleans())
def test_no_byte_of_a_prompt_can_be_a_token_that_was_not_counted(text: str, escaped: bool) -> None:
    said = [{"role": "user", "content": text}, {"role": "assistant", "name": text, "content": "a"}]
    body = json.dumps({"model": "a", "messages": said, "tools": [{"name": text}]})
    sent = body.encode() if escaped else json.loads(body)
    if not escaped:
        sent = json.dumps(sent, ensure_ascii=False).encode("utf-8", "replace")
    assert read(sent).prompt_bound > 3 * len(text.encode("utf-8", "replace")) + 100


MEDIA: Any = {
    "picture": {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + "A" * 400_000},
    },
    "sound": {"type": "input_audio", "input_audio": {"data": "A" * 400_000, "format": "wav"}},
    "file": {"type": "file", "file": {"file_data": "A" * 400_000}},
    "text": {"type": "text", "text": "A" * 400_000, "image_url": "no picture"},
}


@pytest.mark.parametrize(
    ("kind", "most"),
    [("picture", 50_000), ("sound", 25_000), ("file", 450_000), ("text", 400_000)],
)
def test_pictures_and_sound_have_bounds_of_their_own(kind: str, most: int) -> None:
    bound = read(messages=[{"role": "user", "content": [MEDIA[kind]]}]).prompt_bound
    assert most < bound < most + 500


@pytest.mark.parametrize(
    ("kind", "field", "most"),
    [
        ("input_image", "image_url", 50_000),
        ("input_image", "text", 450_000),
        ("input_file", "file_data", 450_000),
        ("input_text", "text", 400_000),
    ],
)
def test_only_the_data_of_a_picture_in_an_input_is_left_out(
    kind: str, field: str, most: int
) -> None:
    data = "data:image/png;base64," + "A" * 400_000
    picture = {"type": kind, "image_url": "https://a/b.png", field: data}
    body = json.dumps({"model": "a", "input": [{"role": "user", "content": [picture]}]}).encode()
    bound = read_asked("/responses", body, {}, 1000, 8).prompt_bound
    assert most < bound < most + 500
