"""Held-out battles: what rankings are worth where every query compares two experts.

A panel needs the score of every expert on every query; pairwise preferences hold one battle a
query. Judged is the probability that a ranking gave beforehand to what came of it: by log loss (a
coin has ln 2 = 0.693; a tie is half a win for both) and by accuracy on the battles that were won.
The row to beat is the one ranking of all queries, Bradley-Terry's.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from coterie.errors import CoterieError, InputError
from coterie.metrics.intervals import (
    Interval,
    bootstrap_mean,
    bootstrap_p,
    holm,
    interval,
    paired_difference,
    resampled_means,
)
from coterie.panel.jobs import run
from coterie.panel.trials import Entrant, Report, Rows, named, sharing
from coterie.panel.values import LEVEL, UNKNOWN, Difference
from coterie.records import Records
from coterie.routers import ranking
from coterie.routers.preference import BradleyTerry
from coterie.types import FloatArray, Query
from coterie.vectors import SharedEncoder

COIN, BASE = "coin", "bradley-terry"


@runtime_checkable
class Ranks(Protocol):
    """A router that says how strong experts are against each other, as preference routers do."""

    def fit(self, records: Records) -> Self:
        """Learn from battles."""

    def strengths(self, queries: Sequence[Query]) -> FloatArray:
        """Log-odds, (queries, experts): a beats b with chance 1 / (1 + exp(b - a))."""


@dataclass(frozen=True, eq=False)
class BattleRow:
    """A ranking on held-out battles.

    ``losses`` and ``hits`` have one value a battle: log loss, and 1 where the winner was expected
    to win, 0 where to lose, 0.5 where neither, NaN at ties. ``versus`` is the log loss less that of
    ``bradley-terry``, so below 0 is better; ``versus_accuracy`` likewise, where above 0 is.
    """

    name: str
    losses: FloatArray
    hits: FloatArray
    log_loss: Interval
    accuracy: Interval
    versus: Difference
    versus_accuracy: Interval

    def to_dict(self) -> dict[str, Any]:
        """JSON values; null where every battle is a tie."""
        value, low, high = (_known(v) for v in self.accuracy)
        diff, below, above = (_known(v) for v in self.versus_accuracy)
        return {
            "name": self.name,
            "log_loss": self.log_loss.value,
            "ci": [self.log_loss.low, self.log_loss.high],
            "accuracy": value,
            "accuracy_ci": [low, high],
            "vs_bradley_terry": self.versus.to_dict(),
            "accuracy_vs_bradley_terry": {"diff": diff, "ci": [below, above]},
        }


@dataclass(frozen=True, eq=False)
class BattlePanel:
    """Rankings on the same battles: ``coin``, ``bradley-terry``, then the entrants."""

    records: Records
    rows: tuple[BattleRow, ...]
    folds: int
    seed: int
    queries_left_out: int = 0
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> BattleRow:
        """The row of this name; raises KeyError without it."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    @property
    def ties(self) -> int:
        """Battles that nobody won."""
        return int(np.isnan(self.rows[0].hits).sum())

    def beats(self, row: BattleRow) -> bool:
        """Whether its log loss is below Bradley-Terry's at the 5 % level, after correction."""
        return row.versus.value < 0 and row.versus.adjusted < LEVEL

    def to_dict(self) -> dict[str, Any]:
        """The panel as JSON values."""
        data = {
            "battles": len(self.records),
            "ties": self.ties,
            "experts": list(self.records.experts),
            "folds": self.folds,
            "seed": self.seed,
            "left_out": {"queries": self.queries_left_out},
            "notes": list(self.notes),
        }
        return {"schema": 1, "data": data, "battles": [row.to_dict() for row in self.rows]}


def is_pairwise(records: Records) -> bool:
    """Whether there are more than two experts and no query was answered by more than two."""
    answered = records.observed.sum(axis=1)
    return len(records.experts) > 2 and int(answered.max(initial=0)) == 2


def judge_battles(
    records: Records,
    entrants: Sequence[Entrant] = (),
    folds: int = 5,
    seed: int = 0,
    *,
    tolerant: bool = False,
    report: Report | None = None,
    jobs: int = 1,
) -> BattlePanel:
    """The panel of rankings on pairwise records, each query judged by fits that did not see it.

    Parameters
    ----------
    records
        One battle a query: two experts observed, the better score wins. Queries with fewer are left
        out. Equal texts are held out together.
    entrants
        Routers with ``strengths``; their policies do not matter.
    folds, seed, tolerant, report, jobs
        As for ``judge``. Holm's correction covers all entrants.

    Raises
    ------
    InputError
        Where records are not pairwise, an entrant does not rank, names repeat, or there are fewer
        battles than folds.
    """
    fought = _battles(records, folds)
    notes: list[str] = []

    def on_error(name: str, error: CoterieError) -> None:
        if not tolerant:
            raise named(error, name)
        notes.append(f"{name} was left out: {error}")

    ranked = _ranking([Entrant(BASE, BradleyTerry), *entrants], on_error)
    show: Report = report or (lambda name, done, total: None)
    strengths = _hold(fought, ranked, folds, seed, show, on_error, jobs)
    strengths = {COIN: np.zeros(fought.quality.shape), **strengths}
    rows = _compare({name: _outcomes(fought, each) for name, each in strengths.items()}, seed)
    left_out = len(records) - len(fought)
    return BattlePanel(fought, tuple(rows), folds, seed, left_out, tuple(notes))


