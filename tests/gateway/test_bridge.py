"""Responses by experts that speak chat only, read by the openai SDK as it is."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import faithful
import httpx2
import msgspec
import openai
import pytest
from fault_upstream import FAULTS, FaultUpstream, says
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter
from served_world import World, serving, write_pool

from coterie.gateway.bridge import Answer, Said
from coterie.gateway.entries import Tokens
from coterie.gateway.keys import make_key

assert "faithful" in FAULTS, faithful
Main = Callable[[World, openai.AsyncOpenAI, FaultUpstream], Awaitable[None]]
MODELS = ("faithful", "error-late", "reset-mid-stream", "short", "silent")
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOL: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
HEAD: dict[str, Any] = {
    "id": "c",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "served",
}


class City(BaseModel):
    name: str
    people: int


def _piece(delta: Any, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({**HEAD, "choices": [choice]}).encode() + b"\n\n"


FAULTS["short"] = says(_piece({"content": "so"}), _piece({}, "length"), b"data: [DONE]\n\n")
FAULTS["silent"] = says(_piece({"refusal": "no"}), _piece({}, "stop"), b"data: [DONE]\n\n")


def run(folder: Path, main: Main, secret: bool = False, **gateway: Any) -> None:
    """``main`` with a gateway over remote chat experts and local ``ann``, and a client of it."""

    async def inside() -> None:
        async with FaultUpstream() as server:
            far = {
                "kind": "openai",
                "base_url": server.url,
                "capabilities": ["tools", "json_schema"],
            }
            experts = {"ann": {}, **{model: {**far, "model": model} for model in MODELS}}
            async with serving(write_pool(folder, experts, gateway=gateway)) as world:
                transport = httpx2.ASGITransport(app=cast(Any, world.app))
                client = openai.AsyncOpenAI(
                    base_url="http://localhost/v1",
                    api_key=await _secret(world) if secret else "none",
                    max_retries=0,
                    http_client=httpx2.AsyncClient(transport=transport),
                )
                async with client:
                    await main(world, client, server)

    asyncio.run(asyncio.wait_for(inside(), 20))


async def _secret(world: World) -> str:
    key, secret = make_key("tester", budget=1000.0)
    await world.gateway.ledger.put_key(key)
    await world.gateway.accounts.refresh()
    return secret


@pytest.mark.parametrize(("model", "text"), [("ann", "ann says so"), ("faithful", "echo: go")])
def test_a_chat_expert_gives_a_response(tmp_path: Path, model: str, text: str) -> None:
    async def main(world: World, client: openai.AsyncOpenAI, server: FaultUpstream) -> None:
        got = await client.responses.create(model=model, input="go", metadata={"a": "b"})
        assert (got.output_text, got.status) == (text, "completed")
        assert got.to_dict()["store"] is False
        assert got.usage is not None
        assert got.metadata == {"a": "b"}
        (row,) = await world.log()
        assert (row.path, row.expert, row.tokens.total) == (
            "/responses",
            model,
            got.usage.total_tokens,
        )

    run(tmp_path, main)


@pytest.mark.parametrize(("model", "text"), [("ann", "ann says so "), ("faithful", "echo: go ")])
def test_a_chat_stream_becomes_a_responses_events(tmp_path: Path, model: str, text: str) -> None:
    async def main(world: World, client: openai.AsyncOpenAI, server: FaultUpstream) -> None:
        async with client.responses.stream(model=model, input="go") as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
        assert final.output_text == text
        assert [event.sequence_number for event in events] == list(range(len(events)))
        said = "".join(e.delta for e in events if e.type == "response.output_text.delta")
        assert (said, events[-1].type) == (text, "response.completed")
        (row,) = await world.log()
        assert final.usage is not None
        assert row.tokens.total == final.usage.total_tokens > 0

    run(tmp_path, main)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_is_called_and_its_result_is_told(tmp_path: Path, streamed: bool) -> None:
    async def ask(client: openai.AsyncOpenAI, items: Any) -> Any:
        given: Any = {"model": "faithful", "input": items, "tools": [TOOL]}
        if not streamed:
            return await client.responses.create(**given)
        async with client.responses.stream(**given) as stream:
            return await stream.get_final_response()

    async def main(world: World, client: openai.AsyncOpenAI, server: FaultUpstream) -> None:
        items: Any = [{"role": "user", "content": "rain?"}]
        (call,) = (await ask(client, items)).output
        assert (call.type, call.name, call.call_id) == ("function_call", "weather", "call_1")
        assert json.loads(call.arguments) == {"city": "Paris"}
        told = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        item = {name: getattr(call, name) for name in ("type", "call_id", "name", "arguments")}
        last = await ask(client, [*items, item, told])
        assert last.output_text.strip() == "The tool says rain."

    run(tmp_path, main)


def test_an_answer_is_parsed_into_the_class_that_was_asked_for(tmp_path: Path) -> None:
    async def main(world: World, client: openai.AsyncOpenAI, server: FaultUpstream) -> None:
        got = await client.responses.parse(model="faithful", input="go", text_format=City)
        assert got.output_parsed == City(name="Paris", people=3)
        with pytest.raises(openai.BadRequestError, match="ann: lacks json_schema"):
            await client.responses.parse(model="ann", input="go", text_format=City)

    run(tmp_path, main)


@pytest.mark.parametrize("model", ["reset-mid-stream", "error-late"])
def test_a_stream_that_breaks_raises_and_is_no_response(tmp_path: Path, model: str) -> None:
    kinds = []

    async def main(world: World, client: openai.AsyncOpenAI, server: FaultUpstream) -> None:
        async def read() -> None:
            more = {"models": ["ann"], "coterie": {"mid_stream": "restart"}}
            asked: Any = {"model": model, "input": "a", "stream": True, "extra_body": more}
            async for event in await client.responses.create(**asked):
                kinds.append(event.type)

        with pytest.raises(openai.APIError):
            await read()
        (row,) = await world.log()
        assert (row.status >= 500, row.tokens.estimated) == (True, True)
        assert [one.expert for one in row.attempts] == [model]

    run(tmp_path, main)
    assert "response.output_text.delta" in kinds
    assert not {"response.completed", "response.incomplete"} & set(kinds)


def test_an_answer_at_its_bound_is_incomplete_and_its_estimate_marked(tmp_path: Path) -> None:
    async def main(world: World, client: openai.AsyncOpenAI, server: FaultUpstream) -> None:
        asked: Any = {"model": "short", "input": "a", "max_output_tokens": 5}
        last: Any = [e async for e in await client.responses.create(**asked, stream=True)][-1]
        assert (last.type, last.response.status) == ("response.incomplete", "incomplete")
        assert last.response.incomplete_details.reason == "max_output_tokens"
        assert (last.response.output_text, last.response.output[0].status) == ("so", "incomplete")
        assert last.response.usage.model_extra == {"estimated": True}
        assert server.log[0].body["max_tokens"] == last.response.max_output_tokens == 5

    run(tmp_path, main)


def test_a_refusal_is_a_part_of_the_message(tmp_path: Path) -> None:
    async def main(world: World, client: openai.AsyncOpenAI, server: FaultUpstream) -> None:
        async with client.responses.stream(model="silent", input="a") as stream:
            (item,) = (await stream.get_final_response()).output
        assert cast(Any, item).content[0].refusal == "no"

    run(tmp_path, main)


def test_what_cannot_be_translated_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    async def main(world: World, client: openai.AsyncOpenAI, server: FaultUpstream) -> None:
        why = "faithful: lacks responses, and previous_response_id cannot be translated"
        with pytest.raises(openai.BadRequestError, match=why):
            await client.responses.create(model="faithful", input="a", previous_response_id="r")
        tools: Any = [{"type": "web_search"}]
        with pytest.raises(openai.BadRequestError, match="a tool of type 'web_search'"):
            await client.responses.create(model="faithful", input="a", tools=tools)
        assert server.log == []

    run(tmp_path, main)


@pytest.mark.parametrize("stream", [False, True])
def test_a_budget_is_settled_at_what_was_used(tmp_path: Path, stream: bool) -> None:
    async def main(world: World, client: openai.AsyncOpenAI, server: FaultUpstream) -> None:
        got = await client.responses.create(model="faithful", input="go", stream=stream)
        if not isinstance(got, Response):
            assert [event async for event in got]
        await world.gateway.ledger.flush()
        (balance,) = await world.gateway.ledger.balances()
        (row,) = await world.log()
        assert balance.settled == pytest.approx(row.cost) == pytest.approx(17 * 0.001)
        assert server.log[0].body["max_tokens"] > 0  # what the budget pays for

    run(tmp_path, main, secret=True)


# -- however a chat is cut into chunks


def _calls(pieces: list[tuple[str | None, str]]) -> Iterator[Said]:
    for text, arguments in pieces:
        made = (
            [{"index": 0, "function": {"name": "f", "arguments": arguments}}] if arguments else []
        )
        yield _said(text, made)


def _said(text: str | None, calls: list[Any]) -> Said:
    return msgspec.convert({"content": text, "tool_calls": calls}, Said)


@given(st.lists(st.tuples(st.none() | st.text(max_size=3), st.text(max_size=3))), st.booleans())
def test_the_events_add_up_to_the_response(pieces: list[Any], short: bool) -> None:
    answer = Answer({})
    events = answer.begin("m")
    for said in _calls(pieces):
        events += answer.add(said)
    last, done = answer.end("length" if short else "stop", Tokens(3, 4))
    text, arguments = ("".join(one[side] or "" for one in pieces) for side in (0, 1))
    deltas = [event for event in [*events, *last] if event["type"].endswith(".delta")]
    for kind, whole in (("output_text", text), ("function_call_arguments", arguments)):
        told = [event["delta"] for event in deltas if event["type"] == f"response.{kind}.delta"]
        assert "".join(told) == whole
    for event in [*events, *last]:
        assert EVENT.validate_python({**event, "sequence_number": 0}).type == event["type"]
    got = Response.model_validate(done)
    assert got.output_text == text
    calls = [item.arguments for item in got.output if item.type == "function_call"]
    assert calls == ([arguments] if arguments else [])
    assert got.status == ("incomplete" if short else "completed")
    added = [event for event in events if event["type"] == "response.output_item.added"]
    closed = [event for event in last if event["type"] == "response.output_item.done"]
    assert [e["item"]["id"] for e in added] == [e["item"]["id"] for e in closed]
    assert all(event["item"]["status"] == "in_progress" for event in added)


@given(st.lists(st.text(min_size=1, max_size=3), min_size=1))
def test_calls_without_an_index_are_told_apart_by_their_names(arguments: list[str]) -> None:
    answer = Answer({})
    for text in arguments:
        answer.add(_said(None, [{"function": {"name": "f", "arguments": text[:1]}}]))
        answer.add(_said(None, [{"function": {"arguments": text[1:]}}]))
    _, done = answer.end("tool_calls", None)
    assert [item["arguments"] for item in done["output"]] == arguments
    assert len({item["call_id"] for item in done["output"]}) == len(arguments)
