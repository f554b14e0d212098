"""Hosts: where an engine runs. In a child process that may crash, or on threads of this one.

A child is a plain ``subprocess.Popen`` whose pipes are watched by the loop that asks, rather than
an asyncio subprocess, which dies with its loop: children outlive ``asyncio.run`` and are re-used.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol, cast

import psutil

from coterie import plugins
from coterie.errors import ExpertError
from coterie.experts.engine import Emit, Engine, Generated
from coterie.experts.threads import call_in, in_thread
from coterie.types import Message


class Host(Protocol):
    """An engine as an event loop sees it; failures are ExpertErrors."""

    @property
    def alive(self) -> bool:
        """False once it crashed or was killed."""
        ...

    async def load(self, engine: str, path: str, slots: int, threads: int, context: int) -> None:
        """Load ``path`` into a new engine of this name."""

    async def complete(
        self, messages: Sequence[Message], options: Mapping[str, Any], emit: Emit | None
    ) -> Generated:
        """The engine's answer; cancelling ends it early."""
        ...

    async def unload(self) -> None:
        """Give the memory back when the running calls have ended."""

    def footprint(self) -> int:
        """Bytes that loading and answering have added to its process; 0 if that is unknown."""
        ...

    def kill(self, reason: str) -> None:
        """Give up on it at once; calls still running fail with ``reason``."""


