"""The panel as one HTML file that needs nothing else: the verdict first, then what supports it.

Every number is computed from the panel (and its learning curve); every name is escaped by
``coterie.page`` and ``coterie.figures``.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import partial

import numpy as np

import coterie
from coterie import figures
from coterie.figures import Line, Point, Series, number
from coterie.learning import LearningCurve
from coterie.metrics.calibration import brier, ece
from coterie.metrics.intervals import RESAMPLES
from coterie.metrics.selection import selection_entropy, selection_shares
from coterie.page import (
    interval,
    p_value,
    page,
    percent,
    points,
    points_interval,
    section,
    table,
    tag,
    tile,
)
from coterie.panel import Curve, Panel, PanelRow
from coterie.panel.setting import filled_costs
from coterie.report import frontier
from coterie.views import (
    bins,
    choosers,
    confusion,
    declared,
    estimators,
    gathered,
    hull,
    judges,
    places,
    regrets,
    routers,
)

LINES = ("#3f7fbf", "#8a5fb0", "#2a9d8f", "#c2578a", "#a68a2c")  # one a router's curve


def render(panel: Panel, learned: LearningCurve | None = None) -> str:
    """The report of ``panel`` as one HTML page that makes no request.

    ``learned`` is the learning curve of one of its routers; without it the page says that none was
    computed.
    """
    sections: dict[str, Callable[[Panel], str]] = {
        **SECTIONS,
        "Quality against questions to learn from": partial(_learning, learned=learned),
        "What was left out": _left_out,
        "How this was made": _made,
    }
    parts = (section(heading, content(panel)) for heading, content in sections.items())
    return page("\n".join([_opening(panel), *parts]))


# Sections: a panel in, HTML out


def _opening(panel: Panel) -> str:
    tiles = "".join(
        tile(name, number(row.quality.value), row.name == panel.default)
        for name, row in _headlines(panel).items()
    )
    size = f"{len(panel.records):,} questions, {len(panel.records.experts)} experts"
    return (
        f"<header>{tag('h1', 'Routers against the best single expert')}"
        f'{tag("p", verdict(panel), "verdict")}<dl class="tiles">{tiles}</dl>'
        f"{tag('p', _rivals(panel))}{tag('p', _luck(panel))}"
        f"{tag('p', f'{size}, {panel.folds}-fold cross-validation.', 'note')}</header>"
    )


def _headlines(panel: Panel) -> dict[str, PanelRow]:
    """The rows that a reader looks for first, by what they are."""
    rows = {"best single": panel.best_single, "per-category table": panel["per-category table"]}
    if panel.default is not None:
        rows["default"] = panel[panel.default]
    if (best := routers(panel)[:1]) and best[0].name != panel.default:
        rows["best router"] = best[0]
    return {**rows, "oracle": panel["oracle"]}


def verdict(panel: Panel) -> str:
    """One sentence: whether the router declared in advance beats the best single expert."""
    if panel.default is None:
        return "No router was declared in advance, so there is no verdict without correction."
    row = panel[panel.default]
    low, high = row.versus.low, row.versus.high
    return (
        f"{row.name}, the default declared in advance, {_relation(panel, row)} the best single "
        f"expert: a mean score of {number(row.quality.value)} against "
        f"{number(panel.best_single.quality.value)} ({_singles(panel)}), a difference of "
        f"{points(row.versus.value)} points (95 % interval {points(low)} to {points(high)}, "
        f"p {p_value(row.versus.p, '= ')})."
    )


def _relation(panel: Panel, row: PanelRow) -> str:
    if panel.beats(row):
        return "beats"
    return "loses to" if row.versus.high < 0 else "does not beat"


def _singles(panel: Panel) -> str:
    """The best single experts of the training folds."""
    found = panel.best_experts()
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{name} in {count} folds" for name, count in found.items())


def _rivals(panel: Panel) -> str:
    """Which other rows beat best single."""
    rows = [r for r in routers(panel) if r.name != panel.default]
    better = [f"{r.name} ({points(r.versus.value)} points)" for r in rows if panel.beats(r)]
    if not rows:
        return "No other router was judged."
    if not better:
        return f"None of the other routers ({len(rows)}) beats it, p corrected by Holm's method."
    names = f"{'; '.join(better)}; p corrected by Holm's method"
    return f"Of the other routers ({len(rows)}) these beat it: {names}."


def _luck(panel: Panel) -> str:
    oracle, null = panel["oracle"].quality.value, panel["additive-null oracle"].quality.value
    return (
        f"Choosing the best expert for every question would score {number(oracle)}. If experts "
        "differed in ability alone, so that nothing could be routed, luck would still give that "
        f"oracle {number(null)}."
    )


def _panel(panel: Panel) -> str:
    head = ("who answers", "reads", "score", "95 %", "vs best single", "95 %", "p", "cost", "calls")
    rows = [_panel_row(row) for row in panel.rows]
    marked = [place for place, row in enumerate(panel.rows) if row.name == panel.default]
    note = (
        "Scores are means over the held-out questions, differences are in points (hundredths of a "
        f"score). Intervals and p are percentile bootstraps of {RESAMPLES:,} resamples of the "
        "questions, paired with best single; p is corrected by Holm's method for all rows but the "
        "default. Cost is a question's, in the unit of the records. Bounds know the right answer: "
        "they are no methods."
    )
    return table(head, rows, words=2, marked=marked) + tag("p", note, "note")


def _panel_row(row: PanelRow) -> tuple[str, ...]:
    against = (points(row.versus.value), points_interval(row.versus.low, row.versus.high))
    p = "" if row.kind == "bound" else p_value(row.versus.adjusted)
    return (
        row.name,
        row.reads,
        number(row.quality.value),
        interval(row.quality[1:]),
        *(("", "", "") if row.name == "best single" else (*against, p)),
        number(row.cost, ".3g"),
        number(float(row.calls.mean()), ".3g"),
    )


def _whiskers(panel: Panel) -> str:
    note = "Dots are mean scores, lines 95 % intervals; the dashed line is the best single expert."
    facts = [{"name": r.name, "accuracy": r.quality.value, "ci": r.quality[1:]} for r in panel.rows]
    colours = [_colour(panel, row) for row in panel.rows]
    line, bold = panel.best_single.quality.value, (panel.default or "",)
    figure = figures.whiskers(facts, colours, line, x="score", bold=bold)
    return tag("p", note) + figures.embed("plot-panel", figure)


def _colour(panel: Panel, row: PanelRow) -> str:
    colours = {"router": figures.BLUE, "bound": figures.GREEN}
    return figures.ORANGE if row.name == panel.default else colours.get(row.kind, figures.GREY)


def _knowing(panel: Panel) -> str:
    """What every router knows about questions, beyond knowing which experts are good."""
    rows = [row for row in panel.rows if row.kind == "router"]
    if not rows:
        return tag("p", "No router was judged.")
    head = ("router", "vs matched random", "95 %", "leaves", "gain there", "bits", "gap closed")
    note = (
        "Matched random asks every expert as often as the router does, on questions drawn at "
        "random: what is gained over it is knowledge of questions. Leaves: share of the questions "
        "that do not go to the best single expert, with the mean gain there. Bits: entropy of whom "
        "it asks. Gap closed: share of the way from best single to the oracle."
    )
    shown = [_knowing_row(panel, row) for row in rows]
    marked = [place for place, row in enumerate(rows) if row.name == panel.default]
    return table(head, shown, words=1, marked=marked) + tag("p", note, "note") + _pairs(panel)


def _knowing_row(panel: Panel, row: PanelRow) -> tuple[str, ...]:
    moved, closed = panel.switching(row), panel.closed(row)["oracle"]
    matched = ("", "") if row.matched is None else (
        points(row.matched.value), points_interval(row.matched.low, row.matched.high)
    )  # fmt: skip
    left = ("", "") if moved is None else (percent(moved["share"]), points(moved["gain"]))
    bits = "" if row.shares is None else number(selection_entropy(row.shares), ".2f")
    return row.name, *matched, *left, bits, "" if closed is None else percent(closed)


def _plane(panel: Panel) -> str:
    costs = filled_costs(panel.records)
    if np.isnan(costs).any():
        return tag("p", "The records hold no costs (or all are 0), so quality has no price here.")
    groups = places(panel, costs)
    usable = {n: p for name, group in groups.items() if name != "oracle" for n, p in group.items()}
    edge = frontier(usable)
    note = (
        "Up is better, left is cheaper. The staircase joins what nothing cheaper matches, oracles "
        f"aside: {'; '.join(edge)}. The dotted line is what coins between single experts reach: a "
        "router is worth its cost above it. Solid lines are routers over the willingness to pay."
    )
    lines = {"coins between experts": Line(hull(costs, panel.records.quality), figures.GREY, "dot")}
    best = sorted(panel.curves, key=lambda name: -panel.curves[name].aiq)[: len(LINES)]
    for name, colour in zip(best, LINES, strict=False):
        lines[name] = Line(_path(panel.curves[name]), colour)
    figure = figures.plane(groups, list(edge.values()), "", lines, y="score")
    return tag("p", note) + figures.embed("plot-plane", figure) + _curves(panel)


def _path(curve: Curve) -> list[Point]:
    """The points of a curve, each once, in the order of the willingness to pay."""
    return list(dict.fromkeys(zip(curve.cost.tolist(), curve.quality.tolist(), strict=True)))


def _curves(panel: Panel) -> str:
    if not panel.curves:
        return ""
    head = ("router", "AIQ", "coins between experts", "QNC", "area", "area to half", "peak")
    rows = [
        (name, *(number(v) for v in (c.aiq, c.zero_aiq, c.qnc, c.area, c.area_half, c.peak)))
        for name, c in panel.curves.items()
    ]
    note = (
        "AIQ is RouterBench's mean height of a router's hull between the costs of the cheapest and "
        "the dearest expert, and what coins between experts reach there. QNC is UniRoute's cost of "
        "reaching the best expert's score as a share of that expert's cost (inf: never reached); "
        "area is its mean score up to the dearest expert's cost, or half of it."
    )
    return table(head, rows, words=1) + tag("p", note, "note")


def _pairs(panel: Panel) -> str:
    """RouteLLM's metrics, where there are two experts."""
    head = ("router", "APGR", "CPT 20 %", "CPT 50 %", "CPT 80 %")
    rows = [
        (name, number(p.apgr), *(percent(v) for v in (p.cpt_20, p.cpt_50, p.cpt_80)))
        for name, p in panel.pairs.items()
    ]
    pair = next(iter(panel.pairs.values()), None)
    if pair is None:
        return ""
    note = (
        f"RouteLLM's metrics between {pair.weak} and {pair.strong}: APGR is the mean share of the "
        "gap between them that is recovered over all shares of strong calls (0.5 is random), CPT "
        "the share of strong calls that recovers so much of it."
    )
    return table(head, rows, words=1) + tag("p", note, "note")


