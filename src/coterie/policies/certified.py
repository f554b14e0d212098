"""Leave the fallback only as far as held-out records prove the risk of doing so is small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.policies.base import (
    check_number,
    decisions,
    fallback_column,
    put_first,
    ranked,
    utilities,
)
from coterie.policies.evidence import Gate, evidence, first_allowed, flip_points
from coterie.policies.guarded import runner_up
from coterie.records import Records
from coterie.types import Decision, Estimates, FloatArray, IntArray, Query

LOSSES = ("worse", "shortfall")
STEP = 0.005  # between tested thresholds; the grid must not depend on the outcomes


@dataclass(frozen=True, slots=True)
class Certified:
    """The fallback, unless another's expected quality is above it by a certified threshold.

    ``calibrated`` tests thresholds on held-out records in a fixed order, from never switching to
    always, and keeps the last before the first that cannot be certified (Learn then Test,
    Angelopoulos et al. 2021, fixed sequence). The guarantee: with probability ``confidence`` over
    the held-out records the expected loss on new queries of their kind is at most ``risk``. Where
    nothing is certified, and before calibration, every query goes to the fallback.

    Parameters
    ----------
    fallback
        Name of an expert; by default as for ``Guarded``. ``calibrated`` freezes it.
    loss
        ``worse``: 1 where the query was switched and the other expert scored less than the
        fallback (exact, by the Clopper-Pearson bound). ``shortfall``: by how much it scored less
        (any score in [0, 1], by the Hoeffding-Bentkus bound).
    threshold
        Least difference in expected quality; infinite abstains.
    calibration, bound
        What ``calibrated`` leaves: the number of held-out records, and the upper confidence bound
        on the risk at the threshold.
    """

    fallback: str | None = None
    risk: float = 0.05
    confidence: float = 0.95
    loss: str = "worse"
    willingness_to_pay: float = float("inf")
    threshold: float = float("inf")
    calibration: int = 0
    bound: float = 1.0
    composition: str = "single"

    def __post_init__(self) -> None:
        check_number(self.risk, "risk", high=1.0)
        check_number(self.confidence, "confidence", high=1.0)
        check_number(self.willingness_to_pay, "willingness_to_pay")
        check_number(self.threshold, "threshold", low=-1.0)
        if self.loss not in LOSSES:
            message = f"expected one of {', '.join(LOSSES)}, got {self.loss!r}"
            raise InputError(message, field="loss")

    def calibrated(
        self, queries: Sequence[Query], estimates: Estimates, records: Records
    ) -> Certified:
        """The policy with the lowest threshold that these records certify.

        The router must not have seen the records, and row i of all three must be the same query.
        Where a score is missing the switched query counts as lost, so the guarantee still holds.
        """
        _check_rows(queries, estimates, records)
        fallback = fallback_column(self.fallback, estimates)
        quality = records.select(estimates.experts).quality
        ranks = self._ranks(estimates)
        kept, reached = math.inf, 1.0
        for threshold in np.arange(1.0, -1.0 - STEP / 2, -STEP).round(6).tolist():
            chosen = first_allowed(ranks, _allowed(estimates.quality, fallback, threshold))
            lost = float(self._losses(quality, chosen, fallback).sum())
            upper = upper_bound(lost, len(records), self.confidence, self.loss)
            if upper > self.risk:
                break
            kept, reached = threshold, upper
        return replace(
            self,
            fallback=estimates.experts[fallback],
            threshold=kept,
            calibration=len(records),
            bound=reached,
        )

    def decide(self, queries: Sequence[Query], estimates: Estimates) -> list[Decision]:
        """The chosen expert first, then the fallback, then the others by utility."""
        if not len(estimates.quality):
            return []
        quality, cost, price = estimates.quality, estimates.cost, self.willingness_to_pay
        fallback = fallback_column(self.fallback, estimates)
        allowed = _allowed(quality, fallback, self.threshold)
        ranks = self._ranks(estimates)
        chosen = first_allowed(ranks, allowed)
        other = runner_up(ranks, chosen)
        gate = Gate.fixed(allowed)
        flips = flip_points(quality, cost, chosen, price, gate)
        shown = evidence(estimates, chosen[:, None].tolist(), other.tolist(), price, flips)
        name = estimates.experts[fallback]
        facts = self._facts(name)
        rows = [{**row, "certificate": facts} for row in shown]
        reasons = [self._reason(name)] * len(rows)
        order = put_first(ranks, np.full(len(chosen), fallback), chosen)
        utility = utilities(quality, cost, price)
        return decisions(self.composition, estimates, order.tolist(), utility, rows, reasons)

    @property
    def guarantee(self) -> str:
        """What holds on new queries, in words; empty where every query goes to the fallback."""
        if self.calibration == 0 or math.isinf(self.threshold):
            return ""
        return f"with {self.confidence:.0%} confidence at most {self.risk:.1%} {self._lost}"

    @property
    def _lost(self) -> str:
        if self.loss == "worse":
            return "of queries switched and answered worse"
        return "of the score lost"

    def _ranks(self, estimates: Estimates) -> IntArray:
        worth = utilities(estimates.quality, estimates.cost, self.willingness_to_pay)
        return ranked(worth, estimates.cost)

    def _losses(self, quality: FloatArray, chosen: IntArray, fallback: int) -> FloatArray:
        """Loss of every query in [0, 1]; 0 where it was not switched."""
        short = quality[:, fallback] - quality[np.arange(len(chosen)), chosen]
        lost = (short > 0).astype(float) if self.loss == "worse" else np.maximum(short, 0.0)
        losses: FloatArray = np.where(np.isnan(short), 1.0, lost)
        return np.where(chosen == fallback, 0.0, losses)

    def _facts(self, fallback: str) -> dict[str, object]:
        return {
            "fallback": fallback,
            "risk": self.risk,
            "confidence": self.confidence,
            "loss": self.loss,
            "threshold": self.threshold if math.isfinite(self.threshold) else None,
            "bound": self.bound if math.isfinite(self.threshold) else None,
            "calibration": self.calibration,
        }

    def _reason(self, fallback: str) -> str:
        if self.calibration == 0:
            return f"not calibrated: {fallback} unless another is better by {self.threshold:g}"
        if math.isinf(self.threshold):
            wanted = f"risk {self.risk:g} at {self.confidence:.0%} confidence"
            return f"{self.calibration} records certify nothing at {wanted}: {fallback} everywhere"
        return (
            f"certified on {self.calibration} records: {self.guarantee} against {fallback} "
            f"(bound {self.bound:.1%}, threshold {self.threshold:+.3f})"
        )


def _allowed(quality: FloatArray, fallback: int, threshold: float) -> NDArray[np.bool_]:
    """Who may be chosen: the fallback, and who is expected to be better by the threshold."""
    allowed = quality - quality[:, [fallback]] >= threshold
    allowed[:, fallback] = True
    return allowed


def _check_rows(queries: Sequence[Query], estimates: Estimates, records: Records) -> None:
    if not len(records):
        raise InputError("expected held-out records, got none", field="records")
    if [q.id for q in queries] != [q.id for q in records.queries]:
        message = "queries and records differ; pass records.queries and their estimates"
        raise InputError(message, field="records")
    if len(estimates.quality) != len(records):
        message = f"expected estimates of {len(records)} queries, got {len(estimates.quality)}"
        raise InputError(message, field="estimates")


@lru_cache(maxsize=4096)
def upper_bound(lost: float, count: int, confidence: float, loss: str = "worse") -> float:
    """The upper confidence bound on the mean of ``count`` independent losses that sum to ``lost``.

    For ``worse`` (losses of 0 and 1) Clopper and Pearson's, exact; else (losses in [0, 1])
    Hoeffding and Bentkus's as in Bates et al. 2021: the largest mean that neither tail excludes.
    """
    from scipy.stats import beta

    if loss == "worse":
        errors = round(lost)
        return 1.0 if errors == count else float(beta.ppf(confidence, errors + 1, count - errors))
    return _hoeffding_bentkus(lost / count, count, 1 - confidence)


def _hoeffding_bentkus(mean: float, count: int, delta: float) -> float:
    from scipy.optimize import brentq
    from scipy.stats import binom

    def excess(risk: float) -> float:
        hoeffding = math.exp(-count * _divergence(min(mean, risk), risk))
        bentkus = math.e * float(binom.cdf(math.ceil(count * mean - 1e-9), count, risk))
        return min(hoeffding, bentkus) - delta

    if mean >= 1 or excess(1 - 1e-9) > 0:
        return 1.0
    return float(brentq(excess, max(mean, 1e-12), 1 - 1e-9))


def _divergence(a: float, b: float) -> float:
    """Kullback-Leibler divergence between coins of chances ``a`` and ``b``."""
    left = a * math.log(a / b) if a > 0 else 0.0
    return left + ((1 - a) * math.log((1 - a) / (1 - b)) if a < 1 else 0.0)
