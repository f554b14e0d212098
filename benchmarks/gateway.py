"""The gateway's CPU time a request beside a bare pass-through and LiteLLM, in one run.

    python benchmarks/gateway.py --output benchmarks/results/gateway.json

The gateway runs as users run it: a key with a budget and limits, a fitted router (ridge on the
lexical encoder), a log in SQLite, metrics. Sides take turns, round by round, pinned to one core;
upstream and load share the other one. CPU time is the process's own, all threads included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from gateway_load import Load, prompt, send
from threadpoolctl import threadpool_limits

from coterie.features import LexicalEncoder
from coterie.files import replace_file
from coterie.records import Records
from coterie.routers.linear import Linear
from coterie.types import Query

HERE = Path(__file__).parent
EXPERTS = ("small", "medium", "large", "coder")
POOL = """
[pool]
name = "bench"

{experts}
[router]
path = "router"

[policy]
name = "utility"
willingness_to_pay = 0.01

[gateway]
store = "gateway.sqlite"
"""
EXPERT = """[[expert]]
name = "{name}"
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
model = "bench"
price = {{ prompt = {price}, completion = {price} }}
slots = 512

"""
LITELLM = """
model_list:
  - model_name: auto
    litellm_params: {{ model: openai/bench, api_base: "http://127.0.0.1:{port}/v1", api_key: none }}
