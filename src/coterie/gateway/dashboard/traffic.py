"""Live traffic: the last requests as rows, and what the gateway counts since it started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from coterie.gateway.building import Gateway
from coterie.gateway.dashboard.nodes import (
    Element,
    Node,
    badge,
    element,
    moment,
    number,
    percent,
    seconds,
    table,
    tile,
)
from coterie.gateway.entries import Entry

SHOWN = 40  # rows
HEAD = ("time", "asked", "answered", "policy", "status", "marks", "cost", "latency", "tokens")


def filters_of(given: Mapping[str, str]) -> dict[str, Any]:
    """What the ledger filters by, from the page's form; what makes no sense is left out."""
    found: dict[str, Any] = {}
    if expert := given.get("expert", ""):
        found["expert"] = expert
    status = given.get("status", "")
    if status in ("answered", "failed"):
        found["failed"] = status == "failed"
    elif status.isdecimal() and len(status) == 3:
        found["status"] = int(status)
    return found


def traffic_table(entries: Sequence[Entry], names: Mapping[str, str], limit: float | None) -> Node:
    """The rows; ``names`` are those of keys by id, ``limit`` where a request counts as far."""
    rows = [row(entry, names, limit) for entry in entries]
    return table("Latest requests", HEAD, rows, 6, "no request matches")


def row(entry: Entry, names: Mapping[str, str], limit: float | None) -> list[Node]:
    """The cells of one request; its time leads to the decision."""
    link = element(
        "a",
        moment(entry.time),
        href=decision_path(entry.id),
        id=f"row-{entry.id}",
        data_decision=entry.id,
        aria_label=f"decision of {entry.id}",
    )
    who = names.get(entry.key, entry.key)
    asked = element("span", entry.asked, title=f"key {who}" if who else "no key")
    tokens = f"{'~' if entry.tokens.estimated else ''}{entry.tokens.total:,}"
    return [
        link,
        asked,
        entry.expert or "–",
        entry.policy or "–",
        status_badge(entry),
        element("span", *marks(entry, limit), class_="marks"),
        number(entry.cost),
        seconds(entry.latency),
        tokens,
    ]


def decision_path(id: str) -> str:
    """Where the page of a decision is."""
    return f"/dashboard/decisions/{quote(id, safe='')}"


def status_badge(entry: Entry) -> Element:
    """The status, and the error's code."""
    kind = "good" if entry.status < 400 else "warn" if entry.status == 499 else "bad"
    return badge(f"{entry.status} {entry.error}".strip(), kind)


def marks(entry: Entry, limit: float | None) -> list[Node]:
    """What is unusual about a request."""
    found: list[Node] = []
    failed = sum(1 for one in entry.attempts if one.kind)
    if entry.composition not in ("", "single"):
        found.append(badge(entry.composition))
    if entry.explored:
        found.append(badge("explored", "warn"))
    if failed:
        found.append(badge(f"{failed} failed {'try' if failed == 1 else 'tries'}", "warn"))
    if entry.drift is not None and limit is not None and entry.drift > limit:
        found.append(badge(f"far {entry.drift:.2f}", "warn"))
    if entry.shadow and entry.shadow != entry.decided:
        found.append(badge(f"shadow: {entry.shadow}"))
    return found


def tiles(gateway: Gateway) -> Element:
    """Counts since the start, as figures."""
    meters = gateway.live.services.meters
    counts: dict[str, int] = {}
    for (_, status), count in meters.requests.items():
        counts[status] = counts.get(status, 0) + count
    total = sum(counts.values())
    failed = counts.get("4xx", 0) + counts.get("5xx", 0)
    overhead = (
        meters.overhead.total / sum(meters.overhead.counts) if any(meters.overhead.counts) else None
    )
    return element(
        "dl",
        tile("requests", f"{total:,}", "since the start"),
        tile("under way", f"{meters.in_flight:,}"),
        tile("refused or failed", percent(failed / total if total else None)),
        tile("own time", seconds(overhead), "mean per request"),
        tile("event loop late by", seconds(meters.lag)),
        tile("rows waiting for the store", f"{gateway.ledger.waiting:,}"),
        class_="tiles",
    )


def drift_limit(gateway: Gateway) -> float | None:
    """Distance from which a request counts as far from the records, None where nobody watches."""
    monitor = gateway.live.services.routing.observing.monitor
    return None if monitor is None else monitor.limit
