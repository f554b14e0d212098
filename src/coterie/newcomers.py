"""Judging on newcomers: experts that training knows through a few labelled questions only."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from coterie.errors import CoterieError, InputError
from coterie.holdouts import plain_difference, points, show_tables, table_of
from coterie.metrics.intervals import Interval, interval, resampled_means
from coterie.panel.sweeps import best_by_utility
from coterie.panel.trials import Entrant, Report, sharing
from coterie.panel.values import Panel
from coterie.records import NUMBERS, Records
from coterie.routers.base import Router, mean_or
from coterie.routers.baselines import BestSingle
from coterie.suggesting import WAYS, Chooser
from coterie.types import FloatArray, IntArray

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

SIZES = (0, 10, 25, 50, 100, 250)  # labelled questions of a newcomer, besides all of them
NEWCOMERS = 3  # experts held out, the best first
DRAWS = 3  # orders of labelling that are tried for every newcomer


@runtime_checkable
class Growing(Protocol):
    """A router that takes in another expert without being fitted again."""

    def add_expert(self, name: str, records: Records) -> Any:
        """Learn the expert's scores, a column of ``records``."""


class Method(NamedTuple):
    """A way to learn of a newcomer: from training records, its name and its labelled rows."""

    name: str
    learn: Callable[[Records, str, IntArray], Router]


@dataclass(frozen=True)
class ColdPoint:
    """Routing with a newcomer known from so many labelled questions, chosen in this way.

    Means over newcomers and draws: ``quality`` of routing, with a 95 % bootstrap interval over the
    test questions; the ``share`` of them that the newcomer gets; the Brier score (mean squared
    error) of its expected scores, None without labels. ``vs_first`` is the
    gain over the first way, paired, where this is another.
    """

    labels: int
    way: str
    quality: Interval
    share: float
    brier: float | None
    vs_first: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """The point as JSON values."""
        against = None if self.vs_first is None else plain_difference(self.vs_first)
        quality, ci = self.quality.value, [self.quality.low, self.quality.high]
        return asdict(self) | {"quality": quality, "ci": ci, "vs_first": against}