def _calibration(panel: Panel) -> str:
    shown = judges(panel)
    if not shown:
        return tag("p", "No router estimates scores here.")
    quality = panel.records.quality
    curves = {r.name: bins(r.expected, quality) for r in shown if r.expected is not None}
    rows = [
        (names, number(ece(expected, quality)), number(brier(expected, quality)))
        for names, expected, _ in estimators(panel)
    ]
    note = (
        "Expected and observed score of every expert on every held-out question, by expected "
        "score; on the dashed line expectations come true. A dot's area is its share of the "
        "estimates; bins with fewer than one in a thousand are not drawn. A router has the same "
        "estimates with every policy."
    )
    figure = figures.embed("plot-calibration", figures.reliability(curves))
    sizes = tag("p", "ECE and Brier score: 0 is perfect.", "note")
    return tag("p", note) + figure + table(("router", "ECE", "Brier"), rows, words=1) + sizes


def _regret(panel: Panel) -> str:
    row = declared(panel)
    if row is None or not any(panel.records.categories):
        return tag("p", "No router was judged." if row is None else "No question has a category.")
    found = regrets(panel, row)
    names = [f"{r.category} ({r.questions:,})" for r in found]
    single = [r.oracle - r.best_single for r in found]
    series = {
        row.name: Series([r.value for r in found], figures.ORANGE),
        "best single": Series(single, figures.GREY, "circle-open", 15),
    }
    every = len(panel.groups("category"))
    which = "all" if every == len(found) else f"the {len(found)} of {every} that lose most in all"
    note = (
        f"The oracle's mean score minus that of {row.name} and of best single, by category "
        f"({which}, with their numbers of questions): where something is left to gain."
    )
    head = ("category", "questions", "best single", row.name, "oracle", "regret")
    cells = [
        (r.category, f"{r.questions:,}", *(number(v) for v in (*r[2:], r.value))) for r in found
    ]
    figure = figures.dots(names, series, "oracle − score")
    return tag("p", note) + figures.embed("plot-regret", figure) + table(head, cells, words=1)


