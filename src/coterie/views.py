"""What a panel's report draws, computed from the panel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coterie.metrics.calibration import reliability
from coterie.metrics.hulls import Point, hull_at, zero_router
from coterie.panel import Panel, PanelRow
from coterie.types import FloatArray, IntArray

Columns: TypeAlias = list[NDArray[np.intp]]  # of experts

SHOWN = 8  # experts with a name of their own
CATEGORIES = 15  # with a regret of their own
RARE = 0.001  # of the estimates: a bin with fewer says nothing


def routers(panel: Panel) -> list[PanelRow]:
    """The judged routers, the best first and the default before its equals."""
    rows = [row for row in panel.rows if row.kind == "router"]
    return sorted(rows, key=lambda row: (-row.quality.value, row.name != panel.default))


def declared(panel: Panel) -> PanelRow | None:
    """The default router where there is one, else the best router, None without routers."""
    default = [row for row in panel.rows if row.name == panel.default]
    return next(iter([*default, *routers(panel)]), None)


def places(panel: Panel, costs: FloatArray) -> dict[str, dict[str, Point]]:
    """Cost and quality of experts, ways of answering, the default and the oracles, by group."""
    means = zip(costs.mean(axis=0), panel.records.quality.mean(axis=0), strict=True)
    points = ((float(cost), float(quality)) for cost, quality in means)
    groups: dict[str, dict[str, Point]] = {
        "single expert": dict(zip(panel.records.experts, points, strict=True)),
        "way of answering": {},
        "the default": {},
        "oracle": {},
    }
    for row in (r for r in panel.rows if not math.isnan(r.cost)):
        way = "the default" if row.name == panel.default else "way of answering"
        group = "oracle" if row.kind == "bound" else way
        groups[group][row.name] = (row.cost, row.quality.value)
    return groups


def hull(costs: FloatArray, quality: FloatArray) -> list[Point]:
    """What coins between single experts reach, dense enough to be drawn on a logarithmic axis."""
    corners = zero_router(costs, quality)
    at = corners[:, 0]
    if at[0] > 0:
        at = np.union1d(at, np.geomspace(at[0], at[-1], 60))
    return [(float(c), float(q)) for c, q in zip(at, hull_at(corners, at), strict=True)]


class Estimator(NamedTuple):
    """Rows that share a router: their names, its estimates and the seconds it took."""

    names: str
    expected: FloatArray
    seconds: float


def estimators(panel: Panel) -> list[Estimator]:
    """One entry a router, whatever the number of its policies, in the panel's order."""
    found: dict[int, Estimator] = {}
    for row in panel.rows:
        if row.kind == "router" and row.expected is not None:
            known = found.get(id(row.expected))  # a router's rows hold the same array
            names = row.name if known is None else f"{known.names}; {row.name}"
            found[id(row.expected)] = Estimator(names, row.expected, row.seconds)
    return list(found.values())


def judges(panel: Panel) -> list[PanelRow]:
    """The default and the best router that estimates something else, as far as there are such."""
    first = declared(panel)
    if first is None or first.expected is None:
        return []
    others = (r for r in routers(panel) if r.expected is not None)
    return [first, *[row for row in others if row.expected is not first.expected][:1]]


def bins(expected: FloatArray, quality: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Expected score, observed score and share of the bins that hold enough to be drawn."""
    hoped, came, share = reliability(expected, quality)
    drawn = share >= RARE
    return hoped[drawn], came[drawn], share[drawn]


def choosers(panel: Panel) -> dict[str, IntArray]:
    """The expert columns of every row that asks one, by name; no oracle that cannot see costs."""
    return {
        row.name: row.chosen
        for row in panel.rows
        if row.chosen is not None and not (row.kind == "bound" and math.isnan(row.cost))
    }


class Regret(NamedTuple):
    """Mean scores on the questions of one category."""

    category: str
    questions: int
    best_single: float
    router: float
    oracle: float

    @property
    def value(self) -> float:
        """The oracle's score minus the router's."""
        return self.oracle - self.router


def regrets(panel: Panel, row: PanelRow) -> list[Regret]:
    """Categories, the largest mean regret first: those where ``row`` loses most in all."""
    ways = (panel.best_single, row, panel["oracle"])
    found = [
        Regret(name, len(numbers), *(float(way.scores[numbers].mean()) for way in ways))
        for name, numbers in panel.groups("category").items()
    ]
    most = sorted(found, key=lambda r: -r.value * r.questions)[:CATEGORIES]
    return sorted(most, key=lambda r: (-r.value, r.category))


def confusion(chosen: IntArray, quality: FloatArray) -> FloatArray:
    """How many questions went to whom (rows) and who was best there (columns).

    Questions on which all experts score alike are left out. A choice among the best counts for
    itself; otherwise a question counts in equal parts for all that were best.
    """
    best = quality == quality.max(axis=1, keepdims=True)
    telling = np.flatnonzero(~best.all(axis=1))
    chosen, best = chosen[telling], best[telling]
    parts = best / best.sum(axis=1, keepdims=True)
    right = best[np.arange(len(chosen)), chosen]
    parts[right] = np.eye(quality.shape[1])[chosen[right]]
    counts = np.zeros((quality.shape[1],) * 2)
    np.add.at(counts, chosen, parts)
    return counts


def gathered(names: Sequence[str], weights: FloatArray) -> tuple[list[str], Columns]:
    """The eight columns of the largest weight by name, the rest together as "others"."""
    order = np.argsort(-weights, kind="stable")
    parts = [order[place : place + 1] for place in range(min(SHOWN, len(names)))]
    rest = order[SHOWN:]
    if len(rest) == 1:  # a name says more than "others"
        parts.append(rest)
    labels = [names[int(part[0])] for part in parts]
    return (labels, parts) if len(rest) < 2 else ([*labels, "others"], [*parts, rest])
