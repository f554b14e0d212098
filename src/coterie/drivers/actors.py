"""Experts in Ray actors: a proxy here, the weights in processes on whatever node Ray chose.

``RayExpert`` is an expert to every driver. Calls wait in its one queue; an actor that is free takes
the next. Ray is imported where it is used.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import itertools
import os
import pickle
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coterie import plugins
from coterie.drivers.desks import completed
from coterie.errors import CoterieError, ExpertError, InputError
from coterie.experts.base import Expert, Price
from coterie.experts.threads import PerLoop
from coterie.types import Call, Completion

PROCESS = 256 * 2**20  # bytes of an actor and of its child process beside the weights
GRACE = 15.0  # seconds for an actor to start before idle ones are ended to make room
PATIENCE = 300.0  # seconds until it is given up, when there is nobody else to wait for


def import_ray() -> Any:
    """The package; raises CoterieError with the remedy where it is not installed."""
    try:
        return importlib.import_module("ray")
    except ImportError:
        message = "Ray is not installed; run: pip install 'coterie[ray]'"
        raise CoterieError(message) from None


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make an expert in another process: its class by name, and constructor settings."""

    kind: str
    settings: Mapping[str, Any]
    price: Price

    @classmethod
    def of(cls, expert: Expert) -> Recipe:
        """From the attributes that are called like the constructor's parameters.

        Raises InputError where there is none for a parameter, or what it holds cannot be sent.
        """
        kind = type(expert)
        settings: dict[str, Any] = {}
        for name in inspect.signature(kind).parameters:
            if not hasattr(expert, name):
                why = f"{kind.__name__} keeps no attribute {name!r}, as its constructor has it"
                raise InputError(
                    f"cannot be made anew in another process: {why}", field=expert.name
                )
            value = getattr(expert, name)
            settings[name] = value.absolute() if isinstance(value, Path) else value
        recipe = cls(f"{kind.__module__}:{kind.__qualname__}", settings, expert.price)
        try:
            pickle.dumps(recipe)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            message = f"cannot be sent to another process: {error}"
            raise InputError(message, field=expert.name) from None
        return recipe

    def make(self) -> Expert:
        """The expert."""
        made: Expert = plugins.load("experts", self.kind, allow_import=True)(**self.settings)
        made.price = self.price
        return made


