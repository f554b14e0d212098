"""What a decision rests on, as JSON values: qualities with intervals, where it flips, records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coterie.types import Estimates, FloatArray, IntArray, Support

NORMAL = 1.96  # half the width of a 95 % interval, in standard errors
NEAREST, LENGTH = 3, 80  # records named, characters of each
DIGITS = 9  # after the point


class Gate(NamedTuple):
    """Who may be chosen: an expert while ``willingness_to_pay * slope > offset``.

    Both have shape (queries, experts).
    A gate that does not depend on the willingness to pay has slope 0 and an infinite offset. At an
    infinite willingness to pay the slope alone counts.
    """

    slope: FloatArray
    offset: FloatArray

    @classmethod
    def fixed(cls, allowed: NDArray[np.bool_]) -> Gate:
        """Open where ``allowed`` is true, whatever the willingness to pay."""
        return cls(np.zeros(allowed.shape), np.where(allowed, -np.inf, np.inf))

    def open(self, willingness_to_pay: FloatArray | float) -> NDArray[np.bool_]:
        """Where it is open, boolean, (queries, experts); takes one value or one a query."""
        price = np.reshape(willingness_to_pay, (-1, 1))
        finite = np.where(np.isinf(price), 0.0, price)
        limit = (self.slope > 0) | np.isneginf(self.offset)
        inside: NDArray[np.bool_] = np.where(
            np.isinf(price), limit, finite * self.slope > self.offset
        )
        return inside


class Flips(NamedTuple):
    """For every query the nearest willingness to pay with another choice, and that choice.

    ``at`` is NaN and ``to`` -1 where the choice is the same at every willingness to pay.
    """

    at: FloatArray
    to: IntArray


def flip_points(
    quality: FloatArray,
    cost: FloatArray,
    chosen: IntArray,
    willingness_to_pay: float,
    gate: Gate | None = None,
) -> Flips:
    """Where the choice of the largest utility among those let in changes, exactly.

    Utilities are lines in the willingness to pay, so another expert j is better on a half-line and
    let in on another; their intersection has one point nearest to ``willingness_to_pay``.
    """
    rows = np.arange(len(chosen))
    slope = quality - quality[rows, chosen][:, None]
    low, high = _positive(slope, cost - cost[rows, chosen][:, None])
    if gate is None:
        return _nearest(low, high, willingness_to_pay)
    gate_low, gate_high = _positive(*gate)
    better = _nearest(np.maximum(low, gate_low), np.minimum(high, gate_high), willingness_to_pay)
    ends = gate_low[rows, chosen], gate_high[rows, chosen]
    return nearer(better, _left(quality, cost, chosen, gate, ends), willingness_to_pay)


def _positive(slope: FloatArray, offset: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Open interval of prices >= 0 where ``price * slope > offset``, low >= high if empty."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        root = np.maximum(offset / slope, 0.0)
    low = np.where(slope > 0, root, 0.0)
    always = (slope > 0) | ((slope == 0) & (offset < 0))
    high = np.where(slope < 0, root, np.where(always, np.inf, 0.0))
    return low, high


def _nearest(low: FloatArray, high: FloatArray, price: float) -> Flips:
    """The nearest end of the intervals of every row, and whose it is."""
    if low.size == 0:
        return Flips(np.full(len(low), np.nan), np.full(len(low), -1))
    ends = np.where(low >= price, low, np.where(high <= price, high, price))
    ends = np.where((low < high) & np.isfinite(ends), ends, np.nan)
    away = _distance(ends, price)
    to = away.argmin(axis=1)
    at = ends[np.arange(len(ends)), to]
    return Flips(at, np.where(np.isnan(at), -1, to))


def _distance(at: FloatArray, price: float) -> FloatArray:
    """How far from ``price``; from an infinite one the largest is the nearest."""
    away = -at if math.isinf(price) else np.abs(at - price)
    near: FloatArray = np.where(np.isnan(away), np.inf, away)
    return near


def _left(
    quality: FloatArray,
    cost: FloatArray,
    chosen: IntArray,
    gate: Gate,
    ends: tuple[FloatArray, FloatArray],
) -> Flips:
    """Where the chosen is no longer let in, and the best of the others there."""
    low, high = ends
    at = np.where(low > 0, low, np.where(np.isfinite(high), high, np.nan))
    price = np.nan_to_num(at)[:, None]
    others = price * quality - cost
    others[~gate.open(price[:, 0])] = -np.inf
    others[np.arange(len(chosen)), chosen] = -np.inf
    return Flips(at, np.where(np.isnan(at), -1, others.argmax(axis=1)))


def nearer(first: Flips, second: Flips, price: float) -> Flips:
    """The nearer of the two, query by query."""
    sooner = _distance(second.at, price) < _distance(first.at, price)
    return Flips(np.where(sooner, second.at, first.at), np.where(sooner, second.to, first.to))


def first_allowed(ranks: IntArray, allowed: NDArray[np.bool_]) -> IntArray:
    """The first expert of every query's ranking that is let in; one of each must be."""
    if len(ranks) == 0:
        return np.empty(0, np.intp)
    at = np.take_along_axis(allowed, ranks, axis=1).argmax(axis=1)
    first: IntArray = ranks[np.arange(len(ranks)), at]
    return first


