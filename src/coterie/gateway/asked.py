"""What a request asks for: model, text, needs, and wishes that OpenAI's API has no place for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, TypeVar

import msgspec

from coterie.gateway.chats import untranslatable
from coterie.gateway.usage import BOUNDS, bound_prompt
from coterie.gateway.wire import Fields, bad_request, decode_fields, not_found, raw

NAMESPACE = "coterie"  # body object; headers begin with x-coterie-
HEADER = b"x-coterie-"
CHARACTERS_PER_TOKEN = 4
LONGEST_NAME = 256
PICTURE = b'"input_image"'  # in an input; within a text its quotes would be escaped
FILE = b'"input_file"'
TOKENS_PER_MEDIUM = 1000  # of a picture or a recording, about
MOST_OF_MEDIUM = 50_000  # of a picture: a generous bound of our own
BYTES_OF_SOUND = 16  # of a recording's base64 that are a token at least
APART = {"/embeddings": "embeddings", "/responses": "responses"}  # not every expert has them
WHOLE = "a whole number"
EXACT = 2**53  # above it JSON's numbers are not
T = TypeVar("T")


class Wishes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Constraints and preferences of one request: the body's ``coterie`` object or headers.

    ``max_cost`` is in the pool's unit for the whole request, ``max_latency`` in seconds.
    """

    policy: str | None = None
    willingness_to_pay: float | None = None
    max_cost: float | None = None
    max_latency: float | None = None
    tags: list[str] = []
    region: str | None = None
    experts: list[str] = []
    exclude: list[str] = []
    session: str | None = None
    category: str | None = None
    skills: list[str] = []
    mid_stream: Literal["error", "restart"] | None = None
    explore: bool = True


NO_WISHES = Wishes()
_BOUNDS = tuple(dict.fromkeys(chain(*BOUNDS.values())))
_TEXTS = frozenset({"text", "input_text", "output_text", "refusal"})
_COUNTED = ("messages", "prompt", "input", "tools")
_LISTS = frozenset({"tags", "experts", "exclude", "skills"})


class _Part(msgspec.Struct):
    type: str = "text"
    text: str = ""
    image_url: msgspec.Raw = msgspec.Raw(b"")
    input_audio: msgspec.Raw = msgspec.Raw(b"")


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None


class _Format(msgspec.Struct):
    type: str = "text"


class _Formatted(msgspec.Struct):
    format: _Format | None = None


_messages: msgspec.json.Decoder[list[_Message]] = msgspec.json.Decoder(list[_Message])
_format = msgspec.json.Decoder(_Format)
_formatted: msgspec.json.Decoder[_Formatted | None] = msgspec.json.Decoder(_Formatted | None)
_text: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)
_flag: msgspec.json.Decoder[bool | None] = msgspec.json.Decoder(bool | None)
_count: msgspec.json.Decoder[int | None] = msgspec.json.Decoder(int | None)
_real = msgspec.json.Decoder(float)
_names: msgspec.json.Decoder[list[str]] = msgspec.json.Decoder(list[str])
_wishes = msgspec.json.Decoder(Wishes)
_MEDIUM = b'"input_'
_PICTURES = re.compile(rb'"image_url"\s*:\s*"(data:image/[^"\\]*)"')
_prompt: msgspec.json.Decoder[str | list[Any]] = msgspec.json.Decoder(str | list[Any])


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


_stream_options: msgspec.json.Decoder[_StreamOptions | None] = msgspec.json.Decoder(
    _StreamOptions | None
)


@dataclass(slots=True)
class Asked:
    """One request, read as far as routing needs; ``fields`` are the client's, without ours.

    ``text`` is what routers read, ``opening`` the first user message (a conversation's identity),
    ``turns`` the number of messages; ``needs`` are capabilities; ``prompt_tokens`` is an estimate
    by length, ``prompt_bound`` more than it can be (see ``bound_prompt``), ``answer_tokens`` the
    bound the client gave, None without one.
    """

    path: str
    model: str
    fields: Fields
    wishes: Wishes
    models: tuple[str, ...]
    stream: bool
    wants_usage: bool
    text: str
    opening: str
    turns: int
    needs: frozenset[str]
    prompt_tokens: int
    prompt_bound: int
    answer_tokens: int | None
    choices: int
    unsaid: str | None = None  # what ``untranslatable`` found, once it was asked

    def untranslatable(self) -> str:
        """What of a Responses request a chat cannot ask for, "" where there is nothing."""
        if self.unsaid is None:
            self.unsaid = untranslatable(self.fields)
        return self.unsaid


