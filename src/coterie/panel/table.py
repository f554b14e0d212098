"""The panel for people: tables of at most 80 columns and plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from coterie.metrics.calibration import brier, ece
from coterie.metrics.costs import cost_of_pass
from coterie.metrics.intervals import Interval
from coterie.metrics.selection import selection_entropy
from coterie.panel.battles import BASE, COIN, BattlePanel
from coterie.panel.values import Difference, Panel, PanelRow

READS = {"nothing": "-", "every answer": "answers", "the reference": "reference"}
POWERLESS = 0.005  # between the oracle and its null
SHOWN = 4  # routers with a column in the table by category


def show(panel: Panel, out: Console, group_by: str | None = None) -> None:
    """Print every table there is something for, then the verdict."""
    tables: list[RenderableType] = [main_table(panel), router_table(panel)]
    if panel.curves:
        tables.append(curve_table(panel))
    if panel.pairs:
        tables.append(pair_table(panel))
    if group_by is not None:
        tables.append(group_table(panel, group_by))
    for table in tables:
        out.print(table)
        out.print()
    for line in verdict(panel):
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def show_battles(panel: BattlePanel, out: Console) -> None:
    """Print the table of rankings, then the verdict."""
    out.print(battle_table(panel))
    out.print()
    for line in battle_verdict(panel):
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def battle_table(panel: BattlePanel) -> Table:
    """Rankings: log loss a battle, accuracy, and the differences from Bradley-Terry's."""
    size = f"{len(panel.records):,} battles ({panel.ties:,} ties)"
    title = f"{size}, {len(panel.records.experts)} experts, {panel.folds}-fold; against {BASE}"
    columns = ("log loss", "difference", "p", "accuracy", "points")
    table = _table(f"{title} [95 %]", "ranking", columns)
    for row in panel.rows:
        value, low, high = row.versus[:3]
        itself, known = row.name == BASE, not math.isnan(row.accuracy.value)
        table.add_row(
            Text(row.name),
            f"{row.log_loss.value:.4f}",
            "" if itself else f"{value:+.4f}\n[{low:+.4f},{high:+.4f}]",
            "" if itself else _p(row.versus.adjusted),
            _score(row.accuracy.value),
            "" if itself or not known else _gain(row.versus_accuracy).replace(" ", "\n"),
        )
    return table


def battle_verdict(panel: BattlePanel) -> list[str]:
    """Plain sentences: whose log loss is below Bradley-Terry's, and what was left out."""
    rivals = [row for row in panel.rows if row.name not in (COIN, BASE)]
    better = "; ".join(row.name for row in rivals if panel.beats(row)) or "none"
    one = f"of {len(rivals)} rankings beat the one for all queries ({BASE}) in log loss "
    lines = [f"{one}(Holm-corrected): {better}"]
    if panel.queries_left_out:
        lines.append(f"left out: {panel.queries_left_out:,} questions without two scores")
    return lines + [f"note: {note}" for note in panel.notes]


