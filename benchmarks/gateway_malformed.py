"""Requests that no client should send, drawn by chance, and what may be answered to them."""

from __future__ import annotations

import asyncio
import json
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PATHS = ("/v1/chat/completions",) * 6 + (
    "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/route", "/v1/feedback",
)  # fmt: skip
OTHERS = (
    "/", "/v1", "/v1/models", "/v1/models/%00", "/v1/models/%ff%fe", "/v1/models/a%0d%0ax:1",
    "/v1/../../etc/passwd", "//evil/v1/models", "/v1/chat/completions/", "/nowhere?a=%", "*",
    "/health/live", "/health/ready", "/v1/openapi.json",
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE")
VALUES = (
    "null", "true", "false", "0", "-1", "1e999", "-1e400", "1e308", "9" * 40, "9" * 5000, "0.5",
    "NaN", "Infinity", '""', '"x"', '"\\u0000"', '"\\ud800"', '"\\udc00\\ud800"',
    '"a\\r\\nx-evil: 1"',
    '"\U0001f600"', "[]", "{}", "[null]", "[[]]", '[{"role":5}]', '{"type":7}', '["\\ud800"]',
    '{"a":{"a":{"a":1}}}', "[" * 300 + "]" * 300, "[" * 5000, '{"a":' * 3000,
    '"' + "x" * 20000 + '"',
)  # fmt: skip
FIELDS = (
    "model", "messages", "prompt", "input", "stream", "stream_options", "n", "max_tokens",
    "max_completion_tokens", "max_output_tokens", "temperature", "top_p", "top_k", "min_p", "seed",
    "stop", "presence_penalty", "response_format", "tools", "functions", "tool_choice", "logprobs",
    "models", "coterie", "choices", "user", "metadata", "chat_template_kwargs", "id", "score",
    "note", "__proto__", "",
)  # fmt: skip
WISHES = (
    "policy", "willingness_to_pay", "max_cost", "max_latency", "tags", "region", "experts",
    "exclude", "session", "category", "skills", "mid_stream", "explore", "unknown",
)  # fmt: skip
HEADERS = (
    "x-coterie-max-cost: nan", "x-coterie-max-latency: -1", "x-coterie-willingness-to-pay: inf",
    "x-coterie-experts: ,,,", "x-coterie-tags: \xff", "x-coterie-explore: maybe", "x-coterie-: x",
    "x-coterie-nonsense: 1", "x-coterie-session: " + "s" * 5000, "x-coterie-mid-stream: stop",
    "traceparent: \xff\xfe", "tracestate: \x80", "origin: http://evil.example", "origin: http://[",
    "origin: null", "host: evil.example", "host: [", "host: ", "content-encoding: gzip",
    "content-encoding: br, gzip", "content-type: text/plain", "authorization: \xff",
    "authorization: Basic \xff", "authorization: Bearer ", "x-api-key: \x80", "cookie: a=\xff; b",
    "x-request-id: a\tb", "x-request-id: " + "r" * 500, "x-request-id: \xe4", "accept: \xff",
    "connection: upgrade\r\nupgrade: websocket", "expect: 100-continue", "te: trailers",
    "x-forwarded-host: evil.example", "forwarded: for=1", "x-http-method-override: DELETE",
)  # fmt: skip
RAW = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"\r\n\r\nx\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: -1\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1e3\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 2\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 5\r\n"
    b"content-length: 6\r\n\r\nabcdef",
    b"GET /health/live HTTP/1.1\r\n" + b"x: y\r\n" * 400 + b"\r\n",
    b"GET /health/live HTTP/1.1\r\nx y: z\r\n\r\n", b"GET /v1/models\x00 HTTP/1.1\r\n\r\n",
    b"GET /health/live HTTP/1.1\r\nx: a\x00b\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bad:
    """One request as its bytes; ``whole``: an answer has to come."""

    data: bytes
    whole: bool = True
    head: bool = False


def malformed(draw: random.Random, port: int, models: Sequence[str]) -> Bad:
    """A request that is wrong somewhere, or perhaps right by chance."""
    kind = draw.random()
    if kind < 0.03:
        return Bad(draw.choice(RAW))
    if kind < 0.13:
        method, path = draw.choice(METHODS), draw.choice((*OTHERS, *PATHS))
        return Bad(_request(port, method, path, b"", _headers(draw)), head=method == "HEAD")
    body = _body(draw, models)
    if kind < 0.15:  # the client promises more than it sends, and leaves
        return Bad(_request(port, "POST", draw.choice(PATHS), body, [], len(body) + 10), False)
    headers = _headers(draw) if kind < 0.5 else []
    return Bad(_request(port, "POST", draw.choice(PATHS), body, headers))


def _headers(draw: random.Random) -> list[str]:
    return draw.sample(HEADERS, draw.choice((0, 1, 1, 1, 2, 3)))


def _request(
    port: int, method: str, path: str, body: bytes, headers: list[str], length: int | None = None
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *headers]
    if not any(one.startswith("host") for one in headers):
        lines.insert(1, f"host: 127.0.0.1:{port}")
    if body or method == "POST":
        lines.append(f"content-length: {len(body) if length is None else length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def _body(draw: random.Random, models: Sequence[str]) -> bytes:
    model = draw.choice(models)
    fields: list[tuple[str, str]] = [
        ("model", json.dumps(model)),
        ("messages", '[{"role":"user","content":"hi"}]'),
        ("prompt", '"hi"'),
        ("input", '"hi"'),
    ]
    for _ in range(draw.choice((0, 1, 1, 1, 2))):
        fields.append((draw.choice(FIELDS), draw.choice(VALUES)))
    if draw.random() < 0.2:
        fields.append(("coterie", f'{{"{draw.choice(WISHES)}":{draw.choice(VALUES)}}}'))
    if draw.random() < 0.1:
        name = draw.choice((*models, "recruit", "auto", "cascade"))
        rest = draw.choice(
            ("9" * 5000, "\\u0663", "0", "-1", "x", "\\u0000", ":", " 3", "17", "1e1")
        )
        fields.append(("model", f'"{name}:{rest}"'))
    if draw.random() < 0.5:
        fields = list({name: value for name, value in fields}.items())  # or else duplicates
    text = "{" + ",".join(f'"{name}":{value}' for name, value in fields) + "}"
    return _spoilt(draw, text.encode())


def _spoilt(draw: random.Random, body: bytes) -> bytes:
    """The body, in a third of the cases with bytes cut, changed or added."""
    chance = draw.random()
    place = draw.randrange(len(body))
    if chance < 0.1:
        return body[:place]
    if chance < 0.2:
        return body[:place] + bytes([draw.randrange(256)]) + body[place + 1 :]
    if chance < 0.25:
        return (
            body[:place]
            + draw.choice((b"\xff\xfe", b"\x00", b"\xed\xa0\x80", b"//"))
            + body[place:]
        )
    if chance < 0.3:
        return "".join(draw.choices(string.printable, k=draw.randrange(200))).encode()
    return draw.choice((b"", b"null", b"[]", b"\xef\xbb\xbf" + body)) if chance < 0.33 else body


@dataclass(frozen=True, slots=True)
class Answer:
    """A response as it was read."""

    status: int
    headers: dict[str, str]
    body: bytes


async def read_answer(reader: asyncio.StreamReader, head: bool = False) -> Answer:
    """One response to its end; raises IncompleteReadError where it is cut."""
    top, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in lines if line)
    headers = {name.lower(): value for name, _, value in pairs}
    status = int(top.split()[1])
    if status == 100:
        return await read_answer(reader, head)
    body = b""
    if head or status in (204, 304):
        return Answer(status, headers, body)
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
        return Answer(status, headers, body)
    return Answer(status, headers, await reader.readexactly(int(headers["content-length"])))


def fault_of(answer: Answer) -> str:
    """What is wrong with the gateway's answer, "" where nothing is."""
    if answer.status >= 500:
        return f"{answer.status}: {answer.body[:200]!r}"
    if any("evil" in name for name in answer.headers):
        return f"a header got in: {answer.headers}"
    if answer.status < 400 or not answer.body:
        return ""
    try:
        told: Any = json.loads(answer.body)
        right = set(told["error"]) == {"message", "type", "param", "code"} and bool(
            told["error"]["message"] and told["error"]["type"]
        )
    except (ValueError, TypeError, KeyError):
        right = False
    return "" if right else f"{answer.status} in another shape: {answer.body[:200]!r}"


class Sender:
    """Sends requests one after the other, over one connection as long as it lasts."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, bad: Bad) -> Answer | None:
        """The answer; None to one that cannot have any, or where the connection had ended."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        reader, writer = self._streams
        writer.write(bad.data)
        if not bad.whole:
            self.close()
            return None
        try:
            answer = await asyncio.wait_for(read_answer(reader, bad.head), 20)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.close()
            return None
        if answer.headers.get("connection") == "close" or answer.status in (400, 413, 415, 431):
            self.close()  # what was sent may be read as the next request
        return answer

    def close(self) -> None:
        """End the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