@dataclass(frozen=True)
class ColdStart:
    """Quality against the number of labelled questions of a newcomer, by method of learning.

    ``newcomers`` were held out one at a time; ``queries`` test questions; ``ways`` of choosing what
    to label, the first of which the others are compared with.
    """

    newcomers: tuple[str, ...]
    queries: int
    ways: tuple[str, ...]
    curves: Mapping[str, tuple[ColdPoint, ...]]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Newcomers, curves and notes as JSON values."""
        curves = {name: [p.to_dict() for p in points] for name, points in self.curves.items()}
        facts = {"newcomers": list(self.newcomers), "queries": self.queries}
        return {**facts, "ways": list(self.ways), "curves": curves, "notes": list(self.notes)}

    def tables(self) -> Iterator[Table]:
        """One a method: score, what the newcomer gets and its Brier score, by labels and way."""
        columns = ("labelled", "score [95 %]", "gain over first", "gets", "Brier")
        for name, curve in self.curves.items():
            title = f"{name}: {len(self.newcomers)} newcomers, {self.queries:,} test questions"
            table = table_of(title, "labels", columns)
            for point in curve:
                value, low, high = point.quality
                brier = "-" if point.brier is None else f"{point.brier:.3f}"
                against = "" if point.vs_first is None else points(point.vs_first)
                score = f"{value:.3f} [{low:.3f},{high:.3f}]"
                cells = (point.way, score, against, f"{point.share:.0%}", brier)
                table.add_row(f"{point.labels:,}", *cells)
            yield table

    def show(self, out: Console, default: str | None = None) -> None:
        """Print the tables, then the notes; ``default`` changes nothing."""
        show_tables(out, self.tables(), self.notes)


def cold_start(
    panel: Panel,
    entrants: Sequence[Entrant],
    ways: Mapping[str, Chooser] = WAYS,
    newcomers: Sequence[str] | int = NEWCOMERS,
    sizes: Sequence[int] = SIZES,
    draws: int = DRAWS,
    report: Report | None = None,
) -> ColdStart:
    """Hold out one expert at a time and judge routing as more of its questions are labelled.

    One fold of the panel is the test, the others train. The newcomer's scores are hidden but for
    the labelled questions; without any it does not take part, and at last all are labelled. Routers
    are fitted again on the records with holes, and those with ``add_expert`` also grow, fitted once
    without the newcomer. Best single is always judged beside them. Entrants with a policy take no
    part. Intervals are over test questions; what other labels or newcomers would change is not in
    them.

    Parameters
    ----------
    ways
        By name, how to choose what to label: a function of the training records of the other
        experts, a number and a seed that returns row numbers, those to label first first.
    newcomers
        Names, or how many: the best ones in training, one at a time.
    sizes
        Numbers of labelled questions; those beyond the training questions are left out.
    draws
        Seeds a way is tried with; equal orders count once.
    """
    records = panel.records
    chosen = _newcomers(panel, newcomers)
    if len(records.experts) < 2:
        return ColdStart((), 0, tuple(ways), {}, ("cold start needs at least two experts",))
    test, rest = np.flatnonzero(panel.fold_of == 0), np.flatnonzero(panel.fold_of != 0)
    training, held_out = records.take(rest), records.take(test)
    sizes = sorted({n for n in sizes if n < len(training)})
    orders = {
        e: _orders(training, e, ways, max(sizes, default=0), draws, panel.seed) for e in chosen
    }
    steps = [*_steps(orders, sizes, len(training))]
    plain = [entrant for entrant in entrants if entrant.policy is None]
    methods = [*_methods(plain)]
    counter, notes, curves = itertools.count(1), [], {}

    def learnt(method: Method) -> Iterator[tuple[tuple[int, str], _Trial]]:
        for label, newcomer, rows in steps:
            yield label, _try(method, training, held_out, newcomer, rows)
            if report is not None:
                report(method.name, next(counter), len(methods) * len(steps))

    for method in methods:
        try:
            curves[method.name] = _curve(learnt(method), tuple(ways), panel.seed)
        except CoterieError as error:
            notes.append(f"{method.name} was left out of cold start: {error}")
    return ColdStart(tuple(chosen), len(test), tuple(ways), curves, tuple(notes))


def _newcomers(panel: Panel, wanted: Sequence[str] | int) -> list[str]:
    """The experts to hold out; raises InputError for unknown ones."""
    training = panel.records.take(np.flatnonzero(panel.fold_of != 0))
    if isinstance(wanted, int):
        order = np.argsort(-mean_or(training.quality, 0.0), kind="stable")
        return [training.experts[j] for j in order[:wanted]]
    if unknown := [name for name in wanted if name not in training.experts]:
        there = ", ".join(training.experts)
        raise InputError(f"no expert {unknown[0]!r}; there are {there}", field="newcomers")
    return list(wanted)


def _orders(
    training: Records, newcomer: str, ways: Mapping[str, Chooser], size: int, draws: int, seed: int
) -> dict[str, list[IntArray]]:
    """The distinct orders of labelling of every way, from the other experts' scores alone."""
    others = training.select([name for name in training.experts if name != newcomer])
    found = {}
    for way, choose in ways.items():
        orders = [choose(others, size, seed + draw) for draw in range(draws)] if size else []
        found[way] = list({tuple(order): order for order in orders}.values())
    return found


def _steps(
    orders: Mapping[str, Mapping[str, Sequence[IntArray]]], sizes: Sequence[int], every: int
) -> Iterator[tuple[tuple[int, str], str, IntArray]]:
    """Labels and way of every trial, its newcomer and its labelled rows."""
    nothing, everything = np.zeros(0, np.intp), np.arange(every)
    for newcomer, ways in orders.items():
        if 0 in sizes:
            yield (0, "none"), newcomer, nothing
        for size in sizes:
            for way, found in ways.items():
                for order in found if size else []:
                    yield (size, way), newcomer, order[:size]
        yield (every, "all"), newcomer, everything


