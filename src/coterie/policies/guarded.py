"""Leave the fallback only where the gain stands out from its noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from coterie.errors import InputError
from coterie.policies.base import (
    check_count,
    check_number,
    decisions,
    fallback_column,
    put_first,
    ranked,
    utilities,
)
from coterie.policies.evidence import DIGITS, Gate, evidence, first_allowed, flip_points
from coterie.types import Decision, Estimates, FloatArray, IntArray, Query, Support

BLOCK = 512  # queries whose neighbours' scores are held at once
DEARER = 2.0  # factor on z where the alternative costs more
ROUNDING = 1e-9  # of effective numbers


class Gain(NamedTuple):
    """Gain in quality over the fallback with its standard error, arrays (queries, experts).

    ``pairs`` is the number of records on which both were observed, ``effective`` what they count
    for by their weights w, (sum w)^2 / sum w^2 (Kish 1965); None without support.
    """

    mean: FloatArray
    error: FloatArray
    pairs: IntArray | None = None
    effective: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Guarded:
    """The fallback, unless another expert's gain over it exceeds ``z`` standard errors.

    With recorded queries behind the estimates the gain is the weighted mean of the paired
    differences on them, with the standard error of their effective number; without, it is the
    difference of the estimates against the root of their squared errors' sum. Costs enter the gain
    at ``willingness_to_pay``, and an alternative that costs more must exceed ``2 z``. Among the
    experts so let in (the fallback is) the one of largest utility is chosen.

    Parameters
    ----------
    fallback
        Name of an expert; by default the best on average over the records behind the estimates,
        or over the estimates of the batch where there are none (``frozen`` names it).
    z
        Standard errors. Many alternatives are looked at, so small values let noise in.
    minimum
        Fewest paired observations, by their effective number.

    Raises
    ------
    InputError
        Where estimates come with neither support nor standard errors.
    """

    fallback: str | None = None
    z: float = 2.0
    minimum: int = 8
    willingness_to_pay: float = float("inf")
    composition: str = "single"

    def __post_init__(self) -> None:
        check_number(self.z, "z")
        check_count(self.minimum, "minimum")
        check_number(self.willingness_to_pay, "willingness_to_pay")

    def decide(self, queries: Sequence[Query], estimates: Estimates) -> list[Decision]:
        """The chosen expert first, then the fallback, then the others by utility."""
        if not len(estimates.quality):
            return []
        quality, cost, price = estimates.quality, estimates.cost, self.willingness_to_pay
        fallback = fallback_column(self.fallback, estimates)
        gain = paired_gain(estimates, fallback)
        gate = self._gate(gain, cost, fallback)
        utility = utilities(quality, cost, price)
        ranks = ranked(utility, cost)
        chosen = first_allowed(ranks, gate.open(price))
        other = runner_up(ranks, chosen)
        flips = flip_points(quality, cost, chosen, price, gate)
        shown = evidence(estimates, chosen[:, None].tolist(), other.tolist(), price, flips)
        looked = np.where(chosen == fallback, other, chosen)  # whose gain is reported
        facts = gain_facts(gain, looked, estimates, fallback, self.z)
        reasons = [
            self._reason(f, estimates.experts[j]) for f, j in zip(facts, chosen, strict=True)
        ]
        order = put_first(ranks, np.full(len(chosen), fallback), chosen)
        rows = [{**row, "guard": fact} for row, fact in zip(shown, facts, strict=True)]
        return decisions(self.composition, estimates, order.tolist(), utility, rows, reasons)

    def frozen(self, queries: Sequence[Query], estimates: Estimates) -> Guarded:
        """The same with the fallback named, so that deciding is a function of one query."""
        name = estimates.experts[fallback_column(self.fallback, estimates)]
        return replace(self, fallback=name)

    def _gate(self, gain: Gain, cost: FloatArray, fallback: int) -> Gate:
        """Who is let in, by willingness to pay: ``w * (gain - z * error) > extra cost``."""
        extra = cost - cost[:, [fallback]]
        factor = np.where(extra > 0, DEARER * self.z, self.z)
        with np.errstate(invalid="ignore"):  # 0 * inf, where nothing is known
            slope = gain.mean - factor * gain.error
        known = np.isfinite(slope)
        if gain.effective is not None:
            known &= gain.effective >= self.minimum - ROUNDING
        slope, offset = np.where(known, slope, 0.0), np.where(known, extra, np.inf)
        slope[:, fallback], offset[:, fallback] = 0.0, -np.inf
        return Gate(slope, offset)

    def _reason(self, fact: Mapping[str, Any], chosen: str) -> str:
        kept = fact["fallback"]
        if chosen == kept:
            return f"stays with {kept}: no gain beyond {self.z:g} standard errors"
        over = ""
        if fact["paired"] is not None:
            over = f" on {fact['paired']} paired records (effective number {fact['effective']:.3g})"
        saved = "" if math.isinf(self.willingness_to_pay) else f", costs {fact['extra_cost']:+.3g}"
        gain = f"gain {fact['gain']:+.3f}, standard error {fact['error']:.3f}{over}{saved}"
        return f"leaves {kept} for {chosen}: {gain}"


def runner_up(ranks: IntArray, chosen: IntArray) -> IntArray:
    """The best other expert by utility, let in or not; -1 in a pool of one."""
    if ranks.shape[1] < 2:
        return np.full(len(ranks), -1)
    best: IntArray = np.where(ranks[:, 0] == chosen, ranks[:, 1], ranks[:, 0])
    return best


def gain_facts(
    gain: Gain, columns: IntArray, estimates: Estimates, fallback: int, z: float
) -> list[dict[str, Any]]:
    """What the guard saw of one expert a query, as JSON values."""
    rows = np.arange(len(columns))
    means, errors = gain.mean[rows, columns].tolist(), gain.error[rows, columns].tolist()
    counts, effective = (
        [None] * len(rows) if numbers is None else numbers[rows, columns].round(DIGITS).tolist()
        for numbers in (gain.pairs, gain.effective)
    )
    extras = estimates.cost[rows, columns] - estimates.cost[:, fallback]
    names = estimates.experts
    return [
        {
            "fallback": names[fallback],
            "expert": None if j < 0 else names[j],
            "gain": mean if math.isfinite(mean) else None,
            "error": error if math.isfinite(error) else None,
            "paired": count,
            "effective": worth,
            "extra_cost": extra if math.isfinite(extra) else None,
            "z": z,
        }
        for j, mean, error, count, worth, extra in zip(
            columns.tolist(), means, errors, counts, effective, extras.tolist(), strict=True
        )
    ]


def paired_gain(estimates: Estimates, fallback: int) -> Gain:
    """Every expert's gain in quality over the fallback, with its standard error."""
    if estimates.support is not None:
        return _recorded_gain(estimates.support, fallback)
    if estimates.error is None:
        message = (
            "a guard needs standard errors (error) or the recorded queries behind the estimates "
            "(support), this router gives neither; use one that does (knn, linear, forest, stack) "
            "or the policy utility"
        )
        raise InputError(message, field="estimates")
    mean = estimates.quality - estimates.quality[:, [fallback]]
    error = np.hypot(estimates.error, estimates.error[:, [fallback]])
    return Gain(mean, error)


