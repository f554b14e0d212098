"""What every row of a panel is judged on: the queries, their folds, costs and answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from coterie.answers import Extractor
from coterie.errors import InputError
from coterie.panel.values import Outcome
from coterie.panel.votes import answer_codes
from coterie.records import Records
from coterie.routers.base import mean_or
from coterie.types import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Setting:
    """Complete records and their folds.

    ``tests`` and ``rests`` are the row numbers held out and learnt from, by fold; ``costs`` has no
    holes (all NaN where costs are unknown); ``codes`` are answers as numbers, None without answers;
    ``fallback`` is the best single expert's column on each query's training folds.
    """

    records: Records
    tests: tuple[NDArray[np.intp], ...]
    rests: tuple[NDArray[np.intp], ...]
    fold_of: IntArray
    fallback: IntArray
    costs: FloatArray
    codes: IntArray | None

    @classmethod
    def make(cls, records: Records, folds: int, seed: int, extract: Extractor) -> Self:
        """The setting of these complete records; raises InputError for fewer queries than folds."""
        if not 2 <= folds <= len(records):
            message = f"expected 2 to {len(records)} (the judged queries), got {folds!r}"
            raise InputError(message, field="folds")
        tests = tuple(records.folds(folds, seed))
        fold_of, fallback = np.zeros((2, len(records)), np.intp)
        rests = []
        for number, test in enumerate(tests):
            rest = np.setdiff1d(np.arange(len(records)), test)
            fold_of[test], fallback[test] = number, mean_or(records.quality[rest], 0.0).argmax()
            rests.append(rest)
        costs, codes = filled_costs(records), answer_codes(records, extract)
        return cls(records, tests, tuple(rests), fold_of, fallback, costs, codes)

    @property
    def has_costs(self) -> bool:
        """Whether every cell has a cost."""
        return not np.isnan(self.costs).any()

    def outcome(self, name: str, kind: str, reads: str, chosen: IntArray) -> Outcome:
        """The outcome of asking one expert a query: ``chosen`` are columns."""
        at = np.arange(len(self.records)), chosen
        ones = np.ones(len(self.records))
        return Outcome(name, kind, reads, self.records.quality[at], self.costs[at], ones, chosen)


def filled_costs(records: Records) -> FloatArray:
    """Costs without holes, (queries, experts): an expert's mean where a cell has none.

    All NaN where more than one cell in a hundred of any expert has no cost, or all costs are 0.
    """
    known = ~np.isnan(records.cost)
    if (known.mean(axis=0) < 0.99).any() or not np.nansum(records.cost):
        return np.full(records.cost.shape, np.nan)
    return np.where(known, records.cost, mean_or(records.cost, 0.0))