def read_asked(
    path: str, body: bytes, headers: Mapping[bytes, bytes], most_tokens: int, most_choices: int
) -> Asked:
    """The request in ``body``; raises ApiError 400 naming the parameter that is wrong."""
    fields = decode_fields(body)
    model = _field(fields, "model", _text.decode, "a string")
    if not model:
        raise bad_request("you must provide a model parameter", "model")
    if len(model) > LONGEST_NAME:  # it goes into the log and into what the client is told
        raise not_found(f"{model[:LONGEST_NAME]}...")
    wishes = _read_wishes(fields, headers)
    models = tuple(_field(fields, "models", _names.decode, "a list of strings") or ())
    fields.pop("models", None)
    bound = _bound(path, fields, most_tokens)
    given = _whole(fields, "n")
    choices = 1 if given is None else given
    if not 1 <= choices <= most_choices:
        raise bad_request(f"n must be between 1 and {most_choices}, got {choices}", "n")
    messages = _read_messages(path, fields)
    needs = _needs(path, fields, messages)
    said = [_text_of(m.content) for m in messages if m.role == "user"]
    options = _field(fields, "stream_options", _stream_options.decode, "an object")
    return Asked(
        path=path,
        model=model,
        fields=fields,
        wishes=wishes,
        models=models,
        stream=bool(_field(fields, "stream", _flag.decode, "true or false")),
        wants_usage=options is not None and bool(options.include_usage),
        text="\n".join(said),
        opening=said[0] if said else "",
        turns=len(messages),
        needs=needs,
        prompt_tokens=_estimated(fields, needs, messages),
        prompt_bound=bound_prompt(len(body), fields) + _media(fields, messages),
        answer_tokens=bound,
        choices=choices,
    )


def _field(fields: Fields, name: str, decode: Callable[[Any], T], wanted: str) -> T | None:
    value = fields.get(name)
    if value is None:
        return None
    try:
        return decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        shown = bytes(value)[:40].decode("utf-8", "replace")
        raise bad_request(f"{name} must be {wanted}, got {shown}", name) from None


def _whole(fields: Fields, name: str) -> int | None:
    """A whole number, which may be written ``5.0``; from here on it is 5 for everybody."""
    value = fields.get(name)
    if value is None:
        return None
    try:
        return _count.decode(value)
    except msgspec.ValidationError:
        number = _field(fields, name, _real.decode, WHOLE) or 0.0
    if not (number.is_integer() and abs(number) < EXACT):
        raise bad_request(f"{name} must be {WHOLE}, got {number:g}", name)
    fields[name] = raw(int(number))
    return int(number)


def _bound(path: str, fields: Fields, most: int) -> int | None:
    """The longest answer the client wants, in tokens; which name counts is the expert's affair.

    A prompt may be completed by nothing, to be echoed.
    """
    least = 1
    if path == "/completions":
        least = 0
        _whole(fields, "best_of")
    longest: int | None = None
    for name in _BOUNDS:
        bound = _whole(fields, name)
        if bound is None:
            continue
        if not least <= bound <= most:
            raise bad_request(f"{name} must be between {least} and {most}, got {bound}", name)
        if name in BOUNDS[path]:
            longest = max(bound, longest or 0)
    return longest


def _read_messages(path: str, fields: Fields) -> list[_Message]:
    """The messages, or the prompt or input of the other endpoints as one of the user's."""
    if path == "/chat/completions":
        messages = _field(fields, "messages", _messages.decode, "a list of messages")
        if not messages:
            raise bad_request("messages must be a list of at least one message", "messages")
        return messages
    name = "prompt" if path == "/completions" else "input"
    if name not in fields:
        raise bad_request(f"you must provide {name}", name)
    value = _field(fields, name, _prompt.decode, "a string or a list")
    if isinstance(value, str):
        return [_Message("user", value)]
    return [_Message("user", text) for text in _texts(value)]