def _recorded_gain(support: Support, fallback: int) -> Gain:
    """Weighted paired differences on the support, with their standard error and number."""
    difference = support.quality - support.quality[:, [fallback]]
    seen = (~np.isnan(difference)).astype(float)  # (records, experts)
    known = np.nan_to_num(difference)
    weights = np.asarray(support.weights, float)
    parts = [
        _moments(support.rows[i : i + BLOCK], weights[i : i + BLOCK], known, seen)
        for i in range(0, len(support.rows), BLOCK)
    ]
    mean, error, count, worth = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Gain(mean, error, count.astype(int), worth)


def _moments(
    rows: IntArray, weights: FloatArray, known: FloatArray, seen: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Mean, standard error, number and effective number of pairs for a block of queries.

    Without any pair NaN, infinite, 0 and 0.
    """
    weighted = np.stack([weights, weights**2, weights > 0], axis=1)  # (queries, 3, k)
    mass, squares, count = np.moveaxis(weighted @ seen[rows], 1, 0)  # (queries, experts) each
    near = known[rows]
    first = (weights[:, None, :] @ near)[:, 0]
    second = (weights[:, None, :] @ near**2)[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = first / mass
        effective = np.where(squares > 0, mass**2 / squares, 0.0)
        variance = np.maximum(second / mass - mean**2, 0.0)
        error = np.sqrt(variance / (effective - 1))
    return mean, np.where(effective > 1 + ROUNDING, error, np.inf), count, effective
