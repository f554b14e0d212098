"""An expert behind an OpenAI-compatible server, asked with the client's own bytes."""

from __future__ import annotations

import asyncio
import os
from functools import partial

import msgspec

from coterie.experts.openai import OpenAIExpert
from coterie.experts.threads import PerLoop
from coterie.gateway.connections import (
    BadResponse,
    Connections,
    ConnectTimeout,
    NotConnected,
)
from coterie.gateway.events import (
    LARGEST_EVENT,
    ChatTally,
    EventTooLarge,
    Malformed,
    ResponsesTally,
    Tally,
)
from coterie.gateway.failures import Failure, UpstreamError, failure, from_error, from_response
from coterie.gateway.http_response import Response
from coterie.gateway.replies import FramedReply, Outgoing, Reply, Timeouts, Upstream
from coterie.gateway.retries import RATES, Deadline, pause
from coterie.gateway.shapes import read_whole, to_chunks, to_whole
from coterie.gateway.streams import StreamReply
from coterie.gateway.usage import BOUNDS, answers_to, estimate, prompt_tokens
from coterie.gateway.wire import Fields, encode_fields, raw

LARGEST_ANSWER = 64 << 20  # bytes
LARGEST_REFUSAL = 64 << 10
LINGER = 1.0  # seconds that a connection may take to end after [DONE]
CHUNKED = frozenset({"/chat/completions", "/completions"})
FAULTS = (ConnectionError, BadResponse, Malformed, EventTooLarge)
__all__ = ["HttpUpstream", "Outgoing", "Reply", "Timeouts", "Upstream"]
NO_RESPONSE, BROKE_OFF = "the connection broke before an answer", "the answer broke off"
SENT = {"content-type": "application/json", "accept-encoding": "identity"}
SSE = (b"data:", b"event:", b":", b"id:", b"retry:")
_TRUE = raw(True)
_NULL = b"null"
_WITH_USAGE = raw({"include_usage": True})
_options = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)


