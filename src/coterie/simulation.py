"""Simulators: many equal experts on one node, and a queue of requests served from little memory.

The nodes are those of the SN40L paper (Prabhakar et al., arXiv 2405.07518): an SN40L node of eight
sockets, DGX A100 and DGX H100, which serve Llama2-7B experts (13.5 GB in bf16) behind a router of
that size. Where each constant comes from:

- device memory: 8 x 64 GiB and 8 x 80 GB; host memory: 8 x 1.5 TiB (paper) and 2 TB (NVIDIA's
  data sheets of the DGX);
- host to device: over 1 TB/s, 32 GB/s and 64 GB/s (the paper's);
- seconds of the router, of a prompt and of a token: not published. They are the least-squares fit
  to the twelve speed-ups of the paper's Table V, which ``speedups`` gives back within 2 %. The
  paper's DGX figures are estimates themselves, and so is what follows from them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from coterie.errors import InputError
from coterie.policies import Recruit
from coterie.records import Records
from coterie.residency import LFU, LRU, CostAware, Eviction, LookAhead, Residency
from coterie.routers.base import Router
from coterie.traces import RULES, Replay, gap_closed, replay
from coterie.types import FloatArray, Seed

EXPERT = 13.5e9  # bytes of a Llama2-7B in bf16
BATCHES = 300  # simulated for one latency


@dataclass(frozen=True, slots=True)
class Node:
    """One machine: bytes of its memories, bytes a second between them, seconds of its work.

    ``router`` runs once a batch; a prompt takes ``prompt`` seconds and ``token`` for each token it
    generates, one prompt after another.
    """

    name: str
    device: float
    host: float
    bandwidth: float
    router: float
    prompt: float
    token: float

    def copy(self, size: float = EXPERT) -> float:
        """Seconds to bring an expert of ``size`` bytes from the host to the device."""
        return size / self.bandwidth

    def fits(self, size: float = EXPERT) -> int:
        """Experts in device memory beside the router, which is of the same size."""
        return int(self.device // size) - 1

    def holds(self, size: float = EXPERT) -> int:
        """Experts in host memory, which keeps a copy of every one; more is out of memory."""
        return int(self.host // size)

    def work(self, tokens: int) -> float:
        """Seconds of one prompt without any copy."""
        return self.prompt + tokens * self.token


SN40L = Node("SN40L node", 8 * 64 * 2**30, 8 * 1.5 * 2**40, 1e12, 0.0765, 0.0304, 0.00168)
A100 = Node("DGX A100", 8 * 80e9, 2e12, 32e9, 0.1885, 0.0115, 0.00583)
H100 = Node("DGX H100", 8 * 80e9, 2e12, 64e9, 0.1254, 0.0132, 0.00413)
NODES = (SN40L, A100, H100)


class Latency(NamedTuple):
    """Seconds of a batch, those of them for copies, and the share of prompts that needed one.

    All None where the experts do not fit into the host's memory.
    """

    node: str
    experts: int
    seconds: float | None
    switching: float | None
    missed: float | None


def batch_latency(
    node: Node,
    experts: int,
    size: float = EXPERT,
    batch: int = 8,
    tokens: int = 20,
    seed: int = 0,
) -> Latency:
    """Mean over many batches of prompts that each need a random expert, evicted by LRU.

    The device is warm: experts that fit have been copied before. InputError unless one expert fits
    beside the router.
    """
    if node.fits(size) < 1:
        message = f"an expert and a router of {size:,.0f} bytes do not fit into {node.name}"
        raise InputError(message, field="size")
    if experts > node.holds(size):
        return Latency(node.name, experts, None, None, None)
    asked = np.random.default_rng(seed).integers(0, experts, BATCHES * batch)
    done = replay([(int(expert),) for expert in asked], experts, node.fits(size))
    missed = 1 - done.warm_hit_rate
    switching = batch * missed * node.copy(size)
    seconds = node.router + switching + batch * node.work(tokens)
    return Latency(node.name, experts, seconds, switching, missed)


def speedups(other: Node, node: Node = SN40L) -> dict[str, float]:
    """The rows of the paper's Table V: how many times faster ``node`` is than ``other``.

    Overall rows copy the expert of every prompt, which is what the published ones come from.
    """

    def overall(one: Node, batch: int, tokens: int) -> float:
        return one.router + batch * (one.copy() + one.work(tokens))

    rows = {"switching": other.copy() / node.copy()}
    for tokens in (20, 200):
        rows[f"expert only, {tokens} tokens"] = other.work(tokens) / node.work(tokens)
        for batch in (1, 8):
            ratio = overall(other, batch, tokens) / overall(node, batch, tokens)
            rows[f"overall, batch {batch}, {tokens} tokens"] = ratio
    return rows


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of their arrival, each the numbers of the experts it needs."""

    experts: tuple[str, ...]
    steps: tuple[tuple[int, ...], ...]


