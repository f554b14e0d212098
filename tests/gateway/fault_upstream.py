"""An OpenAI-compatible server on loopback that misbehaves as the model's name says.

Raw sockets, so that every byte and every way to end a connection is ours. ``log`` has a line for
each request: what arrived, and whether the client left before the answer was over.
"""

import asyncio
import json
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
USAGE = {"prompt_tokens": 7, "completion_tokens": 10, "total_tokens": 17}
HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "served"}
CALLS = [
    {"id": "call_a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
    {"id": "call_b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
]


def event(data: Any) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"data: {text}\n\n".encode()


def chunk(delta: Any = None, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish}
    return event({**HEAD, "choices": [choice], **more})


def word(text: str) -> bytes:
    return chunk({"content": text + " "})


ROLE = chunk({"role": "assistant", "content": ""})
FINISH = chunk(finish="stop")
REPORT = event({**HEAD, "choices": [], "usage": USAGE})
DONE = event("[DONE]")
SAID = [word(text) for text in WORDS]
STREAM = [ROLE, *SAID, FINISH, REPORT, DONE]


def whole(**more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": " ".join(WORDS) + " "}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    head = {**HEAD, "object": "chat.completion"}
    return {**head, "choices": [choice], "usage": USAGE, **more}


def error(message: str, code: str | None = None, type: str = "server_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": None, "code": code}}


@dataclass
class Seen:
    """One request as it arrived; ``left``: the client closed before the answer was over."""

    model: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    raw: bytes
    left: bool = False


@dataclass
class Exchange:
    """One request and the socket to answer it on."""

    seen: Seen
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    turn: int  # of the requests to this model, from 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def stream(self) -> bool:
        return bool(self.seen.body.get("stream"))

    def head(self, status: int = 200, type: str = "application/json", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} X", f"Content-Type: {type}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def part(self, data: bytes) -> None:
        """A chunk of the body; an empty one is its proper end."""
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def json(self, body: Any, status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.head(status, **{"Content_Length": str(len(data)), **headers})
        await self.send(data)

    async def events(self, *events: bytes, pause: float = 0.0, end: bool = True) -> None:
        self.head(type="text/event-stream; charset=utf-8", Transfer_Encoding="chunked")
        for data in events:
            await self.part(data)
            await asyncio.sleep(pause)
        if end:
            await self.part(b"")

    def reset(self) -> None:
        """End the connection without a goodbye."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def hang(self) -> None:
        """Until the client leaves."""
        await self.gone.wait()

    async def ok(self) -> None:
        await (self.events(*STREAM) if self.stream else self.json(whole()))


Fault = Callable[[Exchange], Awaitable[None]]
FAULTS: dict[str, Fault] = {}


def fault(name: str) -> Callable[[Fault], Fault]:
    def add(function: Fault) -> Fault:
        FAULTS[name] = function
        return function

    return add


def says(*events: bytes, end: bool = True, pause: float = 0.0) -> Fault:
    """A stream of these events."""
    return lambda x: x.events(*events, end=end, pause=pause)


def refuses(status: int, body: Any, times: int = 1000, **headers: str) -> Fault:
    """This error, so often; then all is well."""

    async def answer(x: Exchange) -> None:
        await (x.json(body, status, **headers) if x.turn < times else x.ok())

    return answer


@fault("ok")
async def _ok(x: Exchange) -> None:
    await x.ok()


@fault("reset-before-headers")
async def _reset_before_headers(x: Exchange) -> None:
    x.reset()


@fault("reset-once")
async def _reset_once(x: Exchange) -> None:
    if x.turn:
        await x.ok()
    else:
        x.reset()


@fault("reset-after-headers")
async def _reset_after_headers(x: Exchange) -> None:
    x.head(Content_Length="500")
    await x.send(b'{"id":')
    await asyncio.sleep(0.01)
    x.reset()


@fault("reset-mid-stream")
async def _reset_mid_stream(x: Exchange) -> None:
    await x.events(ROLE, *SAID[:3], end=False)
    await asyncio.sleep(0.02)
    x.reset()


@fault("hang")
async def _hang(x: Exchange) -> None:
    await x.hang()


@fault("slow-headers")
async def _slow_headers(x: Exchange) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n":
        await x.send(bytes([byte]))
        await asyncio.sleep(0.02)


@fault("hang-after-headers")
async def _hang_after_headers(x: Exchange) -> None:
    x.head(type="text/event-stream", Transfer_Encoding="chunked")
    await x.part(b": ping\n\n" + ROLE)
    while not x.gone.is_set():
        await asyncio.sleep(0.02)
        await x.part(b": ping\n\n")


@fault("hang-mid-stream")
async def _hang_mid_stream(x: Exchange) -> None:
    await x.events(ROLE, *SAID[:3], end=False)
    await x.hang()


@fault("pings-mid-stream")
async def _pings_mid_stream(x: Exchange) -> None:
    await x.events(ROLE, *SAID[:3], end=False)
    while not x.gone.is_set():
        await asyncio.sleep(0.02)
        await x.part(b": ping\n\n")


@fault("thinks-then-hangs")
async def _thinks_then_hangs(x: Exchange) -> None:
    await x.events(ROLE, chunk({"reasoning_content": "hm "}), end=False)
    await x.hang()


@fault("slow-drip")
async def _slow_drip(x: Exchange) -> None:
    x.head(Content_Length="5000")
    while not x.gone.is_set():
        await x.send(b" ")
        await asyncio.sleep(0.02)


@fault("endless")
async def _endless(x: Exchange) -> None:
    await x.events(ROLE, end=False)
    while not x.gone.is_set():
        await x.part(word("and"))
        await asyncio.sleep(0.01)


@fault("truncated-json")
async def _truncated_json(x: Exchange) -> None:
    await x.json(json.dumps(whole()).encode()[:-30])


@fault("short-length")
async def _short_length(x: Exchange) -> None:
    await x.json(whole(), Content_Length="100")


@fault("long-length")
async def _long_length(x: Exchange) -> None:
    await x.json(whole(), Content_Length="5000")


@fault("no-http")
async def _no_http(x: Exchange) -> None:
    await x.send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


@fault("json-for-stream")
async def _json_for_stream(x: Exchange) -> None:
    await x.json(whole())


@fault("tools-json-for-stream")
async def _tools_json_for_stream(x: Exchange) -> None:
    message = {"role": "assistant", "content": None, "tool_calls": CALLS}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    await x.json(whole(choices=[choice]))


@fault("stream-for-json")
async def _stream_for_json(x: Exchange) -> None:
    await x.events(*STREAM)


@fault("cut-stream-for-json")
async def _cut_stream_for_json(x: Exchange) -> None:
    await x.events(ROLE, *SAID[:3])


@fault("wrong-content-type")
async def _wrong_content_type(x: Exchange) -> None:
    x.head(type="text/plain", Transfer_Encoding="chunked")
    for data in STREAM if x.stream else [json.dumps(whole()).encode()]:
        await x.part(data)
    await x.part(b"")


@fault("split-utf8")
async def _split_utf8(x: Exchange) -> None:
    raw = b"".join([ROLE, word("naïve"), word("日本"), word("🙂"), FINISH, DONE])
    await x.events(*(raw[place : place + 1] for place in range(len(raw))))


@fault("crlf")
async def _crlf(x: Exchange) -> None:
    await x.events(*(data.replace(b"\n", b"\r\n") for data in STREAM))


@fault("gigantic-event")
async def _gigantic_event(x: Exchange) -> None:
    await x.events(ROLE, b'data: {"choices": [{"delta": {"content": "', end=False)
    while not x.gone.is_set():
        await x.part(b"x" * 65536)


@fault("gigantic-answer")
async def _gigantic_answer(x: Exchange) -> None:
    x.head(Transfer_Encoding="chunked")
    while not x.gone.is_set():
        await x.part(b" " * 65536)


@fault("compressed")
async def _compressed(x: Exchange) -> None:
    await x.json(b"\x1f\x8b\x08" + b"\0" * 100, Content_Encoding="gzip")


@fault("redirect")
async def _redirect(x: Exchange) -> None:
    await x.json(b"", 307, Location="http://127.0.0.1:9/v1/chat/completions")


@fault("html-200")
async def _html_200(x: Exchange) -> None:
    await x.json(b"<html><body>please sign in</body></html>")


@fault("html-502")
async def _html_502(x: Exchange) -> None:
    await x.json(b"<html><h1>502 Bad Gateway</h1><hr>nginx</html>", 502)


def later(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@fault("429-date")
async def _date(x: Exchange) -> None:
    await refuses(429, error("slow down"), 1, Retry_After=later(0.5))(x)


TOOLS = [{**call, "index": place} for place, call in enumerate(CALLS)]
BUSY, LIMITED = error("try later"), error("slow down", "rate_limit_exceeded", "requests")
TOO_LONG = error(
    "This model's maximum context length is 8192 tokens.",
    "context_length_exceeded",
    "invalid_request_error",
)
FILTERED = error("flagged by our policy", "content_policy_violation", "invalid_request_error")
QUOTA = error("You exceeded your current quota", "insufficient_quota", "insufficient_quota")
KEY = error("Incorrect API key provided: sk-proj-abcdef123456", "invalid_api_key")
FAULTS |= {
    "truncated-stream": says(ROLE, *SAID[:3]),
    "no-done": says(ROLE, *SAID, FINISH, REPORT),
    "no-done-cut": says(ROLE, *SAID, FINISH, REPORT, end=False),
    "no-finish": says(ROLE, *SAID, REPORT, DONE),
    "no-done-hang": says(ROLE, *SAID, FINISH, end=False),
    "empty-stream": says(),
    "only-role": says(ROLE),
    "only-done": says(DONE),
    "malformed-event": says(ROLE, *SAID[:3], event('{"choices":[{"delta":{"con'), *STREAM[4:]),
    "bad-utf8-event": says(ROLE, *SAID[:3], word("caf").replace(b"caf", b"caf\xe9"), *STREAM[4:]),
    "error-first": says(event(error("boom"))),
    "quota-first": says(ROLE, event(QUOTA)),
    "error-mid-stream": says(ROLE, *SAID[:3], event(error("boom", "server_error"))),
    "role-frames": says(*[ROLE] * 5, b": ping\n\n", *STREAM),
    "usage-absent": says(ROLE, *SAID, FINISH, DONE),
    "usage-in-last-choice": says(ROLE, *SAID, chunk(finish="stop", usage=USAGE), DONE),
    "usage-in-every-chunk": says(
        *(
            chunk({"content": text + " "}, usage={**USAGE, "completion_tokens": place + 1})
            for place, text in enumerate(WORDS)
        ),
        chunk(finish="stop", usage=USAGE),
        DONE,
    ),
    "usage-null": says(chunk({"content": "hi"}, usage=None), FINISH, REPORT, DONE),
    "usage-odd": says(*SAID, chunk(finish="stop", usage={"prompt_tokens": "many"}), DONE),
    "tool-in-one-delta": says(ROLE, chunk({"tool_calls": TOOLS[:1]}), FINISH, REPORT, DONE),
    "parallel-tools": says(*(chunk({"tool_calls": [call]}) for call in TOOLS), FINISH, DONE),
    "same-tool-ids": says(
        *(chunk({"tool_calls": [{**call, "id": "same"}]}) for call in TOOLS), FINISH, DONE
    ),
    "unknown-fields": says(
        chunk({"content": "hi", "vendor": {"b": 1, "a": [1.50, None]}}, service_tier="x"),
        FINISH,
        DONE,
    ),
    "filter-at-end": says(*SAID[:3], chunk(finish="content_filter"), REPORT, DONE),
    "filter-at-once": says(ROLE, chunk(finish="content_filter"), REPORT, DONE),
    "400": refuses(400, error("bad temperature", None, "invalid_request_error")),
    "401": refuses(401, KEY),
    "404": refuses(404, error("no such model", "model_not_found")),
    "500": refuses(500, BUSY),
    "503": refuses(503, BUSY),
    "500-burst": refuses(500, BUSY, 2),
    "503-burst": refuses(503, BUSY, 2),
    "429": refuses(429, LIMITED),
    "429-seconds": refuses(429, LIMITED, 1, Retry_After="1"),
    "429-float": refuses(429, LIMITED, 1, Retry_After="0.1"),
    "429-ms": refuses(429, LIMITED, 1, Retry_After_Ms="100", Retry_After="30"),
    "429-hour": refuses(429, LIMITED, Retry_After="3600"),
    "quota": refuses(429, QUOTA),
    "too-long": refuses(400, TOO_LONG),
    "filtered": refuses(400, FILTERED),
    "error-200": refuses(200, error("boom", "server_error")),
    "quota-200": refuses(200, QUOTA),
    "no-choices": refuses(200, {"object": "chat.completion", "choices": []}),
    "limit-used-up": refuses(
        200,
        whole(),
        x_ratelimit_remaining_requests="0",
        x_ratelimit_reset_requests="6m0s",
    ),
}


class FaultUpstream:
    """The server; ``async with`` starts and ends it."""

    def __init__(self) -> None:
        self.log: list[Seen] = []
        self.url = ""
        self._turns: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> "FaultUpstream":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            exchange = await self._read(reader, writer)
            await self._answer(exchange)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Exchange:
        top, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines if line)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):  # more than Python's own parser takes
            writer.write(b"HTTP/1.1 400 X\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
            await writer.drain()
            raise ConnectionError("no JSON") from None
        seen = Seen(body["model"], top.split()[1], headers, body, raw)
        self.log.append(seen)
        turn, self._turns[seen.model] = self._turns[seen.model], self._turns[seen.model] + 1
        return Exchange(seen, reader, writer, turn)

    async def _answer(self, x: Exchange) -> None:
        async def watch() -> None:
            with suppress(ConnectionError):
                await x.reader.read()
            x.seen.left = True
            x.gone.set()

        watcher = asyncio.ensure_future(watch())
        try:
            await FAULTS[x.seen.model](x)
            await x.writer.drain()
        except ConnectionError:
            x.seen.left = True
        finally:
            watcher.cancel()
