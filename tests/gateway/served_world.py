"""A whole gateway in memory: a pool file of scripted experts, and clients without a socket."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from coterie.experts.base import Expert
from coterie.experts.openai import estimate_usage
from coterie.gateway.app import App
from coterie.gateway.building import Gateway, build
from coterie.gateway.entries import Entry
from coterie.gateway.server import application
from coterie.records import Records
from coterie.routers.baselines import BestSingle
from coterie.types import Call, Completion, Query

QUALITY = {"ann": 0.9, "bob": 0.7, "cid": 0.5}
COST = {"ann": 4.0, "bob": 2.0, "cid": 1.0}


class Scripted(Expert):
    """Says the same words, a pause before each; ``breaks`` after so many of them.

    ``calls`` are those that came, ``ended`` how they went.
    """

    slots = 4

    def __init__(
        self,
        name: str,
        says: str = "",
        pause: float = 0.0,
        breaks: int = -1,
        weight: int = 0,
        sure: float | None = None,
    ) -> None:
        self.sure = sure
        self.name, self.says, self.pause = name, says or f"{name} says so", pause
        self.breaks, self.weight = breaks, weight
        self.calls: list[Call] = []
        self.ended: list[str] = []
        self.loads: list[str] = []

    @property
    def size(self) -> int:
        return self.weight

    async def load(self) -> None:
        self.loads.append("+")

    async def unload(self, keep: bool = False) -> None:
        self.loads.append("-")

    async def complete(self, call: Call) -> Completion:
        pieces = [piece async for piece in self.stream(call)]
        last = pieces[-1]
        assert isinstance(last, Completion)
        return last

    async def stream(self, call: Call) -> AsyncIterator[str | Completion]:
        self.calls.append(call)
        words = [word + " " for word in self.says.split()]
        outcome = "left"
        try:
            for place, word in enumerate(words):
                await asyncio.sleep(self.pause)
                if place == self.breaks:
                    break
                yield word
            outcome = "broke" if 0 <= self.breaks <= len(words) else "done"
            why = f"{self.name}: broke" if outcome == "broke" else None
            finish = "stop" if why is None else "error"
            said = self.says if why is None else ""
            usage = estimate_usage(call.messages, said)
            yield Completion(
                self.name, said, usage, finish_reason=finish, error=why, logprob=self.sure
            )
        finally:
            self.ended.append(outcome)


def toml(value: Any) -> str:
    """A value in a TOML file."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{k}" = {toml(v)}' for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value) if isinstance(value, float) else json.dumps(value)


def records(quality: Mapping[str, float], cost: Mapping[str, float]) -> Records:
    """One question, and what each expert made of it."""
    names = tuple(quality)
    return Records(
        (Query.from_text("q", "What is 2 plus 3?"),),
        names,
        np.array([[quality[name] for name in names]]),
        np.array([[cost[name] for name in names]]),
    )


def router(quality: Mapping[str, float] = QUALITY, cost: Mapping[str, float] = COST) -> BestSingle:
    """A fitted router that expects this of every query."""
    return BestSingle().fit(records(quality, cost))


def write_pool(
    folder: Path,
    experts: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    gateway: Mapping[str, Any] | None = None,
    policy: Mapping[str, Any] | None = None,
    pool: Mapping[str, Any] | None = None,
    quality: Mapping[str, float] | None = QUALITY,
) -> Path:
    """A pool file of scripted experts, its router fitted (``quality`` None: without one)."""
    given = {"ann": {}, "bob": {}, "cid": {}} if experts is None else experts
    tables = [("[pool]", {"name": "p", "extract": "whole", **(pool or {})})]
    price = {"prompt": 1000.0, "completion": 1000.0}
    for name, settings in given.items():
        entry = {"name": name, "kind": "served_world:Scripted", "price": price, **settings}
        entry = {field: value for field, value in entry.items() if value is not None}
        tables.append(("[[expert]]", entry))
    if quality is not None:
        router({n: quality.get(n, 0.5) for n in given}, {n: COST.get(n, 1.0) for n in given}).save(
            folder / "router"
        )
        tables.append(("[router]", {"path": "router"}))
    tables.append(("[policy]", dict(policy or {"name": "utility"})))
    tables.append(("[gateway]", dict(gateway or {})))
    lines = []
    for head, table in tables:
        lines += [head, *(f'"{key}" = {toml(value)}' for key, value in table.items()), ""]
    path = folder / "pool.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@asynccontextmanager
