"""The gateway as an ASGI application: the hot endpoints by hand, everything else by Starlette."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import aclosing, suppress
from typing import Any, TypeAlias

from coterie.gateway.asked import Asked, read_asked
from coterie.gateway.entries import new_id
from coterie.gateway.exchange import CLOSED, Exchange
from coterie.gateway.failures import UpstreamError
from coterie.gateway.faults import fault
from coterie.gateway.guard import Doors, forwarded
from coterie.gateway.logins import Logins
from coterie.gateway.protocol import WATCH
from coterie.gateway.retiring import Retiring
from coterie.gateway.services import Services
from coterie.gateway.wire import DONE, HEARTBEAT, ApiError, frame, overloaded

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

ASKED = {
    f"/v1{path}": path
    for path in ("/chat/completions", "/completions", "/embeddings", "/responses")
}
JSON = (b"content-type", b"application/json")
EVENTS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
LONGEST_ID = 64
MOST_TOKENS = 10_000_000  # more is a mistake


class Live:
    """What the running server holds: the services of now, and whether it still takes requests."""

    def __init__(
        self,
        services: Services,
        doors: Doors,
        *,
        loopback: bool = True,
        max_body: int = 20_000_000,
        heartbeat: float = 15.0,
        most_choices: int = 8,
        accepting: Callable[[], bool] = lambda: True,
    ) -> None:
        self.services, self.doors, self.loopback = services, doors, loopback
        self.max_body, self.heartbeat, self.most_choices = max_body, heartbeat, most_choices
        self.accepting, self.draining = accepting, False
        self.logins, self.retiring = Logins(), Retiring()


class App:
    """OpenAI's endpoints; ``others`` serves all further paths."""

    def __init__(self, live: Live, others: Asgi) -> None:
        self.live, self._others = live, others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        path = ASKED.get(scope.get("path", "")) if scope["type"] == "http" else None
        if path is None or scope["method"] != "POST":
            await self._others(scope, receive, send)
            return
        request = _Request(self.live, scope, receive, send, path)
        services = self.live.services
        services.meters.in_flight += 1
        try:
            await request.run()
        finally:
            services.meters.in_flight -= 1
            if services is not self.live.services:  # a reload came in between
                self.live.retiring.ended(services.upstreams)


