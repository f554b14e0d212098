"""Figures of the reports: plain values in, dictionaries as plotly.js reads them out.

Colours of text and grid are left to the page's style, which knows light, dark and print. Names are
escaped, because plotly reads tags in labels.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from coterie.types import FloatArray

Figure: TypeAlias = dict[str, Any]  # "data" and "layout"
Point: TypeAlias = tuple[float, float]  # cost, accuracy

BLUE, ORANGE, GREY, GREEN = "#3f7fbf", "#d9772b", "#8b95a3", "#4a9a6c"
SHADES = [[0, "#eef3f8"], [1, "#5f9bd5"]]
MARKERS = ((GREY, "circle-open"), (BLUE, "circle"), (ORANGE, "diamond"), (GREEN, "star"))
LEGEND = {"showlegend": True, "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"}}
BOLD = ("coterie",)  # names that stand out on an axis


class Line(NamedTuple):
    """A line through points of a plane; ``dash`` as plotly names it."""

    points: Sequence[Point]
    colour: str
    dash: str = "solid"


class Series(NamedTuple):
    """A value a row and how it is marked; ``symbol`` as plotly names it."""

    values: Sequence[float]
    colour: str
    symbol: str = "circle"
    size: int = 9


def number(value: float, shape: str = ".3f") -> str:
    """A number for people, with a real minus sign; a dash where there is none."""
    return "–" if np.isnan(value) else format(value, shape).replace("-", "−")


def embed(name: str, figure: Figure) -> str:
    """HTML that draws the figure where plotly's script is already on the page."""
    from plotly.io import to_html

    config = {"displayModeBar": False, "responsive": True}
    parts = {"include_plotlyjs": False, "full_html": False, "validate": False}
    return f'<div class="plot">{to_html(figure, config=config, div_id=name, **parts)}</div>'


def whiskers(
    panel: Sequence[Mapping[str, Any]],
    colours: Sequence[str],
    line: float,
    x: str = "accuracy",
    bold: Collection[str] = BOLD,
) -> Figure:
    """Accuracy of every row of the panel with its interval, from the top; a line at ``line``."""
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": _plain(f["accuracy"] for f in panel),
        "y": list(range(len(panel))),
        "marker": {"size": 10, "color": list(colours)},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": _plain(f["ci"][1] - f["accuracy"] for f in panel),
            "arrayminus": _plain(f["accuracy"] - f["ci"][0] for f in panel),
            **{"color": GREY, "thickness": 1.5, "width": 3},
        },
        "hovertext": [_label(f"{f['name']}: {number(f['accuracy'])}") for f in panel],
        "hoverinfo": "text",
    }
    layout = _layout(36 * len(panel) + 70, x=x)
    layout["yaxis"] |= _ticks([f["name"] for f in panel], bold)
    (at,) = _plain([line])
    shape = {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper"}
    layout["shapes"] = [{**shape, "line": {"color": GREY, "width": 1.5, "dash": "dash"}}]
    return {"data": [trace], "layout": layout}


def plane(
    groups: Mapping[str, Mapping[str, Point]],
    edge: Sequence[Point],
    unit: str,
    lines: Mapping[str, Line] | None = None,
    y: str = "accuracy",
) -> Figure:
    """Accuracy against cost of up to four groups of named points, ``edge`` as a staircase.

    Without a ``unit`` the costs' axis names none.
    """
    stairs = {
        "type": "scatter",
        "mode": "lines",
        "name": "frontier",
        "x": [cost for cost, _ in edge],
        "y": [accuracy for _, accuracy in edge],
        "line": {"shape": "hv", "color": GREY, "width": 1.5},
        "hoverinfo": "skip",
    }
    points = [
        _points(name, members, *marker)
        for (name, members), marker in zip(groups.items(), MARKERS, strict=False)
    ]
    drawn = [_line(name, line) for name, line in (lines or {}).items()]
    layout = _layout(460, x=f"cost a question, {unit}" if unit else "cost a question", y=y)
    layout["xaxis"] |= _cost_axis([cost for group in groups.values() for cost, _ in group.values()])
    return {"data": [*drawn, stairs, *points], "layout": layout | LEGEND}


def _line(name: str, line: Line) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": _label(name),
        "x": [cost for cost, _ in line.points],
        "y": [accuracy for _, accuracy in line.points],
        "line": {"color": line.colour, "width": 2, "dash": line.dash},
        "hoverinfo": "skip",
    }


