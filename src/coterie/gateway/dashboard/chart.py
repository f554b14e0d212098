"""The cost-quality plane as a drawing, and the words beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from coterie.gateway.dashboard.nodes import Element, Node, element, facts, number, percent, table
from coterie.gateway.dashboard.plane import Change, Plane, Point

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 18, 16, 46
Box: TypeAlias = tuple[float, float, float]  # left, right, middle


class Scale:
    """From cost (log) and quality to places in the drawing."""

    def __init__(self, points: Sequence[Point]) -> None:
        costs = [p.cost for p in points if p.cost > 0] or [1.0]
        qualities = [p.quality for p in points]
        self._low, self._high = math.log10(min(costs)), math.log10(max(costs))
        pad = max(0.08 * (self._high - self._low), 0.05)
        self._low, self._high = self._low - pad, self._high + pad
        span = max(max(qualities) - min(qualities), 0.02)
        self.bottom, self.top = min(qualities) - 0.12 * span, max(qualities) + 0.12 * span

    def x(self, cost: float) -> float:
        """Of a cost; one of nothing lies at the left edge."""
        at = math.log10(cost) if cost > 0 else self._low
        share = (at - self._low) / (self._high - self._low)
        return round(LEFT + min(max(share, 0.0), 1.0) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, quality: float) -> float:
        """Of a quality."""
        share = (quality - self.bottom) / (self.top - self.bottom)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def costs(self) -> list[float]:
        """Round costs within, at most six."""
        first, last = math.floor(self._low), math.ceil(self._high)
        steps = [
            base * 10.0**power
            for power in range(first, last + 1)
            for base in ((1, 2, 5) if last - first <= 3 else (1,))
        ]
        inside = [one for one in steps if self._low <= math.log10(one) <= self._high]
        return inside[:: max(1, math.ceil(len(inside) / 6))]

    def qualities(self) -> list[float]:
        """Round qualities within."""
        span = self.top - self.bottom
        step = next(s for s in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1e9) if span / s <= 6)
        first = math.ceil(self.bottom / step)
        return [round(step * i, 4) for i in range(first, math.floor(self.top / step) + 1)]


def drawing(plane: Plane, present: Point | None, proposed: Point | None = None) -> Element:
    """Curve, experts, the present setting and a proposed one."""
    marks = [point for point in (present, proposed) if point is not None]
    scale = Scale([*plane.curve, *plane.singles.values(), *marks])
    return element(
        "svg",
        element("title", _told(plane, present, proposed)),
        *_axes(scale),
        _curve(scale, plane.curve),
        *_singles(scale, plane.singles),
        _mark(scale, present, "present", "now"),
        _mark(scale, proposed, "proposed", "proposed"),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        class_="plane",
        role="img",
        aria_label=_told(plane, present, proposed),
    )


def _told(plane: Plane, present: Point | None, proposed: Point | None) -> str:
    parts = [f"Mean expected quality against mean cost of {len(plane.singles)} experts."]
    for name, point in (("Now", present), ("Proposed", proposed)):
        if point is not None:
            parts.append(f"{name}: quality {point.quality:.3f} at cost {number(point.cost)}.")
    return " ".join(parts)


def _axes(scale: Scale) -> list[Element]:
    made = []
    for quality in scale.qualities():
        y = scale.y(quality)
        made.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        made.append(element("text", f"{quality:g}", x=LEFT - 8, y=y + 4, class_="tick end"))
    for cost in scale.costs():
        x = scale.x(cost)
        made.append(element("line", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM, class_="grid"))
        made.append(element("text", number(cost), x=x, y=HEIGHT - BOTTOM + 18, class_="tick mid"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    label = "mean cost of a request (log scale)"
    made.append(element("text", label, x=middle, y=HEIGHT - 8, class_="axis mid"))
    across = f"translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"
    made.append(element("text", "mean expected quality", transform=across, class_="axis mid"))
    return made


def _curve(scale: Scale, curve: Sequence[Point]) -> Element:
    """Through the settings in order, each once."""
    places = list(dict.fromkeys((scale.x(p.cost), scale.y(p.quality)) for p in curve))
    path = "M" + " L".join(f"{x} {y}" for x, y in places)
    return element("path", d=path, class_="curve")


def _singles(scale: Scale, singles: Mapping[str, Point]) -> list[Element]:
    """A point for each expert, with its name where that hides no other point or name."""
    places = {name: (scale.x(p.cost), scale.y(p.quality)) for name, p in singles.items()}
    made: list[Element] = []
    names: list[Box] = []
    for name in sorted(singles, key=lambda one: -singles[one].quality):
        point, (x, y) = singles[name], places[name]
        told = f"{name}: quality {point.quality:.3f}, cost {number(point.cost)}"
        made.append(element("circle", element("title", told), cx=x, cy=y, r=5, class_="single"))
        shown = name if len(name) <= 22 else f"{name[:21]}…"
        right = x + 9 + 7 * len(shown) < WIDTH - RIGHT
        box = (x + 7, x + 9 + 7 * len(shown)) if right else (x - 9 - 7 * len(shown), x - 7)
        others = [(a, a, b) for who, (a, b) in places.items() if who != name]
        if all(abs(y - b) > 12 or h < box[0] or a > box[1] for a, h, b in [*others, *names]):
            names.append((*box, y))
            kind, at = ("name", x + 9) if right else ("name end", x - 9)
            made.append(element("text", shown, x=at, y=y + 4, class_=kind))
    return made


def _mark(scale: Scale, point: Point | None, kind: str, text: str) -> Element | None:
    if point is None:
        return None
    x, y = scale.x(point.cost), scale.y(point.quality)
    shape = f"M{x} {y - 9} L{x + 9} {y} L{x} {y + 9} L{x - 9} {y} Z"
    return element(
        "g",
        element("path", d=shape, class_=kind),
        element("text", text, x=x, y=y - 14, class_=f"mark mid {kind}-text"),
    )


def words(found: Change, now: str, then: str) -> list[Node]:
    """What a proposed setting would change, before it is applied."""
    before, after = found.before, found.after
    cost = _relative(after.cost, before.cost)
    shown = {
        "auto now": now,
        "auto then": then,
        "requests that go to another expert": percent(found.share),
        "expected quality": (
            f"{before.quality:.3f} → {after.quality:.3f} ({after.quality - before.quality:+.3f})"
        ),
        "expected cost of a request": f"{number(before.cost)} → {number(after.cost)}{cost}",
    }
    rows: list[list[Node]] = [[a, b, f"{count:,}"] for a, b, count in found.moves]
    moves = table("Who is asked instead", ("now", "then", "requests"), rows, 2, "nobody")
    return [facts({**shown}), moves]


def _relative(after: float, before: float) -> str:
    return f" ({100 * (after / before - 1):+.1f} %)" if before > 0 else ""
