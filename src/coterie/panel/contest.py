"""The whole panel: baselines, entrants and bounds on the same folds, compared."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from coterie.answers import Extractor, whole
from coterie.errors import CoterieError, InputError, NotRecordedError
from coterie.evaluation import complete
from coterie.panel.baselines import baselines, bounds
from coterie.panel.battles import is_pairwise
from coterie.panel.comparing import compare
from coterie.panel.setting import Setting
from coterie.panel.sweeps import Curve, PairMetrics, pair_metrics, sweep
from coterie.panel.trials import Entrant, Report, hold, named
from coterie.panel.values import Outcome, Panel
from coterie.records import Records
from coterie.routers.categories import CategoryTable

LIVE = "not recorded: run on a live pool"
OWN = ("random", "best single", "per-category table", "oracle")  # names entrants cannot have
DEFAULT = "stack"  # the router that is declared in advance


def judge(
    records: Records,
    entrants: Sequence[Entrant] = (),
    folds: int = 5,
    seed: int = 0,
    *,
    default: str | None = None,
    keep: Sequence[str] = (),
    extract: Extractor = whole,
    tolerant: bool = False,
    report: Report | None = None,
    jobs: int = 1,
) -> Panel:
    """The panel of the entrants on these records.

    Parameters
    ----------
    records
        Outcomes; judged are the rows complete for all experts that were observed on at least
        99 % of the queries or are named in ``keep``. Routers learn from the same rows.
    folds, seed
        Queries are shuffled by ``seed`` and held out in ``folds`` parts; resampling uses the seed.
    default
        Name of the entrant declared in advance: its p-value is not corrected, all others' are.
    extract
        How static votes read an answer.
    tolerant
        Whether an entrant that refuses the records becomes a note instead of an error.
    report
        Called after every fold of every router with its name, the steps done and their number.
    jobs
        Processes that share the folds of the routers (forked, so not on Windows); all but the
        seconds is the same for any number of them.

    Raises
    ------
    InputError
        Where nothing is left to judge, records are pairwise (``judge_battles`` is for those), names
        repeat, ``default`` is no entrant, or there are fewer queries than folds.
    """
    _check(entrants, default)
    if is_pairwise(records) and not keep:
        message = (
            f"every query compares two of {len(records.experts)} experts, so no expert answered "
            "most of them; judge_battles and coterie evaluate judge the battles, and keep=[a, b] "
            "the queries on which a met b"
        )
        raise InputError(message, field="records")
    judged = complete(records, keep=keep)
    setting = Setting.make(judged, folds, seed, extract)
    notes = _notes(setting)

    def on_error(name: str, error: CoterieError) -> None:
        if not tolerant:
            raise named(error, name)
        missing = isinstance(error, NotRecordedError)
        notes.append(f"{name}: {LIVE}" if missing else f"{name} was left out: {error}")

    show: Report = report or (lambda name, done, total: None)
    clock = [time.perf_counter()]
    outcomes = [*baselines(setting), *_by_category(setting)]
    clock.append(time.perf_counter())
    routed = hold(setting, entrants, "router", show, on_error, jobs)
    notes += [f"{outcome.name}: {outcome.note}" for outcome in routed if outcome.note]
    outcomes += routed
    clock.append(time.perf_counter())
    outcomes += bounds(setting)
    clock.append(time.perf_counter())
    declared = default if any(o.name == default for o in outcomes) else None
    rows = compare(outcomes, judged.quality, declared, seed)
    plain = {entrant.name for entrant in entrants if entrant.policy is None}
    estimating = [o for o in outcomes if o.name in plain]
    curves, pairs = _curves(setting, estimating), _pairs(setting, estimating)
    clock.append(time.perf_counter())
    phases = ("baselines", "routers", "bounds", "intervals and curves")
    return Panel(
        records=judged,
        rows=tuple(rows),
        fold_of=setting.fold_of,
        fallback=setting.fallback,
        folds=folds,
        seed=seed,
        default=declared,
        left_out=tuple(e for e in records.experts if e not in judged.experts),
        queries_left_out=len(records) - len(judged),
        curves=curves,
        pairs=pairs,
        notes=tuple(notes),
        seconds=dict(zip(phases, (b - a for a, b in pairwise(clock)), strict=True)),
    )


def _check(entrants: Sequence[Entrant], default: str | None) -> None:
    names = [entrant.name for entrant in entrants]
    if twice := [name for name in (*names, *OWN) if (*names, *OWN).count(name) > 1]:
        raise InputError(f"two rows would be called {twice[0]!r}", field="entrants")
    if default is not None and default not in names:
        raise InputError(f"no entrant is called {default!r}", field="default")


def _without_costs(setting: Setting) -> str:
    """Whose costs are missing, and what follows."""
    seen = ~np.isnan(setting.records.cost)
    shares = zip(setting.records.experts, seen.mean(axis=0), strict=True)
    unknown = [expert for expert, share in shares if share < 0.99]
    whose = f"the costs of {', '.join(unknown)} are not known"
    if not seen.any() or not unknown:
        whose = "the records hold no costs"
    return f"{whose}: no costs, no curves, ties go by order, and policies see quality alone"


def _notes(setting: Setting) -> list[str]:
    """What cannot be shown for want of data."""
    notes = []
    if not setting.has_costs:
        notes.append(_without_costs(setting))
    if setting.codes is None:
        notes.append("the records hold no answers: no static vote")
    if not any(setting.records.categories):
        notes.append("no query has a category: the per-category table is best single")
    return notes


def _by_category(setting: Setting) -> list[Outcome]:
    """The table of each expert's shrunk mean score by given category."""

    def refuse(name: str, error: CoterieError) -> None:
        raise error

    entrant = Entrant("per-category table", lambda: CategoryTable("category"))
    return hold(setting, [entrant], "baseline", lambda name, done, total: None, refuse)


def _curves(setting: Setting, outcomes: Sequence[Outcome]) -> dict[str, Curve]:
    """By router, where costs are known and differ."""
    if not setting.has_costs:
        return {}
    found: dict[str, Curve] = {}
    for o in outcomes:
        if o.expected is not None and o.expected_cost is not None:
            curve = sweep(o.expected, o.expected_cost, setting.records.quality, setting.costs)
            found |= {} if curve is None else {o.name: curve}
    return found


def _pairs(setting: Setting, outcomes: Sequence[Outcome]) -> dict[str, PairMetrics]:
    """By router, where there are exactly two experts."""
    quality, experts = setting.records.quality, setting.records.experts
    if len(experts) != 2:
        return {}
    found: dict[str, PairMetrics] = {}
    for o in outcomes:
        if o.expected is not None:
            metrics = pair_metrics(o.expected, quality, experts, setting.fold_of)
            found |= {} if metrics is None else {o.name: metrics}
    return found
