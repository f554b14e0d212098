"""Sections on what folds do not show: new categories, new experts, other wordings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias, TypeVar

import numpy as np

from coterie import figures
from coterie.figures import Line, Series, number
from coterie.holdouts import Held, Transfer, TransferRow
from coterie.metrics.intervals import Interval
from coterie.newcomers import ColdPoint, ColdStart
from coterie.page import interval, percent, points, points_interval, section, table, tag
from coterie.perturbations import Flips, Robustness

HeldOut: TypeAlias = Transfer | ColdStart | Robustness


class _HasName(Protocol):
    @property
    def name(self) -> str: ...


Named = TypeVar("Named", bound=_HasName)

COLOURS = (figures.ORANGE, figures.BLUE, "#8a5fb0", "#2a9d8f", "#c2578a")  # one a method's curve
REFERENCE = "best single"  # the method that the others are drawn against


def held_out(found: HeldOut, default: str | None) -> str:
    """The section on what was found; ``default`` is the router that is shown in detail."""
    match found:
        case Transfer():
            return section("Categories that training did not hold", transfer(found, default))
        case ColdStart():
            return section("New experts, known from few labels", cold_start(found, default))
        case Robustness():
            return section("Questions worded otherwise", robustness(found, default))


def transfer(found: Transfer, default: str | None) -> str:
    """Every router on categories held out whole, then one router category by category."""
    if not found.rows:
        return _notes(found.notes)
    note = (
        "Each category in turn was left out of training entirely, and routers were judged on it. "
        "Differences are in points: to the expert with the best mean on the other categories, and "
        "to the same router where the folds showed it the category. Over categories: the mean gain "
        "over best single with every category weighing the same, what to expect of a new one."
    )
    head = ("router", "score", *_DIFFERENCES, "over categories", "95 %")
    rows = [(row.name, *_held(row.overall), *_difference(row.by_category)) for row in found.rows]
    shown = _named(found.rows, default)
    marked = [place for place, row in enumerate(found.rows) if row.name == default]
    parts = tag("p", note), table(head, rows, words=1, marked=marked), _by_category(shown)
    return "".join(parts) + _notes(found.notes)


_DIFFERENCES = ("vs best single", "95 %", "vs in folds", "95 %")


def _by_category(row: TransferRow) -> str:
    """A router on each category it was not trained on, the largest loss first."""
    categories = sorted(row.categories, key=lambda held: held.vs_best_single.value)
    names = [str(held.category) for held in categories]
    series = {
        f"{row.name}, category held out": Series([h.quality for h in categories], figures.ORANGE),
        "the same, category in training": Series(
            [h.in_folds for h in categories], figures.BLUE, "diamond-open"
        ),
        "best single": Series([h.best_single for h in categories], figures.GREY, "circle-open", 15),
    }
    cells = [
        (name, f"{held.queries:,}", *_held(held))
        for name, held in zip(names, categories, strict=True)
    ]
    head = ("category held out", "questions", "score", *_DIFFERENCES)
    figure = figures.embed("plot-transfer", figures.dots(names, series, "score"))
    return tag("h3", f"{row.name}, by category") + figure + table(head, cells, words=1)


def _held(held: Held) -> tuple[str, ...]:
    differences = *_difference(held.vs_best_single), *_difference(held.vs_in_folds)
    return number(held.quality), *differences


def cold_start(found: ColdStart, default: str | None) -> str:
    """Every method's score by the number of labels, then one method with all that was measured."""
    if not found.curves:
        return _notes(found.notes)
    note = (
        f"One expert at a time ({', '.join(found.newcomers)}) was hidden from training but for so "
        "many labelled questions; routing among all experts was then judged on "
        f"{found.queries:,} held-out questions. Scores are means over those experts. Without "
        "labels the new expert takes no part. Lines have labels chosen "
        f"{_way(found.ways[0])}; dotted ones {' or '.join(map(_way, found.ways[1:])) or 'none'}."
    )
    labels = sorted({point.labels for curve in found.curves.values() for point in curve})
    names = _shown(found, default)
    main = next(name for name in [*names, REFERENCE] if name in found.curves)
    figure = figures.steps([f"{n:,}" for n in labels], _lines(found, names, labels), "labels")
    rows = [
        (name, *(number(score) for score in _scores(curve, found.ways[0], labels)))
        for name, curve in found.curves.items()
    ]
    marked = [place for place, name in enumerate(found.curves) if name == default]
    parts = (
        tag("p", note),
        figures.embed("plot-cold-start", figure),
        table(("score by labels", *(f"{n:,}" for n in labels)), rows, words=1, marked=marked),
        tag("h3", f"{main}, in detail") + _points(found.curves[main], found.ways[0]),
    )
    return "".join(parts) + _notes(found.notes)