class ThreadHost:
    """The engine in this process. A hang cannot be killed here, only left alone."""

    def __init__(self) -> None:
        self.alive = True
        self._engine: Engine | None = None
        self._running: set[asyncio.Future[Generated]] = set()

    async def load(self, engine: str, path: str, slots: int, threads: int, context: int) -> None:
        """See Host."""
        made: Engine = await in_thread(plugins.load("engines", engine, allow_import=True))
        self._engine = made
        await in_thread(made.load, path, slots, threads, context)

    async def complete(
        self, messages: Sequence[Message], options: Mapping[str, Any], emit: Emit | None
    ) -> Generated:
        """See Host."""
        if self._engine is None:
            raise ExpertError("no model is loaded")
        stop = threading.Event()
        emit = emit and partial(call_in, asyncio.get_running_loop(), emit)
        work = in_thread(self._engine.complete, messages, options, emit, stop)
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            stop.set()
            raise

    async def unload(self) -> None:
        """See Host."""
        if self._running:
            await asyncio.wait(self._running)
        if self._engine is not None:
            await in_thread(self._engine.unload)
        self._engine = None

    def footprint(self) -> int:
        """See Host: unknown, for what else goes on in this process."""
        return 0

    def kill(self, reason: str) -> None:
        """See Host."""
        self.alive, self._engine = False, None

    def _ended(self, task: asyncio.Future[Generated]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen: whoever asked may be gone


class Worker:
    """A child process running ``coterie.experts.worker``; used by one event loop at a time."""

    def __init__(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the child)
        command = [sys.executable, "-P", "-m", "coterie.experts.worker"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._log, bufsize=0
        )
        self._input, self._output = (
            _descriptor(self._process.stdin),
            _descriptor(self._process.stdout),
        )
        os.set_blocking(self._input, False)
        os.set_blocking(self._output, False)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ids = itertools.count()
        self._pending: dict[int, tuple[asyncio.Future[Any], Emit | None]] = {}
        self._unsent, self._partial = bytearray(), b""
        self._death = ""
        self._empty = 0  # its resident bytes before the weights

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """See Host."""
        return not self._death

    async def load(self, engine: str, path: str, slots: int, threads: int, context: int) -> None:
        """See Host."""
        weights = {"path": path, "slots": slots, "threads": threads, "context": context}
        answer = await self.ask("load", {"engine": engine, **weights})
        self._empty = answer["resident"]

    async def serve(
        self, engine: str, path: str, slots: int, threads: int, context: int, api_key: str = ""
    ) -> str:
        """Load ``path`` behind the engine's OpenAI-compatible loopback server; returns its URL."""
        weights = {"path": path, "slots": slots, "threads": threads, "context": context}
        answer = await self.ask("serve", {"engine": engine, **weights, "api_key": api_key})
        return str(answer["url"])

    async def complete(
        self, messages: Sequence[Message], options: Mapping[str, Any], emit: Emit | None
    ) -> Generated:
        """See Host."""
        question = {"messages": [*map(dict, messages)], "options": dict(options)}
        answer = await self.ask("complete", {**question, "pieces": emit is not None}, emit)
        return cast(Generated, answer)

    async def unload(self) -> None:
        """See Host."""
        await self.ask("unload", {})
        self._empty = 0

    def footprint(self) -> int:
        """See Host: growth of the resident set since before the load, mapped weights included."""
        try:
            now: int = psutil.Process(self.pid).memory_info().rss
        except psutil.Error:
            return 0
        return max(0, now - self._empty) if self._empty else 0

    async def ask(self, op: str, fields: Mapping[str, Any], emit: Emit | None = None) -> Any:
        """Send one request and wait for its answer; raises ExpertError with the child's words."""
        if self._death:
            raise ExpertError(self._death)
        loop = asyncio.get_running_loop()
        self._attach(loop)
        id = next(self._ids)
        future: asyncio.Future[Any] = loop.create_future()
        line = json.dumps({"id": id, "op": op, **fields})
        self._pending[id] = future, emit
        self._send(line)
        try:
            return await future
        except asyncio.CancelledError:
            if not self._death:
                self._send(json.dumps({"id": id, "op": "stop"}))
            raise
        finally:
            self._pending.pop(id, None)

    def kill(self, reason: str) -> None:
        """See Host."""
        self._bury(reason)

    def _attach(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Let ``loop`` watch the pipes in place of the loop before, whose calls are forgotten."""
        if loop is self._loop:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._output)
            self._loop.remove_writer(self._input)
        if loop is not None:
            self._pending.clear()
            loop.add_reader(self._output, self._read)
        self._loop = loop

    def _send(self, line: str) -> None:
        self._unsent += line.encode() + b"\n"
        self._flush()

    def _flush(self) -> None:
        """Write what the pipe takes; the loop calls again when it takes more."""
        assert self._loop is not None
        try:
            del self._unsent[: os.write(self._input, self._unsent)]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._unsent.clear()  # it died; reading tells how
        if self._unsent:
            self._loop.add_writer(self._input, self._flush)
        else:
            self._loop.remove_writer(self._input)

    def _read(self) -> None:
        data = os.read(self._output, 1 << 18)
        if not data:
            return self._bury("")
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._dispatch(json.loads(line))

    def _dispatch(self, answer: dict[str, Any]) -> None:
        future, emit = self._pending.get(answer["id"], (None, None))
        if future is None or future.done():
            return
        if "piece" in answer and emit:
            emit(answer["piece"])
        elif "ok" in answer:
            future.set_result(answer["ok"])
        else:
            future.set_exception(ExpertError(answer["error"]))

    def _bury(self, reason: str) -> None:
        """End the child, fail its pending calls with ``reason`` or with how it died, close all."""
        if self._death:
            return
        self._process.kill()
        code = self._process.wait()
        self._death = reason or f"{_how(code)}{self._last_words()}"
        self._attach(None)
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()
        for future, _ in self._pending.values():
            if not future.done() and not future.get_loop().is_closed():
                future.set_exception(ExpertError(self._death))

    def _last_words(self) -> str:
        """The end of what the child wrote to standard error."""
        end = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, end - 500))
        words = self._log.read().decode(errors="replace").strip()
        return f"; its last words: {words.splitlines()[-1]}" if words else ""


def _descriptor(stream: Any) -> int:
    return int(stream.fileno())


def _how(code: int) -> str:
    """How a process with this return code ended."""
    if code >= 0:
        return f"its process exited with code {code}"
    return f"its process was ended by {signal.Signals(-code).name}"


class Workers:
    """Children to be re-used: starting one takes longer than loading a small model into it.

    Spare children live as long as some expert that took one is open.
    """

    def __init__(self) -> None:
        self._spare: list[Worker] = []
        self._all: weakref.WeakSet[Worker] = weakref.WeakSet()
        self._users: weakref.WeakSet[Any] = weakref.WeakSet()

    def take(self, user: object) -> Worker:
        """A child for ``user``: a spare one, else a new one."""
        self._users.add(user)
        while self._spare:
            if (worker := self._spare.pop()).alive:
                return worker
        worker = Worker()
        self._all.add(worker)
        return worker

    def give(self, worker: Worker) -> None:
        """Take back a child with nothing loaded."""
        if worker.alive:
            self._spare.append(worker)
        self._trim()

    def leave(self, user: object) -> None:
        """``user`` needs no child any more; after the last one the spare children end."""
        self._users.discard(user)
        self._trim()

    def close(self) -> None:
        """End every child, in use or not."""
        for worker in list(self._all):
            worker.kill("this process is about to exit")
        self._spare.clear()

    def _trim(self) -> None:
        while self._spare and not self._users:
            self._spare.pop().kill("no expert needs it")


WORKERS = Workers()
atexit.register(WORKERS.close)
