"""What a routing policy may do in one round: ask an expert, answer, or something invalid.

Two written forms: the typed tool call (JSON), and the tags that Router-R1 was released with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Route:
    """Put this question to this expert; the expert is a name as written, known or not."""

    expert: str
    question: str


@dataclass(frozen=True, slots=True)
class Respond:
    """End with this answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """Neither; ``why`` is shown to the policy."""

    why: str


Action: TypeAlias = Route | Respond | Invalid

NO_ACTION = Invalid("no action was found; route a question or answer")
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
# Stop sequences cut the closing tag off, so the end of the text closes too.
_PARTS = re.compile(_THOUGHT.pattern + r"|<(search|answer)>(.*?)(?:</\1>|\Z)", re.DOTALL)
_TAG = re.compile(r"</?(?:search|answer|think|information)>")


def parse_tags(text: str) -> Action:
    """The first ``<search>NAME:question</search>`` or ``<answer>text</answer>`` outside thoughts.

    The name ends at the first colon, so that questions may hold further ones.

    >>> parse_tags("<think>who?</think><search>small: when: 1912 or 1913?</search>")
    Route(expert='small', question='when: 1912 or 1913?')
    """
    match = _first_action(text)
    if match is None:
        return NO_ACTION
    content = match.group(2).strip()
    if match.group(1) == "answer":
        return Respond(content) if content else Invalid("the answer is empty")
    name, colon, question = (part.strip() for part in content.partition(":"))
    if not colon:
        return Invalid(f"expected NAME:question, got {content[:60]!r}")
    return _route(name, question)


def parse_tool_call(text: str) -> Action:
    """The last call of ``route`` or ``answer`` written as JSON, whatever surrounds it.

    Read are ``{"name": ..., "arguments": {...}}``, arguments as an object or as its text, with
    ``function`` around it or not, and arguments that stand beside the name.

    >>> parse_tool_call('{"name": "route", "arguments": {"expert": "a:7b", "question": "why?"}}')
    Route(expert='a:7b', question='why?')
    """
    for value in reversed(list(_objects(_THOUGHT.sub("", text)))):
        call = value.get("function", value)
        if isinstance(call, Mapping) and call.get("name") in ("route", "answer"):
            arguments = _arguments(call)
            if call["name"] == "answer":
                said = str(arguments.get("text", "")).strip()
                return Respond(said) if said else Invalid("the answer is empty")
            return _route(
                str(arguments.get("expert", "")).strip(), str(arguments.get("question", "")).strip()
            )
    return NO_ACTION


def until_action(text: str) -> str:
    """The text up to the end of its first action in tags: what follows was made up."""
    match = _first_action(text)
    return text if match is None else text[: match.end()]


def as_tags(action: Action) -> str:
    """An action as the released tags have it."""
    if isinstance(action, Route):
        return f"<search>{action.expert}:{action.question}</search>"
    return f"<answer>{action.text}</answer>" if isinstance(action, Respond) else ""


def tool_schemas(experts: Iterable[str]) -> list[dict[str, Any]]:
    """The two tools as JSON schemas in OpenAI's form; the expert is one of ``experts``."""
    question = {"type": "string", "description": "A question that can be answered on its own."}
    expert = {"type": "string", "enum": list(experts)}
    return [
        _schema("route", "Put a question to one expert.", {"expert": expert, "question": question}),
        _schema("answer", "End with the final answer.", {"text": {"type": "string"}}),
    ]


def without_tags(text: str) -> str:
    """What is left of a text without thoughts and tags."""
    return _TAG.sub("", _THOUGHT.sub("", text).split("<think>")[0]).strip()


def known_expert(name: str, experts: Iterable[str]) -> str | None:
    """The expert of this name, letter case aside where that is unambiguous; never a part of one."""
    names = list(dict.fromkeys(experts))
    if name in names:
        return name
    alike = [known for known in names if known.casefold() == name.casefold()]
    return alike[0] if len(alike) == 1 else None


def _first_action(text: str) -> re.Match[str] | None:
    return next((m for m in _PARTS.finditer(text) if m.group(1)), None)


def _route(expert: str, question: str) -> Action:
    if not expert or not question:
        return Invalid("expected the name of an expert and a question")
    return Route(expert, question)


def _schema(name: str, description: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def _arguments(call: Mapping[str, Any]) -> Mapping[str, Any]:
    found = call.get("arguments", call)
    if isinstance(found, str):
        found = next(_objects(found), {})
    return found if isinstance(found, Mapping) else {}


def _objects(text: str) -> Iterator[Mapping[str, Any]]:
    """The outermost JSON objects in a text, in order."""
    decoder, place = json.JSONDecoder(), text.find("{")
    while place >= 0:
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place += 1
        else:
            yield value
        place = text.find("{", place)
