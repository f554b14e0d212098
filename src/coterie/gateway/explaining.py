"""The evidence of a decision, made when somebody asks for it."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from coterie.gateway.entries import Candidate, Entry
from coterie.policies import Utility
from coterie.types import Estimates, Query


def explained(entry: Entry) -> Entry:
    """The entry with chosen expert, runner-up and flip point in its evidence.

    The plain rule of utility leaves them out when it decides in a hurry; here it decides again on
    the estimates that the entry keeps. Others' evidence is as they wrote it.
    """
    left = [c for c in entry.candidates if not c.barred and c.quality is not None]
    if "chosen" in entry.evidence or "willingness_to_pay" not in entry.evidence or not left:
        return entry
    worth = entry.evidence["willingness_to_pay"]
    policy = Utility(math.inf if worth is None else worth)
    (decision,) = policy.decide([Query.from_text(entry.id, "")], estimates_of(left))
    evidence = {**decision.evidence, **entry.evidence}
    return msgspec.structs.replace(entry, evidence=evidence, reason=entry.reason or decision.reason)


def estimates_of(candidates: list[Candidate]) -> Estimates:
    """What the router estimated for these experts; one query."""

    def row(values: list[float | None]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        return np.array([[math.nan if value is None else value for value in values]])

    errors = row([c.error for c in candidates])
    return Estimates(
        tuple(c.expert for c in candidates),
        row([c.quality for c in candidates]),
        row([c.cost for c in candidates]),
        error=None if np.isnan(errors).all() else errors,
    )