def _confusion(panel: Panel) -> str:
    row = declared(panel)
    if row is None or row.chosen is None:
        return tag("p", "No single expert is chosen here that could be compared.")
    counts = confusion(row.chosen, panel.records.quality)
    labels, parts = gathered(panel.records.experts, counts.sum(axis=1) + counts.sum(axis=0))
    summed = np.array([[counts[np.ix_(a, b)].sum() for b in parts] for a in parts])
    asked = np.flatnonzero(summed.sum(axis=1))
    if not len(asked):
        return tag("p", "All experts score alike on every question: nobody can be confused.")
    shares = summed[asked] / summed[asked].sum(axis=1, keepdims=True)
    names = [f"{labels[at]} ({round(summed[at].sum()):,})" for at in asked]
    note = (
        f"Whom {row.name} chose (rows, with their questions) and who was best there (columns), "
        f"percent of each row. Only the {round(counts.sum()):,} questions on which experts differ "
        "count. A choice among the best counts as itself; otherwise a question counts in equal "
        "parts for all that were best. “others” are all experts without a row or column of their "
        "own."
    )
    figure = figures.heat_map(names, labels, shares, narrow=True)
    return tag("p", note) + figures.embed("plot-confusion", figure)


def _shares(panel: Panel) -> str:
    rows = choosers(panel)
    experts = panel.records.experts
    shares = np.array([selection_shares(chosen, len(experts)) for chosen in rows.values()])
    labels, parts = gathered(experts, shares.mean(axis=0))
    merged = np.column_stack([shares[:, part].sum(axis=1) for part in parts])
    note = (
        "Percent of the questions that each expert answers, for every row in which one expert "
        "answers a question; rows sum to 100."
    )
    figure = figures.heat_map(list(rows), labels, merged, narrow=True)
    return tag("p", note) + figures.embed("plot-shares", figure)


