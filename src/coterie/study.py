"""What a demo found, its summary for machines and its verdict in words."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coterie.evaluation import Row
from coterie.metrics import paired_difference
from coterie.records import Records
from coterie.types import Answer


@dataclass(frozen=True, eq=False)
class Study:
    """What a demo found: rows of the table in order, and what the report draws.

    ``validation`` and ``test`` are complete records of every expert that answered all questions;
    ``sampled`` holds accuracy and number of questions of the experts that answered only some.
    """

    rows: tuple[Row, ...]
    headline: Row
    best_single: Row
    validation: Records
    test: Records
    answers: tuple[Answer, ...]
    chosen: Mapping[str, Any]
    aggregators: Mapping[str, float]
    selection: Mapping[str, float]
    loads: Mapping[str, int]
    unique: Mapping[str, float]
    seconds: Mapping[str, float]
    parameters: Mapping[str, int]
    left_out: tuple[str, ...]
    unit: str
    extract: str
    sampled: Mapping[str, tuple[float, int]] = field(default_factory=dict)

    @functools.cached_property
    def panel(self) -> tuple[dict[str, Any], ...]:
        """Every row's accuracy, cost and calls with intervals, against the best single expert."""
        return tuple(row.summary(self.best_single) for row in self.rows)

    @property
    def gain(self) -> dict[str, Any]:
        """The headline's difference to the best single expert and its interval."""
        index = next(i for i, row in enumerate(self.rows) if row is self.headline)
        against: dict[str, Any] = self.panel[index]["vs_best_single"]
        return against


def summary(study: Study) -> dict[str, Any]:
    """What ``summary.json`` holds."""
    by_name = {row.name: float(row.scores.mean()) for row in study.rows}
    best = study.best_single
    return {
        "schema": 1,
        "questions": len(study.test),
        "accuracy": {
            "random": by_name["random"],
            "best_single": float(best.scores.mean()),
            "static_best_k": by_name["static best-3 vote"],
            "per_category": by_name["per-category table"],
            "coterie": float(study.headline.scores.mean()),
            "oracle": by_name["oracle"],
        },
        "ci": study.gain["ci"],
        "difference": study.gain["diff"],
        "loads": dict(study.loads),
        "seconds": round(study.seconds["all"], 1),
        "phases": {name: round(value, 2) for name, value in study.seconds.items()},
        "chosen_on_validation": dict(study.chosen),
        "validation_accuracy": dict(study.selection),
        "aggregator_benchmark": dict(study.aggregators),
        "distinct_experts": dict(study.unique),
        "left_out": list(study.left_out),
        "sampled": {e: {"accuracy": a, "questions": n} for e, (a, n) in study.sampled.items()},
        "cost_unit": study.unit,
        "panel": list(study.panel),
    }


def compared(study: Study, other: Row) -> str:
    """In words, whether the coterie beats another row, with the paired 95 % interval."""
    value, low, high = paired_difference(study.headline.scores, other.scores)
    return f"coterie {relation(low, high)} {other.name}: {value:+.3f} [{low:+.3f}, {high:+.3f}]"


def relation(low: float, high: float) -> str:
    """What a 95 % interval of a difference allows to say."""
    if low > 0:
        return "beats"
    return "loses to" if high < 0 else "does not reliably differ from"


RIVALS = (
    "best single",
    "static best-3",
    "skills router",
    "per-category table",
    "recruit 3, merged",
)


def verdict(study: Study) -> list[str]:
    """Plain sentences: what was chosen, what it gained over what, what it took."""
    chosen, loads = study.chosen, study.loads
    lines = [f"chosen on validation: {chosen['rule']} rule, {chosen['aggregator']} vote"]
    lines += [compared(study, row) for row in study.rows if row.name.startswith(RIVALS)]
    lines.append(
        f"loads: {loads['actual']} (question by question with the same room {loads['naive']}, "
        f"lower bound {loads['lower_bound']}); cost in {study.unit} a question"
    )
    for name, (accuracy, count) in study.sampled.items():
        lines.append(
            f"{name} was asked only {count} validation questions ({accuracy:.3f} right) and is "
            "left out of recruiting and of the table"
        )
    if study.left_out:
        names = ", ".join(study.left_out)
        lines.append(f"not installed, left out: {names} (`make smollm` installs it)")
    return lines
