"""The section on what quality costs."""

from __future__ import annotations

import numpy as np

from coterie import figures
from coterie.figures import Line, Point, number
from coterie.page import table, tag
from coterie.panel import Curve, Panel
from coterie.panel.setting import filled_costs
from coterie.report import frontier
from coterie.views import hull, places

LINES = ("#3f7fbf", "#8a5fb0", "#2a9d8f", "#c2578a", "#a68a2c")  # one a router's curve


def plane(panel: Panel) -> str:
    """Quality against cost, with what coins between experts reach and the routers' curves."""
    costs = filled_costs(panel.records)
    if np.isnan(costs).any():
        return tag("p", "The records hold no costs (or all are 0), so quality has no price here.")
    groups = places(panel, costs)
    usable = {n: p for name, group in groups.items() if name != "oracle" for n, p in group.items()}
    edge = frontier(usable)
    note = (
        "Up is better, left is cheaper. The staircase joins what nothing cheaper matches, oracles "
        f"aside: {'; '.join(edge)}. The dotted line is what coins between single experts reach: a "
        "router is worth its cost above it. Solid lines are routers over the willingness to pay."
    )
    lines = {"coins between experts": Line(hull(costs, panel.records.quality), figures.GREY, "dot")}
    best = sorted(panel.curves, key=lambda name: -panel.curves[name].aiq)[: len(LINES)]
    for name, colour in zip(best, LINES, strict=False):
        lines[name] = Line(_path(panel.curves[name]), colour)
    figure = figures.plane(groups, list(edge.values()), "", lines, y="score")
    return tag("p", note) + figures.embed("plot-plane", figure) + _curves(panel)


def _path(curve: Curve) -> list[Point]:
    """The points of a curve, each once, in the order of the willingness to pay."""
    return list(dict.fromkeys(zip(curve.cost.tolist(), curve.quality.tolist(), strict=True)))


def _curves(panel: Panel) -> str:
    if not panel.curves:
        return ""
    head = ("router", "AIQ", "coins between experts", "QNC", "area", "area to half", "peak")
    rows = [
        (name, *(number(v) for v in (c.aiq, c.zero_aiq, c.qnc, c.area, c.area_half, c.peak)))
        for name, c in panel.curves.items()
    ]
    note = (
        "AIQ is RouterBench's mean height of a router's hull between the costs of the cheapest and "
        "the dearest expert, and what coins between experts reach there. QNC is UniRoute's cost of "
        "reaching the best expert's score as a share of that expert's cost (inf: never reached); "
        "area is its mean score up to the dearest expert's cost, or half of it."
    )
    return table(head, rows, words=1) + tag("p", note, "note")
