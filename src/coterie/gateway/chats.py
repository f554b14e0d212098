"""A request to the Responses API as a request to chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from coterie.gateway.wire import ApiError, Fields, raw, value_of

KEPT: Final = frozenset(  # called the same in a chat
    ("temperature", "top_p", "user", "service_tier", "safety_identifier", "prompt_cache_key")
)
READ: Final = frozenset(
    ("input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "text", "reasoning")
)
SPARED: Final = frozenset(  # not the expert's affair, or about what a chat does not have
    ("model", "stream", "stream_options", "store", "metadata", "max_tool_calls")
)
BOUND: Final = "max_output_tokens"
IDLE: Final[Mapping[str, Any]] = {  # values that ask for nothing
    "background": False, "include": [], "top_logprobs": 0, "truncation": "disabled", "n": 1,
}  # fmt: skip
ROLES: Final = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
TEXTS: Final = frozenset({"input_text", "output_text", "text"})
Json: TypeAlias = dict[str, Any]


class Untranslatable(ValueError):
    """What a chat request has no words for."""


def untranslatable(fields: Fields) -> str:
    """What of a Responses request a chat cannot ask for, "" where it can ask for all of it."""
    try:
        to_chat(fields)
    except Untranslatable as error:
        return str(error)
    except ApiError as error:
        return error.param or "input"
    return ""


def to_chat(fields: Fields, bound_name: str = "max_tokens") -> Fields:
    """The chat request that asks for the same; raises Untranslatable naming what cannot be."""
    given = {name: value for name, value in fields.items() if bytes(value) != b"null"}
    for name in given.keys() - KEPT - READ - SPARED - {BOUND}:
        if name not in IDLE or value_of(fields, name) != IDLE[name]:
            raise Untranslatable(name)
    asked = {name: value_of(given, name) for name in READ if name in given}
    chat = {"messages": raw(_messages(asked.get("instructions"), asked.get("input")))}
    chat |= {name: value for name, value in given.items() if name in KEPT}
    if BOUND in given:
        chat[bound_name] = given[BOUND]
    more = _tools(asked) | _format(_object(asked, "text")) | _effort(_object(asked, "reasoning"))
    return chat | {name: raw(value) for name, value in more.items()}


def _object(asked: Json, name: str) -> Json:
    value = asked.get(name, {})
    if not isinstance(value, dict):
        raise Untranslatable(name)
    return {key: one for key, one in value.items() if one is not None}


def _messages(instructions: Any, given: Any) -> list[Json]:
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(items, list) or not items:
        raise Untranslatable("input")
    if instructions is not None:
        items = [{"role": "system", "content": instructions}, *items]
    messages: list[Json] = []
    for item in items:
        if not isinstance(item, dict):
            raise Untranslatable("input")
        _add_item(messages, item)
    return messages


def _add_item(messages: list[Json], item: Json) -> None:
    """Add an item; calls become part of what the assistant said, as a chat has them."""
    kind, last = item.get("type", "message"), messages[-1] if messages else {}
    if kind == "message":
        message = _message(item)
        alike = message["role"] == last.get("role") == "system"
        if alike and isinstance(message["content"], str) and isinstance(last["content"], str):
            last["content"] += f"\n\n{message['content']}"  # most templates take only one
        else:
            messages.append(message)
    elif kind == "function_call":
        if last.get("role") != "assistant":
            last = {"role": "assistant", "content": None}
            messages.append(last)
        function = {name: _text(item, name) for name in ("name", "arguments")}
        call = {"id": _text(item, "call_id"), "type": "function", "function": function}
        last.setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        said = _content(item.get("output"))
        if not isinstance(said, str) and any(part["type"] != "text" for part in said):
            raise Untranslatable("an output that is no text")
        messages.append({"role": "tool", "tool_call_id": _text(item, "call_id"), "content": said})
    else:
        raise Untranslatable(f"an item of type {str(kind)[:40]!r}")


def _text(item: Json, name: str) -> str:
    if not isinstance(value := item.get(name), str):
        raise Untranslatable(f"an item without {name}")
    return value


def _message(item: Json) -> Json:
    if (role := ROLES.get(str(item.get("role")))) is None:
        raise Untranslatable(f"the role {str(item.get('role'))[:40]!r}")
    return {"role": role, "content": _content(item.get("content"))}


def _content(content: Any) -> str | list[Json]:
    """A text, or parts as a chat has them; a single text is itself."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Untranslatable("content that is neither a text nor a list")
    parts = [_part(part) for part in content]
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    return parts or ""


def _part(part: Any) -> Json:
    kind = str(part.get("type") if isinstance(part, dict) else None)
    if kind in TEXTS:
        return {"type": "text", "text": _text(part, "text")}
    if kind == "refusal":
        return {"type": "refusal", "refusal": _text(part, "refusal")}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        detail = {"detail": part["detail"]} if part.get("detail") else {}
        return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
    raise Untranslatable(f"a part of type {kind[:40]!r}")


def _tools(asked: Json) -> Json:
    """Functions, and which of them to call; without one a chat may say nothing of either."""
    tools, choice = asked.get("tools", []), asked.get("tool_choice", "auto")
    if not isinstance(tools, list):
        raise Untranslatable("tools")
    made = [{"type": "function", "function": _function(tool)} for tool in tools]
    if isinstance(choice, dict):
        if choice.get("type") != "function":
            raise Untranslatable(f"a tool_choice of type {str(choice.get('type'))[:40]!r}")
        choice = {"type": "function", "function": {"name": _text(choice, "name")}}
    if not made:
        return {}
    names = ("tool_choice", "parallel_tool_calls")
    given = {name: asked[name] for name in names if name in asked}
    return {"tools": made, **given, **({"tool_choice": choice} if "tool_choice" in given else {})}


def _function(tool: Any) -> Json:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind != "function":
        raise Untranslatable(f"a tool of type {str(kind)[:40]!r}")
    names = ("name", "description", "parameters", "strict")
    return {name: tool[name] for name in names if tool.get(name) is not None}


def _format(text: Json) -> Json:
    form = text.pop("format", {"type": "text"})
    kind = form.get("type") if isinstance(form, dict) else None
    made: Json = {"verbosity": text.pop("verbosity")} if "verbosity" in text else {}
    if text or kind not in ("text", "json_object", "json_schema"):
        raise Untranslatable("text")
    if kind == "json_object":
        made["response_format"] = {"type": kind}
    elif kind == "json_schema":
        schema = {name: one for name, one in form.items() if name != "type" and one is not None}
        made["response_format"] = {"type": kind, "json_schema": schema}
    return made


def _effort(reasoning: Json) -> Json:
    effort = reasoning.pop("effort", None)
    if reasoning:
        raise Untranslatable(f"reasoning.{min(reasoning)[:40]}")
    return {} if effort is None else {"reasoning_effort": effort}
