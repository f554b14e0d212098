"""Good, failing, abandoned and malformed requests for a while, and what the gateway is like after.

    python benchmarks/soak.py --seconds 60

The gateway runs as users run it (see gateway.py), with a key that has a budget; among its experts
are one that refuses connections and one that fails or breaks off. It must answer everything
that is its own affair, keep its memory and its files, end with nothing under way, and bill what it
logged. Exits with 1 where it does not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from gateway import answering, free_port
from gateway_load import prompt, request
from gateway_malformed import Answer, Bad, Sender, fault_of, malformed, read_answer

from coterie.features import LexicalEncoder
from coterie.files import replace_file
from coterie.records import Records
from coterie.routers.linear import Linear
from coterie.types import Query

HERE = Path(__file__).parent
EXPERTS = ("small", "large", "flaky", "refused")
KINDS = {"good": 4, "faulty": 1, "aborted": 2, "malformed": 3}  # of ten requests
MODELS = ("auto", "small", "large")
ROUNDS = 4
RSS_GROWTH = 1.10
FILES = 8  # descriptors that may come and go
POOL = """
[pool]
name = "soak"

{experts}
[router]
path = "router"

[policy]
name = "utility"

[gateway]
store = "gateway.sqlite"
max_body = "1 MB"
"""
EXPERT = """[[expert]]
name = "{name}"
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
model = "bench"
price = {{ prompt = 1.0, completion = 1.0 }}
slots = 256

"""


@dataclass
class Soaked:
    """What was sent and what came of it; ``faults`` are the gateway's own."""

    kinds: Sequence[str]
    sent: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Requests."""
        return self.sent.total()


def main() -> None:
    """Soak, print, write; exit with 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--connections", type=int, default=24)
    parser.add_argument("--requests", type=int, help="stop after so many, if that is sooner")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    most = given.requests or sys.maxsize
    found = asyncio.run(soak(given.seconds, given.connections, most, given.seed, given.kinds))
    print(json.dumps(found, indent=1))
    if given.output is not None:
        replace_file(given.output, json.dumps(found, indent=1) + "\n")
    if broken := [name for name, kept in found["kept"].items() if not kept]:
        raise SystemExit(f"broken: {', '.join(broken)}")


async def soak(
    seconds: float, connections: int, most: int, seed: int, kinds: Sequence[str]
) -> dict[str, Any]:
    """All figures of one soak."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = {"good": free_port(), "flaky": free_port(), "refused": free_port()}
        started(stack, [str(HERE / "gateway_upstream.py"), str(ports["good"])])
        flaky = await asyncio.start_server(_flaky, "127.0.0.1", ports["flaky"])
        key, port = await pool(folder, ports), free_port()
        command = ["-m", "coterie.cli", "serve", str(folder / "pool.toml"), "--port", str(port)]
        gateway = started(stack, command)
        await answering(ports["good"])
        await answering(port)
        done = Soaked(kinds)
        states = []
        for number in range(ROUNDS):
            await run(port, key, connections, seconds / ROUNDS, most // ROUNDS, seed + number, done)
            states.append(await settled(gateway, port))
        before, after = states[ROUNDS // 2 - 1], states[-1]  # caches fill in the first half
        alive = gateway.is_running() and gateway.status() != psutil.STATUS_ZOMBIE
        flaky.close()
        gateway.terminate()
        gateway.wait(60)
        money = await billed(folder / "gateway.sqlite")
    kept = {
        "alive": alive,
        "no fault of ours": not done.faults,
        "memory": after["rss_mb"] <= before["rss_mb"] * RSS_GROWTH,
        "files": after["files"] <= before["files"] + FILES,
        "nothing under way": after["in_flight"] == 0,
        "leases given back": money["reserved"] <= 1e-6,
        "settled is what was logged": abs(money["settled"] - money["logged"]) <= 1e-6,
    }
    return {
        "requests": done.total,
        "sent": dict(done.sent),
        "statuses": dict(sorted(done.statuses.items())),
        "faults": done.faults[:5],
        "rss_mb": [state["rss_mb"] for state in states],
        "files": [state["files"] for state in states],
        "in_flight": after["in_flight"],
        "money": money,
        "kept": kept,
    }


async def run(
    port: int, key: str, connections: int, seconds: float, most: int, seed: int, done: Soaked
) -> None:
    """Requests of all kinds over so many connections, for so long."""
    end, last = time.monotonic() + seconds, done.total + most
    draw = random.Random(seed)

    async def client() -> None:
        sender = Sender(port)
        while time.monotonic() < end and done.total < last:
            await one(draw, port, key, sender, done)
        sender.close()

    await asyncio.gather(*(client() for _ in range(connections)))


async def one(draw: random.Random, port: int, key: str, sender: Sender, done: Soaked) -> None:
    """One request, of a kind drawn by chance."""
    kind = draw.choices(done.kinds, [KINDS[kind] for kind in done.kinds])[0]
    done.sent[kind] += 1
    if kind == "malformed":
        bad = malformed(draw, port, MODELS)
        data = bad.data.replace(b"\r\n", f"\r\nauthorization: Bearer {key}\r\n".encode(), 1)
        await sent(done, kind, sender, Bad(data, bad.whole, bad.head))
        return
    stream = kind == "aborted" or draw.random() < 0.3
    model = draw.choice(("flaky", "refused") if kind == "faulty" else MODELS)
    data = request(port, model, stream, key, prompt(draw))
    if kind == "aborted":
        await abort(port, data, draw)
    else:
        await sent(done, kind, sender, Bad(data))


async def sent(done: Soaked, kind: str, sender: Sender, bad: Bad) -> None:
    """Send a request and note what comes of it."""
    try:
        note(done, kind, await sender.send(bad), bad.data)
    except TimeoutError:
        done.faults.append(f"{kind}: no answer in time to {bad.data[-4000:]!r}")
        sender.close()


def note(done: Soaked, kind: str, answer: Answer | None, data: bytes) -> None:
    """Count an answer; a fault is one that the gateway alone has to answer for."""
    if answer is None:
        done.statuses[f"{kind} none"] += 1
        if kind != "malformed":
            done.faults.append(f"no answer to {data[:80]!r}")
        return
    done.statuses[f"{kind} {answer.status}"] += 1
    theirs = answer.status in (502, 504) and kind != "good"  # the expert's: it broke, or cannot
    told = "" if theirs else fault_of(answer)
    if told or (kind == "good" and answer.status != 200):
        done.faults.append(f"{kind}: {told or answer.status} to {data[-300:]!r}")


async def abort(port: int, data: bytes, draw: random.Random) -> None:
    """Leave before the answer, after its head, or in the middle of the stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    phase = draw.randrange(3)
    try:
        if phase:
            await reader.readuntil(b"\r\n\r\n")
        if phase > 1:
            await reader.readuntil(b"word 1 ")
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.transport.abort() if draw.random() < 0.5 else writer.close()


