"""Why a request went where it went: what its entry in the log says, put together for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from coterie.gateway.entries import Candidate, Entry, Feedback
from coterie.gateway.explaining import explained
from coterie.policies.evidence import NORMAL


def reasons(entry: Entry, feedback: Sequence[Feedback] = ()) -> dict[str, Any]:
    """JSON values: candidates, what barred whom, the runner-up, what would flip it, the outcome.

    ``flip`` says what it would take for another choice: ``willingness_to_pay`` and ``to`` as the
    policy computed them, and ``quality``, how much more the runner-up would have to be expected to
    score. None where the entry does not tell.
    """
    entry = explained(entry)
    price = entry.evidence.get("willingness_to_pay")
    runner_up = _runner_up(entry, price)
    return {
        "id": entry.id,
        "time": entry.time,
        "path": entry.path,
        "asked": entry.asked,
        "policy": entry.policy,
        "composition": entry.composition,
        "decided": entry.decided,
        "answered": entry.expert,
        "propensity": entry.propensity,
        "explored": entry.explored,
        "reason": entry.reason,
        "candidates": [_candidate(c, entry.decided) for c in entry.candidates],
        "constraints": entry.constraints,
        "runner_up": None if runner_up is None else _candidate(runner_up, ""),
        "flip": _flip(entry, runner_up, price),
        "nearest": entry.evidence.get("nearest") or [],
        "attempts": msgspec.to_builtins(entry.attempts),
        "status": entry.status,
        "error": entry.error,
        "tokens": {**msgspec.structs.asdict(entry.tokens), "total": entry.tokens.total},
        "cost": entry.cost,
        "expected_cost": entry.expected_cost,
        "latency": entry.latency,
        "first_token": entry.first_token,
        "overhead": entry.overhead,
        "shadow": entry.shadow,
        "drift": entry.drift,
        "feedback": [{"score": f.score, "time": f.time, "note": f.note} for f in feedback],
    }


def _candidate(one: Candidate, decided: str) -> dict[str, Any]:
    """What was expected of an expert, its quality with the 95 % interval where there is one."""
    quality, error = one.quality, one.error
    known = quality is not None and error is not None
    half = NORMAL * error if error is not None else math.nan
    return {
        "expert": one.expert,
        "quality": quality,
        "interval": [quality - half, quality + half] if quality is not None and known else None,
        "cost": one.cost,
        "barred": one.barred,
        "chosen": one.expert == decided,
    }


def _runner_up(entry: Entry, price: float | None) -> Candidate | None:
    """As the policy named it, else the best of the others that were not barred."""
    named = (entry.evidence.get("runner_up") or {}).get("expert")
    left = [c for c in entry.candidates if not c.barred and c.expert != entry.decided]
    if named is not None:
        return next((c for c in left if c.expert == named), None)
    rated = [c for c in left if c.quality is not None]
    return max(rated, key=lambda c: _worth(c, price), default=None)


def _worth(one: Candidate, price: float | None) -> float:
    """In units of quality: less the cost over the willingness to pay, where that is finite."""
    quality = one.quality if one.quality is not None else math.nan
    return quality - (one.cost or 0.0) / price if price else quality


def _flip(entry: Entry, runner_up: Candidate | None, price: float | None) -> dict[str, Any]:
    at, to = entry.evidence.get("flips_at"), entry.evidence.get("flips_to")
    chosen = next((c for c in entry.candidates if c.expert == entry.decided), None)
    short = None
    if runner_up is not None and chosen is not None and chosen.quality is not None:
        gap = _worth(chosen, price) - _worth(runner_up, price)
        short = gap if math.isfinite(gap) and not entry.explored else None
    return {"willingness_to_pay": at, "to": to, "quality": short}
