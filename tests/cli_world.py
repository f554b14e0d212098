"""A folder with a pool, a router and questions, and the real command line to run in it."""

import asyncio
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from commands import coterie

from coterie.experts.base import Expert
from coterie.records import Records
from coterie.routers.baselines import BestSingle
from coterie.types import Call, Completion, Query, Usage, derive_seed

HERE = Path(__file__).parent
LOGGED = """
[[expert]]
name = "{name}"
kind = "cli_world:Logged"
log = "calls.log"
"""
POOL = '[pool]\nname = "test"\n' + "".join(LOGGED.format(name=name) for name in "abc")


class Logged(Expert):
    """Answers after some milliseconds and appends the digest of every call it gets to a file."""

    def __init__(self, name: str, log: str, delay: float = 0.003, poison: str = "") -> None:
        self.name, self.log, self.delay, self.poison = name, log, delay, poison
        self.slots = 2

    @property
    def size(self) -> int:
        return 1

    async def complete(self, call: Call) -> Completion:
        with open(self.log, "a") as log:
            log.write(call.digest() + "\n")
        await asyncio.sleep(self.delay)
        text = str(call.messages[-1]["content"])
        if self.poison and self.poison in text:
            return Completion(self.name, finish_reason="error", error="poisoned")
        word = ["yes", "no", "maybe"][derive_seed(call.digest()) % 3]
        return Completion(self.name, f"{word}, {text[:40]}", Usage(9, 2), 0.5, time.perf_counter())


class Project:
    """A folder to run ``coterie`` in."""

    def __init__(
        self, folder: Path, pool: str = POOL, count: int = 10, experts: str = "abc"
    ) -> None:
        self.folder = folder
        self.write("pool.toml", pool)
        questions = [{"id": f"q{i}", "question": f"question {i}?"} for i in range(count)]
        self.write("questions.jsonl", "".join(f"{json.dumps(q)}\n" for q in questions))
        scores = np.linspace(1.0, 0.8, len(experts))[None, :]
        records = Records((Query.from_text("1", "one"),), tuple(experts), scores)
        BestSingle().fit(records).save(folder / "router")

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def start(self, *args: str, **settings: Any) -> subprocess.Popen[str]:
        """``coterie ARGS`` as a process of its own, with these doubles importable."""
        environment = {**os.environ, "PYTHONPATH": str(HERE), "OPENBLAS_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "coterie.cli", *args]
        settings = {"stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe, **settings}
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, encoding="utf-8", **settings
        )

    def run(
        self, *args: str, input: str | None = None, **settings: Any
    ) -> subprocess.CompletedProcess[str]:
        if input is not None:
            settings["stdin"] = subprocess.PIPE
        process = self.start(*args, **settings)
        out, err = process.communicate(input, timeout=60)
        return subprocess.CompletedProcess(args, process.returncode, out or "", err or "")

    def answer_args(self, output: str = "answers.jsonl", *more: str) -> tuple[str, ...]:
        return (
            "answer", "pool.toml", "questions.jsonl", "--router", "router", "-o", output, *more,
        )  # fmt: skip

    def answer(self, output: str = "answers.jsonl", *more: str) -> subprocess.CompletedProcess[str]:
        """``coterie answer`` in this process, which saves the start of another."""
        return self.main(*self.answer_args(output, *more))

    def main(self, *args: str) -> subprocess.CompletedProcess[str]:
        """What the installed command does, in this process."""
        with patch.object(sys, "path", [*sys.path]), contextlib.chdir(self.folder):
            return subprocess.CompletedProcess(args, *coterie(*args))

    def calls(self) -> list[str]:
        """Digests of the calls the experts got, in order."""
        log = self.folder / "calls.log"
        return log.read_text().splitlines() if log.exists() else []

    def journaled(self, name: str = "answers.jsonl.journal") -> set[str]:
        """Digests of the journaled calls."""
        with sqlite3.connect(self.folder / name) as database:
            rows = database.execute("SELECT digest FROM completions").fetchall()
        database.close()
        return {digest for (digest,) in rows}

    def answers(self, name: str = "answers.jsonl") -> str:
        return without_latency((self.folder / name).read_text(encoding="utf-8"))

    def wait_for(self, calls: int, process: subprocess.Popen[str]) -> bool:
        """Wait until so many calls are logged; False where the process ends before."""
        return wait_until(lambda: len(self.calls()) >= calls or process.poll() is not None) and (
            process.poll() is None
        )


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def without_latency(lines: str) -> str:
    """The same bytes but for the times."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items() if k != "latency"}
        return [clean(v) for v in value] if isinstance(value, list) else value

    def dump(rows: Iterable[str]) -> Iterable[str]:
        return (json.dumps(clean(json.loads(row)), ensure_ascii=False) for row in rows)

    return "\n".join(dump(lines.splitlines()))
