"""Figures of the report: plain values in, dictionaries as plotly.js reads them out.

Colours of text and grid are left to the page's style, which knows light, dark and print. Names are
escaped, because plotly reads tags in labels.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, TypeAlias

import numpy as np

from coterie.types import FloatArray

Figure: TypeAlias = dict[str, Any]  # "data" and "layout"
Point: TypeAlias = tuple[float, float]  # cost, accuracy

BLUE, ORANGE, GREY = "#3f7fbf", "#d9772b", "#8b95a3"
SHADES = [[0, "#eef3f8"], [1, "#5f9bd5"]]
MARKERS = ((GREY, "circle-open"), (BLUE, "circle"), (ORANGE, "diamond"))


def number(value: float, shape: str = ".3f") -> str:
    """A number for people, with a real minus sign; a dash where there is none."""
    return "–" if np.isnan(value) else format(value, shape).replace("-", "−")


def embed(name: str, figure: Figure) -> str:
    """HTML that draws the figure where plotly's script is already on the page."""
    from plotly.io import to_html

    config = {"displayModeBar": False, "responsive": True}
    parts = {"include_plotlyjs": False, "full_html": False, "validate": False}
    return f'<div class="plot">{to_html(figure, config=config, div_id=name, **parts)}</div>'


def whiskers(panel: Sequence[Mapping[str, Any]], colours: Sequence[str], line: float) -> Figure:
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
    layout = _layout(36 * len(panel) + 70, x="accuracy")
    layout["yaxis"] |= _ticks([f["name"] for f in panel])
    (at,) = _plain([line])
    shape = {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper"}
    layout["shapes"] = [{**shape, "line": {"color": GREY, "width": 1.5, "dash": "dash"}}]
    return {"data": [trace], "layout": layout}


def plane(groups: Mapping[str, Mapping[str, Point]], edge: Sequence[Point], unit: str) -> Figure:
    """Accuracy against cost of up to three groups of named points, ``edge`` as a staircase."""
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
    layout = _layout(460, x=f"cost a question, {unit}", y="accuracy")
    layout["xaxis"] |= _cost_axis([cost for group in groups.values() for cost, _ in group.values()])
    layout |= {"showlegend": True, "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"}}
    return {"data": [stairs, *points], "layout": layout}


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


def heat_map(rows: Sequence[str], columns: Sequence[str], shares: FloatArray) -> Figure:
    """Shares as colours with percents written in the cells, rows from the top."""
    percents = [_plain(100 * row) for row in shares]
    trace = {
        "type": "heatmap",
        "z": percents,
        "text": [["" if v is None else f"{v:.0f}" for v in row] for row in percents],
        **{"texttemplate": "%{text}", "textfont": {"color": "#14202c"}},
        **{"zmin": 0, "zmax": 100, "colorscale": SHADES, "showscale": False},
        **{"xgap": 2, "ygap": 2, "hovertemplate": "%{text} %<extra></extra>"},
    }
    layout = _layout(34 * len(rows) + 95)
    layout["xaxis"] |= {**_ticks(columns), "range": None, "tickangle": -45, "showgrid": False}
    layout["yaxis"] |= {**_ticks(rows), "showgrid": False}
    return {"data": [trace], "layout": layout}


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


def _ticks(names: Sequence[str]) -> dict[str, Any]:
    """An axis of names from the top down, long ones on several lines, the coterie in bold."""
    lines = [textwrap.fill(name, 24, break_on_hyphens=False) for name in names]
    labels = [_label(text).replace("\n", "<br>") for text in lines]
    shown = [f"<b>{text}</b>" if text == "coterie" else text for text in labels]
    return {
        "tickvals": list(range(len(names))),
        "ticktext": shown,
        "range": [len(names) - 0.5, -0.5],
    }


def _label(text: str) -> str:
    """Text for a figure, where plotly would read tags."""
    return escape(text, quote=False)


def _plain(values: Iterable[float]) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in values]