def _texts(value: Any) -> list[str]:
    """The texts in a list of prompts, or of a Responses API input."""
    found = []
    for one in value or ():
        if isinstance(one, str):
            found.append(one)
        elif isinstance(one, dict) and one.get("role", "user") == "user":
            content = one.get("content", "")
            parts = content if isinstance(content, list) else [{"text": content}]
            found += [str(p.get("text", "")) for p in parts if isinstance(p, dict)]
    return found


def _text_of(content: str | list[_Part] | None) -> str:
    if isinstance(content, str):
        return content
    return "\n".join([part.text for part in content or () if part.text])


def _estimated(fields: Fields, needs: frozenset[str], messages: list[_Message]) -> int:
    """Tokens of the prompt, by its length; pictures and sound count by number."""
    length = sum([len(fields[name]) for name in _COUNTED if name in fields])
    if not needs & {"vision", "audio"}:
        return length // CHARACTERS_PER_TOKEN
    given = "messages" if "messages" in fields else "input"
    length += sum([len(_text_of(m.content)) for m in messages]) - len(fields[given])
    lists = [m.content for m in messages if isinstance(m.content, list)]
    media = sum([part.type != "text" for parts in lists for part in parts])
    media += bytes(fields[given]).count(PICTURE) if given == "input" else 0
    return length // CHARACTERS_PER_TOKEN + media * TOKENS_PER_MEDIUM


def _media(fields: Fields, messages: list[_Message]) -> int:
    """The most tokens of pictures, recordings and files, less the bytes of those that are known."""
    lists = [message.content for message in messages if isinstance(message.content, list)]
    more = sum([_medium(one) for parts in lists for one in parts if one.type not in _TEXTS])
    if "input" in fields and _MEDIUM in (given := bytes(fields["input"])):
        pictures = given.count(PICTURE)
        found = [len(picture) for picture in _PICTURES.findall(given)[:pictures]]
        more += (pictures + given.count(FILE)) * MOST_OF_MEDIUM - sum(found)
    return more


def _medium(part: _Part) -> int:
    if part.type == "image_url":
        return MOST_OF_MEDIUM - len(memoryview(part.image_url))
    if part.type == "input_audio":
        size = len(memoryview(part.input_audio))
        return size // BYTES_OF_SOUND - size
    return MOST_OF_MEDIUM


def _needs(path: str, fields: Fields, messages: list[_Message]) -> frozenset[str]:
    """Capabilities without which the request cannot be answered."""
    needs = {APART[path]} if path in APART else set()
    for name in ("tools", "functions"):
        if name in fields and bytes(fields[name]) not in (b"null", b"[]"):
            needs.add("tools")
    if (form := _field(fields, "response_format", _format.decode, "an object")) is not None:
        needs |= {"json_schema"} & {form.type}
    if path == "/responses":
        text = _field(fields, "text", _formatted.decode, "an object")
        needs |= {"json_schema"} & {text.format.type if text and text.format else ""}
    if "logprobs" in fields and bytes(fields["logprobs"]) not in (b"false", b"null"):
        needs.add("logprobs")
    if "input" in fields and PICTURE in bytes(fields["input"]):
        needs.add("vision")
    for message in messages:
        if isinstance(message.content, list):
            kinds = {part.type for part in message.content}
            needs |= {"vision"} if kinds & {"image_url", "input_image"} else set()
            needs |= {"audio"} & {kind.removeprefix("input_") for kind in kinds}
    return frozenset(needs)


def _read_wishes(fields: Fields, headers: Mapping[bytes, bytes]) -> Wishes:
    """The wishes of headers, and over them those of the body; both are taken off the request."""
    given = {k[len(HEADER) :]: v for k, v in headers.items() if k.startswith(HEADER)}
    body = fields.pop(NAMESPACE, None)
    try:
        wishes = _from_headers(given) if given else NO_WISHES
        if body is None:
            return wishes
        own = _wishes.decode(body)
        if not given:
            return own
        named = msgspec.json.decode(body)
        return msgspec.structs.replace(wishes, **{name: getattr(own, name) for name in named})
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise bad_request(f"{NAMESPACE}: {error}", NAMESPACE) from None


def _from_headers(given: Mapping[bytes, bytes]) -> Wishes:
    values: dict[str, Any] = {}
    for key, value in given.items():
        name, text = key.decode().replace("-", "_"), value.decode()
        values[name] = [one.strip() for one in text.split(",")] if name in _LISTS else text
    return msgspec.convert(values, Wishes, strict=False)
