"""What a panel holds: rows with a value per query, and what is computed from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from coterie.errors import InputError
from coterie.metrics.calibration import brier, ece
from coterie.metrics.costs import cost_of_pass
from coterie.metrics.intervals import Interval
from coterie.metrics.selection import (
    selection_entropy,
    selection_shares,
    switch_gain,
    switch_rate,
)
from coterie.panel.sweeps import Curve, PairMetrics
from coterie.records import Records
from coterie.types import FloatArray, IntArray

GROUPS = ("category", "subject")
LEVEL = 0.05  # of significance


class Difference(NamedTuple):
    """A mean paired difference, its 95 % interval, two-sided p and p corrected by Holm.

    ``adjusted`` equals ``p`` for the default row and for rows that are no contenders.
    """

    value: float
    low: float
    high: float
    p: float
    adjusted: float

    def to_dict(self) -> dict[str, Any]:
        """``diff``, ``ci``, the corrected ``p`` and the uncorrected ``p_raw``."""
        ci = [self.low, self.high]
        return {"diff": self.value, "ci": ci, "p": self.adjusted, "p_raw": self.p}


UNKNOWN = Interval(math.nan, math.nan, math.nan)
INCOMPARABLE = Difference(*UNKNOWN, math.nan, math.nan)


@dataclass(frozen=True, eq=False)
class Outcome:
    """One way of answering before it is compared: a value per query, in the records' order.

    Parameters
    ----------
    name, kind, reads
        ``kind`` is baseline (what has to be beaten), router, or bound (what nobody can pass).
        ``reads`` says what a choice is made from: nothing, text, category, every answer, or the
        reference.
    scores, costs, calls
        Shape (queries,). Costs are NaN where the records hold none.
    chosen
        The expert column that answers, (queries,); None where several do or where a row is an
        expectation.
    expected, expected_cost
        What the router predicted, (queries, experts); None for rows without a router.
    seconds
        What fitting and deciding took in all folds, for all entrants that share the router.
    note
        What has to be known to read the row, such as what its policy guarantees.
    """

    name: str
    kind: str
    reads: str
    scores: FloatArray
    costs: FloatArray
    calls: FloatArray
    chosen: IntArray | None = None
    expected: FloatArray | None = None
    expected_cost: FloatArray | None = None
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True, eq=False)
class PanelRow(Outcome):
    """An outcome with its intervals; ``matched`` compares with experts drawn at random.

    ``matched_score`` is the mean score of drawing for every query from the row's own selection
    shares: each expert is called as often, so at its mean cost a call the bill is the same. None
    where several experts answer.
    """

    quality: Interval = UNKNOWN
    versus: Difference = INCOMPARABLE
    matched_score: float | None = None
    matched: Difference | None = None

    @property
    def cost(self) -> float:
        """Mean cost a query, NaN where the records hold none."""
        return float(self.costs.mean())

    @property
    def shares(self) -> FloatArray | None:
        """Share of the queries that each expert answers; None where several answer."""
        if self.chosen is None or self.expected is None:
            return None
        return selection_shares(self.chosen, self.expected.shape[1])


@dataclass(frozen=True, eq=False)
class Panel:
    """Every row on the same queries.

    Parameters
    ----------
    records
        What was judged: complete rows of the experts that took part.
    rows
        Baselines, routers, bounds; among them always ``random``, ``best single``, ``per-category
        table``, ``oracle``, ``cheapest-correct oracle`` and ``additive-null oracle``.
    fold_of
        The fold in which each query was held out, (queries,).
    fallback
        The column of the best single expert of each query's training folds, (queries,).
    default
        Name of the row declared in advance, None if there is none.
    left_out
        Experts that were observed too seldom, by name, and the number of queries not judged.
    curves, pairs
        Per router that decides by expected quality: cost against quality over the willingness to
        pay (where there are costs), and RouteLLM's metrics (where there are exactly two experts).
    notes
        Sentences about what could not be done.
    """

    records: Records
    rows: tuple[PanelRow, ...]
    fold_of: IntArray
    fallback: IntArray
    folds: int
    seed: int
    default: str | None
    left_out: tuple[str, ...] = ()
    queries_left_out: int = 0
    curves: Mapping[str, Curve] = field(default_factory=dict)
    pairs: Mapping[str, PairMetrics] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, name: str) -> PanelRow:
        """The row of this name; raises KeyError without it."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    @property
    def best_single(self) -> PanelRow:
        """The row that everything is compared with."""
        return self["best single"]

    def best_experts(self) -> dict[str, int]:
        """The best single experts of the training folds, by the number of folds."""
        folds = {int(fold): int(at) for fold, at in zip(self.fold_of, self.fallback, strict=True)}
        counts = Counter(self.records.experts[column] for column in folds.values())
        return dict(counts.most_common())

    def closed(self, row: PanelRow) -> dict[str, float | None]:
        """Share of the gap between best single and each oracle that the row closes.

        None where there is no gap.
        """
        base = self.best_single.quality.value
        bounds = {"oracle": "oracle", "null": "additive-null oracle"}
        gaps = {key: self[name].quality.value - base for key, name in bounds.items()}
        gain = row.quality.value - base
        return {key: gain / gap if gap > 1e-12 else None for key, gap in gaps.items()}

    def beats(self, row: PanelRow) -> bool:
        """Whether the row is better than best single at the 5 % level, after correction."""
        return row.versus.value > 0 and row.versus.adjusted < LEVEL

    def switching(self, row: PanelRow) -> dict[str, float] | None:
        """Share of the queries that leave the best single expert, and the mean gain on them."""
        if row.chosen is None or row.kind != "router":
            return None
        gain = switch_gain(row.scores, self.best_single.scores, row.chosen != self.fallback)
        return {"share": switch_rate(row.chosen, self.fallback), "gain": gain}

    def groups(self, by: str = "category") -> dict[str, IntArray]:
        """Query numbers by category or subject, sorted by name; queries without one under ``-``.

        Raises InputError for anything else to group by.
        """
        check_group(by)
        found: dict[str, list[int]] = {}
        for number, query in enumerate(self.records.queries):
            found.setdefault(getattr(query, by) or "-", []).append(number)
        return {name: np.array(found[name]) for name in sorted(found)}

    def summary(self, row: PanelRow) -> dict[str, Any]:
        """The row as JSON values."""
        facts: dict[str, Any] = {
            "name": row.name,
            "kind": row.kind,
            "reads": row.reads,
            "quality": row.quality.value,
            "ci": [row.quality.low, row.quality.high],
            "cost": _known(row.cost),
            "calls": float(row.calls.mean()),
            "vs_best_single": row.versus.to_dict(),
            "gap_closed": self.closed(row),
            "cost_of_pass": _known(cost_of_pass(row.costs, row.scores)),
        }
        if row.kind == "router":
            facts |= self._router_facts(row)
        return facts

    def _router_facts(self, row: PanelRow) -> dict[str, Any]:
        facts: dict[str, Any] = {"switching": self.switching(row), "seconds": row.seconds}
        if row.note:
            facts["note"] = row.note
        if row.shares is not None:
            facts["entropy"] = selection_entropy(row.shares)
            facts["shares"] = dict(zip(self.records.experts, row.shares.tolist(), strict=True))
        if row.matched is not None:
            facts["matched_random"] = {"quality": row.matched_score, **row.matched.to_dict()}
        if row.expected is not None:
            facts["ece"] = ece(row.expected, self.records.quality)
            facts["brier"] = brier(row.expected, self.records.quality)
        if row.name in self.curves:
            facts["curve"] = self.curves[row.name].to_dict()
        if row.name in self.pairs:
            facts["pair"] = self.pairs[row.name]._asdict()
        return facts

    def to_dict(self, group_by: str | None = None) -> dict[str, Any]:
        """The panel as JSON values, with mean scores by ``group_by`` if given."""
        data = {
            "queries": len(self.records),
            "experts": list(self.records.experts),
            "folds": self.folds,
            "seed": self.seed,
            "default": self.default,
            "best_single": self.best_experts(),
            "left_out": {"experts": list(self.left_out), "queries": self.queries_left_out},
            "notes": list(self.notes),
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
        }
        facts: dict[str, Any] = {"schema": 1, "data": data}
        facts["panel"] = [self.summary(row) for row in self.rows]
        if group_by is not None:
            facts["groups"] = self.group_table(group_by)
        return facts

    def group_table(self, by: str = "category") -> list[dict[str, Any]]:
        """For every category (or subject) its size and the mean score of every row."""
        return [
            {
                by: name,
                "queries": len(numbers),
                "quality": {row.name: float(row.scores[numbers].mean()) for row in self.rows},
            }
            for name, numbers in self.groups(by).items()
        ]


def check_group(by: str | None) -> None:
    """Raise InputError for something that queries cannot be grouped by."""
    if by is not None and by not in GROUPS:
        raise InputError(f"expected one of {', '.join(GROUPS)}, got {by!r}", field="group-by")


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