async def serving(path: Path, **changes: Any) -> AsyncIterator["World"]:
    """The gateway of a pool file, started."""
    gateway = build(str(path), None, None, **changes)
    await gateway.accounts.start()
    try:
        yield World(gateway, application(gateway))
    finally:
        await gateway.close()


@dataclass
class Answer:
    """What a client saw."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    ended: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        told: dict[str, Any] = self.json["error"]
        return told

    @property
    def events(self) -> list[Any]:
        """The data of the events, ``[DONE]`` as a text."""
        frames = [f for f in self.body.decode().split("\n\n") if f.startswith("data: ")]
        return [f[6:] if f == "data: [DONE]" else json.loads(f[6:]) for f in frames]

    @property
    def text(self) -> str:
        """The words of the answer, streamed or whole."""
        if self.headers["content-type"] == "application/json":
            return str(self.json["choices"][0]["message"]["content"])
        deltas = [e["choices"] for e in self.events if isinstance(e, dict) and "choices" in e]
        return "".join(c["delta"].get("content") or "" for choices in deltas for c in choices)


class Visit:
    """One request under way; ``leave`` closes the client's connection."""

    def __init__(
        self,
        app: App,
        body: bytes | list[bytes] = b"",
        path: str = "/v1/chat/completions",
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.app, self.parts = app, [body] if isinstance(body, bytes) else list(body)
        self.answer, self.read, self.torn = Answer(), 0, False
        self._left = asyncio.Event()
        self._seen = asyncio.Condition()
        given = {"host": "localhost", **(headers or {})}
        self.scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "scheme": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
            "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in given.items()],
        }

    async def run(self) -> Answer:
        await self.app(self.scope, self._receive, self._send)
        return self.answer

    def leave(self) -> None:
        self._left.set()

    async def sees(self, count: int) -> None:
        """Wait until so many pieces of the body came."""
        async with self._seen:
            await self._seen.wait_for(lambda: len(self.answer.chunks) >= count)

    async def _receive(self) -> dict[str, Any]:
        if self.parts:
            body, self.read = self.parts.pop(0), self.read + 1
            return {
                "type": "http.request",
                "body": body,
                "more_body": bool(self.parts) or self.torn,
            }
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.answer.status = message["status"]
            pairs = [(k.decode(), v.decode("latin-1")) for k, v in message["headers"]]
            self.answer.headers = dict(pairs)
            return
        self.answer.ended = not message.get("more_body", False)
        if message.get("body"):
            self.answer.chunks.append(message["body"])
        async with self._seen:
            self._seen.notify_all()


class World:
    """A running gateway and its clients."""

    def __init__(self, gateway: Gateway, app: App) -> None:
        self.gateway, self.app = gateway, app

    def expert(self, name: str) -> Scripted:
        found = self.gateway.pool.experts[name]
        assert isinstance(found, Scripted)
        return found

    def visit(self, model: str = "auto", headers: Any = None, path: str = "", **more: Any) -> Visit:
        body = {"model": model, "messages": [{"role": "user", "content": "count"}], **more}
        where = path or "/v1/chat/completions"
        sent = json.dumps(body, ensure_ascii=False).encode()
        return Visit(self.app, sent, where, headers=headers)

    async def ask(self, model: str = "auto", headers: Any = None, **more: Any) -> Answer:
        return await self.visit(model, headers, **more).run()

    async def get(self, path: str, method: str = "GET", headers: Any = None) -> Answer:
        return await Visit(self.app, b"", path, method, headers).run()

    async def post(self, path: str, headers: Any = None, **body: Any) -> Answer:
        return await Visit(self.app, json.dumps(body).encode(), path, headers=headers).run()

    async def log(self) -> list[Entry]:
        """The rows of the log, the latest first."""
        return await self.gateway.ledger.recent(50)