class HttpUpstream:
    """The server of ``expert``, over connections of its own.

    The key is read from the environment for each call. No redirect is followed, no cookie kept, no
    compressed answer read. ``largest`` bounds an answer in bytes. A name that leads to an address
    that is barred (see ``guard``; ``private`` ones may be allowed) by now is not connected to.
    """

    def __init__(
        self,
        expert: OpenAIExpert,
        timeouts: Timeouts | None = None,
        context_length: int | None = None,
        largest: int = LARGEST_ANSWER,
        largest_event: int = LARGEST_EVENT,
        private: bool = True,
    ) -> None:
        self.name, self.slots, self.context_length = expert.name, expert.slots, context_length
        self.timeouts = timeouts or Timeouts.of(expert.timeout)
        self.limit = expert.limit
        self.largest, self.largest_event = largest, largest_event
        self._expert = expert
        connect = self.timeouts.connect
        self._connections = PerLoop(partial(Connections, expert.base_url, private, connect))
        self.bound_name = "max_tokens"  # of a chat's answer; OpenAI's own has a newer one
        if "api.openai.com" in expert.base_url:
            self.bound_name = "max_completion_tokens"
        self._model = raw(expert.model)
        given = expert.options.items()
        self._defaults = {name: raw(value) for name, value in given if name != "choices"}
        self._bounds = any(name in self._defaults for names in BOUNDS.values() for name in names)

    async def close(self) -> None:
        """Close the connections."""
        if connections := self._connections.pop():
            connections.close()
            await asyncio.sleep(0)  # until they are

    async def open(self, out: Outgoing, deadline: Deadline) -> Reply:
        """Ask; returns when an answer is certain. Raises UpstreamError."""
        key = self._key()
        usual = self.timeouts.first if out.stream else self.timeouts.whole
        seconds = min(usual, deadline.left())
        connections = self._connections.get()
        timer = _Timer(seconds, connections.loop)
        try:
            return await self._ask(connections, out, key, deadline)
        except (TimeoutError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and not timer.late():
                raise
            kind = "timeout_first" if seconds == usual else deadline.kind
            message = f"{self.name}: no answer within {seconds:.3g} s"
            raise UpstreamError(failure(kind, message)) from None
        finally:
            timer.stop()

    def linger(self, response: Response) -> None:
        """[DONE] came, but not yet the body's end, which frees the connection for others."""
        asyncio.get_running_loop().call_later(LINGER, response.close)

    async def _ask(
        self, connections: Connections, out: Outgoing, key: str, deadline: Deadline
    ) -> Reply:
        try:
            response = await connections.post(out.path, self._headers(out, key), self._body(out))
        except FAULTS as error:
            raise UpstreamError(self._told(error, "reset")) from None
        try:
            if response.status != 200 or _is_packed(response):
                raise UpstreamError(await self._refusal(response, key))
            return await (self._stream if out.stream else self._whole)(out, response, key, deadline)
        except FAULTS as error:
            response.close()
            raise UpstreamError(self._told(error, "cut")) from None
        except BaseException:
            response.close()
            raise

    async def _whole(
        self, out: Outgoing, response: Response, key: str, deadline: Deadline
    ) -> Reply:
        body = await self._read(response)
        if _head(body) == b"{":
            return self._answer(out, body, response, key)
        if not body.lstrip().startswith(SSE):
            raise UpstreamError(failure("wrong_shape", f"{self.name}: sent no JSON"))
        tally = self._tally(out)
        tally.feed(body)
        tally.end()
        self._check(tally, key)
        if not tally.complete:
            raise UpstreamError(failure("cut", f"{self.name}: {BROKE_OFF}"))
        return self._answer(out, to_whole(body), response, key)

    def _answer(self, out: Outgoing, body: bytes, response: Response, key: str) -> Reply:
        """The reply that a whole body is, or the failure that it tells of."""
        whole = read_whole(body)
        if whole is not None and whole.failed():
            raise UpstreamError(self.error_of(body, key))
        if whole is None or not whole.answers(out.path):
            raise UpstreamError(failure("wrong_shape", f"{self.name}: sent JSON without an answer"))
        tokens = whole.tokens() or estimate(out, whole.size())
        rest = _pause(response, out)
        return Reply(whole.model or "", body, tokens, whole.finish(), rest)

    async def _stream(
        self, out: Outgoing, response: Response, key: str, deadline: Deadline
    ) -> Reply:
        tally = self._tally(out)
        ready, head = b"", b""
        while not tally.content and not tally.over:
            piece = await response.read()
            head = head or _head(piece)
            if head in (b"{", b"["):
                return await self._framed(out, piece, response, key)
            if head == b"<":
                raise UpstreamError(failure("wrong_shape", f"{self.name}: sent a page"))
            ready += tally.feed(piece) if piece else tally.end()
            self._check(tally, key)
            if not piece:
                break
        if not tally.content:
            raise UpstreamError(failure("cut", f"{self.name}: ended before it answered"))
        rest = _pause(response, out)
        return StreamReply(self, out, response, tally, ready, key, deadline, rest)

    async def _framed(self, out: Outgoing, first: bytes, response: Response, key: str) -> Reply:
        """A whole answer although a stream was asked for: its events."""
        reply = self._answer(out, await self._read(response, first), response, key)
        if out.path not in CHUNKED or reply.body is None or reply.tokens is None:
            raise UpstreamError(failure("wrong_shape", f"{self.name}: sent no stream"))
        frames = to_chunks(reply.body, out.wants_usage)
        return FramedReply(frames, reply.model, reply.tokens, reply.finish, reply.pause)

    async def _read(self, response: Response, first: bytes = b"", most: int | None = None) -> bytes:
        """The rest of the body, within bounds."""
        most = self.largest if most is None else most
        pieces, size = [first], len(first)
        while piece := await response.read():
            pieces.append(piece)
            size += len(piece)
            if size > most:
                message = f"{self.name}: sent more than {most} bytes"
                raise UpstreamError(failure("wrong_shape", message))
        return b"".join(pieces)

    async def _refusal(self, response: Response, key: str) -> Failure:
        if response.status == 200:
            message = f"{self.name}: sent a compressed answer, which was not asked for"
            return failure("wrong_shape", message)
        try:
            body = await self._read(response, most=LARGEST_REFUSAL)
        except (UpstreamError, *FAULTS):
            body = b""
            response.close()
        return from_response(self.name, response.status, response.headers, body, (key,))

    def _check(self, tally: Tally, key: str) -> None:
        """Raise the error that an event told of."""
        if tally.error is not None:
            raise UpstreamError(self.error_of(tally.error, key))

    def error_of(self, data: bytes, key: str) -> Failure:
        """The failure that the data of an error event tells of."""
        try:
            told = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError):
            told = None
        return from_error(self.name, told or "failed", (key,))

    def _told(self, error: Exception, kind: str) -> Failure:
        """What connections and parsers raise, as a failure."""
        if isinstance(error, ConnectTimeout):
            return failure("timeout_connect", f"{self.name}: no connection in time")
        if isinstance(error, NotConnected):
            return failure("refused", f"{self.name}: could not connect")
        if isinstance(error, EventTooLarge):
            return failure("wrong_shape", f"{self.name}: sent {error}")
        if isinstance(error, Malformed | BadResponse):
            return failure("malformed", f"{self.name}: sent malformed data")
        return failure(kind, f"{self.name}: {NO_RESPONSE if kind == 'reset' else BROKE_OFF}")

    def _tally(self, out: Outgoing) -> Tally:
        kind = ResponsesTally if out.path == "/responses" else ChatTally
        return kind(out.wants_usage, self.largest_event, answers_to(out.fields))

    def _body(self, out: Outgoing) -> bytes:
        fields = {**self._defaults, **out.fields, "model": self._model}
        if out.bound is not None or self._bounds:
            self._keep_bound(fields, out)
        if out.stream:
            fields["stream"] = _TRUE
            if out.path in CHUNKED:
                fields["stream_options"] = _with_usage(fields.get("stream_options"))
        return encode_fields(fields)

    def _keep_bound(self, fields: Fields, out: Outgoing) -> None:
        """Bound the answer as the client does, else by the least of the pool's and what is paid."""
        names = BOUNDS[out.path]
        if any(bytes(out.fields.get(name, _NULL)) != _NULL for name in names):
            for name in names:
                if name not in out.fields:
                    fields.pop(name, None)
        elif out.bound is not None and names:
            given = {name: bytes(fields.pop(name)) for name in names if name in fields}
            least = {int(one): name for name, one in given.items() if one.isdigit()}
            bound = min([out.bound, *least])
            fields[least.get(bound, self._bound_name(out.path))] = raw(bound)

    def _bound_name(self, path: str) -> str:
        """How the bound of an answer is called."""
        if path == "/responses":
            return "max_output_tokens"
        return self.bound_name if path == "/chat/completions" else "max_tokens"

    def _headers(self, out: Outgoing, key: str) -> dict[str, str]:
        headers = {**out.headers, **SENT}
        if key:
            headers["authorization"] = f"Bearer {key}"
        return headers

    def _key(self) -> str:
        """The expert's key, "" if it needs none."""
        if self._expert.api_key_env is None:
            return ""
        if (key := os.environ.get(self._expert.api_key_env, "").strip()) and key.isprintable():
            return key
        wrong = "has a line break" if key else "is not set where the gateway runs"
        message = f"{self.name}: its key {wrong}"
        raise UpstreamError(failure("auth", message))


