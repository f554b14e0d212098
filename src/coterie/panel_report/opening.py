"""The verdict first: the router declared in advance against the best single expert."""

from __future__ import annotations

from coterie.figures import number
from coterie.page import p_value, points, tag, tile
from coterie.panel import Panel, PanelRow
from coterie.views import routers


def opening(panel: Panel) -> str:
    """The head of the page: the verdict, the rows one looks for first, rivals and luck."""
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
