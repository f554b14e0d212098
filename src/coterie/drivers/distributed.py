"""Local experts on a Ray cluster: the batch driver stays here, the weights are elsewhere.

``on_ray`` replaces every expert with weights of its own by a ``RayExpert``: ``load`` starts Ray
actors that hold the expert, ``unload`` ends them, ``complete`` hands the call to the least busy.
Decisions, journal, cache and caps stay in this process, so a run with Ray is resumed without it
and the other way round. Ray is needed where a function here is called, not for the import.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import itertools
import os
import pickle
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from coterie import plugins
from coterie.drivers.batch import completed
from coterie.errors import CoterieError, ExpertError, InputError
from coterie.experts.base import Expert, Price
from coterie.experts.modes import ModeExpert
from coterie.experts.openai import OpenAIExpert
from coterie.experts.threads import PerLoop
from coterie.pool import Pool
from coterie.types import Call, Completion

OBJECTS = 100 * 2**20  # bytes of a local instance's object store: completions are small
PROCESS = 256 * 2**20  # bytes of an actor and of its child process beside the weights
PATIENCE = 300.0  # seconds for an actor to find room, start and load


def import_ray() -> Any:
    """The package; raises CoterieError with the remedy where it is not installed."""
    try:
        return importlib.import_module("ray")
    except ImportError:
        message = "Ray is not installed; run: pip install 'coterie[ray]'"
        raise CoterieError(message) from None


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster inside; one that this process is connected to stays so.

    ``address`` is ``local`` (an instance on this machine that ends with the block), ``auto`` or
    ``host:port``. Raises CoterieError where no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address == "local":
        quiet |= {"include_dashboard": False, "object_store_memory": OBJECTS}
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        why = str(error).partition("\n")[0]
        message = f"no Ray cluster at {address!r}: {why}; start one with: ray start --head"
        raise CoterieError(message) from None
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def on_ray(pool: Pool, address: str, replicas: int = 1) -> Iterator[Pool]:
    """The pool with its local experts on the cluster; close its experts inside the block.

    Raises CoterieError where the cluster cannot be reached, InputError where it has no room for
    ``replicas`` of the largest expert, or an expert cannot be made anew in another process.
    """
    with connected(address) as ray:
        nodes = [
            Node(found.get("CPU", 0), int(found.get("memory", 0)))
            for found in (node["Resources"] for node in ray.nodes() if node["Alive"])
        ]
        yield distribute(pool, nodes, replicas)


@dataclass(frozen=True, slots=True)
class Node:
    """What a machine of the cluster offers: CPUs, and bytes of memory."""

    cpus: float
    memory: int


def distribute(pool: Pool, nodes: Sequence[Node], replicas: int = 1) -> Pool:
    """The pool with proxies for its local experts and room for as many as fit; see ``on_ray``.

    The pool's ``capacity`` or ``memory`` is that of one machine, and every node is such a machine.
    Endpoints, sleeping vLLM servers included, are asked from here as before.
    """
    if replicas < 1:
        raise InputError(f"expected at least 1, got {replicas}", field="replicas")
    backends = [e.expert if isinstance(e, ModeExpert) else e for e in pool.experts.values()]
    placed = [e for e in backends if e.size and not isinstance(e, OpenAIExpert)]
    proxies = {id(e): RayExpert(e, replicas) for e in placed}
    if not proxies:
        return pool
    experts = {name: _replaced(expert, proxies) for name, expert in pool.experts.items()}
    capacity = _capacity(pool, nodes, list(proxies.values()), replicas)
    return replace(pool, experts=experts, capacity=capacity, memory=None, host_memory=0)


def _replaced(expert: Expert, proxies: Mapping[int, RayExpert]) -> Expert:
    """The proxy of an expert, a mode of the proxy, or the expert itself."""
    if not isinstance(expert, ModeExpert):
        return proxies.get(id(expert), expert)
    return ModeExpert(
        expert.name,
        proxies.get(id(expert.expert), expert.expert),
        system=expert.system,
        options=expert.options,
        samples=expert.samples,
        extract=expert.extract,
        price=expert.price,
    )


def _capacity(
    pool: Pool, nodes: Sequence[Node], proxies: Sequence[RayExpert], replicas: int
) -> int:
    """How many experts fit at a time, wherever Ray puts them.

    Counted in actors as large as the largest, node by node: while fewer than the sum are placed,
    some node holds fewer than it has room for, so the next one fits whatever its size.
    """
    size, memory = max(e.size for e in proxies), max(e.memory for e in proxies)
    cpus = max(e.cpus for e in proxies)
    own = pool.capacity if pool.memory is None else pool.memory // size
    rooms = [int(min(own, node.cpus // cpus, node.memory // memory)) for node in nodes]
    if sum(rooms) < replicas:
        offers = ", ".join(f"{n.cpus:g} CPUs and {n.memory:,} bytes" for n in nodes)
        raise InputError(
            f"{replicas} replicas of {cpus} CPUs and {memory:,} bytes do not fit, {own} a node at "
            f"most by the pool's own limit; the nodes offer {offers}",
            field="replicas",
        )
    return sum(rooms) // replicas


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
    repeated
        Calls that were made again because an actor was lost.
    pids
        Process ids of the actors, each on its node.
    """

    def __init__(self, expert: Expert, replicas: int = 1, patience: float = PATIENCE) -> None:
        self.expert, self.replicas, self.patience = expert, replicas, patience
        self.name, self.price, self.slots = expert.name, expert.price, replicas * expert.slots
        self.cpus: int = getattr(expert, "threads", 1)
        self.repeated = 0
        self._recipe = Recipe.of(expert)
        self._measured = 0
        self._numbers = itertools.count()
        self._queue: deque[_Job] = deque()
        self._remotes: list[_Remote] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending = False
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
    def pids(self) -> list[int]:
        """Process ids of the actors."""
        return [remote.pid for remote in self._remotes]

    def fingerprint(self) -> str:
        """That of the expert: where it runs makes no difference to its answers."""
        return self.expert.fingerprint()

    async def load(self) -> None:
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
        for task in (tasks := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with self._lock.get():
            remotes, self._remotes = self._remotes, []
            await asyncio.gather(*(self._stop(remote, keep) for remote in remotes))

    async def footprint(self) -> int:
        """See Expert."""
        with suppress(import_ray().exceptions.RayError):
            asked = (remote.actor.footprint.remote() for remote in self._remotes)
            self._note(await asyncio.gather(*asked))
        return self._measured

    async def complete(self, call: Call) -> Completion:
        """The completion from whichever actor is free first."""
        try:
            if not self._remotes:
                await self.load()
        except ExpertError as error:
            return self._failed(str(error))
        job = _Job(call, asyncio.get_running_loop().create_future())
        self._queue.append(job)
        self._send_soon()
        return await job.future

    def _note(self, footprints: Sequence[int]) -> None:
        self._measured = max(footprints, default=0) or self._measured

    def _failed(self, why: str) -> Completion:
        return Completion(self.name, finish_reason="error", error=f"{self.name}: {why}")

    async def _start(self) -> _Remote:
        """A new actor with the weights in it."""
        ray = import_ray()
        made = ray.remote(Replica).options(
            num_cpus=self.cpus, memory=self.memory, scheduling_strategy="SPREAD"
        )
        actor = made.remote(self._recipe)
        try:
            async with asyncio.timeout(self.patience):
                facts = await actor.load.remote(self.size)
        except TimeoutError:
            ray.kill(actor)
            needs = f"{self.cpus} CPUs and {self.memory:,} bytes"
            message = f"no node had room for {needs}, or it did not load"
            raise ExpertError(f"{self.name}: {message}, in {self.patience:g} s") from None
        except ray.exceptions.RayError as error:
            raise ExpertError(f"{self.name}: its Ray actor failed: {_brief(error)}") from None
        except BaseException:
            ray.kill(actor)
            raise
        if "error" in facts:
            ray.kill(actor)
            raise ExpertError(f"{self.name} on Ray: {facts['error']}")
        return _Remote(actor, **facts)

    async def _stop(self, remote: _Remote, keep: bool) -> None:
        ray = import_ray()
        with suppress(ray.exceptions.RayError):
            await remote.actor.stop.remote(keep)
        ray.kill(remote.actor)

    def _send_soon(self) -> None:
        """Send once whoever can run now has asked: calls of one moment share a request."""
        if not self._sending:
            self._sending = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._sending = False
        batches = self._assign()
        for remote in self._remotes:
            if batches[remote] or (remote.jobs and not remote.polling):
                self._begin(self._exchange(remote, batches[remote], not remote.polling))
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

    def _begin(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
        self._begin(self._recover(remote))
        self._send_soon()

    async def _recover(self, lost: _Remote) -> None:
        """Another replica for a lost one; without any left, the queue has failed."""
        import_ray().kill(lost.actor)  # it may only be out of reach
        try:
            await self.load()
        except ExpertError as error:
            while self._queue:
                job = self._queue.popleft()
                if not job.future.done():
                    job.future.set_result(self._failed(str(error)))
        self._send_soon()


def _brief(error: Exception) -> str:
    """The first line of what Ray says; there may be pages."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