def _shown(found: ColdStart, default: str | None) -> list[str]:
    """The methods with a colour of their own: the default, then the best on average."""
    means = {
        name: float(np.mean([point.quality.value for point in curve]))
        for name, curve in found.curves.items()
        if name != REFERENCE
    }
    return sorted(means, key=lambda name: (name != default, -means[name]))[: len(COLOURS)]


def _lines(found: ColdStart, names: Sequence[str], labels: Sequence[int]) -> dict[str, Line]:
    """A line a method with labels of the first way; dotted, the first method's other ways."""
    first, *others = found.ways
    pairs = zip(names, COLOURS, strict=False)
    drawn = {name: (name, first, colour, "solid") for name, colour in pairs}
    drawn |= {
        f"{name}, {_way(way)}": (name, way, COLOURS[0], "dot")
        for name in names[:1]
        for way in others
    }
    if REFERENCE in found.curves:
        drawn[REFERENCE] = (REFERENCE, first, figures.GREY, "dash")
    return {
        title: Line([*enumerate(_scores(found.curves[name], way, labels))], colour, dash)
        for title, (name, way, colour, dash) in drawn.items()
    }


def _scores(curve: Iterable[ColdPoint], way: str, labels: Sequence[int]) -> list[float]:
    """The scores at these numbers of labels, chosen this way where there is a choice."""
    known = {p.labels: p.quality.value for p in curve if p.way in (way, "none", "all")}
    return [known.get(n, float("nan")) for n in labels]


def _points(curve: Sequence[ColdPoint], first: str) -> str:
    head = ("labels", "chosen", "score", "95 %", f"vs {first}", "95 %", "newcomer gets", "Brier")
    rows = [
        (
            f"{point.labels:,}",
            point.way,
            number(point.quality.value),
            interval(point.quality[1:]),
            *(("", "") if point.vs_first is None else _difference(point.vs_first)),
            percent(point.share),
            "" if point.brier is None else number(point.brier),
        )
        for point in curve
    ]
    note = (
        "Newcomer gets: share of the questions that go to the new expert. Brier: mean squared "
        "error of its expected scores."
    )
    return table(head, rows, words=2) + tag("p", note, "note")


def _way(name: str) -> str:
    return {"random": "at random", "suggested": "as suggested"}.get(name, name)


def robustness(found: Robustness, default: str | None) -> str:
    """Flips of every router by perturbation, then one router's with what they cost."""
    if not found.rows:
        return _notes(found.notes)
    note = (
        "Percent of the questions whose chosen expert changes when the wording does, though not "
        "what is asked. The numbers in brackets are the shares of choices that stay, over all "
        "perturbations."
    )
    names = [f"{row.name} ({percent(row.robustness)})" for row in found.rows]
    kinds = [each.perturbation for each in found.rows[0].flips]
    shares = np.array([[each.flips.value for each in row.flips] for row in found.rows])
    figure = figures.heat_map(names, kinds, shares, narrow=True)
    row = _named(found.rows, default)
    head = ("perturbation", "flips, %", "95 %", "score, points", "95 %", "cost")
    cells = [_flips(each) for each in row.flips]
    parts = (
        tag("p", note),
        figures.embed("plot-robustness", figure),
        tag("h3", f"{row.name}, by perturbation") + table(head, cells, words=1),
    )
    return "".join(parts) + _notes(found.notes)


def _flips(each: Flips) -> tuple[str, ...]:
    shares = [100 * share for share in each.flips]
    cost = "–" if each.cost is None else number(each.cost, "+.2g")
    flips = number(shares[0], ".1f"), interval(shares[1:], ".1f")
    return each.perturbation, *flips, *_difference(each.change), cost


def _difference(found: Interval) -> tuple[str, str]:
    """A difference in points, and its interval."""
    return points(found.value), points_interval(found.low, found.high)


def _named(rows: Sequence[Named], name: str | None) -> Named:
    """The row of this name, else the first."""
    return next((row for row in rows if row.name == name), rows[0])


def _notes(notes: Iterable[str]) -> str:
    return "".join(tag("p", f"{note[:1].upper()}{note[1:]}.", "note") for note in notes)
