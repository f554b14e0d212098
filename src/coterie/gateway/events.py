"""Server-sent events of an expert's stream: whole events from pieces of bytes, and what they mean.

Events pass as they came. Each is looked at once, by a typed decoder that skips what it does not
need, for the few things that matter here: content, usage, the end, an error.
"""

from __future__ import annotations

import json
from typing import TypeVar

import msgspec

from coterie.errors import CoterieError
from coterie.gateway.entries import Tokens
from coterie.gateway.usage import read_usage

LARGEST_EVENT = 8 << 20  # bytes
EMPTY = frozenset((b"", b"null", b'""', b"[]", b"{}", b"false"))
_NONE = msgspec.Raw()


class EventTooLarge(CoterieError):
    """An event is longer than anybody would send."""


class EventParser:
    """Cuts a stream of bytes into events, wherever the pieces end.

    Lines may end with LF, CRLF or CR; all become LF. An event above ``largest`` bytes raises
    EventTooLarge before it is held.
    """

    __slots__ = ("_after_cr", "_largest", "_parts", "_size")

    def __init__(self, largest: int = LARGEST_EVENT) -> None:
        self._largest = largest
        self._parts: list[bytes] = []  # of the event that is not over yet
        self._size = 0
        self._after_cr = False

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that ``piece`` completes, without the empty line after each."""
        if self._after_cr or b"\r" in piece:
            piece = self._with_lf(piece)
        if self._parts:
            if not self._ends_within(piece):
                self._keep(piece)
                return []
            piece = b"".join((*self._parts, piece))
            self._parts.clear()
            self._size = 0
        *events, rest = piece.split(b"\n\n")
        if rest:
            self._keep(rest)
        return events

    @property
    def between(self) -> bool:
        """No event has begun that is not over."""
        return not self._parts and not self._after_cr

    def rest(self) -> list[bytes]:
        """The last event of a stream that ended without an empty line."""
        event, self._parts = b"".join(self._parts), []
        return [event] if event else []

    def _ends_within(self, piece: bytes) -> bool:
        return b"\n\n" in piece or (piece[:1] == b"\n" and self._parts[-1][-1:] == b"\n")

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._largest:
            raise EventTooLarge(f"an event of more than {self._largest} bytes")
        if piece:
            self._parts.append(piece)

    def _with_lf(self, piece: bytes) -> bytes:
        if self._after_cr and piece[:1] == b"\n":
            piece = piece[1:]  # the second half of a CRLF whose first half was a line's end already
        self._after_cr = piece[-1:] == b"\r"
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def read_event(event: bytes) -> tuple[bytes, bytes, bytes]:
    r"""(what to pass on, its data, its name): comments are dropped, several data lines become one.

    >>> read_event(b": ping"), read_event(b"event: error\ndata: {")
    ((b'', b'', b''), (b'event: error\ndata: {', b'{', b'error'))
    """
    if event[:5] == b"data:" and b"\n" not in event:
        return event, event[5:].strip(), b""
    kept, data, name = [], [], b""
    for line in event.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if line[:5] == b"data:":
            data.append(line[5:].removeprefix(b" "))
        elif line and line[:1] != b":":
            kept.append(line)
            name = line[6:].strip() if line[:6] == b"event:" else name
    if not data:
        return b"", b"", name
    told = b" ".join(data)  # between the tokens of JSON any white space is the same
    return b"\n".join((*kept, b"data: " + told)), told.strip(), name


class Delta(msgspec.Struct):
    """What a chunk adds to a choice."""

    content: msgspec.Raw = _NONE
    reasoning: msgspec.Raw = _NONE
    reasoning_content: msgspec.Raw = _NONE
    tool_calls: msgspec.Raw = _NONE
    function_call: msgspec.Raw = _NONE
    refusal: msgspec.Raw = _NONE
    audio: msgspec.Raw = _NONE

    def rare(self) -> int:
        """Bytes of what else is an answer."""
        return sum(map(_size, (self.tool_calls, self.refusal, self.audio, self.function_call)))

    def thought(self) -> int:
        """Bytes of reasoning; some servers send it under two names."""
        return max(_size(self.reasoning), _size(self.reasoning_content))


class Choice(msgspec.Struct):
    """One of a chunk's choices; ``text`` is that of /completions."""

    index: int | None = 0
    delta: Delta | None = None
    text: msgspec.Raw = _NONE
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    """What matters of an event of /chat/completions or /completions."""

    choices: list[Choice] | None = None
    usage: msgspec.Raw = _NONE
    error: msgspec.Raw = _NONE
    model: str | None = None