class Replica:
    """What runs in a Ray actor: an expert, and completions that wait to be collected."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._expert: Expert | None = None
        self._finished: asyncio.Queue[tuple[int, dict[str, Any]]] = asyncio.Queue()
        self._running: set[asyncio.Task[None]] = set()

    async def load(self, size: int) -> dict[str, Any]:
        """Make and load the expert, whose size must be this one; what went wrong is ``error``."""
        try:
            self._expert = expert = self._recipe.make()
            if expert.size not in (0, size):
                return {"error": f"{expert.size:,} bytes on the node, expected {size:,}"}
            await expert.load()
        except CoterieError as error:
            return {"error": str(error)}
        return {"pid": os.getpid(), "footprint": await expert.footprint()}

    async def exchange(
        self, calls: Sequence[tuple[int, Call]], wait: bool
    ) -> list[tuple[int, dict[str, Any]]]:
        """Begin the numbered calls; the completions so far, at least one where ``wait`` is set."""
        for number, call in calls:
            task = asyncio.ensure_future(self._answer(number, call))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        found = [await self._finished.get()] if wait else []
        while not self._finished.empty():
            found.append(self._finished.get_nowait())
        return found

    async def footprint(self) -> int:
        """See Expert."""
        return await self._expert.footprint() if self._expert else 0

    async def stop(self, keep: bool) -> None:
        """Give everything back."""
        if self._expert is not None:
            await self._expert.unload(keep)
            await self._expert.close()

    async def _answer(self, number: int, call: Call) -> None:
        assert self._expert is not None
        try:
            fields = (await completed(self._expert, call)).to_dict()
        except CoterieError as error:  # these stop a run
            fields = {"stop": f"{type(error).__name__}: {error}"}
        self._finished.put_nowait((number, fields))


@dataclass(slots=True, eq=False)
class _Job:
    """A call and whoever waits for it."""

    call: Call
    future: asyncio.Future[Completion]
    losses: int = 0  # replicas that went down with it


@dataclass(slots=True, eq=False)
class _Remote:
    """A replica seen from here."""

    actor: Any
    pid: int
    footprint: int
    jobs: dict[int, _Job] = field(default_factory=dict)  # under way, by number
    polling: bool = False  # one request waits for the next completion


class RayExpert(Expert):
    """``expert`` in ``replicas`` Ray actors, which take their calls from one queue.

    An actor is given ``slots`` calls at a time, so whichever is quick takes more of them. A
    request carries all calls and completions that are ready at the moment. When an actor is lost,
    with its node or alone, another is started, and the calls it had are made once more; a call
    that goes down with two actors has failed. The expert is made anew in the actor from its
    constructor's settings; a path among them must lead to the same file on every node.

    Attributes
    ----------
    cpus, memory
        What an actor reserves: the threads of the expert, and its size with that of the process.
    others
        Who else uses the cluster: where nodes were lost there may be too little room for all that
        are loaded, so idle ones are ended for one that waits, and started by their next call.
    repeated
        Calls that were made again because an actor was lost.
    pids
        Process ids of the actors, each on its node.
    """

    def __init__(self, expert: Expert, replicas: int = 1, patience: float = PATIENCE) -> None:
        self.expert, self.replicas, self.patience = expert, replicas, patience
        self.name, self.price, self.slots = expert.name, expert.price, replicas * expert.slots
        self.cpus: int = getattr(expert, "threads", 1)
        self.others: Sequence[RayExpert] = ()
        self.repeated = 0
        self._recipe = Recipe.of(expert)
        self._measured = 0
        self._numbers = itertools.count()
        self._queue: deque[_Job] = deque()
        self._remotes: list[_Remote] = []
        self._exchanges: set[asyncio.Task[None]] = set()
        self._starts: set[asyncio.Task[None]] = set()
        self._sending = False
        self._broken = ""  # why no actor started
        self._lock = PerLoop(asyncio.Lock)

    @property
    def size(self) -> int:
        """Bytes of the expert's weights, as they are here."""
        return self.expert.size

    @property
    def measured(self) -> int:
        """See Expert: the largest of the replicas."""
        return self._measured

    @property
    def memory(self) -> int:
        """Bytes that an actor reserves on its node."""
        return PROCESS + (self._measured or self.size)

    @property
    def idle(self) -> bool:
        """Whether it has actors, and none has a call."""
        return bool(self._remotes) and not self._queue and not any(r.jobs for r in self._remotes)

    @property
    def pids(self) -> list[int]:
        """Process ids of the actors."""
        return [remote.pid for remote in self._remotes]

    def fingerprint(self) -> str:
        """That of the expert: where it runs makes no difference to its answers."""
        return self.expert.fingerprint()

    async def load(self) -> None:
        """Ask for the actors: they start side by side with those of other experts.

        Whoever calls first waits for them. What went wrong is the error of the calls.
        """
        self._broken = ""
        self._begin(self._starts, self._refill())

    async def ready(self) -> None:
        """Start the actors that are missing; ExpertError where not even one starts."""
        async with self._lock.get():
            missing = self.replicas - len(self._remotes)
            starts = (self._start() for _ in range(missing))
            started = await asyncio.gather(*starts, return_exceptions=True)
            self._remotes += [one for one in started if isinstance(one, _Remote)]
            failures = [one for one in started if isinstance(one, BaseException)]
            if failures and not self._remotes:
                raise failures[0]
        self._note([one.footprint for one in self._remotes])

    async def unload(self, keep: bool = False) -> None:
        """End the actors; ``keep`` leaves the weights in their nodes' page cache."""
        remotes, self._remotes, self._broken = self._remotes, [], ""
        for task in (tasks := [*self._starts, *self._exchanges]):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with self._lock.get():
            remotes, self._remotes = [*remotes, *self._remotes], []
            await asyncio.gather(*(self._stop(remote, keep) for remote in remotes))

    async def footprint(self) -> int:
        """See Expert; waits for the actors."""
        with suppress(import_ray().exceptions.RayError, ExpertError):
            await self.ready()
            asked = (remote.actor.footprint.remote() for remote in self._remotes)
            self._note(await asyncio.gather(*asked))
        return self._measured

    async def complete(self, call: Call) -> Completion:
        """The completion from whichever actor is free first; it is started if there is none."""
        if self._broken:
            return self._failed(self._broken)
        job = _Job(call, asyncio.get_running_loop().create_future())
        self._queue.append(job)
        self._send_soon()
        return await job.future

    def _note(self, footprints: Sequence[int]) -> None:
        self._measured = max(footprints, default=0) or self._measured

    def _failed(self, why: str) -> Completion:
        return Completion(self.name, finish_reason="error", error=f"{self.name}: {why}")

    async def _start(self) -> _Remote:
        """A new actor with the weights in it; another where its node is lost meanwhile."""
        errors = import_ray().exceptions
        try:
            return await self._start_once()
        except errors.RayError:
            try:
                return await self._start_once()
            except errors.RayError as error:
                raise ExpertError(f"{self.name}: its Ray actor failed: {_brief(error)}") from None

    async def _start_once(self) -> _Remote:
        ray = import_ray()
        made = ray.remote(Replica).options(
            num_cpus=self.cpus, memory=self.memory, scheduling_strategy="SPREAD"
        )
        actor = made.remote(self._recipe)
        try:
            facts = await self._loaded(asyncio.ensure_future(actor.load.remote(self.size)))
            if "error" in facts:
                raise ExpertError(f"{self.name} on Ray: {facts['error']}")
        except BaseException:
            ray.kill(actor)
            raise
        return _Remote(actor, **facts)

    async def _loaded(self, loading: asyncio.Future[dict[str, Any]]) -> dict[str, Any]:
        """What the actor says of its load; idle ones of others are ended if it takes long."""
        waited = 0.0
        while not (await asyncio.wait([loading], timeout=min(GRACE, self.patience)))[0]:
            idle = next((other for other in self.others if other.idle), None)
            if idle is not None:
                await idle.unload(keep=True)
            elif not any(other.pids for other in self.others):
                waited += min(GRACE, self.patience)
            if waited >= self.patience:
                needs = f"{self.cpus} CPUs and {self.memory:,} bytes"
                message = f"no node had room for {needs}, or it did not load"
                raise ExpertError(f"{self.name}: {message}, in {self.patience:g} s")
        return loading.result()

    async def _stop(self, remote: _Remote, keep: bool) -> None:
        ray = import_ray()
        with suppress(ray.exceptions.RayError, TimeoutError):
            async with asyncio.timeout(self.patience):
                await remote.actor.stop.remote(keep)
        ray.kill(remote.actor)

    def _send_soon(self) -> None:
        """Send once whoever can run now has asked: calls of one moment share a request."""
        if not self._sending:
            self._sending = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._sending = False
        if self._queue and not self._remotes and not self._starts:
            self._begin(self._starts, self._refill())
        batches = self._assign()
        for remote in self._remotes:
            if batches[remote] or (remote.jobs and not remote.polling):
                work = self._exchange(remote, batches[remote], not remote.polling)
                self._begin(self._exchanges, work)
                remote.polling = True

    def _assign(self) -> dict[_Remote, list[tuple[int, Call]]]:
        """Calls from the queue for every replica with a free slot, the least busy first."""
        batches: dict[_Remote, list[tuple[int, Call]]] = {one: [] for one in self._remotes}
        while self._queue and batches:
            remote = min(self._remotes, key=lambda one: len(one.jobs))
            if len(remote.jobs) >= self.expert.slots:
                break
            job = self._queue.popleft()
            if not job.future.done():  # whoever asked may be gone
                remote.jobs[number := next(self._numbers)] = job
                batches[remote].append((number, job.call))
        return batches

    def _begin(self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _exchange(
        self, remote: _Remote, batch: Sequence[tuple[int, Call]], wait: bool
    ) -> None:
        try:
            found = await remote.actor.exchange.remote(batch, wait)
        except import_ray().exceptions.RayError as error:
            self._lose(remote, _brief(error))
            return
        if wait:
            remote.polling = False
        for number, fields in found:
            self._settle(remote.jobs.pop(number), fields)
        self._send_soon()

    def _settle(self, job: _Job, fields: Mapping[str, Any]) -> None:
        if job.future.done():
            return
        if "stop" in fields:
            job.future.set_exception(ExpertError(f"{self.name} on Ray: {fields['stop']}"))
        else:
            job.future.set_result(Completion.from_dict(fields))

    def _lose(self, remote: _Remote, why: str) -> None:
        """Put the calls of a lost replica first in the queue, and start another one."""
        if remote not in self._remotes:
            return
        self._remotes.remove(remote)
        for job in reversed(remote.jobs.values()):
            job.losses += 1
            if job.losses == 1:
                self.repeated += 1
                self._queue.appendleft(job)
            elif not job.future.done():
                job.future.set_result(self._failed(f"two actors were lost with it: {why}"))
        import_ray().kill(remote.actor)  # it may only be out of reach
        self._begin(self._starts, self._refill())
        self._send_soon()

    async def _refill(self) -> None:
        """Start the replicas that are missing; without any, the queue has failed."""
        try:
            await self.ready()
        except ExpertError as error:
            self._broken = str(error).removeprefix(f"{self.name}: ")
            while self._queue:
                job = self._queue.popleft()
                if not job.future.done():
                    job.future.set_result(self._failed(self._broken))
        self._send_soon()


def _brief(error: Exception) -> str:
    """The first line of what Ray says; there may be pages."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
