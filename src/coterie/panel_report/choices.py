"""Sections on who is chosen: what routers know, where they lose, whom they ask."""

from __future__ import annotations

import numpy as np

from coterie import figures
from coterie.figures import Series, number
from coterie.metrics.selection import selection_entropy, selection_shares
from coterie.page import percent, points, points_interval, table, tag
from coterie.panel import Panel, PanelRow
from coterie.views import choosers, confusion, declared, gathered, regrets


def knowing(panel: Panel) -> str:
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


def _pairs(panel: Panel) -> str:
    """RouteLLM's metrics, where there are two experts."""
    head = ("router", "APGR", "pooled", "as released", "CPT 20 %", "CPT 50 %", "CPT 80 %")
    rows = [
        (
            name,
            *(number(v) for v in (p.apgr, p.apgr_pooled, p.apgr_as_released)),
            *(percent(v) for v in (p.cpt_20, p.cpt_50, p.cpt_80)),
        )
        for name, p in panel.pairs.items()
    ]
    pair = next(iter(panel.pairs.values()), None)
    if pair is None:
        return ""
    note = (
        f"RouteLLM's metrics between {pair.weak} and {pair.strong}: APGR is the mean share of the "
        "gap between them that is recovered over all shares of strong calls (0.5 is random), CPT "
        "the share of strong calls that recovers so much of it, both with thresholds of each "
        "fold's own. Pooled and as released (by RouteLLM's code) compare the estimates of "
        "different folds' fits, where knowing nothing of the questions comes out below 0.5."
    )
    return table(head, rows, words=1) + tag("p", note, "note")


def regret(panel: Panel) -> str:
    """What the default leaves to gain in each category."""
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


def confusion_matrix(panel: Panel) -> str:
    """Whom the default chose, against who was best."""
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


def shares(panel: Panel) -> str:
    """How often every way of answering asks each expert."""
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