class Response(msgspec.Struct):
    """What matters of the response inside an event of /responses."""

    usage: msgspec.Raw = _NONE
    error: msgspec.Raw = _NONE
    model: str | None = None


class ResponseEvent(msgspec.Struct):
    """What matters of an event of /responses."""

    type: str = ""
    delta: msgspec.Raw = _NONE
    response: Response | None = None
    error: msgspec.Raw = _NONE


def _size(value: msgspec.Raw) -> int:
    """Bytes of a value that says something, 0 for null and empty ones."""
    if value is _NONE:
        return 0
    data = bytes(value)
    return 0 if data in EMPTY else len(data) - 2  # without quotes


Decoded = TypeVar("Decoded")
_chunks = msgspec.json.Decoder(Chunk)
_responses = msgspec.json.Decoder(ResponseEvent)


class Malformed(ValueError):
    """Bytes that are no JSON."""


def decode(decoder: msgspec.json.Decoder[Decoded], data: bytes) -> Decoded | None:
    """``data`` as the decoder's type; None for JSON of another shape. Raises Malformed.

    NaN and Infinity, which Python servers send, count as null.
    """
    try:
        if not data.isascii():
            data.decode()
        return decoder.decode(data)
    except msgspec.ValidationError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        lenient = json.loads(data, parse_constant=lambda _: None)
        return decoder.decode(msgspec.json.encode(lenient))
    except msgspec.ValidationError:
        return None
    except (ValueError, RecursionError):
        raise Malformed from None


class Tally:
    """What a stream said so far; ``ChatTally`` and ``ResponsesTally`` know the endpoints' events.

    ``content``: an answer has begun. ``shown``: more than reasoning. ``over``: nothing more will
    come. ``error`` is the data of an error event. ``count`` and ``malformed`` are numbers of
    events, ``size`` is in bytes of content. ``choices`` are to be finished before a stream that
    does not say that it is over may end.
    """

    def __init__(
        self, wants_usage: bool = False, largest: int = LARGEST_EVENT, choices: int = 1
    ) -> None:
        self.wants_usage, self.choices = wants_usage, choices
        self.content = self.shown = self.over = self.finished = False
        self.error: bytes | None = None
        self.model = self.finish = ""
        self.tokens: Tokens | None = None
        self.size = self.count = self.malformed = 0
        self._begun: set[int | None] = set()
        self._finished: set[int | None] = set()
        self._before: bytes | tuple[bytes, ...] = ()  # around a usual text; nothing begins so yet
        self._after = self._last = b""
        self._parser = EventParser(largest)

    @property
    def complete(self) -> bool:
        """The stream may end here: every choice is finished."""
        if self.over or not self.finished or self._begun:
            return self.over
        return self.choices == 1 or len(self._finished) >= self.choices

    def feed(self, piece: bytes) -> bytes:
        """What is to be passed on of ``piece`` and the rest before it."""
        usual = piece.startswith(self._before) and piece.endswith(self._last)
        if usual and self._parser.between and self._plain(piece, self._last):  # as most are
            self.count += 1
            return piece
        return self._pass(self._parser.feed(piece))

    def end(self) -> bytes:
        """The same for a rest that no empty line followed."""
        return self._pass(self._parser.rest())

    def _pass(self, events: list[bytes]) -> bytes:
        passed = []
        for event in events:
            alike = event.startswith(self._before) and event.endswith(self._after)
            if alike and self._plain(event, self._after):
                self.count += 1
                passed.append(event)
                continue
            kept, data, name = read_event(event)
            if data and self._take(data, name):
                passed.append(kept)
            if self.over or self.error is not None:
                break
        if not passed:
            return b""
        passed.append(b"")
        return b"\n\n".join(passed)

    def _plain(self, event: bytes, after: bytes) -> bool:
        """It differs from an earlier event in the text of its content only, so it is valid too."""
        text = event[len(self._before) : -len(after)]
        if not text or b'"' in text or b"\\" in text:
            return False
        try:
            plain = text.decode().isprintable()
        except UnicodeDecodeError:
            return False
        self.size += len(text) if plain else 0
        return plain

    def _take(self, data: bytes, name: bytes) -> bool:
        """Note what an event says; whether it is to be passed on."""
        if data == b"[DONE]":
            self.over = True
            return False
        self.count += 1
        try:
            if data[:1] == b"{":
                return self._note(data, name)
        except Malformed:
            pass
        self.malformed += 1
        return False

    def _note(self, data: bytes, name: bytes) -> bool:
        raise NotImplementedError


