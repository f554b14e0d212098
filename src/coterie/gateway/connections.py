"""Connections to one server, kept alive: HTTP/1.1 as httptools parses it, and no more than we need.

A request is a POST with its length; a response is read as it comes, within bounds. What a general
client does beyond that (redirects, cookies, proxies, decompression) experts have no use for, and a
gateway pays for on every request: `benchmarks/gateway.py` has the figures.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast
from urllib.parse import quote, urlsplit

import httptools
from aiohappyeyeballs import AddrInfoType, start_connection

from coterie.gateway.guard import barred
from coterie.gateway.http_response import UNREAD, Response

KEPT = 15.0  # seconds that a connection waits for another request
LARGEST_HEAD = 1 << 16  # bytes that may come without the response getting on
LOOKED_UP = 10.0  # seconds that a name's addresses are taken for granted
STAGGER = 0.25  # seconds until the next address of a name is tried beside the first
UNHEARD = 1.0  # seconds in which a server that closed a kept connection may be told of


class NotConnected(ConnectionError):
    """The server cannot be reached."""


class ConnectTimeout(NotConnected):
    """The server could not be reached in time."""


class BadResponse(ValueError):
    """What came is no HTTP."""


class _Unheard(ConnectionResetError):
    """The server closed a connection that was kept, and has answered nothing."""


class Connections:
    """Connections to the server at ``url``, one for every request under way.

    A connection is made within ``connect`` seconds, and never to an address that is ``barred``
    (``private`` ones may be allowed). Belongs to the event ``loop`` that it is made in.
    """

    def __init__(self, url: str, private: bool = True, connect: float = 10.0) -> None:
        parts = urlsplit(url)
        host = parts.hostname or ""
        self._host = host if host.isascii() else host.encode("idna").decode()
        self._tls = parts.scheme == "https"
        self._port = parts.port or (443 if self._tls else 80)
        self._private, self._connect = private, connect
        self._path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
        name = parts.netloc if host.isascii() else f"{self._host}:{self._port}"
        self._head = f"host: {name}\r\nuser-agent: coterie\r\naccept: */*\r\n"
        self._heads: dict[str, str] = {}
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._addresses: tuple[float, list[AddrInfoType]] = (-LOOKED_UP, [])
        self._lookup: asyncio.Task[list[AddrInfoType]] | None = None
        self.loop = asyncio.get_running_loop()

    async def post(self, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        """The response to a body, once its head has come; ``path`` is below the server's own.

        Sent again where a kept connection turns out to be closed: the server has not answered it.
        Raises NotConnected, ConnectionError where the connection breaks, BadResponse, and
        ValueError for a header that is none.
        """
        fields = [f"{name}: {value}\r\n" for name, value in headers.items()]
        given = "".join(fields)
        if given.count("\n") != len(fields) or given.count("\r") != len(fields):
            raise ValueError("a header with a line break")
        start = self._heads.get(path) or self._heads.setdefault(
            path, f"POST {self._path}{path} HTTP/1.1\r\n{self._head}"
        )
        head = f"{start}{given}content-length: {len(body)}\r\n\r\n".encode("latin-1", "replace")
        if (connection := self._kept()) is not None:
            try:
                return await connection.ask(head, body)
            except _Unheard:
                pass
        connection = await self._made()
        return await connection.ask(head, body)

    def close(self) -> None:
        """Break all connections; requests under way end with ConnectionError."""
        for connection in [*self._idle, *self._busy]:
            connection.broken(ConnectionAbortedError("the connection was closed"))
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        if self._lookup is not None:
            self._lookup.cancel()

    def _kept(self) -> Connection | None:
        """An idle connection, the one used last."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable():
                self._busy.add(connection)
                return connection
            connection.abort()
        return None

    def keep(self, connection: Connection) -> None:
        """The connection is free for another request."""
        self._busy.discard(connection)
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(KEPT, self._sweep)
        connection.since = self.loop.time()
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        self._busy.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _sweep(self) -> None:
        """Close what nobody has used for long."""
        self._sweeper = None
        due = self.loop.time() - KEPT
        for connection in [one for one in self._idle if one.since <= due]:
            connection.abort()
        if self._idle:
            self._sweeper = self.loop.call_at(self._idle[0].since + KEPT, self._sweep)

    async def _made(self) -> Connection:
        try:
            async with asyncio.timeout(self._connect):
                sock = await start_connection(
                    await self._resolved(), happy_eyeballs_delay=STAGGER, interleave=1
                )
                return await self._speaking(sock)
        except TimeoutError:
            raise ConnectTimeout(f"no connection within {self._connect:g} s") from None
        except OSError as error:
            raise NotConnected(str(error)) from None

    async def _speaking(self, sock: socket.socket) -> Connection:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secure: dict[str, Any] = {}
        if self._tls:
            secure = {"ssl": _context(), "server_hostname": self._host}
        try:
            _, made = await self.loop.create_connection(
                lambda: Connection(self, self.loop), sock=sock, **secure
            )
        except BaseException:
            with suppress(OSError):  # asyncio closes it at its end, and not if it is closed already
                sock.shutdown(socket.SHUT_RDWR)
            raise
        self._busy.add(made)
        return made

    async def _resolved(self) -> list[AddrInfoType]:
        """The addresses of the host that may be connected to; raises OSError where none is."""
        since, known = self._addresses
        if self.loop.time() < since + LOOKED_UP:
            return known
        if self._lookup is None or self._lookup.done():  # one for all who wait
            self._lookup = self.loop.create_task(self._looked_up())
            self._lookup.add_done_callback(_heed)
        return await asyncio.shield(self._lookup)

    async def _looked_up(self) -> list[AddrInfoType]:
        found = await self.loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        kept = [one for one in found if not barred(str(one[4][0]), self._private)]
        if not kept:
            raise OSError(f"{self._host} leads to no address that is allowed")
        self._addresses = self.loop.time(), cast(list[AddrInfoType], kept)
        return self._addresses[1]