def recruit_trace(
    records: Records, make: Callable[[], Router], k: int = 3, requests: int = 3000, seed: int = 0
) -> Trace:
    """What a router recruits: learnt on half of the questions, asked the others in random order.

    At most ``requests``, fewer where the other half has fewer; no question comes twice.
    """
    if len(records) < 2:
        raise InputError(f"expected at least 2 questions, got {len(records)}", field="records")
    learnt, asked = records.folds(2, seed)
    router = make().fit(records.take(learnt))
    order = np.random.default_rng(seed).permutation(asked)[:requests]
    queries = records.take(order).queries
    estimates = router.predict(queries)
    column = {name: at for at, name in enumerate(estimates.experts)}
    decisions = Recruit(k).decide(queries, estimates)
    steps = tuple(tuple(column[name] for name in decision.experts) for decision in decisions)
    return Trace(estimates.experts, steps)


@dataclass(frozen=True, slots=True)
class Service:
    """How a queue was served.

    ``waits`` are the seconds from each arrival to the start of its service; ``overtaken`` is how
    many later requests at most were served before an earlier one.
    """

    replay: Replay
    seconds: float
    waits: FloatArray
    overtaken: int


def arrival_times(count: int, rate: float, seed: Seed = 0) -> FloatArray:
    """Seconds of a Poisson process; all 0 where the rate is infinite: everybody is waiting."""
    if not rate > 0:
        raise InputError(f"expected a rate above 0, got {rate!r}", field="rate")
    if math.isinf(rate):
        return np.zeros(count)
    times: FloatArray = np.random.default_rng(seed).exponential(1 / rate, count).cumsum()
    return times


def serve(
    trace: Trace,
    capacity: int,
    eviction: Eviction,
    *,
    window: int = 16,
    patience: int = 0,
    load: float = 1.0,
    work: float = 1.0,
    arrivals: FloatArray | None = None,
) -> Service:
    """Serve a queue on one device that loads and works one expert at a time.

    Parameters
    ----------
    capacity
        Experts of equal size that fit on the device; at least as many as a request needs.
    eviction
        Sees the experts of the first ``window`` requests that have arrived, the present among them.
    patience
        How often a request may be overtaken. 0 is the order of arrival. Otherwise the request of
        the window with the fewest experts to load comes first, unless the first was overtaken that
        often; so no request is overtaken more often than that.
    load, work
        Seconds of a load, and of one expert's work on one request.
    arrivals
        Seconds, ascending; left out, everybody is waiting from the start.
    """
    times = np.zeros(len(trace.steps)) if arrivals is None else arrivals
    _check_service(trace, capacity, window, patience)
    device = _Device(trace, capacity, eviction, load, work)
    queue: deque[int] = deque()
    overtaken, waits = np.zeros(len(trace.steps), np.int64), np.zeros(len(trace.steps))
    arrived = 0
    for _ in trace.steps:
        if not queue:
            device.now = max(device.now, float(times[arrived]))
        while arrived < len(times) and times[arrived] <= device.now:
            queue.append(arrived)
            arrived += 1
        seen = [queue[place] for place in range(min(window, len(queue)))]
        place = 0
        if patience and overtaken[seen[0]] < patience:
            place = min(range(len(seen)), key=lambda one: device.missing(seen[one]))
        overtaken[seen[:place]] += 1
        chosen = seen.pop(place)
        del queue[place]
        waits[chosen] = device.now - times[chosen]
        device.serve(chosen, seen)
    uses = sum(map(len, trace.steps))
    done = Replay(capacity, uses, uses - device.loads, device.fills)
    return Service(done, device.now, waits, int(overtaken.max(initial=0)))