litellm_settings: {{ telemetry: false }}
general_settings: {{ master_key: sk-benchmark-0123456789 }}
"""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--requests", type=int, default=3000, help="a round and side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--litellm", type=Path, help="the litellm command, if it is installed")
    given = parser.parse_args()
    found = asyncio.run(measured(given.requests, given.rounds, given.litellm))
    for name, value in found.items():
        if not isinstance(value, dict):
            print(f"{name}: {value}")
    if given.output is not None:
        replace_file(given.output, json.dumps(found, indent=1) + "\n")


async def measured(requests: int, rounds: int, litellm: Path | None) -> dict[str, Any]:
    """All figures."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = free_port()
        stack.enter_context(process([str(HERE / "gateway_upstream.py"), str(upstream)], 1))
        await answering(upstream)
        bare = Side(free_port(), "none")
        bare.run(stack, [str(HERE / "gateway_bare.py"), str(bare.port), str(upstream)])
        await answering(bare.port)
        ours = Side(free_port(), await pool(folder, upstream))
        start = time.perf_counter()
        files = [str(folder / "pool.toml"), "--port", str(ours.port)]
        ours.run(stack, ["-m", "coterie.cli", "serve", *files])
        await answering(ours.port)
        ready = time.perf_counter() - start
        idle = ours.memory()
        os.sched_setaffinity(0, {1})
        sides = {"bare": bare, "ours": ours}
        if litellm is not None:
            sides["litellm"] = await start_litellm(stack, folder, litellm, upstream)
        chat = await compared(sides, requests, rounds, stream=False)
        stream = await compared(sides, max(requests // 4, 50), rounds, stream=True)
        added = await latency(bare, ours)
        found = {
            "cpu_ms_chat": chat["ours"]["ms"],
            "cpu_ms_stream": stream["ours"]["ms"],
            "ratio_bare_chat": ratio(chat, "ours", "bare"),
            "ratio_bare_stream": ratio(stream, "ours", "bare"),
            "ratio_litellm_chat": ratio(chat, "ours", "litellm") if "litellm" in chat else None,
            "ratio_litellm_stream": ratio(stream, "ours", "litellm") if "litellm" in chat else None,
            **decision(folder),
            **added,
            "rss_mb": idle,
            "rss_after_mb": ours.memory(),
            "ready_s": round(ready, 3),
        }
        goals = {
            "ratio_bare_chat": found["ratio_bare_chat"] <= 2,
            "ratio_bare_stream": found["ratio_bare_stream"] <= 2,
            "added_ms_p50": found["added_ms_p50"] <= 2,
            "added_ms_p99": found["added_ms_p99"] <= 10,
            "decision_ms_p50": found["decision_ms_p50"] <= 0.2,
            "rss_mb": found["rss_mb"] <= 120,
            "ready_s": found["ready_s"] <= 2,
        }
        if found["ratio_litellm_chat"] is not None:
            goals["ratio_litellm_chat"] = found["ratio_litellm_chat"] <= 1 / 20
        machine: dict[str, Any] = {"cores": os.cpu_count(), "python": platform.python_version()}
        machine["load"] = round(os.getloadavg()[0], 2)
        return {**found, "met": goals, "chat": chat, "stream": stream, "machine": machine}


class Side:
    """One of the servers that are compared."""

    def __init__(self, port: int, key: str) -> None:
        self.port, self.key = port, key

    def run(self, stack: ExitStack, command: list[str], program: str = sys.executable) -> None:
        """Start it on the first core."""
        child = stack.enter_context(process(command, 0, program))
        self._process = psutil.Process(child.pid)

    def cpu(self) -> float:
        """Seconds of CPU time so far."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def memory(self) -> float:
        """Resident megabytes."""
        return round(float(self._process.memory_info().rss) / 1e6, 1)


async def compared(
    sides: dict[str, Side], requests: int, rounds: int, stream: bool
) -> dict[str, dict[str, Any]]:
    """Milliseconds of CPU time a request for every side, round by round, after a warm-up."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-1, rounds):
        for name, side in sides.items():
            count = requests if name != "litellm" else max(requests // 10, 50)
            before = side.cpu()
            load = await send(side.port, count, 16, stream=stream, key=side.key, seed=1000 + number)
            await asyncio.sleep(0.3)  # what is written behind the requests counts as well
            if load.failed:
                raise SystemExit(f"{load.failed} of {count} requests to {name} failed")
            if number >= 0:
                found[name].append(1000 * (side.cpu() - before) / count)
    return {
        name: {"ms": round(statistics.median(ms), 4), "rounds": [round(v, 4) for v in ms]}
        for name, ms in found.items()
    }


def ratio(found: dict[str, dict[str, Any]], one: str, other: str) -> float:
    """The median over the rounds of one side's time over the other's."""
    pairs = zip(found[one]["rounds"], found[other]["rounds"], strict=True)
    return round(float(statistics.median(a / b for a, b in pairs)), 4)


async def latency(bare: Side, ours: Side) -> dict[str, float]:
    """What the gateway adds to a request at 50 a second, over what the bare one takes."""
    loads: dict[str, Load] = {}
    for name, side in (("bare", bare), ("ours", ours)):
        loads[name] = await send(side.port, 1000, 16, key=side.key, seed=7, rate=50)
    return {
        f"added_ms_p{share}": round(
            loads["ours"].percentile(share / 100) - loads["bare"].percentile(share / 100), 3
        )
        for share in (50, 99)
    }


def decision(folder: Path) -> dict[str, float]:
    """Milliseconds of one routing decision in this process: constraints, router, policy."""
    import random

    from coterie.config import read_config
    from coterie.gateway.asked import read_asked
    from coterie.gateway.building import load_router_of, routing_alone

    threadpool_limits(1, "blas")  # as the server does
    config = read_config(folder / "pool.toml")
    routing = routing_alone(config, load_router_of(config, None, None))
    draw, took = random.Random(3), []
    for number in range(2000):
        body = json.dumps(
            {"model": "auto", "messages": [{"role": "user", "content": prompt(draw)}]}
        )
        asked = read_asked("/chat/completions", body.encode(), {}, 10**6, 8)
        start = time.perf_counter()
        routing.plan(asked, f"q{number}", ())
        took.append(1000 * (time.perf_counter() - start))
    took.sort()
    return {"decision_ms_p50": round(took[1000], 4), "decision_ms_p99": round(took[1980], 4)}


async def pool(folder: Path, upstream: int) -> str:
    """A pool file, a router and a key with a budget; the key's secret."""
    prices = (0.1, 0.4, 2.0, 0.8)
    tables = [
        EXPERT.format(name=name, port=upstream, price=price)
        for name, price in zip(EXPERTS, prices, strict=True)
    ]
    (folder / "pool.toml").write_text(POOL.format(experts="".join(tables)))
    router(prices).save(folder / "router")
    from coterie.gateway.keys import make_key
    from coterie.gateway.ledger import open_ledger

    key, secret = make_key("bench", budget=1e6, rpm=10**8, tpm=10**10, concurrency=10**4)
    with open_ledger(folder / "gateway.sqlite") as ledger:
        await ledger.put_key(key)
    return secret


def router(prices: tuple[float, ...]) -> Linear:
    """Fitted on outcomes drawn by chance: what it says does not matter here, only what it costs."""
    import random

    draw, chance = random.Random(1), np.random.default_rng(1)
    queries = tuple(Query.from_text(f"q{i}", prompt(draw)) for i in range(1000))
    quality = (chance.random((1000, 4)) < np.array([0.5, 0.6, 0.8, 0.7])).astype(float)
    cost = np.tile(np.array(prices) * 1e-4, (1000, 1))
    return Linear(LexicalEncoder()).fit(Records(queries, EXPERTS, quality, cost=cost))


async def start_litellm(stack: ExitStack, folder: Path, command: Path, upstream: int) -> Side:
    """LiteLLM's proxy with one model, and nothing else switched on."""
    side = Side(free_port(), "sk-benchmark-0123456789")
    (folder / "litellm.yaml").write_text(LITELLM.format(port=upstream))
    config = ["--config", str(folder / "litellm.yaml"), "--host", "127.0.0.1"]
    side.run(stack, [*config, "--port", str(side.port), "--num_workers", "1"], str(command))
    await answering(side.port, 120)
    return side


async def answering(port: int, seconds: float = 30) -> None:
    """Wait until somebody listens."""
    end = time.perf_counter() + seconds
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        except OSError:
            if time.perf_counter() > end:
                raise
            await asyncio.sleep(0.01)


@contextmanager
def process(command: list[str], core: int, program: str = sys.executable) -> Iterator[Any]:
    """A child process on one core, ended with the block."""
    pin: Callable[[], None] = lambda: os.sched_setaffinity(0, {core})  # noqa: E731
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    child = subprocess.Popen(
        [program, *command], preexec_fn=pin, env=environment, stdout=subprocess.DEVNULL
    )
    try:
        yield child
    finally:
        child.terminate()
        child.wait(30)


def free_port() -> int:
    """A port nobody listens on now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