def _head(body: bytes) -> bytes:
    """The first byte that is no white space."""
    return body[:1].strip() or body.lstrip()[:1]


def _is_packed(response: Response) -> bool:
    return response.headers.get("content-encoding", "identity") != "identity"


def _pause(response: Response, out: Outgoing) -> float:
    headers = response.headers
    if not any(remaining in headers for remaining, _ in RATES):
        return 0.0
    return pause(headers, prompt_tokens(out))


def _with_usage(options: msgspec.Raw | None) -> msgspec.Raw:
    """The client's stream options, with usage asked for; what is no object is the client's."""
    if options is None:
        return _WITH_USAGE
    try:
        return raw({**(_options.decode(options) or {}), "include_usage": True})
    except msgspec.DecodeError:
        return options


class _Timer:
    """Cancels the task that makes it after so many seconds: ``asyncio.timeout`` with less around.

    Whoever catches the cancellation asks whether it was ``late``, and stops the timer at the end.
    """

    __slots__ = ("_before", "_fired", "_handle", "_task")

    def __init__(self, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        task = asyncio.current_task(loop)
        assert task is not None
        self._task, self._before, self._fired = task, task.cancelling(), False
        self._handle = loop.call_later(seconds, self._fire)

    def _fire(self) -> None:
        self._fired = True
        self._task.cancel()

    def late(self) -> bool:
        """Whether the task was cancelled by this timer, and by nobody else."""
        if not self._fired:
            return False
        self._fired = False
        return self._task.uncancel() <= self._before

    def stop(self) -> None:
        """Cancel nothing any more."""
        self._handle.cancel()
        if self._fired:  # and what it was about to interrupt ended all the same
            self._fired = False
            self._task.uncancel()