class ChatTally(Tally):
    """Chunks of /chat/completions and /completions."""

    def _note(self, data: bytes, name: bytes) -> bool:
        chunk = decode(_chunks, data)
        if chunk is None:
            return True  # JSON of a shape that we do not know is the client's
        if (chunk.error is not _NONE and bytes(chunk.error) not in EMPTY) or name == b"error":
            self.error = data
            return False
        if chunk.model and not self.model:
            self.model = chunk.model
        reported = chunk.usage is not _NONE and bytes(chunk.usage) != b"null"
        if reported:
            self.tokens = read_usage(chunk.usage) or self.tokens
        if not chunk.choices:
            return self.wants_usage or not reported
        for choice in chunk.choices:
            self._add(choice)
        if not reported and len(chunk.choices) == 1:
            self._remember(data, chunk.choices[0])
        return True

    def _remember(self, data: bytes, choice: Choice) -> None:
        """Take a piece of text as an example, so that others like it need no decoding."""
        if choice.finish_reason or choice.delta is None or not _size(choice.delta.content):
            return
        content = bytes(choice.delta.content)
        before, found, after = data.partition(b'"content":' + content)
        if found and content[:1] == b'"':
            self._before, self._after = b"data: " + before + b'"content":"', b'"' + after
            self._last = self._after + b"\n\n"

    def _add(self, choice: Choice) -> None:
        delta = choice.delta
        said = _size(choice.text if delta is None else delta.content)
        if not said and delta is not None:
            said = delta.rare()
            if not said and (thought := delta.thought()):
                self.content = True
                self.size += thought
                self._begun.add(choice.index)
        if said:
            self.content = self.shown = True
            self.size += said
            self._begun.add(choice.index)
        if choice.finish_reason:
            self.content = self.shown = self.finished = True
            self.finish = choice.finish_reason
            self._begun.discard(choice.index)
            self._finished.add(choice.index)


ENDS = {"response.completed": "stop", "response.incomplete": "length"}


class ResponsesTally(Tally):
    """Events of /responses, which have types instead of choices."""

    def _note(self, data: bytes, name: bytes) -> bool:
        event = decode(_responses, data)
        if event is None:
            return True
        if response := event.response:
            self.model = response.model or self.model
            self.tokens = read_usage(response.usage) or self.tokens
        kind = event.type or name.decode("ascii", "replace")
        if kind in ("error", "response.failed") or bytes(event.error) not in EMPTY:
            self.error = bytes(response.error) if response else data
            return False
        if kind in ENDS:
            self.content = self.shown = self.finished = self.over = True
            self.finish = ENDS[kind]
        elif said := kind.endswith(".delta") and _size(event.delta):
            self.content = True
            self.shown = self.shown or not kind.startswith("response.reasoning")
            self.size += said
        return True