def _score(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _table(title: str, first: str, columns: Sequence[str]) -> Table:
    """An empty table; names are ``Text``, since square brackets in them are no markup."""
    table = Table(title=Text(title), title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold", max_width=28)
    for name in columns:
        table.add_column(Text(name), justify="right")
    return table


def main_table(panel: Panel) -> Table:
    """Every row: score, gain over best single in points, p, cost and calls a question."""
    title = f"{len(panel.records):,} questions, {len(panel.records.experts)} experts, "
    title += f"{panel.folds}-fold; gains in points [95 %]"
    columns = ("reads", "score", "vs best single", "p", "cost", "calls")
    table = _table(title, "who answers", columns)
    for row in panel.rows:
        itself = row.name == "best single"
        table.add_row(
            Text(row.name),
            READS.get(row.reads, row.reads),
            f"{row.quality.value:.3f}",
            "" if itself else _gain(row.versus),
            "" if itself or row.kind == "bound" else _p(row.versus.adjusted),
            _number(row.cost),
            f"{row.calls.mean():.3g}",
            style="bold" if row.name == panel.default else None,
        )
    return table


def router_table(panel: Panel) -> Table:
    """What routers know about questions, how often they leave best single, how calibrated."""
    title = "routers: gain over random with their own shares; leaving best single; calibration"
    names = ("vs matched random", "leave", "gain there", "bits", "ECE", "Brier", "gap", "null")
    table = _table(title, "router", names)
    for row in (r for r in panel.rows if r.kind == "router"):
        moved, closed = panel.switching(row), panel.closed(row)
        table.add_row(
            Text(row.name),
            "" if row.matched is None else _gain(row.matched),
            "" if moved is None else f"{moved['share']:.0%}",
            "" if moved is None else f"{100 * moved['gain']:+.1f}",
            "" if row.shares is None else f"{selection_entropy(row.shares):.2f}",
            "" if row.expected is None else f"{ece(row.expected, panel.records.quality):.3f}",
            "" if row.expected is None else f"{brier(row.expected, panel.records.quality):.3f}",
            *(_share(closed[key]) for key in ("oracle", "null")),
        )
    return table


def curve_table(panel: Panel) -> Table:
    """Routers over the willingness to pay: RouterBench's and UniRoute's summaries."""
    title = "over the willingness to pay (costs from the cheapest to the dearest expert)"
    names = ("AIQ", "zero router", "AIQ as released", "QNC", "area", "area 50 %", "peak")
    table = _table(title, "router", names)
    for name, curve in panel.curves.items():
        means = (curve.aiq, curve.zero_aiq, curve.aiq_as_released)
        others = (curve.qnc, curve.area, curve.area_half, curve.peak)
        table.add_row(Text(name), *(f"{value:.3f}" for value in (*means, *others)))
    return table


def pair_table(panel: Panel) -> Table:
    """RouteLLM's metrics: APGR within folds, of all folds in one order, and by its code; CPT."""
    first = next(iter(panel.pairs.values()))
    title = f"weak {first.weak}, strong {first.strong}"
    names = ("APGR", "pooled", "as released", "CPT 20 %", "CPT 50 %", "CPT 80 %")
    table = _table(title, "router", names)
    for name, pair in panel.pairs.items():
        thresholds = (pair.cpt_20, pair.cpt_50, pair.cpt_80)
        means = (pair.apgr, pair.apgr_pooled, pair.apgr_as_released)
        areas = (f"{value:.3f}" for value in means)
        table.add_row(Text(name), *areas, *(f"{value:.1%}" for value in thresholds))
    return table


def group_table(panel: Panel, by: str) -> Table:
    """Mean scores by category: best single, the table, the default and the best routers."""
    routers = [r for r in panel.rows if r.kind == "router" and r.name != panel.default]
    routers.sort(key=lambda r: -r.quality.value)
    default = [r for r in panel.rows if r.name == panel.default]
    base = [panel.best_single, panel["per-category table"]]
    rows = [*base, *default, *routers[: SHOWN - len(default)], panel["oracle"]]
    table = _table(f"mean score by {by}", by, ("n", *(r.name for r in rows)))
    for name, numbers in panel.groups(by).items():
        means = (f"{row.scores[numbers].mean():.3f}" for row in rows)
        table.add_row(Text(name), str(len(numbers)), *means)
    return table


def verdict(panel: Panel) -> list[str]:
    """Plain sentences: who beats best single, what was left out, what the oracle is worth."""
    chosen = panel.best_experts()
    named = (f"{name} ({count} of {panel.folds} folds)" for name, count in chosen.items())
    lines = [f"best single, chosen in training: {', '.join(named)}"]
    lines += [_sentence(panel, row) for row in panel.rows if row.name == panel.default]
    rivals = [r for r in panel.rows if r.kind == "router" and r.name != panel.default]
    if rivals:
        lines.append(_others(panel, rivals))
    oracle, null = panel["oracle"].quality.value, panel["additive-null oracle"].quality.value
    lines.append(
        f"oracle {oracle:.3f}; if experts differed in ability alone, so that nothing could be "
        f"routed, luck would still give an oracle {null:.3f}{_power(oracle - null)}"
    )
    lines += _cost_of_pass(panel)
    if panel.left_out:
        lines.append(f"left out, observed too seldom: {', '.join(panel.left_out)}")
    if panel.queries_left_out:
        lines.append(f"left out: {panel.queries_left_out:,} questions without every expert's score")
    return lines + [f"note: {note}" for note in panel.notes]


def _cost_of_pass(panel: Panel) -> list[str]:
    """What one right answer costs with best single, the default and who gets it cheapest."""
    costs = {r.name: cost_of_pass(r.costs, r.scores) for r in panel.rows if r.kind != "bound"}
    known = {name: cost for name, cost in costs.items() if math.isfinite(cost)}
    if not known:
        return []
    cheapest = min(known, key=lambda name: known[name])
    shown = dict.fromkeys(n for n in ("best single", panel.default, cheapest) if n in known)
    prices = ", ".join(f"{name} {_number(known[name])}" for name in shown)
    return [f"a right answer costs (cost-of-pass): {prices}; {cheapest} is the cheapest"]


def _sentence(panel: Panel, row: PanelRow) -> str:
    """Whether the default, declared in advance, beats best single."""
    name = f"{row.name} (the default, declared in advance)"
    p = _p(row.versus.p)
    equals = "" if p.startswith("<") else "= "
    if panel.beats(row):
        return f"{name} beats best single by {_gain(row.versus)} points (p {equals}{p})"
    return f"{name} does not beat best single (p {equals}{p}): {_gain(row.versus)} points"


def _power(beyond: float) -> str:
    """What a small gap between the oracle and its null means."""
    if beyond > POWERLESS:
        return ""
    return "; with so little between them this says nothing about what can be routed here"


def _others(panel: Panel, rivals: Sequence[PanelRow]) -> str:
    better = [row.name for row in rivals if panel.beats(row)]
    if not better:
        return f"of {len(rivals)} other routers none beats best single (Holm-corrected)"
    share = f"{len(better)} of {len(rivals)} other routers"
    return f"{share} beat best single (Holm-corrected): {'; '.join(better)}"


def _gain(difference: Difference | Interval) -> str:
    value, low, high = (100 * x for x in difference[:3])
    return f"{value:+.1f} [{low:+.1f},{high:+.1f}]"


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
