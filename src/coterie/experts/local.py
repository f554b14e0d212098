"""Experts whose weights are here: a GGUF file in an engine, in a child process by default."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import Event
from typing import Any

from coterie.errors import CoterieError, ExpertError
from coterie.experts.base import Expert, Price, check_limits
from coterie.experts.engine import Emit, Generated
from coterie.experts.gguf import read_header
from coterie.experts.hosts import WORKERS, Host, ThreadHost, Worker
from coterie.experts.pages import FILES, drop, read_through
from coterie.experts.streams import PushingExpert
from coterie.experts.threads import PerLoop, in_thread
from coterie.types import ONE_OF, Call, Completion, Usage


class LocalExpert(PushingExpert):
    """A GGUF file that answers ``slots`` calls side by side.

    It is loaded by the first call or by ``load``. ``isolate`` puts the engine into a child process:
    a crash or a hang longer than ``timeout`` seconds then costs that child and fails its calls,
    and the next call loads the weights again. Without it there is no process to start, but a crash
    takes this process along and a hang keeps its thread. ``context`` is in tokens a slot;
    ``options`` are request options under those of the call; ``choices`` among them (``"ABCD"``)
    holds for answers only, ``one_of`` for the call it comes with, whatever its purpose. Host memory
    is the system's page cache, which ``unload`` gives back unless another expert of this process
    uses the file. ``close`` it, or children stay.
    """

    def __init__(
        self,
        name: str,
        path: str | Path,
        *,
        engine: str = "llama",
        slots: int = 8,
        threads: int = 1,
        context: int = 4096,
        price: Price = Expert.price,
        timeout: float = 60.0,
        isolate: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        check_limits(timeout, slots)
        self.name, self.path, self.engine = name, Path(path), engine
        self.slots, self.threads, self.context = slots, threads, context
        self.price, self.timeout, self.isolate = price, timeout, isolate
        self.options = dict(options or {})
        self._host: Host | None = None
        self._measured = 0
        self._lock = PerLoop(asyncio.Lock)
        self._free = PerLoop(lambda: asyncio.Semaphore(slots))

    @property
    def size(self) -> int:
        """Bytes of the file; 0 where there is none (``load`` says so)."""
        try:
            return self.path.stat().st_size
        except (OSError, ValueError):  # a path may hold what no path holds
            return 0

    @property
    def measured(self) -> int:
        """See Expert: growth of the child's resident memory; 0 without ``isolate``."""
        return self._measured

    @property
    def loaded(self) -> bool:
        """True while its weights are in memory."""
        return self._host is not None and self._host.alive

    def fingerprint(self) -> str:
        """Engine, SHA-256 of the weights, context, options; ExpertError if there is no file."""
        read_header(self.path)
        stat = self.path.stat()
        digest = _sha256(self.path, stat.st_mtime_ns, stat.st_size)
        options = json.dumps(self.options, sort_keys=True)
        return f"{self.engine} sha256:{digest} context {self.context} options {options}"

    async def prefetch(self) -> None:
        """Read the file into the system's page cache; a file that is not there is left to load."""
        FILES.hold(self.path, self)
        stop = Event()
        try:
            with suppress(OSError, ValueError):
                await in_thread(read_through, self.path, stop)
        finally:
            stop.set()

    async def load(self) -> None:
        """Load the weights, if they are not; raises ExpertError naming the file and the remedy."""
        await self._ready()

    async def unload(self, keep: bool = False) -> None:
        """Give memory back when the running calls have ended, unless ``keep`` the cache as well."""
        async with self._lock.get():
            host, self._host = self._host, None
            if host is not None and host.alive:
                await self._empty(host)
            if not keep and FILES.leave(self.path, self):
                await in_thread(drop, self.path)

    async def footprint(self) -> int:
        """See Expert."""
        if self._host is not None and self._host.alive:
            self._measured = self._host.footprint() or self._measured
        return self._measured

    async def close(self) -> None:
        """Unload; when the last local expert is closed, its child processes end as well.

        What the system has cached is left to it, for the next process.
        """
        await self.unload(keep=True)
        FILES.leave(self.path, self)
        WORKERS.leave(self)

    async def _complete(self, call: Call, emit: Emit | None) -> Completion:
        async with self._free.get():
            start, seen = time.perf_counter(), _Seen(emit)
            try:
                return self._completion(await self._generate(call, seen))
            except Exception as error:
                return Completion(
                    expert=self.name,
                    text=seen.text,
                    latency=time.perf_counter() - start,
                    finish_reason="error",
                    error=f"{self.name}: {_words(error)}",
                )

    async def _generate(self, call: Call, seen: _Seen) -> Generated:
        host = await self._ready()
        options = {**self.options, **call.options}
        if (own := options.pop(ONE_OF, None)) is not None:
            options["choices"] = own
        elif call.purpose != "answer":
            options.pop("choices", None)
        try:
            async with asyncio.timeout(self.timeout) as deadline:
                seen.deadline = deadline, self.timeout
                return await host.complete(call.messages, options, seen.emit)
        except TimeoutError:
            host.kill(reason := f"hung for {self.timeout:g} s and was given up")
            raise ExpertError(reason) from None
        finally:
            seen.deadline = None

    async def _ready(self) -> Host:
        """The host with the weights in it; one caller loads, the others wait for it."""
        async with self._lock.get():
            if self._host is None or not self._host.alive:
                self._host = await self._start()
                self._measured = self._host.footprint() or self._measured
                FILES.hold(self.path, self)
            return self._host

    async def _start(self) -> Host:
        host: Host = WORKERS.take(self) if self.isolate else ThreadHost()
        try:
            async with asyncio.timeout(self.timeout):
                path = str(self.path)
                await host.load(self.engine, path, self.slots, self.threads, self.context)
        except TimeoutError:
            host.kill(reason := f"{self.path}: loading hung for {self.timeout:g} s")
            raise ExpertError(f"{reason}; raise the timeout if the disk is slow") from None
        except Exception as error:
            _give_back(host)
            raise ExpertError(_words(error)) from None
        except BaseException:
            host.kill("loading was cancelled")
            raise
        return host

    async def _empty(self, host: Host) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                await host.unload()
        except (TimeoutError, ExpertError):
            host.kill("it did not unload")
        except BaseException:
            host.kill("unloading was cancelled")
            raise
        _give_back(host)

    def _completion(self, answer: Generated) -> Completion:
        usage = Usage(answer["prompt_tokens"], answer["completion_tokens"])
        empty = None if answer["text"].strip() else f"{self.name}: answered nothing"
        return Completion(
            expert=self.name,
            text=answer["text"],
            usage=usage,
            cost=self.price.of(usage),
            latency=answer["latency"],
            finish_reason=answer["finish_reason"],
            error=empty,
            logprob=answer["logprob"],
            logprobs=tuple(answer.get("logprobs", ())),
            margin=answer.get("margin"),
        )


class _Seen:
    """Pieces on their way to a listener: remembers them and puts the deadline off with each."""

    def __init__(self, emit: Emit | None) -> None:
        self.text = ""
        self.deadline: tuple[asyncio.Timeout, float] | None = None
        self.emit: Emit | None = self._take if emit else None
        self._emit = emit

    def _take(self, piece: str) -> None:
        self.text += piece
        if self.deadline:
            timeout, seconds = self.deadline
            timeout.reschedule(asyncio.get_running_loop().time() + seconds)
        if self._emit:
            self._emit(piece)


def _words(error: Exception) -> str:
    """What to tell of an error: ours speak for themselves, of others the type matters."""
    return str(error) if isinstance(error, CoterieError) else f"{type(error).__name__}: {error}"


def _give_back(host: Host) -> None:
    if isinstance(host, Worker):
        WORKERS.give(host)


@lru_cache(maxsize=256)
def _sha256(path: Path, modified: int, size: int) -> str:
    """Cached by time of change and size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
