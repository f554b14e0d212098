"""The Responses API of experts that speak chat only: a bridge between the two."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

import msgspec

from coterie.gateway.chats import Untranslatable, to_chat
from coterie.gateway.entries import Tokens, new_id
from coterie.gateway.events import Malformed, decode, read_event
from coterie.gateway.failures import UpstreamError, failure
from coterie.gateway.replies import Outgoing, Reply, Upstream
from coterie.gateway.retries import Deadline
from coterie.gateway.wire import Fields, bad_request, value_of

ECHOED: Final[Mapping[str, Any]] = {  # fields of a request that its response repeats
    "instructions": None, "max_output_tokens": None, "metadata": {}, "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None}, "temperature": None,
    "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": None,
    "user": None,
}  # fmt: skip
CUT_SHORT: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
Json: TypeAlias = dict[str, Any]
_encode = msgspec.json.encode


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class Said(msgspec.Struct):
    """A chat's message, or what a chunk adds to one."""

    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: int | None = 0
    delta: Said | None = None
    message: Said | None = None


class _Chat(msgspec.Struct):
    choices: list[_Choice] | None = None


_chats = msgspec.json.Decoder(_Chat)


@dataclass(slots=True)
class _Writing:
    """A text under way: the key ``key`` of ``into``, told of in events of its kind."""

    kind: str  # "output_text", "refusal" or "function_call_arguments"
    into: Json
    key: str
    item: Json
    place: Json
    more: Json  # what each of its events has besides
    said: list[str] = field(default_factory=list)

    def add(self, text: str) -> Json:
        """The event of a piece of it."""
        self.said.append(text)
        return {"type": f"response.{self.kind}.delta", **self.place, "delta": text, **self.more}

    def end(self) -> list[Json]:
        """The events of its end."""
        text = self.into[self.key] = "".join(self.said)
        named = {"name": self.item["name"]} if "name" in self.item else {}
        done = f"response.{self.kind}.done"
        told = [{"type": done, **self.place, self.key: text, **self.more, **named}]
        if self.into is not self.item:
            part = {"type": "response.content_part.done", **self.place, "part": self.into}
            told.append(part)
        return told


class Answer:
    """A Response that grows with what a chat says; each step gives the events that tell of it."""

    def __init__(self, fields: Fields) -> None:
        self._items: list[Json] = []
        self._writing: dict[str | int, _Writing] = {}  # calls by their index
        echoed = {name: value_of(fields, name) for name in ECHOED}
        self._response: Json = {
            "id": new_id("resp_"), "object": "response", "created_at": int(time.time()),
            "status": "in_progress", "background": False, "error": None,
            "incomplete_details": None, "model": "", "output": [],
            "previous_response_id": None, "store": False, "truncation": "disabled", "usage": None,
            **{name: ECHOED[name] if one is None else one for name, one in echoed.items()},
        }  # fmt: skip

    def begin(self, model: str) -> list[Json]:
        """The events before anything is said."""
        self._response["model"] = model
        kinds = ("response.created", "response.in_progress")
        return [{"type": kind, "response": self._response} for kind in kinds]

    def add(self, said: Said) -> list[Json]:
        """The events of a message, or of a piece of one."""
        told: list[Json] = []
        for kind, text in (("output_text", said.content), ("refusal", said.refusal)):
            if text:
                told += [] if kind in self._writing else self._open_part(kind)
                told.append(self._writing[kind].add(text))
        for call in said.tool_calls or ():
            told += self._call(call)
        return told

    def end(self, finish: str, tokens: Tokens | None) -> tuple[list[Json], Json]:
        """The last events and the whole Response."""
        reason = CUT_SHORT.get(finish)
        status = "completed" if reason is None else "incomplete"
        told: list[Json] = []
        for place, item in enumerate(self._items):
            for one in self._writing.values():
                told += one.end() if one.item is item else []
            item["status"] = status if item is self._items[-1] else "completed"
            told.append({"type": "response.output_item.done", "output_index": place, "item": item})
        details = {"incomplete_details": None if reason is None else {"reason": reason}}
        done = {**self._response, "status": status, **details, "output": self._items}
        done["usage"] = None if tokens is None else _usage(tokens)
        return [*told, {"type": f"response.{status}", "response": done}], done

    def _open_item(self, item: Json) -> Json:
        self._items.append(item)
        place = len(self._items) - 1
        return {"type": "response.output_item.added", "output_index": place, "item": dict(item)}

    def _open_part(self, kind: str) -> list[Json]:
        """A part of the message, which is an item of its own before all of its parts."""
        told: list[Json] = []
        item = next((one for one in self._items if one["type"] == "message"), None)
        if item is None:
            item = {"id": new_id("msg_"), "type": "message", "role": "assistant"}
            item |= {"status": "in_progress", "content": []}
            told.append(self._open_item(item))
        plain = kind == "output_text"
        key = "text" if plain else "refusal"
        part: Json = {"type": kind, key: ""}
        part |= {"annotations": [], "logprobs": []} if plain else {}
        place = {**self._place(item), "content_index": len(item["content"])}
        told.append({"type": "response.content_part.added", **place, "part": dict(part)})
        item["content"] = [*item["content"], part]  # a new list: the events above keep theirs
        more: Json = {"logprobs": []} if plain else {}
        self._writing[kind] = _Writing(kind, part, key, item, place, more)
        return told

    def _call(self, call: _ToolCall) -> list[Json]:
        function, told = call.function or _Function(), []
        index = self._index(call)
        if index not in self._writing:
            item = {"id": new_id("fc_"), "type": "function_call", "status": "in_progress"}
            item |= {"call_id": call.id or new_id("call_"), "name": function.name or ""}
            item["arguments"] = ""
            told.append(self._open_item(item))
            kind, place = "function_call_arguments", self._place(item)
            self._writing[index] = _Writing(kind, item, "arguments", item, place, {})
        writing = self._writing[index]
        writing.item["name"] = writing.item["name"] or function.name or ""
        if function.arguments:
            told.append(writing.add(function.arguments))
        return told

    def _index(self, call: _ToolCall) -> int:
        """The call's own index; without one whatever has a name begins a call."""
        if call.index is not None:
            return call.index
        known = [index for index in self._writing if isinstance(index, int)]
        begins = not known or (call.function is not None and call.function.name)
        return max(known, default=-1) + 1 if begins else known[-1]

    def _place(self, item: Json) -> Json:
        place = next(place for place, one in enumerate(self._items) if one is item)
        return {"item_id": item["id"], "output_index": place}


