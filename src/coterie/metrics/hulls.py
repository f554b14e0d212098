"""RouterBench's hull, AIQ and zero router (Hu et al. 2024, arXiv 2403.12031).

Points are (mean cost, mean quality) of one router at several settings, or of single experts.
Between two points every mixture can be had by choosing among them at random, so a hull is fair.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from coterie.errors import InputError
from coterie.types import FloatArray

Point: TypeAlias = tuple[float, float]  # cost, quality


def non_decreasing_hull(cost: FloatArray, quality: FloatArray) -> FloatArray:
    """The vertices of the upper convex hull up to its highest point, cheapest first, (k, 2).

    Past its highest point the hull is flat: nobody has to spend more for less.
    """
    cost, quality = np.asarray(cost, float), np.asarray(quality, float)
    if not len(cost):
        raise InputError("a hull needs at least one point, got none")
    hull: list[Point] = []
    for place in np.lexsort((-quality, cost)):
        point = (float(cost[place]), float(quality[place]))
        if hull and point[1] <= hull[-1][1]:
            continue
        while len(hull) > 1 and _below(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return np.array(hull)


def _below(
    left: tuple[float, float], middle: tuple[float, float], right: tuple[float, float]
) -> bool:
    """Whether the middle point lies on or below the line between the others."""
    rise, run = right[1] - left[1], right[0] - left[0]
    return (middle[1] - left[1]) * run <= rise * (middle[0] - left[0])


def hull_at(hull: FloatArray, cost: FloatArray | float) -> FloatArray:
    """The hull's quality at each cost: flat after its end, NaN before its start."""
    at = np.asarray(cost, float)
    return np.where(at < hull[0, 0], np.nan, np.interp(at, hull[:, 0], hull[:, 1]))


def aiq(cost: FloatArray, quality: FloatArray, low: float, high: float) -> float:
    """Average improvement in quality: the mean height of the hull for costs from low to high.

    ``low`` and ``high`` are the same for all routers that are compared, such as the mean costs of
    the cheapest and the dearest expert. Where a hull starts after ``low``, what is cheaper is a
    mixture of its first point with no answer at all (cost 0, quality 0); the paper only says that
    domains are to be made equal.
    """
    if not 0 <= low < high:
        raise InputError(f"expected 0 <= low < high, got {low!r} and {high!r}", field="low")
    hull = non_decreasing_hull(cost, quality)
    if hull[0, 0] > low:
        hull = np.vstack([[0.0, 0.0], hull])
    inside = hull[(hull[:, 0] > low) & (hull[:, 0] < high)]
    at = np.concatenate([[low], inside[:, 0], [high]])
    return float(np.trapezoid(hull_at(hull, at), at) / (high - low))


def aiq_as_released(cost: FloatArray, quality: FloatArray, high: float) -> float:
    """AIQ as RouterBench's code has it: the hull's area from its own first point, over ``high``.

    ``high`` is the largest cost on any of the compared hulls. What lies before the first point is
    not counted but divided by, so dear first points lose.
    """
    hull = non_decreasing_hull(cost, quality)
    hull = np.vstack([hull, [max(high, hull[-1, 0]), hull[-1, 1]]])
    return float(np.trapezoid(hull[:, 1], hull[:, 0]) / high)


def zero_router(cost: FloatArray, quality: FloatArray) -> FloatArray:
    """The hull of single experts from their outcomes (queries x experts), vertices (k, 2).

    A router that does not rise above it is worth no more than a coin between two experts. Means are
    over what was observed; an expert without any cost or score is left out. Raises InputError where
    none is left.
    """
    known = ~(np.isnan(cost).all(axis=0) | np.isnan(quality).all(axis=0))
    if not known.any():
        raise InputError("no expert has both a cost and a score", field="cost")
    return non_decreasing_hull(
        np.nanmean(cost[:, known], axis=0), np.nanmean(quality[:, known], axis=0)
    )
