"""``coterie serve`` as a child process in front of experts of ours, for tests that need a port."""

import asyncio
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import faithful
import numpy as np
import psutil
from fault_upstream import FAULTS, FaultUpstream, Seen

from coterie.experts.base import Price
from coterie.experts.function import FunctionExpert
from coterie.features import LexicalEncoder
from coterie.records import Records
from coterie.routers.linear import Linear
from coterie.types import Call, Query

HERE = Path(__file__).parent
assert "faithful" in FAULTS, faithful  # the import registers it
SECRET = "sk-upstream-0123456789abcdef"  # the experts' own key; never to be seen by clients
LOCAL = ("shout", "count")
FAULTY = (
    "401", "500", "503-burst", "429-hour", "too-long", "filtered", "html-502", "error-late",
    "quota", "reset-mid-stream", "endless", "redirect", "hang",
)  # fmt: skip


class Shout(FunctionExpert):
    """Answers in capitals."""

    def __init__(self, name: str, price: Price = FunctionExpert.price) -> None:
        super().__init__(name, _shout, price=price)


class Count(FunctionExpert):
    """Answers with the number of words."""

    def __init__(self, name: str, price: Price = FunctionExpert.price) -> None:
        super().__init__(name, _count, price=price)


def _shout(call: Call) -> str:
    return str(call.messages[-1]["content"]).upper() or "NOTHING"


def _count(call: Call) -> str:
    return str(len(str(call.messages[-1]["content"]).split()))


def pool_text(url: str, gateway: str = "", faulty: Sequence[str] = FAULTY) -> str:
    tables = ['[pool]\nname = "served"\n']
    for name in LOCAL:
        tables.append(f'[[expert]]\nname = "{name}"\nkind = "served:{name.title()}"\n')
    for name in ("faithful", *faulty):
        key = f'base_url = "{url}"\nmodel = "{name}"\napi_key_env = "SERVED_KEY"'
        price = "price = { prompt = 1.0, completion = 1.0 }"
        tables.append(f'[[expert]]\nname = "{name}"\nkind = "openai"\n{key}\n{price}\n')
    tables.append('[router]\npath = "router"\n[policy]\nname = "utility"\n')
    tables.append(f'[gateway]\nstore = "gateway.sqlite"\nmax_body = "1 MB"\n{gateway}')
    return "\n".join(tables)


def fit_router(folder: Path, faulty: Sequence[str] = FAULTY) -> None:
    """A router that takes the faithful expert for everything."""
    names = (*LOCAL, "faithful", *faulty)
    queries = tuple(Query.from_text(f"q{i}", f"question {i} of {i % 7}") for i in range(40))
    quality = np.tile([0.4, 0.3, 0.9, *[0.0] * len(faulty)], (40, 1))
    records = Records(queries, names, quality, cost=np.full((40, len(names)), 1e-4))
    Linear(LexicalEncoder()).fit(records).save(folder)


@dataclass
class Served:
    """A gateway that runs; ``log`` is what its remote experts have seen."""

    port: int
    process: psutil.Process
    log: list[Seen]
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def alive(self) -> bool:
        return bool(self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE)


@contextmanager
def upstream() -> Iterator[FaultUpstream]:
    """The experts' server, in a thread of its own."""
    server, started, ended = FaultUpstream(), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def main() -> None:
        async with server:
            started.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)
        loop.close()


@contextmanager
def served(
    folder: Path, gateway: str = "", faulty: Sequence[str] = FAULTY, **environment: str
) -> Iterator[Served]:
    """A gateway over a faithful expert, two of its own process, and faulty ones."""
    with upstream() as server:
        (folder / "pool.toml").write_text(pool_text(server.url, gateway, faulty))
        fit_router(folder / "router", faulty)
        paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        given = {**os.environ, "PYTHONPATH": paths, "SERVED_KEY": SECRET, **environment}
        command = [sys.executable, "-m", "coterie.cli", "serve", str(folder / "pool.toml")]
        with child([*command, "--port", "0"], given) as (process, port):
            yield Served(port, psutil.Process(process.pid), server.log, folder)


@contextmanager
def child(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[tuple[Any, int]]:
    """A gateway's process and its port, once it answers."""
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/v1", line):
                break
        else:
            raise AssertionError(f"the gateway did not start: {said}")
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        try:
            yield process, int(found[1])
        finally:
            process.terminate()
            try:
                process.wait(10)
            finally:
                process.kill()
                drain.join(10)


@dataclass
class Response:
    """What came back: ``headers`` as pairs, names in small letters."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        return ", ".join(value for key, value in self.headers if key == name)


def send(port: int, data: bytes, seconds: float = 10.0) -> Response:
    """The response to these bytes; what is written after a refusal may get lost."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        with suppress(ConnectionError):
            connection.sendall(data)
        response = HTTPResponse(connection)
        response.begin()
        headers = [(name.lower(), value) for name, value in response.getheaders()]
        return Response(response.status, headers, response.read())


def post(
    port: int, path: str, body: bytes, *headers: tuple[str, str], method: str = "POST"
) -> Response:
    """The response to this body; a Host among the headers replaces the right one."""
    lines = [f"{method} {path} HTTP/1.1"]
    if "host" not in {name.lower() for name, _ in headers}:
        lines.append(f"Host: 127.0.0.1:{port}")
    lines += [f"{name}: {value}" for name, value in headers]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return send(port, "\r\n".join(lines).encode("latin-1") + body)
