"""The trade-off on the page: the plane as it is, and with a setting that is only tried."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from coterie.gateway.dashboard import chart, layout, plane
from coterie.gateway.dashboard.nodes import Node, element, number
from coterie.gateway.ledger import Ledger
from coterie.gateway.routing import Named, Routing
from coterie.routers.base import Router

FRESH = 10.0  # seconds that a sample is kept


class TradeOff:
    """Draws planes over a sample that is a few seconds old at most."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._kept: tuple[float, Routing, plane.Sample | None] | None = None
        self._texts: tuple[Routing, plane.Sample | None] | None = None

    async def panel(self, routing: Routing) -> list[Node]:
        """The drawing and its slider, or why there is none."""
        found = await self.drawn(routing, None)
        if found is None:
            return [element("p", why_no_plane(routing), class_="note")]
        plot = element("div", found["drawing"], id="plane")
        side = element(
            "div",
            layout.slider(found["last"], found["position"], found["shown"]),
            element("div", id="change", role="status"),
        )
        told = element("p", f"As the router expects over {found['source']}.", class_="note")
        return [told, element("div", plot, side, class_="columns")]

    async def drawn(self, routing: Routing, position: int | None) -> dict[str, Any] | None:
        """The plane, with what a position of the slider would change; None without a sample."""
        sample = await self._sample(routing)
        if sample is None or routing.default is None:
            return None
        return await asyncio.to_thread(_draw, sample, routing.default, position)

    async def _sample(self, routing: Routing) -> plane.Sample | None:
        """Recent requests, or the router's own questions while those are too few."""
        router, kept = routing.router, self._kept
        if router is None:
            return None
        if kept is not None and kept[1] is routing and time.monotonic() - kept[0] < FRESH:
            return kept[2]
        entries = await self._ledger.recent(plane.MOST)
        found = plane.sample_of_traffic(entries, routing.experts)
        if found is None:
            found = await self._own(routing, router)
        self._kept = time.monotonic(), routing, found
        return found

    async def _own(self, routing: Routing, router: Router) -> plane.Sample | None:
        """The router's own questions, estimated once for each router that is read."""
        if self._texts is None or self._texts[0] is not routing:
            texts = plane.training_texts(router)
            made = await asyncio.to_thread(plane.sample_of_texts, router, texts)
            self._texts = routing, made
        return self._texts[1]


def described(named: Named) -> str:
    """A policy in a few words."""
    worth = getattr(named.policy, "willingness_to_pay", None)
    price = f" at {number(worth)}" if worth is not None and plane.takes_price(named.policy) else ""
    several = f" ({named.composition})" if named.composition not in ("single", named.name) else ""
    return f"{named.name}{several}{price}"


def _draw(sample: plane.Sample, now: Named, position: int | None) -> dict[str, Any]:
    """The drawing, and what a position of the slider would change."""
    found = plane.plane_of(sample)
    worth = getattr(now.policy, "willingness_to_pay", math.inf)
    present = plane.position(found.prices, worth) if plane.takes_price(now.policy) else None
    last = len(found.prices) - 1
    at = min(position, last) if position is not None else last if present is None else present
    price = found.prices[at] if position is not None or present is None else worth
    if position is None:
        point = plane.point_of(sample, plane.decided(sample, now.policy))
        drawn, words = chart.drawing(found, point), []
    else:
        then = plane.priced(now, price)
        change = plane.change(sample, now.policy, then.policy)
        drawn = chart.drawing(found, change.before, change.after)
        words = chart.words(change, described(now), described(then))
    return {
        "drawing": drawn,
        "words": words,
        "position": at,
        "last": last,
        "price": None if math.isinf(price) else price,
        "shown": number(price),
        "source": f"{found.count} queries: {found.source}",
    }


def why_no_plane(routing: Routing) -> str:
    """What there is to say instead of a drawing."""
    if routing.router is None:
        return "No router is fitted, so there is nothing to trade; see coterie fit --help."
    least = plane.LEAST
    return f"There is too little traffic yet: {least} requests for auto are needed."
