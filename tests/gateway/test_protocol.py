"""Requests that never arrive as a whole, on a server with little patience."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from coterie.gateway.protocol import Protocol

POST = b"POST / HTTP/1.1\r\nhost: a\r\n"


class Hasty(Protocol):
    slowest = 0.15


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body = (await receive()).get("body", b"")
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, bytes]]


def talk(with_it: Talk) -> bytes:
    async def main() -> bytes:
        config = uvicorn.Config(echo, log_config=None, lifespan="off", ws="none")
        config.load()
        loop, state = asyncio.get_running_loop(), ServerState()
        server = await loop.create_server(lambda: Hasty(config, state, {}), "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            try:
                return await asyncio.wait_for(with_it(reader, writer), 10)
            finally:
                writer.close()

    return asyncio.run(main())


@pytest.mark.parametrize(
    "data", [b"", b"P", POST, POST + b"content-length: 5\r\n\r\n", POST + b"x: y"]
)
def test_a_request_that_does_not_arrive_is_a_408_and_the_end(data: bytes) -> None:
    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(data)
        return await reader.read()

    told = talk(stall)
    assert told.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in told


def test_bytes_that_trickle_in_do_not_buy_time() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        sent, told = 0, b""
        while not told and sent < 500:
            writer.write(POST[sent : sent + 1] or b"x")
            sent += 1
            with suppress(TimeoutError):
                told = await asyncio.wait_for(reader.read(1024), 0.005)
        return b"%d" % sent

    assert int(talk(trickle)) < 500


def test_a_kept_connection_may_be_idle_longer_than_a_request_may_take() -> None:
    async def twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        answers = b""
        for _ in range(2):
            writer.write(POST + b"content-length: 2\r\n\r\nhi")
            answers += await reader.readuntil(b"hi")
            await asyncio.sleep(0.3)
        return answers

    assert talk(twice).count(b"HTTP/1.1 200") == 2


def test_nonsense_after_an_answer_is_refused_and_the_answer_stays_whole() -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(POST + b"content-length: 2\r\n\r\nhi")
        answer = await reader.readuntil(b"hi")
        writer.write(b"nonsense\r\n\r\n")
        return answer + await reader.read()

    told = talk(nonsense)
    assert told.startswith(b"HTTP/1.1 200 ")
    assert b"hiHTTP/1.1 400 " in told


def test_nonsense_is_counted_and_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"nonsense\r\n\r\n")
        return await reader.read()

    before = Protocol.refused["invalid_http"]
    assert talk(nonsense).startswith(b"HTTP/1.1 400 ")
    assert Protocol.refused["invalid_http"] == before + 1
    assert not caplog.records


def test_that_holds_as_well_once_uvicorn_has_set_its_loggers() -> None:
    uvicorn.Config(echo, lifespan="off", log_level="warning")
    assert not logging.getLogger("coterie.gateway.http").isEnabledFor(logging.WARNING)