async def _flaky(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An expert that fails half of its requests and breaks off the others."""
    try:
        await reader.readuntil(b"\r\n\r\n")
        if random.random() < 0.5:
            writer.write(b"HTTP/1.1 500 X\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    writer.close()


async def settled(gateway: psutil.Process, port: int) -> dict[str, float]:
    """Memory, files and requests under way once it is quiet."""
    metrics: Mapping[str, float] = {}
    for _ in range(100):
        await asyncio.sleep(0.1)
        metrics = await scraped(port)
        if not metrics["coterie_in_flight"] and not metrics["coterie_log_waiting"]:
            break
    await asyncio.sleep(2)  # idle connections end
    return {
        "rss_mb": round(gateway.memory_info().rss / 1e6, 1),
        "files": gateway.num_fds(),
        "in_flight": metrics["coterie_in_flight"],
    }


async def scraped(port: int) -> dict[str, float]:
    """The gauges without labels."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
    answer = await read_answer(reader)
    writer.close()
    lines = [line.split() for line in answer.body.decode().splitlines()]
    return {parts[0]: float(parts[1]) for parts in lines if len(parts) == 2}


async def billed(store: Path) -> dict[str, float]:
    """What the key's account was charged, and the sum of the log's entries."""
    from coterie.gateway.ledger import open_ledger

    with open_ledger(store) as ledger:
        balances = await ledger.balances()
        logged = await ledger.spend("key", 0.0)
    mine = [one for one in balances if one.account.startswith("key:")]
    return {
        "settled": sum(one.settled for one in mine),
        "reserved": sum(one.reserved for one in mine),
        "logged": sum(one.cost for one in logged),
        "entries": sum(one.requests for one in logged),
    }


async def pool(folder: Path, ports: Mapping[str, int]) -> str:
    """A pool file, a router and a key with a budget; the key's secret."""
    from coterie.gateway.keys import make_key
    from coterie.gateway.ledger import open_ledger

    tables = [EXPERT.format(name=name, port=ports.get(name, ports["good"])) for name in EXPERTS]
    (folder / "pool.toml").write_text(POOL.format(experts="".join(tables)))
    draw = random.Random(1)
    queries = tuple(Query.from_text(f"q{i}", prompt(draw)) for i in range(100))
    quality = np.tile([0.7, 0.8, 0.1, 0.0], (100, 1))
    records = Records(queries, EXPERTS, quality, cost=np.full((100, 4), 1e-4))
    Linear(LexicalEncoder()).fit(records).save(folder / "router")
    key, secret = make_key("soak", budget=1e6)
    with open_ledger(folder / "gateway.sqlite") as ledger:
        await ledger.put_key(key)
    return secret


def started(stack: ExitStack, command: list[str]) -> psutil.Process:
    """A child process that ends with the block."""
    quiet = subprocess.DEVNULL
    child = subprocess.Popen([sys.executable, *command], stderr=quiet, env=dict(os.environ))
    stack.callback(child.wait, 60)
    stack.callback(child.terminate)
    return psutil.Process(child.pid)


if __name__ == "__main__":
    main()