def evidence(
    estimates: Estimates,
    chosen: Sequence[Sequence[int]],
    runner_up: Sequence[int],
    willingness_to_pay: float = math.inf,
    flips: Flips | None = None,
) -> list[dict[str, Any]]:
    """One dictionary of JSON values a query; a runner-up of -1 is none."""
    first = _expected(estimates, chosen)
    others = _expected(estimates, [[j] if j >= 0 else [] for j in runner_up])
    near = _records(estimates.support, len(chosen))
    at = [None] * len(chosen) if flips is None else _finite(flips.at)
    to = [-1] * len(chosen) if flips is None else flips.to.tolist()
    price = willingness_to_pay if math.isfinite(willingness_to_pay) else None
    return [
        {
            "chosen": first[row],
            "runner_up": others[row][0] if others[row] else None,
            "willingness_to_pay": price,
            "flips_at": at[row],
            "flips_to": None if to[row] < 0 else estimates.experts[to[row]],
            "nearest": near[row],
        }
        for row in range(len(chosen))
    ]


def _expected(estimates: Estimates, columns: Sequence[Sequence[int]]) -> list[list[dict[str, Any]]]:
    """What is expected of these experts of every query: quality, 95 % interval, cost."""
    rows = np.repeat(np.arange(len(columns)), [len(c) for c in columns])
    flat = [j for c in columns for j in c]
    cells = rows, np.array(flat, np.intp)
    quality, cost = estimates.quality[cells], estimates.cost[cells]
    half = np.full(len(flat), np.nan) if estimates.error is None else estimates.error[cells]
    low, high = quality - NORMAL * half, quality + NORMAL * half
    values = (_finite(v.round(DIGITS)) for v in (quality, low, high, cost))
    names = [estimates.experts[j] for j in flat]
    shown = iter(
        {"expert": name, "quality": q, "interval": None if a is None else [a, b], "cost": c}
        for name, q, a, b, c in zip(names, *values, strict=True)
    )
    return [[next(shown) for _ in c] for c in columns]


def _finite(values: FloatArray) -> list[float | None]:
    """Numbers as JSON has them: None where not finite."""
    if np.isfinite(values).all():
        finite: list[float | None] = values.tolist()
        return finite
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _records(support: Support | None, count: int) -> list[list[dict[str, Any]]]:
    """The nearest records of every query: row, weight and shortened text."""
    if support is None:
        return [[] for _ in range(count)]
    rows, weights = support.rows[:, :NEAREST], support.weights[:, :NEAREST].round(6)
    short = {int(r): shorten(support.texts[r]) for r in np.unique(rows)} if support.texts else {}
    return [
        [
            {"row": r, "weight": w, "text": short.get(r)}
            for r, w in zip(of_query, weighed, strict=True)
        ]
        for of_query, weighed in zip(rows.tolist(), weights.tolist(), strict=True)
    ]


def shorten(text: str) -> str:
    """The text in one line of at most 80 characters."""
    line = " ".join(text[: 4 * LENGTH].split())
    return line if len(line) <= LENGTH else line[: LENGTH - 1] + "…"