class _Request:
    """One of OpenAI's requests: reads it, has it answered, sends the answer."""

    __slots__ = (
        "_exchange", "_headers", "_heart", "_id", "_left", "_live", "_over", "_path", "_receive",
        "_send", "_services", "_start", "_task", "_told", "_watch", "_watcher",
    )  # fmt: skip

    def __init__(self, live: Live, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        self._start = time.perf_counter()
        self._live, self._services = live, live.services
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._receive, self._send, self._path = receive, send, path
        self._id = new_id("req_")
        self._exchange: Exchange | None = None
        self._heart: _Heart | None = None
        self._over = self._told = self._left = False
        own = scope["extensions"].get(WATCH) if "extensions" in scope else None
        self._watch: Callable[[Callable[[], object] | None], None] = own or self._watch_alone
        self._watcher: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Answer, whatever happens."""
        try:
            asked = await self._read()
            await self._watched(asked)
        except ApiError as error:
            await self._refuse(error)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # a fault of ours is one answer, not a torn connection
            await self._refuse(fault(self._id, self._path, error))

    async def _read(self) -> Asked:
        """The request, once it is known that whoever sends it may."""
        live, headers = self._live, self._headers
        live.doors.check(headers)
        if live.draining:
            raise overloaded("the gateway is shutting down")
        if not live.accepting():
            raise overloaded("the gateway's store is down and its spool is full", 5.0)
        key = self._services.accounts.authenticate(secret_of(headers))
        body = await read_body(self._receive, headers, live.max_body)
        asked = read_asked(self._path, body, headers, MOST_TOKENS, live.most_choices)
        self._exchange = Exchange(self._services, key, asked, self._id, self._start)
        return asked

    async def _watched(self, asked: Asked) -> None:
        """Answer unless the client leaves."""
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watch(self._leave)
        try:
            await self._answer(asked)
        except asyncio.CancelledError:
            if not self._left:
                await self._end(503, "shutdown")
                raise
            task.uncancel()
            if self._exchange is not None and not self._exchange.over:
                self._services.meters.disconnects += 1
            await self._end(CLOSED, "client_closed")
        finally:
            self._over = True
            self._watch(None)
            if self._heart is not None:
                self._heart.stop()

    def _leave(self) -> None:
        if not self._over:
            self._left = True
            self._task.cancel()

    def _watch_alone(self, gone: Callable[[], object] | None) -> None:
        """What a server that is not ours does not offer: a task that waits for the disconnect."""
        if self._watcher is not None:
            self._watcher.cancel()
        if gone is None:
            return
        self._watcher = asyncio.get_running_loop().create_task(self._gone())
        self._watcher.add_done_callback(lambda task: None if task.cancelled() else gone())

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _answer(self, asked: Asked) -> None:
        exchange = self._exchange
        assert exchange is not None
        if asked.stream and self._live.heartbeat:
            loop = self._task.get_loop()
            self._heart = _Heart(self._live.heartbeat, loop, self._begin_stream, self._send)
        delivery = await exchange.begin(forwarded(self._headers))
        if self._heart is not None:
            await self._heart.settled()
        if asked.stream:
            await self._stream(exchange)
            return
        body = delivery.reply.body or b""
        length = (b"content-length", str(len(body)).encode())
        await exchange.end()
        cost = (b"x-coterie-cost", f"{exchange.entry.cost:.9g}".encode())
        headers = [JSON, length, cost, *self._facts()]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        self._told = True
        await self._send({"type": "http.response.body", "body": body})

    async def _stream(self, exchange: Exchange) -> None:
        send = self._send
        await self._begin_stream()
        try:
            async with aclosing(exchange.events()) as events:
                async for event in events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
        except UpstreamError as error:
            raise error.failure.to_api_error() from None
        last = b"" if self._path == "/responses" else DONE
        await exchange.end()
        await send({"type": "http.response.body", "body": last})

    async def _begin_stream(self) -> None:
        if self._told:
            return
        headers = [*EVENTS, *self._facts()]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        self._told = True  # after it: a heartbeat may be ended while it waits to send

    def _facts(self) -> list[tuple[bytes, bytes]]:
        """Who answered, why, after how many tries, and what the gateway itself took."""
        given = self._headers.get(b"x-request-id", b"")
        shown = given if 0 < len(given) <= LONGEST_ID and given.isascii() else self._id.encode()
        facts = [(b"x-request-id", shown), (b"x-coterie-decision-id", self._id.encode())]
        if b"origin" in self._headers:
            facts += self._live.doors.shared(self._headers)
        exchange = self._exchange
        if exchange is None:
            return facts
        entry, delivery = exchange.entry, exchange.delivery
        expert = delivery.expert if delivery is not None else ""
        tries = len(exchange.attempts) if delivery is None else delivery.tries
        others = 0
        if tries > 1 and entry.composition == "single":
            others = len({one.expert for one in exchange.attempts} | {expert or entry.decided}) - 1
        spent = f"{exchange.spent * 1000:.3f}"
        facts += [
            (b"x-coterie-model", expert.encode("latin-1", "replace")),
            (b"x-coterie-policy", entry.policy.encode("latin-1", "replace")),
            (b"x-coterie-attempts", str(max(tries, 1)).encode()),
            (b"x-coterie-fallbacks", str(others).encode()),
            (b"x-coterie-overhead-ms", spent.encode()),
            (b"server-timing", f"gateway;dur={spent}".encode()),
        ]
        if exchange.reservation is not None:
            facts += exchange.reservation.headers
        return facts

    async def _refuse(self, error: ApiError) -> None:
        """Tell the client why not: by status, or as the last event of a stream under way."""
        if self._heart is not None:
            await self._heart.settled()
        body = error.body()
        code = error.code or error.type
        with suppress(OSError):
            if self._told:
                await self._send({"type": "http.response.body", "body": frame(body)})
            else:
                length = (b"content-length", str(len(body)).encode())
                headers = [JSON, length, *error.headers, *self._facts()]
                start = {"type": "http.response.start", "status": error.status, "headers": headers}
                await self._send(start)
                await self._send({"type": "http.response.body", "body": body})
        if self._exchange is None:
            self._services.meters.requests["none", f"{error.status // 100}xx"] += 1
        await self._end(error.status, code)

    async def _end(self, status: int, error: str) -> None:
        if self._exchange is not None:
            await self._exchange.end(status, error)


class _Heart:
    """Comments that keep a silent stream open, from ``seconds`` on."""

    def __init__(
        self,
        seconds: float,
        loop: asyncio.AbstractEventLoop,
        begin: Callable[[], Awaitable[None]],
        send: Send,
    ) -> None:
        self._seconds, self._begin, self._send = seconds, begin, send
        self._task: asyncio.Task[None] | None = None
        self._timer = loop.call_later(seconds, self._start)

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._beat())

    async def _beat(self) -> None:
        await self._begin()
        while True:
            await self._send({"type": "http.response.body", "body": HEARTBEAT, "more_body": True})
            await asyncio.sleep(self._seconds)

    def stop(self) -> None:
        """Beat no more."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    async def settled(self) -> None:
        """Stop, and wait until nothing more is sent."""
        self.stop()
        if self._task is not None:
            await asyncio.wait([self._task])
            self._task = None


def secret_of(headers: Mapping[bytes, bytes]) -> str | None:
    """The client's key, from ``Authorization: Bearer`` or ``x-api-key``."""
    given = headers.get(b"authorization")
    if given is not None:
        kind, _, secret = given.partition(b" ")
        if kind.lower() == b"bearer":
            return secret.strip().decode("latin-1")
        return given.decode("latin-1")
    other = headers.get(b"x-api-key")
    return None if other is None else other.decode("latin-1")


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], most: int) -> bytes:
    """The request's body, refused before it is held where it is too long or compressed."""
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise ApiError(415, "send the body uncompressed", code="unsupported_encoding")
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > most:
        raise _too_long(most)
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return _checked(message, body, most)
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise _too_long(most)
    return _checked(message, b"".join(parts), most)


def _checked(message: Mapping[str, Any], body: bytes, most: int) -> bytes:
    if message["type"] == "http.disconnect":
        raise ApiError(CLOSED, "the client left while it sent its request", code="client_closed")
    if len(body) > most:
        raise _too_long(most)
    return body


def _too_long(most: int) -> ApiError:
    message = f"the body is longer than {most} bytes; [gateway] max_body sets the bound"
    return ApiError(413, message, code="request_too_large")
