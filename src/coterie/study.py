"""What a demo found, its summary for machines and its verdict in words."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coterie.evaluation import Row
from coterie.records import Records
from coterie.types import Answer


@dataclass(frozen=True)
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
        "seconds": round(sum(study.seconds.values()), 1),
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


def verdict(study: Study) -> list[str]:
    """Plain sentences: what was chosen, what it gained, what did not help."""
    facts = study.gain
    low, high = facts["ci"]
    beats = "beats" if low > 0 else "does not beat"
    rows = {row.name: float(row.scores.mean()) for row in study.rows}
    merged = next(v for name, v in rows.items() if "merged by" in name)
    vote = rows["recruit 3, greedy rule, weighted vote"]
    relation = "loses to" if merged < vote else "does not lose to"
    loads = study.loads
    lines = [
        f"chosen on validation: {study.chosen['rule']} rule, {study.chosen['aggregator']} vote",
        f"coterie {beats} {study.best_single.name}: {facts['diff']:+.3f} [{low:+.3f}, {high:+.3f}]",
        f"merging by {study.chosen['aggregating expert']} {relation} the weighted vote: "
        f"{merged:.3f} against {vote:.3f}",
        f"loads: {loads['actual']} (question by question {loads['naive']}, "
        f"lower bound {loads['lower_bound']}); cost in {study.unit} a question",
    ]
    for name, (accuracy, count) in study.sampled.items():
        lines.append(f"{name} was asked only {count} validation questions: {accuracy:.3f} right")
    if study.left_out:
        names = ", ".join(study.left_out)
        lines.append(f"not installed, left out: {names} (`make smollm` installs it)")
    return lines