def _usage(tokens: Tokens) -> Json:
    """OpenAI's usage object, marked where the counts are not the expert's own."""
    counts = {
        "input_tokens": tokens.prompt,
        "input_tokens_details": {"cached_tokens": tokens.cached, "cache_write_tokens": 0},
        "output_tokens": tokens.completion,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        "total_tokens": tokens.total,
    }
    return {**counts, "estimated": True} if tokens.estimated else counts


class Bridged:
    """``inner``, which speaks chat, asked in the Responses API."""

    def __init__(self, inner: Upstream) -> None:
        self.name, self._inner = inner.name, inner
        self.context_length = getattr(inner, "context_length", None)
        self.slots, self.limit = getattr(inner, "slots", None), getattr(inner, "limit", None)

    async def open(self, out: Outgoing, deadline: Deadline) -> Reply:
        """Ask; returns when an answer is certain. Raises UpstreamError."""
        answer = Answer(out.fields)
        try:
            fields = to_chat(out.fields, getattr(self._inner, "bound_name", "max_tokens"))
        except Untranslatable as error:
            raise bad_request(f"{self.name}: {error} cannot be translated into a chat") from None
        chat = replace(out, path="/chat/completions", fields=fields, wants_usage=False)
        reply = await self._inner.open(chat, deadline)
        begun = answer.begin(reply.model or self.name)
        if reply.body is None:
            return _BridgedStream(reply, answer, begun)
        return self._whole(reply, reply.body, answer)

    async def close(self) -> None:
        """Close what it asks."""
        await self._inner.close()

    def _whole(self, reply: Reply, body: bytes, answer: Answer) -> Reply:
        choices = _choices(body)
        if not choices or choices[0].message is None:
            raise UpstreamError(failure("wrong_shape", f"{self.name}: sent JSON without a message"))
        answer.add(choices[0].message)
        _, response = answer.end(reply.finish, reply.tokens)
        return Reply(reply.model, _encode(response), reply.tokens, reply.finish, reply.pause)


class _BridgedStream(Reply):
    """A chat's chunks as a Response's events; the last one comes only where the chat ended well."""

    def __init__(self, reply: Reply, answer: Answer, begun: list[Json]) -> None:
        super().__init__(reply.model, finish=reply.finish, pause=reply.pause)
        self._reply, self._answer, self._begun, self._number = reply, answer, begun, 0

    def so_far(self) -> Tokens | None:
        """See Reply."""
        return self._reply.so_far()

    async def events(self) -> AsyncGenerator[bytes, None]:
        """See Reply."""
        yield self._frames(self._begun)
        async with aclosing(self._reply.events()) as pieces:
            async for piece in pieces:
                if events := self._told(piece):
                    self.shown = True
                    yield self._frames(events)
        self.tokens, self.finish = self._reply.tokens, self._reply.finish
        yield self._frames(self._answer.end(self.finish, self.so_far())[0])

    async def aclose(self) -> None:
        """See Reply."""
        await self._reply.aclose()

    def _told(self, piece: bytes) -> list[Json]:
        told: list[Json] = []
        for event in piece.split(b"\n\n"):
            _, data, _ = read_event(event)
            for choice in _choices(data) if data else ():
                if not choice.index and choice.delta is not None:
                    told += self._answer.add(choice.delta)
        return told

    def _frames(self, events: list[Json]) -> bytes:
        frames = []
        for event in events:
            data = _encode({**event, "sequence_number": self._number})
            frames.append(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), data))
            self._number += 1
        return b"".join(frames)


def _choices(data: bytes) -> list[_Choice]:
    """The choices of a chat's answer or chunk; none where it is of another shape."""
    try:
        chat = decode(_chats, data)
    except Malformed:
        return []
    return (chat.choices or []) if chat is not None else []