def _heed(task: asyncio.Task[Any]) -> None:
    """Its error is nobody's if all who waited have left."""
    if not task.cancelled():
        task.exception()


@functools.cache
def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class Connection(asyncio.Protocol):
    """One connection and the response under way on it; see httptools for the parser's calls."""

    def __init__(self, owner: Connections, loop: asyncio.AbstractEventLoop) -> None:
        self._owner, self._loop = owner, loop
        self._parser = httptools.HttpResponseParser(self)
        self._response: Response | None = None
        self._held = 0  # bytes since the response last got on
        self._headed = self._bounded = self._stray = False
        self.since = self._asked = 0.0  # when it was kept, and asked

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast(asyncio.Transport, transport)

    def usable(self) -> bool:
        """Nothing speaks against another request."""
        fresh = self._loop.time() < self.since + KEPT
        return fresh and not self._stray and not self._transport.is_closing()

    async def ask(self, head: bytes, body: bytes) -> Response:
        """Send a request; its response, once the head has come."""
        if self._transport.is_closing():  # before it was of use
            self._owner.forget(self)
            raise ConnectionResetError("the server closed the connection at once")
        self._response = response = Response(self, self._loop)
        self._headed, self._held, self._asked = False, 0, self._loop.time()
        self._transport.write(head + body if len(body) < UNREAD else head)
        if len(body) >= UNREAD:
            self._transport.write(body)
        try:
            await response.begun()
        except BaseException:
            response.close()  # by now the connection may be another's
            raise
        return response

    def abort(self) -> None:
        """Break it off."""
        self._owner.forget(self)
        response, self._response = self._response, None
        if response is not None:
            response.fail(ConnectionAbortedError("the connection was broken off"))
        self._transport.abort()

    def hold(self, paused: bool) -> None:
        """Read nothing, or go on."""
        with suppress(RuntimeError):  # it is closing
            self._transport.pause_reading() if paused else self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._response is None:
            self.abort()  # nobody asked
            return
        self._held += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.broken(BadResponse(str(error)))
            return
        if self._held > LARGEST_HEAD:
            self.broken(BadResponse(f"a head of more than {LARGEST_HEAD} bytes"))

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio."""
        response = self._response
        if error is None and response is not None and self._headed and not self._bounded:
            response.finished()  # the connection's end is the body's
        kind = _Unheard if self._unheard() else ConnectionResetError
        self.broken(kind("the connection was lost"))

    def _unheard(self) -> bool:
        """The server had closed the connection, or was about to, when it was asked."""
        quick = self._loop.time() < self._asked + UNHEARD
        return quick and self.since > 0 and not self._headed and not self._held

    def broken(self, error: Exception) -> None:
        """Break it off; whoever reads the response hears why."""
        if self._response is not None:
            self._response.fail(error)
        self.abort()

    def on_message_begin(self) -> None:
        """See httptools."""
        self._stray = self._response is None

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        if self._response is None or self._headed:  # trailers say nothing
            return
        known, key = self._response.headers, name.decode("latin-1").lower()
        text = value.decode("latin-1")
        if known.setdefault(key, text) is not text and key == "transfer-encoding":
            known[key] += f", {text}"

    def on_headers_complete(self) -> None:
        """See httptools."""
        response, status = self._response, self._parser.get_status_code()
        if response is None:
            return
        if status < 200:
            response.headers.clear()
            return
        self._headed, self._held = True, 0
        headers = response.headers
        chunked = headers.get("transfer-encoding", "").lower().endswith("chunked")
        self._bounded = chunked or "content-length" in headers
        response.status = status
        response.wake()

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._held = 0
        if self._response is not None:
            self._response.fed(body)

    def on_message_complete(self) -> None:
        """See httptools."""
        response = self._response
        if response is None or not self._headed:
            return
        self._response = None
        response.finished()
        sent = not self._transport.get_write_buffer_size()  # else the server let the rest lie
        if sent and self._parser.should_keep_alive():
            self.hold(False)
            self._owner.keep(self)
        else:
            self.abort()
