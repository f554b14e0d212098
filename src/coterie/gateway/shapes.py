"""An answer as one object or as a stream of chunks, and each made of the other.

For experts that answer in one shape although the other was asked for; and what can be told of a
whole answer without reading all of it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from coterie.gateway.entries import Tokens
from coterie.gateway.events import EMPTY, EventParser, Malformed, decode, read_event
from coterie.gateway.usage import read_usage
from coterie.gateway.wire import frame

_NONE = msgspec.Raw()
_encode = msgspec.json.Encoder().encode
JOINED = frozenset({"content", "reasoning", "reasoning_content", "refusal", "arguments"})


class WholeChoice(msgspec.Struct):
    """What matters of a choice; ``text`` is that of /completions."""

    finish_reason: str | None = None
    message: msgspec.Raw = _NONE
    text: msgspec.Raw = _NONE


class Whole(msgspec.Struct):
    """What matters of a whole answer, of any endpoint."""

    choices: list[WholeChoice] | None = None
    data: msgspec.Raw = _NONE  # of embeddings
    output: msgspec.Raw = _NONE  # of responses
    status: str | None = None
    usage: msgspec.Raw = _NONE
    error: msgspec.Raw = _NONE
    model: str | None = None

    def failed(self) -> bool:
        """It tells of an error, with status 200."""
        return bytes(self.error) not in EMPTY or self.status == "failed"

    def answers(self, path: str) -> bool:
        """It is what ``path`` answers with."""
        if path == "/embeddings":
            return bytes(self.data)[:1] == b"["
        if path == "/responses":
            return bytes(self.output)[:1] == b"["
        return bool(self.choices)

    def tokens(self) -> Tokens | None:
        """The usage that it reports."""
        return read_usage(self.usage) if self.usage is not _NONE else None

    def size(self) -> int:
        """Bytes of what was answered."""
        said = [
            choice.message if choice.text is _NONE else choice.text for choice in self.choices or ()
        ]
        return sum(len(bytes(part)) for part in (*said, self.output))

    def finish(self) -> str:
        """Why the first choice ended; "" where that is not said."""
        return (self.choices[0].finish_reason or "") if self.choices else ""


_whole = msgspec.json.Decoder(Whole)


def read_whole(body: bytes) -> Whole | None:
    """``body`` as an answer; None for JSON of another shape. Raises Malformed."""
    return decode(_whole, body)


def to_chunks(body: bytes, wants_usage: bool) -> list[bytes]:
    """The events that would have led to this whole answer of a chat or text. Raises Malformed."""
    try:
        return _chunked(body, wants_usage)
    except (LookupError, TypeError, AttributeError, ValueError):
        raise Malformed from None


def _chunked(body: bytes, wants_usage: bool) -> list[bytes]:
    whole = msgspec.json.decode(body)
    choices, usage = whole.pop("choices"), whole.pop("usage", None)
    chat = whole.get("object") != "text_completion"
    if chat:
        whole["object"] = "chat.completion.chunk"
    parts: list[dict[str, Any]] = []
    for place, choice in enumerate(choices):
        choice.setdefault("index", place)
        reason = choice.pop("finish_reason", None)
        if chat:
            choice["delta"] = _delta(choice.pop("message", None) or {})
        parts.append({**choice, "finish_reason": None})
        last: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        parts.append({"index": choice["index"], **last, "finish_reason": reason})
    frames = [frame(_encode({**whole, "choices": [part]})) for part in parts]
    if wants_usage and usage:
        frames.append(frame(_encode({**whole, "choices": [], "usage": usage})))
    return frames


def _delta(message: dict[str, Any]) -> dict[str, Any]:
    for place, call in enumerate(message.get("tool_calls") or []):
        if isinstance(call, dict):
            call.setdefault("index", place)
    return message


def to_whole(body: bytes) -> bytes:
    """The answer that a stream of chat, text or response events adds up to. Raises Malformed."""
    try:
        return _encode(_joined(body))
    except (LookupError, TypeError, AttributeError):
        raise Malformed from None


def _joined(body: bytes) -> dict[str, Any]:
    parser = EventParser(len(body) + 1)
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for event in [*parser.feed(body), *parser.rest()]:
        _, data, _ = read_event(event)
        try:
            chunk = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if not isinstance(chunk, dict):
            continue
        if isinstance(response := chunk.get("response"), dict):
            whole = response  # of /responses: the last one is complete
            continue
        for choice in chunk.pop("choices", None) or []:
            _merge_choice(choices.setdefault(choice.get("index") or 0, {}), choice)
        whole |= {name: value for name, value in chunk.items() if value is not None}
    if choices:
        whole["choices"] = [choices[index] for index in sorted(choices)]
    if whole.get("object") == "chat.completion.chunk":
        whole["object"] = "chat.completion"
    return whole


def _merge_choice(into: dict[str, Any], choice: dict[str, Any]) -> None:
    """Add a chunk's choice to what the earlier ones said."""
    if isinstance(delta := choice.pop("delta", None), dict):
        _merge_message(into.setdefault("message", {"role": "assistant", "content": None}), delta)
    if isinstance(text := choice.pop("text", None), str):
        into["text"] = into.get("text", "") + text
    if isinstance(logprobs := choice.pop("logprobs", None), dict):
        known = into.setdefault("logprobs", {})
        for name, values in logprobs.items():
            known[name] = (known.get(name) or []) + values if isinstance(values, list) else values
    into.update({name: value for name, value in choice.items() if value is not None})


def _merge_message(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for call in delta.pop("tool_calls", None) or []:
        _merge_call(message.setdefault("tool_calls", []), call)
    for name, value in delta.items():
        if name in JOINED and isinstance(value, str):
            message[name] = (message.get(name) or "") + value
        elif value is not None:
            message[name] = value


def _merge_call(calls: list[dict[str, Any]], call: dict[str, Any]) -> None:
    """A part of a tool call goes to the one of its index; a whole one has no need of it."""
    index = call.pop("index", len(calls))
    while len(calls) <= index < len(calls) + 128:
        calls.append({"function": {"name": "", "arguments": ""}})
    known = calls[index]
    function = call.pop("function", None) or {}
    known.update({name: value for name, value in call.items() if value is not None})
    known["function"]["name"] = known["function"]["name"] or function.get("name") or ""
    known["function"]["arguments"] += function.get("arguments") or ""