def _check_service(trace: Trace, capacity: int, window: int, patience: int) -> None:
    needed = max((len(set(step)) for step in trace.steps), default=0)
    if capacity < needed:
        message = f"a request needs {needed} experts at once; the capacity is {capacity}"
        raise InputError(message, field="capacity")
    if window < 1 or patience < 0:
        message = (
            f"expected a window of at least 1 and no negative patience, got {window}, {patience}"
        )
        raise InputError(message, field="window")


class _Device:
    """A clock and what is loaded; experts that are there work first, then those to be loaded."""

    def __init__(
        self, trace: Trace, capacity: int, eviction: Eviction, load: float, work: float
    ) -> None:
        self.residency = Residency(capacity, eviction=eviction)
        for name in trace.experts:
            self.residency.resize(name, 1)
        self.needs = [[trace.experts[expert] for expert in step] for step in trace.steps]
        self.there: frozenset[str] = frozenset()
        self.seconds = (load, work)
        self.now = 0.0
        self.loads = self.fills = 0

    def missing(self, request: int) -> int:
        return len(set(self.needs[request]) - self.there)

    def serve(self, request: int, queued: Sequence[int]) -> None:
        """Serve one request while the ``queued`` are known."""
        later = [name for other in queued for name in self.needs[other]]
        load, work = self.seconds
        waiting = sorted(self.needs[request], key=lambda name: name not in self.there)
        while waiting:
            name = waiting.pop(0)
            moves = self.residency.place(name, upcoming=[*waiting, *later]) or []
            self.loads += bool(moves)
            self.fills += len(moves) == 1
            self.now += work + (load if moves else 0.0)
        self.there = frozenset(self.residency.resident)


class Compared(NamedTuple):
    """A rule at a capacity, and the share of the gap from LRU to Belady that it closes."""

    rule: str
    replay: Replay
    gap_closed: float


def compare_rules(trace: Trace, capacity: int, window: int = 16) -> list[Compared]:
    """Every rule of ``traces`` on requests in the order of arrival, ``window`` of them known."""
    made = [replay(trace.steps, len(trace.experts), capacity, rule, window) for rule in RULES]
    lru, belady = made[RULES.index("lru")], made[RULES.index("belady")]
    named = zip(RULES, made, strict=True)
    return [Compared(rule, one, gap_closed(lru, one, belady)) for rule, one in named]


QUEUES: tuple[tuple[str, Eviction, bool], ...] = (  # name, eviction, whether some may be overtaken
    ("LRU", LRU(), False),
    ("LFU", LFU(), False),
    ("cost-aware", CostAware(), False),
    ("look-ahead, then LRU", LookAhead(), False),
    ("look-ahead, then LFU", LookAhead(beyond=LFU()), False),
    ("fewest loads first", LookAhead(beyond=LFU()), True),
)


def compare_queues(
    trace: Trace,
    capacity: int,
    *,
    window: int = 16,
    patience: int = 15,
    load: float = 1.0,
    work: float = 1.0,
    utilization: float = 0.95,
    seed: int = 0,
) -> dict[str, Service]:
    """The same Poisson arrivals served under each rule of ``QUEUES``.

    Requests arrive so fast that a server under LRU works or loads for a share ``utilization`` of
    the time. Look-ahead knows what has arrived and no more. The last rule lets requests overtake
    one another, none more than ``patience`` times.
    """
    lru = replay(trace.steps, len(trace.experts), capacity)
    busy = (lru.uses * work + lru.loads * load) / max(len(trace.steps), 1)
    if not utilization > 0 or min(load, work) < 0 or not busy > 0:
        message = f"expected a utilization and seconds above 0, got {utilization!r}, {load}, {work}"
        raise InputError(message, field="utilization")
    arrivals = arrival_times(len(trace.steps), utilization / busy, seed)
    run = partial(serve, trace, capacity, window=window, load=load, work=work, arrivals=arrivals)
    return {
        name: run(rule, patience=patience if overtaking else 0) for name, rule, overtaking in QUEUES
    }
