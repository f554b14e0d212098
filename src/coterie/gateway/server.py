"""The gateway as a process: binds a port, drains on SIGTERM, reads its configuration on SIGHUP."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn
from threadpoolctl import threadpool_limits
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from coterie.errors import CoterieError
from coterie.gateway.app import App
from coterie.gateway.building import Gateway, outages_of
from coterie.gateway.guard import is_loopback
from coterie.gateway.pages import ADMIN_VARIABLE, WEAKEST, Pages, once
from coterie.gateway.protocol import Protocol
from coterie.gateway.sharing import Sharing

M_TRIM, M_MMAP, M_ARENAS = -1, -3, -8  # malloc.h
LARGE = 128 << 10
YOUNG = 20_000  # objects that may wait for the garbage collector: a few megabytes
NOTICE = 1.0  # seconds in which new requests still get a 503 before the port closes


def application(gateway: Gateway) -> App:
    """The whole ASGI application."""
    from coterie.gateway.dashboard.site import routes

    pages = Pages(gateway.live, gateway.ledger, gateway.facts)
    trusted = os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1,::1")  # as uvicorn reads it
    others: Any = Sharing(gateway.live, once(pages.application(routes(gateway))))
    others = ProxyHeadersMiddleware(others, trusted)
    return App(gateway.live, others)


async def serve(
    gateway: Gateway, say: Callable[[str], None], ready: Callable[[int], None] = lambda port: None
) -> None:
    """Serve until SIGTERM or SIGINT; requests under way get ``drain`` seconds to end.

    ``ready`` gets the port once requests are answered. Raises CoterieError where the gateway may
    not be bound as configured.
    """
    settings = gateway.settings
    threadpool_limits(1, "blas")  # a request's vectors are short: threads cost more than they save
    await gateway.accounts.start()
    await gateway.start()
    try:
        await check_binding(gateway)
        listener = bind(settings.host, settings.port)
        config = uvicorn.Config(
            application(gateway),
            loop="uvloop",
            http=Protocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="warning",
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=max(1, round(settings.drain)),
        )
        Protocol.refused = gateway.live.services.meters.refused
        server = _Server(config, gateway)
        with seldom_collected():
            await _run(server, gateway, listener, say, ready)
    finally:
        await gateway.close()


@contextmanager
def seldom_collected() -> Iterator[None]:
    """What was made before is not searched for garbage, what requests make seldom.

    Requests leave next to no cycles behind; to look for them every 700 objects, among everything
    that was imported, takes much of a request's time.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def _run(
    server: _Server,
    gateway: Gateway,
    listener: socket.socket,
    say: Callable[[str], None],
    ready: Callable[[int], None],
) -> None:
    loop = asyncio.get_running_loop()
    lag = loop.create_task(gateway.live.services.meters.watch_lag())
    outages = loop.create_task(outages_of(gateway).watch())
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(_reload(gateway, say))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    port = listener.getsockname()[1]
    announce = loop.create_task(_announce(server, lambda: ready(port)))
    try:
        await server.serve(sockets=[listener])
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        for task in (lag, outages, announce):
            task.cancel()


async def _announce(server: _Server, ready: Callable[[], None]) -> None:
    while not server.started:
        await asyncio.sleep(0.005)
    ready()


async def _reload(gateway: Gateway, say: Callable[[str], None]) -> None:
    try:
        await gateway.reload()
        say("configuration read again")
    except Exception as error:  # whatever is wrong with it, what runs goes on
        say(f"configuration kept as it was: {error}")


class _Server(uvicorn.Server):
    """Refuses new requests before it stops to listen, so that a balancer looks elsewhere."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See uvicorn, which raises the signal again and so ends the process at once.

        The store has to be written and leases given back after it.
        """
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        self._gateway.live.draining = True
        if self._gateway.live.services.meters.in_flight:
            await asyncio.sleep(NOTICE)
        await super().shutdown(sockets)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; raises CoterieError naming the remedy where the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
    except OSError as error:
        listener.close()
        hint = "stop what listens there or choose another --port"
        raise CoterieError(f"cannot listen on {host}:{port}: {error.strerror}; {hint}") from None
    listener.listen(2048)
    listener.setblocking(False)
    with suppress(OSError):
        listener.set_inheritable(False)
    return listener


def return_memory() -> None:
    """Have glibc give blocks above 128 kB back when they are free; does nothing elsewhere.

    By itself it keeps ever larger ones after the first, in an arena for each thread.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((M_TRIM, LARGE), (M_MMAP, LARGE), (M_ARENAS, 2)):
            mallopt(parameter, value)


async def check_binding(gateway: Gateway) -> None:
    """Raise CoterieError where the gateway would be open to the network without keys."""
    settings = gateway.settings
    admin = os.environ.get(ADMIN_VARIABLE, "")
    if admin and len(admin) < WEAKEST:
        raise CoterieError(f"{ADMIN_VARIABLE} has {len(admin)} characters; use {WEAKEST} or more")
    if is_loopback(settings.host):
        return
    if settings.keys == "off":
        raise CoterieError(f'{settings.host} is open to the network and keys = "off"; allow keys')
    keys, _ = await gateway.ledger.owners()
    if all(key.revoked is not None for key in keys):
        message = f"{settings.host} is open to the network and there is no key yet"
        store = f" --store {gateway.store}"
        raise CoterieError(f"{message}; make one first: coterie keys create NAME{store}")