def _points(name: str, members: Mapping[str, Point], colour: str, symbol: str) -> Figure:
    line = {"width": 2, "color": colour}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [cost for cost, _ in members.values()],
        "y": [accuracy for _, accuracy in members.values()],
        "marker": {"size": 10, "color": colour, "symbol": symbol, "line": line, "opacity": 0.85},
        "hovertext": [_label(f"{n}: {a:.3f} at {c:.3g}") for n, (c, a) in members.items()],
        "hoverinfo": "text",
    }


def _cost_axis(costs: Sequence[float]) -> dict[str, Any]:
    """Logarithmic with ticks at 1, 2 and 5 times powers of ten; linear where a cost is 0."""
    if not costs or min(costs) <= 0:
        return {"type": "linear"}
    powers = range(int(np.floor(np.log10(min(costs)))), int(np.ceil(np.log10(max(costs)))) + 1)
    ticks = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def heat_map(
    rows: Sequence[str], columns: Sequence[str], shares: FloatArray, narrow: bool = False
) -> Figure:
    """Shares as colours with percents written in the cells, rows from the top.

    ``narrow`` leaves the columns' names on one line each, so that they fit side by side on a phone.
    """
    percents = [_plain(100 * row) for row in shares]
    trace = {
        "type": "heatmap",
        "z": percents,
        "text": [["" if v is None else f"{v:.0f}" for v in row] for row in percents],
        **{"texttemplate": "%{text}", "textfont": {"color": "#14202c"}},
        **{"zmin": 0, "zmax": 100, "colorscale": SHADES, "showscale": False},
        **{"xgap": 2, "ygap": 2, "hovertemplate": "%{text} %<extra></extra>"},
    }
    room = 60 + 5 * max(map(len, columns)) if narrow else 95
    layout = _layout(34 * len(rows) + room)
    layout["xaxis"] |= {**_ticks(columns), "range": None, "tickangle": -45, "showgrid": False}
    if narrow:
        layout["xaxis"]["ticktext"] = [_label(name) for name in columns]
    layout["yaxis"] |= {**_ticks(rows), "showgrid": False}
    return {"data": [trace], "layout": layout}


def dots(names: Sequence[str], series: Mapping[str, Series], x: str) -> Figure:
    """Values of every name side by side on one line, from the top; the axis starts at 0."""
    traces = [
        {
            **{"type": "scatter", "mode": "markers", "name": _label(name)},
            "x": _plain(one.values),
            "y": list(range(len(names))),
            "marker": {"size": one.size, "color": one.colour, "symbol": one.symbol}
            | {"line": {"width": 2, "color": one.colour}},
            "hovertemplate": "%{x:.3f}<extra>%{fullData.name}</extra>",
        }
        for name, one in series.items()
    ]
    layout = _layout(36 * len(names) + 100, x=x)
    layout["xaxis"]["rangemode"] = "tozero"
    layout["yaxis"] |= _ticks(names)
    return {"data": traces, "layout": layout | LEGEND}


def reliability(curves: Mapping[str, tuple[FloatArray, FloatArray, FloatArray]]) -> Figure:
    """Observed against expected score; a dot's area is the share of estimates it stands for."""
    traces = [
        {
            **{"type": "scatter", "mode": "lines+markers", "name": _label(name)},
            **{"x": hoped.tolist(), "y": came.tolist(), "line": {"color": colour, "width": 1.5}},
            "marker": {"size": (4 + 30 * np.sqrt(share)).tolist(), "color": colour, "opacity": 0.7},
            "hovertext": [f"{100 * part:.1f} % of the estimates" for part in share],
            "hovertemplate": "expected %{x:.3f}, observed %{y:.3f}<br>%{hovertext}<extra></extra>",
        }
        for (name, (hoped, came, share)), colour in zip(
            curves.items(), (ORANGE, BLUE), strict=False
        )
    ]
    layout = _layout(480, x="expected score", y="observed score") | LEGEND
    layout["xaxis"] |= {"range": [-0.03, 1.03], "constrain": "domain"}
    layout["yaxis"] |= {"range": [-0.03, 1.03], "constrain": "domain", "scaleanchor": "x"}
    line = {"color": GREY, "width": 1.5, "dash": "dash"}
    layout["shapes"] = [{"type": "line", "x0": 0, "x1": 1, "y0": 0, "y1": 1, "line": line}]
    return {"data": traces, "layout": layout}


