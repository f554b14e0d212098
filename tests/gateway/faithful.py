"""A model behind OpenAI's API that answers as OpenAI does; ``FaultUpstream`` serves it.

It calls the tools it is given and then says what they returned, fills JSON schemas, embeds texts,
and speaks the Responses API.
"""

import json
from typing import Any

from fault_upstream import (
    FAULTS,
    HEAD,
    ROLE,
    SAID,
    USAGE,
    Exchange,
    chunk,
    error,
    event,
    fault,
    says,
    whole,
)  # fmt: skip

CALL = {"name": "weather", "arguments": '{"city": "Paris"}'}
COUNTS = {
    "input_tokens": 7,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 2,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 9,
}
FAULTS["error-late"] = says(ROLE, *SAID[:3], event(error("boom")), pause=0.05)


@fault("faithful")
async def _faithful(x: Exchange) -> None:
    try:
        await _answered(x)
    except (LookupError, TypeError, AttributeError) as why:
        await x.json(error(f"odd: {why!r}", None, "invalid_request_error"), 400)


async def _answered(x: Exchange) -> None:
    path = x.seen.path.removeprefix("/v1")
    if path == "/embeddings":
        await x.json(_embeddings(x.seen.body))
    elif path == "/responses":
        await _respond(x)
    elif path == "/completions":
        await x.json({**HEAD, "object": "text_completion", "choices": [_text()], "usage": USAGE})
    elif x.stream:
        await x.events(*_streamed(_message(x.seen.body)))
    else:
        message = _message(x.seen.body)
        finish = "tool_calls" if "tool_calls" in message else "stop"
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        await x.json(whole(choices=[choice]))


def _text() -> dict[str, Any]:
    return {"index": 0, "text": "said", "logprobs": None, "finish_reason": "stop"}


def _message(body: dict[str, Any]) -> dict[str, Any]:
    last = body["messages"][-1]
    said = {"role": "assistant", "content": None, "refusal": None}
    if last["role"] == "tool":
        return {**said, "content": f"The tool says {last['content']}."}
    if body.get("tools"):
        named = body["tools"][0]["function"]["name"]
        arguments = _filled(body["tools"][0]["function"].get("parameters", {}))
        call = {**CALL, "name": named, "arguments": json.dumps(arguments)}
        return {**said, "tool_calls": [{"id": "call_1", "type": "function", "function": call}]}
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
    if schema:
        return {**said, "content": json.dumps(_filled(schema))}
    return {**said, "content": f"echo: {_said(last['content'])}"}


def _said(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content)
    return str(content)


def _filled(schema: dict[str, Any]) -> Any:
    """A value of this JSON schema."""
    kind = schema.get("type")
    if kind == "object":
        return {name: _filled(one) for name, one in schema.get("properties", {}).items()}
    return {"integer": 3, "number": 2.5, "boolean": True, "array": []}.get(str(kind), "Paris")


def _streamed(message: dict[str, Any]) -> list[bytes]:
    events = [chunk({"role": "assistant", "content": ""})]
    for place, call in enumerate(message.get("tool_calls", ())):
        named = {**call["function"], "arguments": ""}
        events.append(chunk({"tool_calls": [{"index": place, **call, "function": named}]}))
        for piece in call["function"]["arguments"]:
            part = {"index": place, "function": {"arguments": piece}}
            events.append(chunk({"tool_calls": [part]}))
    events += [chunk({"content": f"{word} "}) for word in (message["content"] or "").split()]
    finish = "tool_calls" if "tool_calls" in message else "stop"
    report = event({**HEAD, "choices": [], "usage": USAGE})
    return [*events, chunk(finish=finish), report, event("[DONE]")]


def _embeddings(body: dict[str, Any]) -> dict[str, Any]:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    data = [
        {"object": "embedding", "index": i, "embedding": [float(i), 0.5]} for i in range(len(texts))
    ]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return {"object": "list", "data": data, "model": "served", "usage": usage}


async def _respond(x: Exchange) -> None:
    text = {"type": "output_text", "text": "It is so.", "annotations": [], "logprobs": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
    done = {**_response("completed"), "output": [{**item, "content": [text]}], "usage": COUNTS}
    if not x.stream:
        await x.json(done)
        return
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    opened = {"output_index": 0, "item": {**item, "status": "in_progress", "content": []}}
    told: list[dict[str, Any]] = [
        {"type": "response.created", "response": _response("in_progress")},
        {"type": "response.output_item.added", **opened},
        {"type": "response.content_part.added", **place, "part": {**text, "text": ""}},
        {"type": "response.output_text.delta", **place, "delta": "It is ", "logprobs": []},
        {"type": "response.output_text.delta", **place, "delta": "so.", "logprobs": []},
        {"type": "response.output_text.done", **place, "text": "It is so.", "logprobs": []},
        {"type": "response.content_part.done", **place, "part": text},
        {"type": "response.output_item.done", "output_index": 0, "item": done["output"][0]},
        {"type": "response.completed", "response": done},
    ]
    frames = []
    for number, one in enumerate(told):
        named = f"event: {one['type']}\n".encode()
        frames.append(named + event({**one, "sequence_number": number}))
    await x.events(*frames)


def _response(status: str) -> dict[str, Any]:
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "served", "status": status,
        "output": [], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        "error": None, "incomplete_details": None, "instructions": None, "metadata": {},
    }  # fmt: skip
