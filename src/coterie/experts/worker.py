"""A child process that hosts one engine: ``python -m coterie.experts.worker``.

Requests are JSON objects, one a line, on standard input; every answer carries the ``id`` of its
request, so that answers may overtake each other::

    {"id": 1, "op": "load", "engine": "llama", "path": "add.gguf", "slots": 8, ...}
    {"id": 1, "ok": {"resident": 52428800}}
    {"id": 2, "op": "complete", "messages": [...], "options": {}, "pieces": true}
    {"id": 2, "piece": "59"}
    {"id": 2, "ok": {"text": "59 => 95", ...}}        or        {"id": 2, "error": "..."}

``resident`` counts the bytes of memory before the weights came. The other operations are
``unload``, ``serve`` (``load`` that answers with the URL of an OpenAI-compatible server) and
``stop`` (end the completion of this id early; no answer of its own). The process ends with its
standard input, so it never outlives a parent that was killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import psutil

from coterie import plugins
from coterie.errors import CoterieError, ExpertError

Request = dict[str, Any]


def trim() -> None:
    """Give freed memory back to the system: glibc keeps it, and a child lives for many loads."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def take_stdout() -> int:
    """Keep standard output for answers: whatever libraries print goes to standard error."""
    channel = os.dup(1)
    os.dup2(2, 1)
    return channel


class Host:
    """Carries out requests on an engine and writes the answers to the descriptor ``channel``."""

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._writing = threading.Lock()
        self._engine: Any = None
        self._running: dict[int, tuple[threading.Thread, threading.Event]] = {}

    def handle(self, request: Request) -> None:
        """Answer ``request``; completions do so later, on threads of their own."""
        match request["op"]:
            case "complete":
                self._start(request)
            case "stop":
                self._stop(request["id"])
            case "load":
                self._answer(request, self._load)
            case "serve":
                self._answer(request, self._serve)
            case "unload":
                self._answer(request, self._unload)

    def _answer(self, request: Request, operation: Callable[[Request], Any]) -> None:
        try:
            self._write({"id": request["id"], "ok": operation(request)})
        except CoterieError as error:
            self._write({"id": request["id"], "error": str(error)})
        except Exception as error:
            self._write({"id": request["id"], "error": f"{type(error).__name__}: {error}"})

    def _write(self, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode() + b"\n"
        with self._writing:
            while data:
                data = data[os.write(self._channel, data) :]

    def _load(self, request: Request) -> dict[str, Any]:
        self._unload(request)
        self._engine = plugins.load("engines", request["engine"], allow_import=True)()
        resident = psutil.Process().memory_info().rss
        self._engine.load(*(request[key] for key in ("path", "slots", "threads", "context")))
        return {"resident": resident}

    def _serve(self, request: Request) -> dict[str, Any]:
        self._unload(request)
        self._engine = plugins.load("engines", request["engine"], allow_import=True)()
        if not hasattr(self._engine, "serve"):
            raise ExpertError(f"the engine {request['engine']!r} has no server of its own")
        keys = ("path", "slots", "threads", "context", "api_key")
        return {"url": self._engine.serve(*(request[key] for key in keys))}

    def _unload(self, _: Request) -> dict[str, Any]:
        for thread, _event in list(self._running.values()):
            thread.join()
        if self._engine is not None:
            self._engine.unload()
        self._engine = None
        trim()
        return {}

    def _start(self, request: Request) -> None:
        stop = threading.Event()
        thread = threading.Thread(target=self._complete, args=(request, stop), daemon=True)
        self._running[request["id"]] = thread, stop
        thread.start()

    def _stop(self, id: int) -> None:
        if id in self._running:
            self._running[id][1].set()

    def _complete(self, request: Request, stop: threading.Event) -> None:
        def emit(piece: str) -> None:
            self._write({"id": request["id"], "piece": piece})

        def run(request: Request) -> Any:
            if self._engine is None:
                raise ExpertError("no model is loaded")
            wanted = emit if request["pieces"] else None
            return self._engine.complete(request["messages"], request["options"], wanted, stop)

        self._answer(request, run)
        del self._running[request["id"]]


def main() -> None:
    """Serve requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then tells us
    host = Host(take_stdout())
    for line in sys.stdin.buffer:
        host.handle(json.loads(line))
    os._exit(0)  # running generations are of no use to anybody any more


if __name__ == "__main__":
    main()
