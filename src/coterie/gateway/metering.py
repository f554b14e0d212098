"""Counts and times of what the gateway does, as Prometheus reads them.

Requests add to plain numbers; Prometheus' objects are made when somebody looks. Labels are bounded:
experts of the pool, a handful of kinds and status classes, never keys, users or texts.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from coterie.gateway.entries import Entry

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0)
OVERHEAD = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
LAG = 0.25  # seconds between two looks at the event loop
FADING = 0.1  # weight of the latest request in an expert's mean latency


class Histogram:
    """How many values lie at or below each bound."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.total = bounds, 0.0
        self.counts = [0] * (len(bounds) + 1)

    def add(self, value: float) -> None:
        """One more value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus has them."""
        names = [*map(str, self.bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self.counts)), strict=True))


class Meters(Collector):
    """What has been counted since the start; ``gauges`` are asked for when somebody looks."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()  # expert, status class
        self.attempts: Counter[tuple[str, str]] = Counter()  # expert, kind of failure
        self.tokens: Counter[tuple[str, str]] = Counter()  # expert, prompt or completion
        self.cost: Counter[str] = Counter()
        self.latency = Histogram(SECONDS)
        self.first_token = Histogram(SECONDS)
        self.overhead = Histogram(OVERHEAD)
        self.in_flight = 0
        self.lag = 0.0
        self.disconnects = 0
        self.refused: Counter[str] = Counter()  # what was no request at all, by code
        self._means: dict[str, float] = {}
        self.gauges: dict[str, Callable[[], Mapping[tuple[str, ...], float]]] = {}

    def expert_latency(self, name: str) -> float | None:
        """Seconds that an expert's answers take of late; None while none came."""
        return self._means.get(name)

    def add(self, entry: Entry) -> None:
        """Count a request that has ended; each call's tokens, cost and time are its expert's."""
        expert = entry.expert or "none"
        self.requests[expert, f"{entry.status // 100}xx"] += 1
        for attempt in entry.attempts:
            asked, tokens = attempt.expert, attempt.tokens
            self.attempts[asked, attempt.kind or "ok"] += 1
            if not attempt.kind:
                before = self._means.get(asked, attempt.seconds)
                self._means[asked] = before + FADING * (attempt.seconds - before)
            if tokens is not None:
                self.tokens[asked, "prompt"] += tokens.prompt
                self.tokens[asked, "completion"] += tokens.completion
                self.cost[asked] += attempt.cost  # type: ignore[assignment]
        self.latency.add(entry.latency)
        self.overhead.add(entry.overhead)
        if entry.stream:
            self.first_token.add(entry.first_token)

    async def watch_lag(self) -> None:
        """Measure for ever how late the event loop is."""
        loop = asyncio.get_running_loop()
        while True:
            wanted = loop.time() + LAG
            await asyncio.sleep(LAG)
            self.lag = max(loop.time() - wanted, 0.0)

    def collect(self) -> Iterable[Metric]:
        """All metrics, made now."""
        yield _counter("requests", "Requests", ("expert", "status"), self.requests)
        yield _counter("attempts", "Calls to experts", ("expert", "outcome"), self.attempts)
        yield _counter("tokens", "Tokens", ("expert", "kind"), self.tokens)
        costs = {(name,): value for name, value in self.cost.items()}
        yield _counter("cost", "Cost, in the pool's unit", ("expert",), costs)
        yield _counter("disconnects", "Clients that left early", (), {(): self.disconnects})
        refused = {(code,): count for code, count in self.refused.items()}
        yield _counter("refused", "What was no request, or took too long", ("code",), refused)
        yield _histogram("request_seconds", "Time of whole requests", self.latency)
        yield _histogram("first_token_seconds", "Time to the first content", self.first_token)
        yield _histogram("overhead_seconds", "The gateway's own time", self.overhead)
        yield _gauge("in_flight", "Requests under way", (), {(): self.in_flight})
        yield _gauge("event_loop_lag_seconds", "Lateness of the event loop", (), {(): self.lag})
        for name, read in self.gauges.items():
            values = read()
            labels = GAUGE_LABELS.get(name, ())
            yield _gauge(name, GAUGE_HELP.get(name, name), labels, values)


GAUGE_LABELS: Mapping[str, tuple[str, ...]] = {
    "breaker_open": ("expert",),
    "expert_resident": ("expert",),
    "expert_waiting": ("expert",),
}
GAUGE_HELP: Mapping[str, str] = {
    "breaker_open": "1 where an expert is left alone after failures",
    "expert_resident": "1 where a local expert is in memory",
    "expert_waiting": "Requests that wait for a local expert",
    "loads": "Loads of local experts",
    "log_waiting": "Log entries that wait to be written",
    "drift": "1 while the traffic is outside the records' region",
}


def _counter(
    name: str, help: str, labels: tuple[str, ...], values: Mapping[Any, float]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"coterie_{name}", help, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _gauge(
    name: str, help: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"coterie_{name}", help, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(name: str, help: str, values: Histogram) -> HistogramMetricFamily:
    family = HistogramMetricFamily(f"coterie_{name}", help)
    family.add_metric([], values.buckets(), values.total)
    return family


def exposition(meters: Meters) -> bytes:
    """The metrics as text, with those of the process."""
    from prometheus_client import ProcessCollector, generate_latest

    registry = CollectorRegistry()
    registry.register(meters)
    ProcessCollector(registry=registry)
    text: bytes = generate_latest(registry)
    return text