def learning(
    sizes: Sequence[int],
    name: str,
    curve: Sequence[Sequence[float]],
    baseline: Mapping[str, Sequence[float]],
) -> Figure:
    """Values with intervals against the number of questions learnt from, baselines dashed.

    ``curve`` has a value and the bounds of its interval for every size.
    """
    drawn = {"type": "scatter", "mode": "lines+markers", "x": list(sizes), "marker": {"size": 8}}
    drawn["hovertemplate"] = "%{x:,} questions: %{y:.3f}<extra>%{fullData.name}</extra>"
    bounds = {
        **{"type": "data", "symmetric": False, "thickness": 1.5, "width": 3},
        "array": _plain(high - value for value, _, high in curve),
        "arrayminus": _plain(value - low for value, low, _ in curve),
    }
    own = {"y": _plain(value for value, _, _ in curve), "line": {"color": ORANGE, "width": 2}}
    traces = [{**drawn, **own, "name": _label(name), "error_y": bounds}]
    for other, values in baseline.items():
        line = {"color": GREY, "width": 2, "dash": "dash"}
        traces.append({**drawn, "name": _label(other), "y": _plain(values), "line": line})
    layout = _layout(380, x="questions learnt from", y="score") | LEGEND
    shown = {"tickvals": list(sizes), "ticktext": [f"{size:,}" for size in sizes]}
    layout["xaxis"] |= {"type": "log", **shown}
    return {"data": traces, "layout": layout}


def steps(labels: Sequence[str], lines: Mapping[str, Line], x: str, y: str = "score") -> Figure:
    """Lines over labels that stand at equal distances; points are (place of the label, value)."""
    traces = [
        {
            **{"type": "scatter", "mode": "lines+markers", "name": _label(name)},
            "x": [place for place, _ in line.points],
            "y": _plain(value for _, value in line.points),
            "line": {"color": line.colour, "width": 2, "dash": line.dash},
            "marker": {"size": 7},
            "hovertemplate": "%{y:.3f}<extra>%{fullData.name}</extra>",
        }
        for name, line in lines.items()
    ]
    layout = _layout(380, x=x, y=y) | LEGEND
    layout["xaxis"] |= {**_ticks(labels), "range": [-0.3, len(labels) - 0.7]}
    return {"data": traces, "layout": layout}


def bars(values: Mapping[str, float]) -> Figure:
    """One horizontal bar a name, the largest on top."""
    order = sorted(values, key=lambda name: -np.nan_to_num(values[name], nan=-1))
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": _plain(values[n] for n in order),
        "y": list(range(len(order))),
        "text": [number(values[n]) for n in order],
        "marker": {"color": BLUE},
        **{"textposition": "outside", "cliponaxis": False, "hoverinfo": "skip"},
    }
    layout = _layout(26 * len(order) + 70, x="right answers found")
    layout["xaxis"]["range"] = [0, 1.08]
    layout["yaxis"] |= _ticks(order)
    return {"data": [trace], "layout": layout}


def _layout(height: int, x: str = "", y: str = "") -> Figure:
    axis: dict[str, Any] = {"automargin": True, "fixedrange": True, "zeroline": False}
    axis |= {"ticks": "outside", "ticklen": 4, "tickcolor": "rgba(0,0,0,0)"}
    return {
        "height": height,
        "margin": {"l": 10, "r": 24, "t": 20, "b": 10},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', sans-serif", "size": 12},
        **{"showlegend": False, "dragmode": False, "bargap": 0.35},
        "xaxis": {**axis, "title": {"text": _label(x)}},
        "yaxis": {**axis, "title": {"text": _label(y)}},
    }


def _ticks(names: Sequence[str], bold: Collection[str] = BOLD) -> dict[str, Any]:
    """An axis of names from the top down, long ones on several lines, some in bold."""
    labels = [_label(_wrapped(name)).replace("\n", "<br>") for name in names]
    pairs = zip(names, labels, strict=True)
    shown = [f"<b>{text}</b>" if name in bold else text for name, text in pairs]
    return {
        "tickvals": list(range(len(names))),
        "ticktext": shown,
        "range": [len(names) - 0.5, -0.5],
    }


def _wrapped(name: str, width: int = 24) -> str:
    """The name on lines of this width; words longer than a line break at hyphens and the like."""
    if max(map(len, name.split()), default=0) <= width:
        return textwrap.fill(name, width, break_on_hyphens=False)
    lines = [""]
    for part in re.findall(r"[^\s/_@:-]*[\s/_@:-]|[^\s/_@:-]+", name):
        if lines[-1] and len(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(textwrap.fill(line, width, break_on_hyphens=False) for line in lines)


def _label(text: str) -> str:
    """Text for a figure, where plotly would read tags."""
    return escape(text, quote=False)


def _plain(values: Iterable[float]) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in values]
