"""How each expert is: breaker, speed, failures, and where local ones are in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.gateway.building import Gateway
from coterie.gateway.dashboard.nodes import Node, badge, element, number, seconds, table

HEAD = (
    "expert", "state", "in memory", "failures", "change",
    "answers", "failed tries", "mean latency", "under way", "in line", "cost",
)  # fmt: skip
STATES = {"closed": "good", "open": "bad", "half-open": "warn", "limited": "warn"}


def health(gateway: Gateway) -> list[Node]:
    """All experts of the pool, then the loads of local ones."""
    staged = gateway.staging.state()
    rows = [_row(gateway, name, staged.waiting, staged) for name in gateway.pool.experts]
    made: list[Node] = [table("Experts", HEAD, rows, 5)]
    if any(expert.size for expert in gateway.pool.experts.values()):
        loading = f"; {staged.loading} is loading now" if staged.loading else ""
        text = f"{len(staged.resident)} local experts in memory, {staged.loads} loads{loading}."
        made.append(element("p", text, class_="note"))
    return made


def _row(gateway: Gateway, name: str, waiting: Mapping[str, int], staged: Any) -> list[Node]:
    services = gateway.live.services
    meters, known = services.meters, services.attempts.deployments.get(name)
    kinds = {kind: n for (who, kind), n in meters.attempts.items() if who == name}
    failures = {kind: count for kind, count in kinds.items() if kind not in ("ok", "cancelled")}
    state = "closed" if known is None else known.breaker.state
    expert = gateway.pool.experts[name]
    line = waiting.get(expert.backend, 0) + (known.slots.waiting if known else 0)
    return [
        element("strong", name),
        _state(state, 0.0 if known is None else known.breaker.wait()),
        _memory(expert, staged),
        ", ".join(f"{kind} {count:,}" for kind, count in sorted(failures.items())),
        _reset(name) if state in ("open", "half-open") else "",
        f"{kinds.get('ok', 0):,}",
        f"{sum(failures.values()):,}",
        seconds(meters.expert_latency(name)),
        f"{known.slots.running if known else 0:,}",
        f"{line:,}",
        number(meters.cost.get(name, 0.0)),
    ]


def _state(state: str, wait: float) -> Node:
    words = {"closed": "healthy", "open": "left alone", "half-open": "being probed"}
    text = words.get(state, "rate-limited")
    return badge(f"{text}, {seconds(wait)}" if wait > 0 else text, STATES.get(state, ""))


def _memory(expert: Any, staged: Any) -> Node:
    if not expert.size:
        return "remote"
    if expert.backend == staged.loading:
        return badge("loading", "warn")
    return badge("loaded", "good") if expert.backend in staged.resident else "not loaded"


def _reset(name: str) -> Node:
    return element(
        "button", "try again now", type="button", data_reset=name, id=f"reset-{name}",
        aria_label=f"let the next request try {name} again",
    )  # fmt: skip