def _methods(entrants: Sequence[Entrant]) -> Iterator[Method]:
    """Best single and the entrants fitted again, and those that can grow."""
    yield Method("best single", refitting(BestSingle))
    for entrant in entrants:
        make = sharing(entrant.make_router)
        yield Method(entrant.name, refitting(make))
        if isinstance(make(), Growing):
            yield Method(f"{entrant.name}, add_expert", growing(make))


def refitting(make: Callable[[], Router]) -> Callable[[Records, str, IntArray], Router]:
    """Fits a router on all experts, the newcomer's unlabelled cells being unobserved."""

    def learn(training: Records, newcomer: str, rows: IntArray) -> Router:
        if not len(rows):
            return make().fit(_without(training, newcomer))
        return make().fit(masked(training, newcomer, rows))

    return learn


def growing(make: Callable[[], Router]) -> Callable[[Records, str, IntArray], Router]:
    """Fits a router once a newcomer on the other experts, then adds the newcomer to a copy."""
    fitted: dict[str, Router] = {}

    def learn(training: Records, newcomer: str, rows: IntArray) -> Router:
        if newcomer not in fitted:
            fitted[newcomer] = make().fit(_without(training, newcomer))
        router = copy.deepcopy(fitted[newcomer])
        if len(rows) and isinstance(router, Growing):
            router.add_expert(newcomer, training.select([newcomer]).take(rows.astype(np.intp)))
        return router

    return learn


def masked(records: Records, newcomer: str, rows: IntArray) -> Records:
    """The records with nothing known of the newcomer but on these rows."""
    hidden = np.zeros(records.quality.shape, bool)
    hidden[:, records.experts.index(newcomer)] = True
    hidden[rows] = False
    texts = records.texts.copy()
    texts[hidden] = None
    numbers: dict[str, Any] = {
        name: np.where(hidden, np.nan, getattr(records, name)) for name in NUMBERS
    }
    return replace(records, texts=texts, **numbers)


def _without(records: Records, expert: str) -> Records:
    return records.select([name for name in records.experts if name != expert])


class _Trial(NamedTuple):
    """Scores of the test questions, the newcomer's share of them, its Brier score."""

    scores: FloatArray
    share: float
    brier: float | None


def _try(method: Method, training: Records, test: Records, newcomer: str, rows: IntArray) -> _Trial:
    estimates = method.learn(training, newcomer, rows).predict(test.queries)
    column = np.array([test.experts.index(name) for name in estimates.experts])
    chosen = column[best_by_utility(estimates.quality, estimates.cost, np.inf)]
    own = test.experts.index(newcomer)
    brier = None
    if len(rows):
        expected = estimates.quality[:, estimates.experts.index(newcomer)]
        brier = float(((expected - test.quality[:, own]) ** 2).mean())
    return _Trial(test.quality[np.arange(len(test)), chosen], float(np.mean(chosen == own)), brier)


def _curve(
    learnt: Iterable[tuple[tuple[int, str], _Trial]], ways: Sequence[str], seed: int
) -> tuple[ColdPoint, ...]:
    """The means of the trials, by labels and then way; all on the same resamples."""
    trials: dict[tuple[int, str], list[_Trial]] = {}
    for label, trial in learnt:
        trials.setdefault(label, []).append(trial)
    keys = sorted(trials, key=lambda key: (key[0], ways.index(key[1]) if key[1] in ways else 0))
    table = np.column_stack([np.mean([t.scores for t in trials[key]], axis=0) for key in keys])
    resampled, means = resampled_means(table, seed), table.mean(axis=0)
    curve = []
    for place, key in enumerate(keys):
        briers = [t.brier for t in trials[key] if t.brier is not None]
        share, brier = np.mean([t.share for t in trials[key]]), np.mean(briers) if briers else None
        first, against = (key[0], ways[0]), None
        if first in trials and key != first:
            base = keys.index(first)
            difference = resampled[:, place] - resampled[:, base]
            against = interval(means[place] - means[base], difference)
        quality = interval(means[place], resampled[:, place])
        error = None if brier is None else float(brier)
        curve.append(ColdPoint(*key, quality, float(share), error, against))
    return tuple(curve)
