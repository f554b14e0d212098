"""Local experts on a Ray cluster: the batch driver stays here, the weights are elsewhere.

``on_ray`` replaces every expert with weights of its own by a ``RayExpert``: ``load`` starts Ray
actors that hold the expert, ``unload`` ends them, ``complete`` hands the call to the least busy.
Decisions, journal, cache and caps stay in this process, so a run with Ray is resumed without it
and the other way round. Ray is needed where a function here is called, not for the import.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from coterie.drivers.actors import RayExpert, import_ray
from coterie.errors import CoterieError, InputError
from coterie.experts.base import Expert
from coterie.experts.modes import ModeExpert
from coterie.experts.openai import OpenAIExpert
from coterie.pool import Pool

OBJECTS = 100 * 2**20  # bytes of a local instance's object store: completions are small
KNOCK = 10.0  # seconds for a cluster to be reached


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
        _knock(address)
        ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        why = str(error).partition("\n")[0]
        message = f"no Ray cluster at {address!r}: {why}; start one with: ray start --head"
        raise CoterieError(message) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at ``host:port``: Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), KNOCK).close()


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
    for proxy in proxies.values():
        proxy.others = [other for other in proxies.values() if other is not proxy]
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