def _learning(panel: Panel, learned: LearningCurve | None) -> str:
    if learned is None or not learned.points:
        reasons = learned.notes if learned else ()
        return tag("p", " ".join(["No learning curve was computed.", *reasons]))
    note = (
        f"{learned.name} after learning from part of every fold's training questions, and the best "
        "single expert of the same part. Whiskers are 95 % intervals of the score; the table's "
        "differences are paired."
    )
    rows = [
        (f"{size:,}", number(own[0]), number(best[0]), points(gain[0]), points_interval(*gain[1:]))
        for size, own, best, gain in learned.points
    ]
    head = ("questions", learned.name, "best single", "difference in points", "95 %")
    sizes, own = [p.size for p in learned.points], [p.router for p in learned.points]
    base = {"best single": [p.best_single.value for p in learned.points]}
    figure = figures.learning(sizes, learned.name, own, base)
    missing = tag("p", " ".join(learned.notes), "note")
    drawn = figures.embed("plot-learning", figure)
    return tag("p", note) + drawn + table(head, rows, words=1) + missing


def _left_out(panel: Panel) -> str:
    lines = []
    if panel.left_out:
        lines.append(f"Experts observed too seldom: {', '.join(panel.left_out)}.")
    if panel.queries_left_out:
        lines.append(f"Questions without every expert's score: {panel.queries_left_out:,}.")
    lines += [f"{note[:1].upper()}{note[1:]}." for note in panel.notes]
    return "".join(tag("p", line) for line in lines or ["Nothing was left out."])


def _made(panel: Panel) -> str:
    text = (
        f"Questions were shuffled with seed {panel.seed} and held out in {panel.folds} parts; "
        "everything, also who the best single expert is, was learnt on the other parts. "
        f"Coterie {coterie.__version__}, Python {platform.python_version()}."
    )
    phases = [(name, f"{seconds:.1f}") for name, seconds in panel.seconds.items()]
    fits = [(names, f"{seconds:.1f}") for names, _, seconds in estimators(panel)]
    seconds = table(("phase", "seconds"), phases, words=1)
    if fits:
        seconds += table(("router and policies", "seconds"), fits, words=1)
    return tag("p", text) + f'<div class="tables">{seconds}</div>'


SECTIONS: dict[str, Callable[[Panel], str]] = {
    "Quality against cost": _plane,
    "The panel": _panel,
    "Scores with intervals": _whiskers,
    "What routers know about questions": _knowing,
    "Whether estimates come true": _calibration,
    "Regret by category": _regret,
    "Chosen and best expert": _confusion,
    "Who is chosen": _shares,
}
