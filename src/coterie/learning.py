"""How many questions a router needs: quality against the number it learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from coterie.answers import whole
from coterie.errors import CoterieError, InputError
from coterie.metrics.intervals import Interval, interval, resampled_means
from coterie.panel import Entrant, Panel
from coterie.panel.setting import Setting
from coterie.panel.trials import Report, hold, sharing
from coterie.records import Records
from coterie.routers.base import mean_or
from coterie.types import FloatArray, IntArray

HALVINGS = 4  # of the questions in a panel's training folds
FEWEST = 10  # questions that are worth learning from


class Point(NamedTuple):
    """Mean scores after learning from ``size`` questions a fold, with 95 % intervals.

    ``gain`` is the paired difference of the router and the best single expert of the same
    questions.
    """

    size: int
    router: Interval
    best_single: Interval
    gain: Interval


@dataclass(frozen=True)
class LearningCurve:
    """The points of one entrant, ascending in size; ``notes`` say which sizes are missing."""

    name: str
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()


class _Trial(NamedTuple):
    size: int
    scores: FloatArray  # (queries,)
    baseline: FloatArray  # (queries,), of the best single expert of the same training questions


def learning_curve(
    records: Records,
    entrant: Entrant,
    sizes: Sequence[int],
    folds: int = 5,
    seed: int = 0,
    report: Report | None = None,
) -> LearningCurve:
    """The entrant cross-validated with only ``sizes`` questions of every fold's training part.

    Parameters
    ----------
    records
        Complete outcomes, such as ``Panel.records``; held out are the folds of ``judge``.
    entrant
        What is fitted again for every size and fold. A size it refuses becomes a note.
    sizes
        Numbers of training questions. Smaller parts are contained in larger ones.
    folds, seed
        As in ``judge``; the seed also draws the parts and the bootstrap.
    report
        Called after every fold with what runs, the steps done and their number.

    Raises
    ------
    InputError
        For a size below 1 or above the smallest training part.
    """
    trials, notes = _trials(records, entrant, sorted(set(sizes)), folds, seed, report)
    return LearningCurve(entrant.name, _points(trials, seed), tuple(notes))


def halving_curve(panel: Panel, entrant: Entrant, report: Report | None = None) -> LearningCurve:
    """The learning curve of one of the panel's entrants up to the panel's own row.

    Its sizes are all training questions, a half, a quarter and so on, four times, down to 10. Only
    the parts are fitted, so it takes less than the entrant took in the panel.
    """
    largest = _largest(panel.fold_of)
    sizes = [largest >> n for n in range(HALVINGS, 0, -1)]
    parts = [size for size in sizes if size >= FEWEST]
    trials, notes = _trials(panel.records, entrant, parts, panel.folds, panel.seed, report)
    trials.append(_Trial(largest, panel[entrant.name].scores, panel.best_single.scores))
    return LearningCurve(entrant.name, _points(trials, panel.seed), tuple(notes))


def _trials(
    records: Records,
    entrant: Entrant,
    sizes: Sequence[int],
    folds: int,
    seed: int,
    report: Report | None,
) -> tuple[list[_Trial], list[str]]:
    """One trial a size, and a sentence for each size that the entrant refused."""
    setting, notes = Setting.make(records, folds, seed, whole), list[str]()
    _check(sizes, _largest(setting.fold_of))
    entrant = replace(entrant, make_router=sharing(entrant.make_router))
    trials = []
    for place, size in enumerate(sizes):
        step = partial(_step, report, place * folds, len(sizes) * folds)
        note = partial(_note, notes, size)
        part = _part(setting, size, seed)
        baseline = part.outcome("best single", "baseline", "nothing", part.fallback)
        for outcome in hold(part, [entrant], "router", step, note):
            trials.append(_Trial(size, outcome.scores, baseline.scores))
    return trials, notes


def _largest(fold_of: IntArray) -> int:
    """How many questions every fold's training part has at least."""
    return len(fold_of) - int(np.bincount(fold_of).max())


def _check(sizes: Sequence[int], largest: int) -> None:
    for size in sizes:
        if not 1 <= size <= largest:
            raise InputError(f"expected 1 to {largest} questions, got {size!r}", field="sizes")


def _step(report: Report | None, before: int, total: int, name: str, done: int, _: int) -> None:
    if report is not None:
        report(f"learning curve of {name}", before + done, total)


def _note(notes: list[str], size: int, name: str, error: CoterieError) -> None:
    notes.append(f"{name} does not learn from {size:,} questions: {error}")


def _part(setting: Setting, size: int, seed: int) -> Setting:
    """The same held-out questions with ``size`` questions to learn from, nested in each other."""
    fallback, rests = setting.fallback.copy(), []
    for number, rest in enumerate(setting.rests):
        generator = np.random.default_rng((seed, number))
        kept = np.sort(generator.permutation(rest)[:size])
        fallback[setting.tests[number]] = mean_or(setting.records.quality[kept], 0.0).argmax()
        rests.append(kept)
    return replace(setting, rests=tuple(rests), fallback=fallback)


def _points(trials: Sequence[_Trial], seed: int) -> tuple[Point, ...]:
    """Means with intervals; all sizes share the same resamples of the questions."""
    if not trials:
        return ()
    table = np.column_stack([column for trial in trials for column in trial[1:]])
    means, resampled = table.mean(axis=0), resampled_means(table, seed)
    found = []
    for place, trial in enumerate(trials):
        own, base = 2 * place, 2 * place + 1
        gain = resampled[:, own] - resampled[:, base]
        found.append(
            Point(
                trial.size,
                interval(means[own], resampled[:, own]),
                interval(means[base], resampled[:, base]),
                interval(means[own] - means[base], gain),
            )
        )
    return tuple(found)
