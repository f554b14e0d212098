"""UniRoute's deferral curve: its area and QNC (Jitkrittum et al. 2025, arXiv 2502.08773).

A deferral curve is the best mean quality within each mean cost, over a router's settings. Costs are
relative to the dearest expert's mean cost; settings are mixed at random, so it is a hull.
"""

from __future__ import annotations

import numpy as np

from coterie.metrics.hulls import hull_at, non_decreasing_hull
from coterie.types import FloatArray


def deferral_area(
    cost: FloatArray, quality: FloatArray, dearest: float, share: float = 1.0
) -> float:
    """Mean quality of the deferral curve over costs up to ``share`` of the dearest expert's.

    What is cheaper than the curve's first point counts as that point's quality times the share of
    queries it could answer. ``share=0.5`` is the published "Area (50 %)", here as a mean height.
    """
    hull = non_decreasing_hull(cost, quality)
    if hull[0, 0] > 0:
        hull = np.vstack([[0.0, 0.0], hull])
    limit = share * dearest
    at = np.concatenate([[0.0], hull[(hull[:, 0] > 0) & (hull[:, 0] < limit), 0], [limit]])
    return float(np.trapezoid(hull_at(hull, at), at) / limit)


def qnc(cost: FloatArray, quality: FloatArray, target: float, target_cost: float) -> float:
    """Quality-neutral cost: the least cost for the quality of the most accurate single expert.

    Relative to that expert's cost; infinite where the curve never gets there. Where that expert is
    free it is 1.0 if the curve gets there for nothing too, else infinite.
    """
    hull = non_decreasing_hull(cost, quality)
    if hull[-1, 1] < target - 1e-12:
        return float("inf")
    least = float(np.interp(target, hull[:, 1], hull[:, 0]))
    if target_cost == 0:
        return 1.0 if least == 0 else float("inf")
    return least / target_cost


def peak_quality(quality: FloatArray) -> float:
    """The highest mean quality of any setting."""
    return float(np.max(quality))
