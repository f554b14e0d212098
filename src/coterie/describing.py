"""What a set of records holds: how full it is, who is good at what, and what routing could win."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie.records import MANY, Records
from coterie.types import FloatArray, IntArray

UNKNOWN = ""  # the category of queries without one


def describe(records: Records) -> dict[str, Any]:
    """Size, density, figures, experts and categories as plain containers.

    ``figures`` holds the same figures twice: on all that was ``observed``, where experts may have
    been put to different questions, and on the ``complete`` rows that every expert answered (None
    without any). All are means of scores, chosen and judged on the same rows, so the best ones are
    what hindsight would pick. ``headroom`` is oracle minus best single; ``all_right`` and
    ``all_wrong`` are shares of the queries with two scores or more on which every score is 1 or 0.
    A category has the figures of all that was observed in it and, as ``complete``, those of its
    complete rows: only there is the best single expert never above the oracle.
    """
    tally = Tally.of(records)
    full = tally.counts_by_row == len(records.experts)
    complete = tally if full.all() else Tally.of(records.take(np.flatnonzero(full)))
    cells = int(tally.counts_by_row.sum())
    like = {row["category"]: row for row in complete.by_category(records.experts)}
    categories = tally.by_category(records.experts)
    return {
        "schema": 1,
        "queries": len(records),
        "experts": len(records.experts),
        "observed": cells,
        "density": cells / max(1, len(records) * len(records.experts)),
        "figures": {
            "observed": tally.figures(records.experts),
            "complete": complete.figures(records.experts),
        },
        "per_expert": _experts(records, tally),
        "per_category": [row | {"complete": like.get(row["category"])} for row in categories],
    }


@dataclass(frozen=True, eq=False)
class Tally:
    """Sums that all figures follow from, gathered in blocks of rows so that big sets fit.

    ``best``, ``worst``, ``mean`` and ``counts_by_row`` are per query (NaN where nothing was
    observed); ``sums`` and ``counts`` have shape (categories, experts); ``category_of`` numbers
    each query's category.
    """

    names: tuple[str, ...]
    category_of: IntArray
    best: FloatArray
    worst: FloatArray
    mean: FloatArray
    counts_by_row: IntArray
    sums: FloatArray
    counts: IntArray

    @classmethod
    def of(cls, records: Records) -> Tally:
        """One pass over the scores."""
        labels = [c or UNKNOWN for c in records.categories]
        names = tuple(dict.fromkeys(labels))
        number = {name: i for i, name in enumerate(names)}
        category_of = np.array([number[label] for label in labels], dtype=np.intp)
        shape, count = (len(names), len(records.experts)), len(records)
        sums, counts = np.zeros(shape), np.zeros(shape, np.int64)
        best, worst, mean = (np.full(count, np.nan) for _ in range(3))
        by_row = np.zeros(count, np.int64)
        step = max(1, MANY // max(1, shape[1]))
        for part in (slice(start, start + step) for start in range(0, count, step)):
            scores = np.asarray(records.quality[part], float)
            seen = ~np.isnan(scores)
            filled = np.where(seen, scores, 0.0)
            by_row[part] = seen.sum(axis=1)
            best[part] = np.fmax.reduce(scores, axis=1, initial=np.nan)
            worst[part] = np.fmin.reduce(scores, axis=1, initial=np.nan)
            mean[part] = _ratio(filled.sum(axis=1), by_row[part])
            order = np.argsort(category_of[part], kind="stable")
            found, starts = np.unique(category_of[part][order], return_index=True)
            sums[found] += np.add.reduceat(filled[order], starts, axis=0)
            counts[found] += np.add.reduceat(seen[order], starts, axis=0, dtype=np.int64)
        return cls(names, category_of, best, worst, mean, by_row, sums, counts)

    def figures(self, experts: tuple[str, ...]) -> dict[str, Any] | None:
        """Random, best single, best per category, oracle; None where nothing was observed."""
        rows = self.counts_by_row > 0
        if not rows.any():
            return None
        means = _ratio(self.sums.sum(axis=0), self.counts.sum(axis=0))
        best = int(np.nanargmax(means))
        several = self.counts_by_row > 1
        oracle = float(self.best[rows].mean())
        return {
            "queries": int(rows.sum()),
            "random": float(self.mean[rows].mean()),
            "best_single": {"expert": experts[best], "quality": float(means[best])},
            "category_best": self._category_best(rows),
            "oracle": oracle,
            "headroom": oracle - float(means[best]),
            "all_right": _share(self.worst[several] >= 1),
            "all_wrong": _share(self.best[several] <= 0),
        }

    def _category_best(self, rows: NDArray[np.bool_]) -> float:
        """Each category's best expert, weighted by the category's queries."""
        sizes = np.bincount(self.category_of[rows], minlength=len(self.names))
        best = np.fmax.reduce(_ratio(self.sums, self.counts), axis=1)
        return float(np.nansum(sizes * best) / sizes.sum())

    def by_category(self, experts: tuple[str, ...]) -> list[dict[str, Any]]:
        """Figures of every category with an observation, the largest first."""
        means, found = _ratio(self.sums, self.counts), []
        for number, name in enumerate(self.names):
            rows = (self.category_of == number) & (self.counts_by_row > 0)
            if rows.any():
                best = int(np.nanargmax(means[number]))
                top = {"expert": experts[best], "quality": float(means[number, best])}
                found.append(
                    {
                        "category": name or None,
                        "queries": int(rows.sum()),
                        "random": float(self.mean[rows].mean()),
                        "best_single": top,
                        "oracle": float(self.best[rows].mean()),
                    }
                )
        return sorted(found, key=lambda row: -int(row["queries"]))


def _experts(records: Records, tally: Tally) -> list[dict[str, Any]]:
    """Every expert's mean score and cost and the questions behind them, the best first."""
    counts = tally.counts.sum(axis=0)
    means = _ratio(tally.sums.sum(axis=0), counts)
    costs = np.full(len(records.experts), np.nan)
    if any(records.cost.strides):
        known = ~np.isnan(records.cost)
        total = np.sum(records.cost, axis=0, where=known, dtype=float)
        costs = _ratio(total, known.sum(axis=0))
    rows = [
        {
            "expert": name,
            "queries": int(counts[j]),
            "score": _or_none(means[j]),
            "cost": _or_none(costs[j]),
            "facts": dict(records.facts.get(name, {})),
        }
        for j, name in enumerate(records.experts)
    ]
    return sorted(rows, key=lambda row: -1.0 if row["score"] is None else -row["score"])


def _ratio(sums: FloatArray, counts: NDArray[Any]) -> FloatArray:
    """Means; NaN where nothing was counted."""
    means = np.full(np.shape(sums), np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


def _share(hits: NDArray[np.bool_]) -> float | None:
    return float(hits.mean()) if len(hits) else None


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
