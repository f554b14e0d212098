"""Judging on whole categories that were left out of training.

Folds share every category between training and test, so they flatter routers that will meet new
ones. What the judging of newcomers and of perturbed questions also needs is here too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from coterie.metrics.intervals import Interval, bootstrap_mean, interval, resampled_means
from coterie.panel.setting import Setting, filled_costs
from coterie.panel.trials import Entrant, Report, hold
from coterie.panel.values import Panel
from coterie.records import Records
from coterie.routers.base import mean_or
from coterie.types import FloatArray, IntArray

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


class Row(Protocol):
    """What was found of one router."""

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON values."""


Found = TypeVar("Found", bound=Row)


@dataclass(frozen=True)
class Rows(ABC, Generic[Found]):
    """What was found of every router, with notes on those left out."""

    rows: tuple[Found, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The rows and notes as JSON values."""
        return {"rows": [row.to_dict() for row in self.rows], "notes": list(self.notes)}

    @abstractmethod
    def tables(self, default: str | None = None) -> Iterator[Table]:
        """All routers, then more of ``default`` (or of the first row); none without rows."""

    def show(self, out: Console, default: str | None = None) -> None:
        """Print the tables, then the notes."""
        show_tables(out, self.tables(default), self.notes)


@dataclass(frozen=True)
class Held:
    """One category that training did not hold, or all of them (``category`` is None).

    ``quality`` is the router's mean score, ``best_single`` that of the expert with the best mean on
    the other categories, ``in_folds`` that of the same router where the folds of the panel showed
    it the category; the differences are paired, with 95 % bootstrap intervals over questions.
    """

    category: str | None
    queries: int
    quality: float
    best_single: float
    in_folds: float
    vs_best_single: Interval
    vs_in_folds: Interval

    def to_dict(self) -> dict[str, Any]:
        """JSON values, intervals as ``diff`` and ``ci``."""
        differences = {
            key: plain_difference(getattr(self, key)) for key in ("vs_best_single", "vs_in_folds")
        }
        return asdict(self) | differences


@dataclass(frozen=True)
class TransferRow:
    """A router on every category it was not trained on.

    ``overall`` weighs questions alike; ``by_category`` is the mean gain over best single with every
    category weighing the same, its interval over resampled categories: what to expect of a new one.
    """

    name: str
    reads: str
    overall: Held
    categories: tuple[Held, ...]
    by_category: Interval

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON values."""
        return {
            "name": self.name,
            "reads": self.reads,
            "overall": self.overall.to_dict(),
            "categories": [held.to_dict() for held in self.categories],
            "mean_over_categories": plain_difference(self.by_category),
        }


@dataclass(frozen=True)
class Transfer(Rows[TransferRow]):
    """Routers on categories held out whole; no rows where there are fewer than two of them."""

    def tables(self, default: str | None = None) -> Iterator[Table]:
        """All routers, then every category of ``default`` (or of the first row)."""
        if not self.rows:
            return
        columns = ("held out", "vs best single", "vs in folds", "over categories")
        table = table_of(
            "categories held out whole: score; gains in points [95 %]", "router", columns
        )
        for row in self.rows:
            table.add_row(row.name, *_held_cells(row.overall), points(row.by_category))
        yield table
        row = next((r for r in self.rows if r.name == default), self.rows[0])
        table = table_of(f"{row.name}, by the category held out", "category", ("n", *columns[:3]))
        for held in row.categories:
            table.add_row(str(held.category), str(held.queries), *_held_cells(held))
        yield table


def transfer(panel: Panel, entrants: Sequence[Entrant], report: Report | None = None) -> Transfer:
    """Leave one category out of training entirely, and judge the entrants of the panel on it.

    Questions without a category are left out of training and test. Training is all other
    categories, usually more than the panel's folds hold, so ``vs_in_folds`` is the price of not
    knowing the category, if anything understated. Routers that refuse become notes.
    """
    labelled = np.flatnonzero([category is not None for category in panel.records.categories])
    count = len({*panel.records.categories} - {None})
    if count < 2:
        return Transfer((), (f"transfer needs at least two categories; the records have {count}",))
    setting = _by_category(panel.records.take(labelled))
    notes: list[str] = []
    known = {row.name for row in panel.rows}
    outcomes = hold(
        setting,
        [entrant for entrant in entrants if entrant.name in known],
        "router",
        report or (lambda name, done, total: None),
        lambda name, error: notes.append(f"{name} was left out of transfer: {error}"),
    )
    single = setting.records.quality[np.arange(len(labelled)), setting.fallback]
    scores = [(o.scores, single, panel[o.name].scores[labelled]) for o in outcomes]
    every = [np.arange(len(labelled)), *setting.tests]
    held = [_held(setting.records, rows, scores, panel.seed) for rows in every] if scores else []
    rows = []
    for place, outcome in enumerate(outcomes):
        overall, *categories = (routers[place] for routers in held)
        gains = np.array([each.vs_best_single.value for each in categories])
        mean = bootstrap_mean(gains, panel.seed)
        whole = replace(overall, category=None)
        rows.append(TransferRow(outcome.name, outcome.reads, whole, tuple(categories), mean))
    return Transfer(tuple(rows), tuple(notes))


def _by_category(records: Records) -> Setting:
    """Every category is a fold; best single is chosen on the others."""
    names = sorted({category for category in records.categories if category is not None})
    fold_of = np.array([names.index(c) for c in records.categories if c is not None], np.intp)
    fallback = np.zeros(len(records), np.intp)
    tests = tuple(np.flatnonzero(fold_of == place) for place in range(len(names)))
    rests = tuple(np.flatnonzero(fold_of != place) for place in range(len(names)))
    for test, rest in zip(tests, rests, strict=True):
        fallback[test] = mean_or(records.quality[rest], 0.0).argmax()
    return Setting(records, tests, rests, fold_of, fallback, filled_costs(records), None)


def _held(
    records: Records,
    rows: IntArray,
    scores: Sequence[tuple[FloatArray, FloatArray, FloatArray]],
    seed: int,
) -> list[Held]:
    """What every router came to on these rows: its own, best single's and in-fold scores."""
    gains = np.column_stack([s[0][rows] - base[rows] for s in scores for base in s[1:]])
    resampled, means = resampled_means(gains, seed), gains.mean(axis=0)
    found = []
    for place, of in enumerate(scores):
        first, second = (interval(means[j], resampled[:, j]) for j in (2 * place, 2 * place + 1))
        own, single, in_folds = (float(values[rows].mean()) for values in of)
        name = records.categories[rows[0]]
        found.append(Held(name, len(rows), own, single, in_folds, first, second))
    return found


def points(difference: Interval) -> str:
    """A difference in points with its interval."""
    value, low, high = (100 * x for x in difference)
    return f"{value:+.1f} [{low:+.1f},{high:+.1f}]"


def plain_difference(difference: Interval) -> dict[str, Any]:
    """A difference as ``diff`` and ``ci``."""
    return {"diff": difference.value, "ci": [difference.low, difference.high]}


def _held_cells(held: Held) -> tuple[str, ...]:
    differences = points(held.vs_best_single), points(held.vs_in_folds)
    return f"{held.quality:.3f}", *differences


def table_of(title: str, first: str, columns: Sequence[str]) -> Table:
    """An empty table: what rows are named by, then numbers."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold", max_width=18)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def show_tables(out: Console, tables: Iterable[Table], notes: Sequence[str]) -> None:
    """Print the tables with a line between them, then the notes."""
    for table in tables:
        out.print()
        out.print(table, markup=False)
    for note in notes:
        out.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
