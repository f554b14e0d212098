"""An OpenAI-compatible server that answers at once, for timing what stands in front of it.

    python benchmarks/gateway_upstream.py PORT

A protocol without a framework, so that it and the load generator share a core: one answer of some
340 bytes, or a stream of 21 events each written by itself. ``delay=MS`` in the prompt waits.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import cast

import uvloop

HEAD = {"id": "chatcmpl-bench", "created": 1, "model": "bench"}
USAGE = {"prompt_tokens": 40, "completion_tokens": 20, "total_tokens": 60}
WORDS = 19
DELAY = re.compile(rb"delay=(\d+)")


def answer() -> bytes:
    message = {"role": "assistant", "content": "word " * WORDS}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = json.dumps({**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE})
    length = f"content-length: {len(body)}\r\n"
    return f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{length}\r\n{body}".encode()


def events() -> list[bytes]:
    def event(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        data = json.dumps({**HEAD, "object": "chat.completion.chunk", "choices": [choice]})
        return f"data: {data}\n\n".encode()

    last = json.dumps({**HEAD, "object": "chat.completion.chunk", "choices": [], "usage": USAGE})
    made = [event({"role": "assistant", "content": ""})]
    made += [event({"content": f"word {number} "}) for number in range(WORDS)]
    return [*made, event({}, "stop"), f"data: {last}\n\ndata: [DONE]\n\n".encode()]


ANSWER, EVENTS = answer(), events()
START = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Upstream(asyncio.Protocol):
    """One connection; requests come one after the other."""

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        """Answer once the request is whole."""
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        found = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        length = int(found[1]) if found else 0
        if len(rest) < length:
            return
        body, self._buffer = rest[:length], rest[length:]
        stream = re.search(rb'"stream": *true', body) is not None
        wait = int(found[1]) / 1000 if (found := DELAY.search(body)) else 0.0
        loop = asyncio.get_running_loop()
        if stream:
            loop.call_later(wait, self._event, 0)
        elif wait:
            loop.call_later(wait, self._transport.write, ANSWER)
        else:
            self._transport.write(ANSWER)

    def _event(self, number: int) -> None:
        if self._transport.is_closing():
            return
        if number == 0:
            self._transport.write(START)
        event = EVENTS[number]
        self._transport.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
        if number + 1 < len(EVENTS):
            asyncio.get_running_loop().call_later(0.001, self._event, number + 1)
        else:
            self._transport.write(b"0\r\n\r\n")


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
