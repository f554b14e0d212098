"""RouteLLM's metrics for a weak and a strong expert (Ong et al. 2024, arXiv 2406.18665).

``weak`` and ``strong`` are scores per query, ``preference`` is larger where the strong expert is
wanted more; only its order counts. Queries without a score of both (NaN) are left out. Where none
is left, or a preference is NaN, InputError is raised.

``folds`` numbers the fit that each preference comes from. Preferences of different fits are not put
in one order: every fold has its own thresholds and gives the strong expert the same share of its
queries. In one order a router that learns nothing but means would seem worse than random, since a
fold whose training half flatters the strong expert is one where it does badly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coterie.errors import InputError
from coterie.types import FloatArray, IntArray

BINS = 10


class CallCurve(NamedTuple):
    """Mean score against the share of queries that the strong expert gets, both ascending."""

    share: FloatArray
    score: FloatArray


def pgr(score: float, weak: float, strong: float) -> float:
    """Performance gap recovered: 0 at the weak expert's mean score, 1 at the strong one's."""
    _require_gap(weak, strong)
    return (score - weak) / (strong - weak)


def call_curve(
    weak: FloatArray, strong: FloatArray, preference: FloatArray, folds: IntArray | None = None
) -> CallCurve:
    """The exact curve over every share of strong calls, from 0 to 1.

    Queries of equal preference are in random order: between the ends of such a tie the expected
    score is a straight line. With ``folds`` it is the mean of the folds' curves at every share,
    weighted by their queries.
    """
    fold_of = _observed(weak, strong, folds)
    weak, strong, preference = _judged(weak, strong, preference)
    parts = [np.flatnonzero(fold_of == fold) for fold in np.unique(fold_of)]
    curves = [_one_curve(weak[part], strong[part], preference[part]) for part in parts]
    share = np.unique(np.concatenate([curve.share for curve in curves]))
    sums = [len(part) * np.interp(share, *curve) for part, curve in zip(parts, curves, strict=True)]
    return CallCurve(share, np.sum(sums, axis=0) / len(weak))


def _one_curve(weak: FloatArray, strong: FloatArray, preference: FloatArray) -> CallCurve:
    """The curve of queries whose preferences are comparable."""
    order = np.argsort(-preference, kind="stable")
    gains = np.concatenate([[0.0], np.cumsum((strong - weak)[order])])
    ranked = preference[order]
    ends = np.concatenate([[0], np.flatnonzero(np.diff(ranked) != 0) + 1, [len(ranked)]])
    return CallCurve(ends / len(ranked), float(weak.mean()) + gains[ends] / len(ranked))


def apgr(
    weak: FloatArray, strong: FloatArray, preference: FloatArray, folds: IntArray | None = None
) -> float:
    """Average PGR over all shares of strong calls, exact: 0.5 in expectation at random.

    A preference that is constant in every fold has 0.5 where ``folds`` are given.
    """
    curve = call_curve(weak, strong, preference, folds)
    weak, strong, preference = _judged(weak, strong, preference)
    area = float(np.trapezoid(curve.score, curve.share))
    return pgr(area, float(weak.mean()), float(strong.mean()))


def binned_curve(
    weak: FloatArray, strong: FloatArray, preference: FloatArray, bins: int = BINS
) -> CallCurve:
    """The curve of RouteLLM's code: thresholds at the quantiles of the preference.

    A query is strong at or above a threshold, and above the last one.
    """
    weak, strong, preference = _judged(weak, strong, preference)
    thresholds = np.unique(np.quantile(preference, np.linspace(0, 1, bins + 1)))
    wanted = preference[None, :] >= thresholds[:, None]
    wanted[-1] = preference > thresholds[-1]
    share = wanted.mean(axis=1)[::-1]
    score = np.where(wanted, strong, weak).mean(axis=1)[::-1]
    return CallCurve(share, score)


def apgr_as_released(
    weak: FloatArray, strong: FloatArray, preference: FloatArray, bins: int = BINS
) -> float:
    """APGR of RouteLLM's code: the area under ``binned_curve`` between those of the experts."""
    weak, strong, preference = _judged(weak, strong, preference)
    share, score = binned_curve(weak, strong, preference, bins)
    low, high = float(weak.mean()), float(strong.mean())
    _require_gap(low, high)
    width = share[-1] - share[0]
    return float((np.trapezoid(score, share) - low * width) / ((high - low) * width))


def cpt(
    weak: FloatArray,
    strong: FloatArray,
    preference: FloatArray,
    target: float,
    folds: IntArray | None = None,
) -> float:
    """Call-performance threshold: the least share of strong calls with a PGR of ``target``.

    Exact, on ``call_curve``; at most 1, where PGR is 1 by definition.
    """
    curve = call_curve(weak, strong, preference, folds)
    weak, strong, preference = _judged(weak, strong, preference)
    low, high = float(weak.mean()), float(strong.mean())
    return _first_share(curve, target * (high - low) + low)


def _first_share(curve: CallCurve, wanted: float) -> float:
    """The least share at which the piecewise linear curve reaches the score."""
    place = int(np.argmax(curve.score >= wanted - 1e-12))
    if place == 0:
        return 0.0 if curve.score[0] >= wanted - 1e-12 else 1.0
    before, after = curve.score[place - 1], curve.score[place]
    part = (wanted - before) / (after - before)
    return float(curve.share[place - 1] + part * (curve.share[place] - curve.share[place - 1]))


def cpt_as_released(
    weak: FloatArray, strong: FloatArray, preference: FloatArray, target: float, bins: int = BINS
) -> float:
    """CPT of RouteLLM's code: linear interpolation of share over score on ``binned_curve``.

    Meant for curves that rise; on others ``numpy.interp`` returns what it happens to find.
    """
    weak, strong, preference = _judged(weak, strong, preference)
    curve = binned_curve(weak, strong, preference, bins)
    low, high = float(weak.mean()), float(strong.mean())
    return float(np.interp(target * (high - low) + low, curve.score, curve.share))


def _judged(
    weak: FloatArray, strong: FloatArray, preference: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Scores and preferences of the queries that both experts have a score of."""
    both = ~np.isnan(weak + strong)
    if not both.any():
        raise InputError("no query has a score of both experts", field="score")
    if np.isnan(preference[both]).any():
        raise InputError("a preference is NaN", field="preference")
    return weak[both], strong[both], preference[both]


def _observed(weak: FloatArray, strong: FloatArray, folds: IntArray | None) -> IntArray:
    """The folds of the queries that both experts have a score of; without folds there is one."""
    fold_of = np.zeros(len(weak), np.intp) if folds is None else folds
    return fold_of[~np.isnan(weak + strong)]


def _require_gap(weak: float, strong: float) -> None:
    if not strong > weak:
        message = f"expected the strong expert above the weak one, got {strong:.4g} and {weak:.4g}"
        raise InputError(message, field="strong")