def _battles(records: Records, folds: int) -> Records:
    """The queries on which two experts met."""
    answered = records.observed.sum(axis=1)
    if not (answered == 2).any() or answered.max() > 2:
        message = f"expected two experts a query, got up to {answered.max(initial=0)}; use judge"
        raise InputError(message, field="records")
    fought = records.take(np.flatnonzero(answered == 2))
    if not 2 <= folds <= len(fought):
        message = f"expected 2 to {len(fought)} (the battles), got {folds!r}"
        raise InputError(message, field="folds")
    return fought


def _ranking(
    entrants: Sequence[Entrant], on_error: Callable[[str, CoterieError], None]
) -> list[Entrant]:
    """Those that rank, with one encoder of a kind among them."""
    names = [COIN, *(entrant.name for entrant in entrants)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"two rows would be called {twice[0]!r}", field="entrants")
    encoders: dict[str | int, SharedEncoder] = {}
    kept = []
    for entrant in entrants:
        if isinstance(entrant.make_router(), Ranks):
            kept.append(Entrant(entrant.name, sharing(entrant.make_router, encoders)))
        else:
            message = "it does not rank experts; bradley-terry, elo, p2l, similarity-weighted do"
            on_error(entrant.name, InputError(message))
    return kept


def _hold(
    records: Records,
    entrants: Sequence[Entrant],
    folds: int,
    seed: int,
    report: Report,
    on_error: Callable[[str, CoterieError], None],
    jobs: int,
) -> dict[str, FloatArray]:
    """Held-out strengths by entrant, (queries, experts)."""
    tests = records.folds(folds, seed)
    tasks = list(itertools.product(range(len(tests)), range(len(entrants))))
    found: dict[str, FloatArray]
    found = {entrant.name: np.zeros(records.quality.shape) for entrant in entrants}
    work = functools.partial(_one_fold, records, tests, entrants)
    for done, ((fold, number), part) in enumerate(run(work, tasks, jobs), start=1):
        name = entrants[number].name
        if isinstance(part, CoterieError):
            if found.pop(name, None) is not None:
                on_error(name, part)
        elif name in found:
            found[name][tests[fold]] = part
        report(name, done, len(tasks))
    return found


def _one_fold(
    records: Records, tests: Sequence[Rows], entrants: Sequence[Entrant], task: tuple[int, int]
) -> FloatArray | CoterieError:
    """Strengths on one fold by one router fitted on the others, or what it said against them."""
    fold, number = task
    rest = np.setdiff1d(np.arange(len(records)), tests[fold])
    router: Any = entrants[number].make_router()
    try:
        router.fit(records.take(rest))
        strengths: FloatArray = router.strengths([records.queries[i] for i in tests[fold]])
    except CoterieError as error:
        return error
    return strengths[:, [router.experts_.index(e) for e in records.experts]]


def _outcomes(records: Records, strengths: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Log loss of every battle, and whether its winner was expected (NaN at ties)."""
    losses, _ = ranking.score_battles(records.quality, strengths)
    met = np.nonzero(records.observed)[1].reshape(-1, 2)  # the two experts of each query
    won, expected = (
        np.sign(np.diff(np.take_along_axis(table, met, axis=1), axis=1)[:, 0])
        for table in (records.quality, strengths)
    )
    return losses, np.where(won == 0, np.nan, 0.5 + 0.5 * won * expected)


def _compare(outcomes: dict[str, tuple[FloatArray, FloatArray]], seed: int) -> list[BattleRow]:
    """The rows with intervals, paired with Bradley-Terry's, p-values of entrants corrected."""
    names = list(outcomes)
    table = np.column_stack([losses for losses, _ in outcomes.values()])
    resampled, base = resampled_means(table, seed), names.index(BASE)
    gains = (table - table[:, [base]]).mean(axis=0)
    apart = resampled - resampled[:, [base]]
    p = [bootstrap_p(column) for column in apart.T]
    rivals = [name for name in names if name not in (COIN, BASE)]
    corrected = holm([p[names.index(name)] for name in rivals])
    adjusted = dict(zip(rivals, corrected, strict=True))
    rows = []
    for j, (name, (losses, hits)) in enumerate(outcomes.items()):
        log_loss = interval(float(losses.mean()), resampled[:, j])
        found = interval(float(gains[j]), apart[:, j])
        versus = Difference(*found, p[j], adjusted.get(name, p[j]))
        accuracy, more = _accuracy(hits, outcomes[BASE][1], seed)
        rows.append(BattleRow(name, losses, hits, log_loss, accuracy, versus, more))
    return rows


def _accuracy(hits: FloatArray, base: FloatArray, seed: int) -> tuple[Interval, Interval]:
    """Accuracy and its difference from the base's, with intervals; unknown where all are ties."""
    if np.isnan(hits).all():
        return UNKNOWN, UNKNOWN
    return bootstrap_mean(hits, seed), paired_difference(hits, base, seed)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
