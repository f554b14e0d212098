"""Sections on scores: the panel, how well they are foreseen, how they grow with the records."""

from __future__ import annotations

from coterie import figures
from coterie.figures import number
from coterie.learning import LearningCurve
from coterie.metrics.calibration import brier, ece
from coterie.metrics.intervals import RESAMPLES
from coterie.page import interval, p_value, points, points_interval, table, tag
from coterie.panel import Panel, PanelRow
from coterie.views import bins, estimators, judges


def panel_table(panel: Panel) -> str:
    """Every way of answering with its differences to best single."""
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


def whiskers(panel: Panel) -> str:
    """The panel's scores with their intervals, drawn."""
    note = "Dots are mean scores, lines 95 % intervals; the dashed line is the best single expert."
    facts = [{"name": r.name, "accuracy": r.quality.value, "ci": r.quality[1:]} for r in panel.rows]
    colours = [_colour(panel, row) for row in panel.rows]
    line, bold = panel.best_single.quality.value, (panel.default or "",)
    figure = figures.whiskers(facts, colours, line, x="score", bold=bold)
    return tag("p", note) + figures.embed("plot-panel", figure)


def _colour(panel: Panel, row: PanelRow) -> str:
    colours = {"router": figures.BLUE, "bound": figures.GREEN}
    return figures.ORANGE if row.name == panel.default else colours.get(row.kind, figures.GREY)


def calibration(panel: Panel) -> str:
    """Expected against observed scores of routers that estimate them."""
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


def learning(panel: Panel, learned: LearningCurve | None) -> str:
    """Score against the number of questions learnt from; why not, where it is not known."""
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
