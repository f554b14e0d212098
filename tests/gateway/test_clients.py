"""The openai SDK as it is, against a gateway that is served."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, cast

import openai
import pytest
from faithful import CALL
from pydantic import BaseModel
from served import Served

ASKED: Any = [{"role": "user", "content": "say it"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class City(BaseModel):
    name: str
    people: int


@pytest.fixture
def client(gateway: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.url, api_key="none", max_retries=0) as client:
        yield client


def test_a_chat_is_answered_by_the_expert_that_the_router_chose(client: openai.OpenAI) -> None:
    got = client.chat.completions.with_raw_response.create(model="auto", messages=ASKED)
    answer = got.parse()
    assert answer.choices[0].message.content == "echo: say it"
    assert got.headers["x-coterie-model"] == "faithful"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 17


def test_an_expert_of_the_process_is_asked_by_its_name(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="shout", messages=ASKED)
    assert (answer.model, answer.choices[0].message.content) == ("shout", "SAY IT")


def test_an_async_client_asks_many_times_at_once(gateway: Served) -> None:
    async def main() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=gateway.url, api_key="none") as client:
            create = client.chat.completions.create
            asked = (create(model=name, messages=ASKED) for name in ["auto", "shout"] * 8)
            return [one.choices[0].message.content for one in await asyncio.gather(*asked)]

    assert asyncio.run(main()) == ["echo: say it", "SAY IT"] * 8


@pytest.mark.parametrize("model", ["auto", "shout"])
def test_a_stream_ends_with_its_reason(client: openai.OpenAI, model: str) -> None:
    with client.chat.completions.create(model=model, messages=ASKED, stream=True) as stream:
        choices = [chunk.choices[0] for chunk in stream]
    said = "".join(choice.delta.content or "" for choice in choices)
    assert said.strip().lower().endswith("say it")
    assert choices[-1].finish_reason == "stop"


@pytest.mark.parametrize("model", ["auto", "shout"])
def test_usage_comes_in_a_stream_where_it_was_asked_for(client: openai.OpenAI, model: str) -> None:
    wanted: Any = {"include_usage": True}
    create = client.chat.completions.create
    with create(model=model, messages=ASKED, stream=True) as plain:
        assert all(chunk.usage is None and chunk.choices for chunk in plain)
    with create(model=model, messages=ASKED, stream=True, stream_options=wanted) as stream:
        last = list(stream)[-1]
    assert (last.choices, last.usage is not None) == ([], True)


def test_a_stream_of_an_async_client_may_be_left(gateway: Served) -> None:
    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=gateway.url, api_key="none") as client:
            asked = client.chat.completions.create(model="endless", messages=ASKED, stream=True)
            async with await asked as stream:
                async for chunk in stream:
                    if chunk.choices[0].delta.content:
                        break
            while not [seen for seen in gateway.log if seen.model == "endless" and seen.left]:
                await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_tool_is_called_and_its_result_is_told(client: openai.OpenAI) -> None:
    create = client.chat.completions.create
    asked = create(model="auto", messages=ASKED, tools=[WEATHER]).choices[0]
    assert asked.finish_reason == "tool_calls"
    assert asked.message.tool_calls is not None
    call = cast(Any, asked.message.tool_calls[0])
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "weather",
        {"city": "Paris"},
    )
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    said: Any = [*ASKED, asked.message, result]
    told = create(model="auto", messages=said, tools=[WEATHER])
    assert told.choices[0].message.content == "The tool says rain."


def test_the_pieces_of_a_streamed_tool_call_make_one(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="auto", messages=ASKED, tools=[WEATHER]) as stream:
        calls = cast(Any, stream.get_final_completion().choices[0].message.tool_calls)
    assert [(one.function.name, one.function.arguments) for one in calls] == [tuple(CALL.values())]


def test_an_answer_is_parsed_into_the_class_that_was_asked_for(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(model="auto", messages=ASKED, response_format=City)
    assert answer.choices[0].message.parsed == City(name="Paris", people=3)


def test_an_expert_that_cannot_keep_a_schema_is_not_asked(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="shout: lacks json_schema"):
        client.chat.completions.parse(model="shout", messages=ASKED, response_format=City)


def test_texts_are_embedded(client: openai.OpenAI) -> None:
    given = client.embeddings.create(model="faithful", input=["a", "b"], encoding_format="float")
    assert [one.embedding for one in given.data] == [[0.0, 0.5], [1.0, 0.5]]


def test_responses_are_given_whole_and_as_events(client: openai.OpenAI) -> None:
    assert client.responses.create(model="faithful", input="so?").output_text == "It is so."
    with client.responses.create(model="faithful", input="so?", stream=True) as stream:
        kinds = [event.type for event in stream]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


def test_so_they_are_by_an_expert_that_speaks_chat_only(client: openai.OpenAI) -> None:
    assert client.responses.create(model="shout", input="so?").output_text == "SO?"
    with client.responses.stream(model="shout", input="so?") as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == "SO?"
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


def test_a_prompt_is_completed(client: openai.OpenAI) -> None:
    assert client.completions.create(model="faithful", prompt="go").choices[0].text == "said"
    assert client.completions.create(model="shout", prompt="go").choices[0].text == "GO"


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert {"auto", "shout", "faithful", "recruit"} <= set(names)
    assert client.models.retrieve("shout").owned_by == "coterie"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_three_experts_answer_as_one(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="recruit:3", messages=ASKED)
    assert answer.choices[0].message.content in ("echo: say it", "SAY IT", "2")


@pytest.mark.parametrize(
    ("model", "kind", "code"),
    [
        ("nobody", openai.NotFoundError, "model_not_found"),
        ("too-long", openai.BadRequestError, "context_length_exceeded"),
        ("filtered", openai.BadRequestError, "content_policy_violation"),
        ("429-hour", openai.RateLimitError, "rate_limit_exceeded"),
        ("quota", openai.RateLimitError, "insufficient_quota"),
        ("401", openai.InternalServerError, "invalid_api_key"),
        ("html-502", openai.InternalServerError, None),
    ],
)
def test_each_failure_is_the_exception_that_it_is_at_openai(
    client: openai.OpenAI, model: str, kind: type[openai.APIStatusError], code: str | None
) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(model=model, messages=ASKED)
    assert caught.value.code == code
    assert caught.value.type
    assert caught.value.request_id


def test_an_sdk_does_not_repeat_what_the_gateway_tried_in_vain(gateway: Served) -> None:
    with openai.OpenAI(base_url=gateway.url, api_key="none", max_retries=2) as client:
        before = len([seen for seen in gateway.log if seen.model == "500"])
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="500", messages=ASKED)
    assert len([seen for seen in gateway.log if seen.model == "500"]) - before <= 3


@pytest.mark.parametrize("model", ["error-late", "reset-mid-stream"])
def test_a_stream_that_breaks_is_an_error_and_no_short_answer(
    client: openai.OpenAI, model: str
) -> None:
    said = ""
    with pytest.raises(openai.APIError):  # noqa: PT012
        for chunk in client.chat.completions.create(model=model, messages=ASKED, stream=True):
            said += chunk.choices[0].delta.content or ""
    assert said == "one two three "
