"""The demo's report: one HTML file that needs nothing else, in the order a reader needs it.

Figures are plain dictionaries as plotly.js reads them. Every text that comes from a study is
escaped where it becomes HTML (``_tag``, ``_table``) or a label of a figure (``_label``).
"""

from __future__ import annotations

import os
import platform
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from coterie.answers import extractor, score
from coterie.demo import Study
from coterie.evaluation import Row
from coterie.types import Completion, FloatArray

Panel: TypeAlias = Sequence[Mapping[str, Any]]  # Row.summary of every row, in order
Figure: TypeAlias = dict[str, Any]  # "data" and "layout"
Point: TypeAlias = tuple[float, float]  # cost, accuracy

STYLE = Path(__file__).parent / "embedded" / "report.css"
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
BLUE, ORANGE, GREY = "#3f7fbf", "#d9772b", "#8b95a3"
SHADES = [[0, "#eef3f8"], [0.5, "#8db4d9"], [1, "#1d5a96"]]
EXAMPLES = 5  # of each kind
LONGEST = 400  # characters of a text that are shown
REPORT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Coterie report</title><style>{style}</style>
<script>window.PlotlyConfig = {{MathJaxConfig: "local"}};</script><script>{plotly}</script></head>
<body><main>
{body}
</main><script>
const fit = width => document.querySelectorAll(".js-plotly-plot").forEach(
  plot => Plotly.relayout(plot, width ? {{width, autosize: false}} : {{autosize: true}}));
addEventListener("beforeprint", () => fit(680));
addEventListener("afterprint", () => fit(0));
</script></body></html>
"""


def render(study: Study) -> str:
    """The whole report of ``study`` as one HTML page that makes no request."""
    from plotly.offline import get_plotlyjs

    panel = [row.summary(study.best_single) for row in study.rows]
    sections = (
        f"<section>{_tag('h2', heading)}\n{section(study, panel)}</section>"
        for heading, section in SECTIONS.items()
    )
    body = "\n".join([_opening(study, panel), *sections])
    style = STYLE.read_text(encoding="utf-8")
    return REPORT.format(policy=POLICY, style=style, plotly=get_plotlyjs(), body=body)


# What is computed


def mean(values: FloatArray) -> float:
    """Mean of what was observed, NaN where nothing was."""
    seen = values[~np.isnan(values)]
    return float(seen.mean()) if seen.size else float("nan")


def families(study: Study) -> dict[str, list[int]]:
    """The test questions of each category, categories in the order of their first question."""
    found: dict[str, list[int]] = {}
    for row, category in enumerate(study.test.categories):
        found.setdefault(category or "(none)", []).append(row)
    return found


def accuracy_by_family(study: Study) -> FloatArray:
    """Mean score, shape (families, experts + 1); the last column is the coterie."""
    quality = np.column_stack([study.test.quality, study.headline.scores])
    rows = [[mean(column) for column in quality[part].T] for part in families(study).values()]
    return np.array(rows)


def recruited_by_family(study: Study) -> FloatArray:
    """Each expert's share of a family's recruitments, shape (families, experts)."""
    shares = []
    for part in families(study).values():
        counts = Counter(e for i in part for e in study.answers[i].decision.experts)
        total = counts.total() or 1
        shares.append([counts[e] / total for e in study.test.experts])
    return np.array(shares)


def frontier(points: Iterable[Point]) -> list[Point]:
    """The points that no other matches at lower or equal cost, from the cheapest upwards."""
    best: list[Point] = []
    for cost, accuracy in sorted(points, key=lambda p: (p[0], -p[1])):
        if not best or accuracy > best[-1][1]:
            best.append((cost, accuracy))
    return best


def compared(study: Study) -> dict[str, Row]:
    """The ways whose accuracy is shown family by family, by short name, where there are such."""
    ways = {
        "best single": study.best_single,
        "per-category table": _row(study, "per-category table"),
        "router, top 1": _row(study, "skills router"),
        "coterie": study.headline,
        "oracle": _row(study, "oracle"),
    }
    return {name: row for name, row in ways.items() if row is not None}


def examples(study: Study, won: bool) -> list[int]:
    """Up to five test questions, of different families where possible.

    ``won``: the coterie is right and the best single expert wrong; else the coterie is wrong.
    """
    coterie, single = study.headline.scores, study.best_single.scores
    wanted = (coterie == 1) & (single < 1) if won else coterie < 1
    turns = [(turn, i) for part in families(study).values() for turn, i in _turns(part, wanted)]
    return [i for _, i in sorted(turns)[:EXAMPLES]]


def _turns(part: Sequence[int], wanted: FloatArray) -> list[tuple[int, int]]:
    return list(enumerate(i for i in part if wanted[i]))


def _row(study: Study, start: str) -> Row | None:
    return next((row for row in study.rows if row.name.startswith(start)), None)


def _single(study: Study) -> str:
    """The name of the best single expert, from its row."""
    return study.best_single.name.removeprefix("best single (").removesuffix(")")


# Sections: a study and its panel in, HTML out


def _opening(study: Study, panel: Panel) -> str:
    experts, count = len(study.test.experts), len(study.test)
    facts = f"{experts} experts, {sum(study.parameters.values()):,} parameters in all"
    where = f"Python {platform.python_version()}, {os.cpu_count()} processors"
    parts = [
        _tag("h1", "Coterie against its best single expert"),
        _tag("p", verdict(study), "verdict"),
        _tiles(study),
        _tag("p", _ahead(study)),
        _tag("p", _chosen(study)),
        _tag("p", f"{facts}; {count} test questions; {where}. {_left_out(study)}", "note"),
    ]
    return f"<header>{''.join(parts)}</header>"


def verdict(study: Study) -> str:
    """One sentence: whether the coterie beats the best single expert, and by how much."""
    facts = study.headline.summary(study.best_single)
    difference, (low, high) = facts["vs_best_single"]["diff"], facts["vs_best_single"]["ci"]
    relation = "does not reliably differ from"
    if low > 0 or high < 0:
        relation = "beats" if low > 0 else "loses to"
    return (
        f"The coterie {relation} the best single expert: {facts['accuracy']:.1%} of "
        f"{len(study.test)} held-out questions right against {mean(study.best_single.scores):.1%} "
        f"({_single(study)}), a difference of {100 * difference:+.1f} percentage points "
        f"(95 % interval {100 * low:+.1f} to {100 * high:+.1f})."
    )


def _tiles(study: Study) -> str:
    tiles = "".join(
        f"<div>{_tag('dt', name)}{_tag('dd', _number(mean(row.scores)))}</div>"
        for name, row in compared(study).items()
    )
    return f'<dl class="tiles">{tiles}</dl>'


def _ahead(study: Study) -> str:
    """Which other ways score higher, the oracle aside."""
    ceiling = mean(study.headline.scores)
    higher = [r for r in study.rows if r.reads != "the reference" and mean(r.scores) > ceiling]
    if not higher:
        return "No other way of answering in the panel scores higher, the oracle aside."
    names = [f"{r.name} ({mean(r.scores):.3f}, reads {r.reads})" for r in higher]
    return f"Higher than the coterie on these questions: {'; '.join(names)}."


def _chosen(study: Study) -> str:
    rule, aggregator = study.chosen["rule"], study.chosen["aggregator"]
    votes = "vote" if aggregator != "expert" else study.chosen["aggregating expert"]
    text = f"Chosen on {len(study.validation)} validation questions: {rule} rule, "
    text += f"{aggregator} {votes}"
    score = study.selection.get(f"{rule}/{aggregator}")
    if score is None:
        return f"{text}."
    return f"{text} ({score:.3f} there, cross-fitted, among {len(study.selection)} combinations)."


def _left_out(study: Study) -> str:
    return f"Not installed, left out: {', '.join(study.left_out)}." if study.left_out else ""


def _panel(study: Study, panel: Panel) -> str:
    head = ("who answers", "reads", "accuracy", "95 %", "vs best single", "95 %", "cost", "calls")
    rows = [
        (
            facts["name"],
            facts["reads"],
            _number(facts["accuracy"]),
            _interval(facts["ci"]),
            _number(facts["vs_best_single"]["diff"], "+.3f"),
            _interval(facts["vs_best_single"]["ci"], "+.3f"),
            _number(facts["cost"], "#.3g"),
            _number(facts["calls"], ".2f"),
        )
        for facts in panel
    ]
    marked = {i for i, row in enumerate(study.rows) if row is study.headline}
    note = (
        f"Accuracy is the share of {len(study.test)} test questions answered right. Intervals are "
        "percentile bootstraps over questions; differences are paired: both ways are resampled on "
        "the same questions, so what both find hard cancels. The best single expert and trio, the "
        f"rule and the aggregator were chosen on {len(study.validation)} validation questions, "
        "whose keys (what is asked, however it is phrased) are disjoint from the test questions'. "
        f"Cost is in {study.unit} a question. The oracle knows the right answer: it is the "
        "ceiling, not a method."
    )
    return _table(head, rows, words=2, marked=marked) + _tag("p", note, "note")


def _whiskers(study: Study, panel: Panel) -> str:
    note = "Dots are accuracies, lines 95 % intervals; the dashed line is the best single expert."
    return _tag("p", note) + _plot("plot-panel", whiskers(study, panel))


def whiskers(study: Study, panel: Panel) -> Figure:
    """Accuracy of every row with its interval, in the order of the table."""
    values = [facts["accuracy"] for facts in panel]
    names = [textwrap.fill(facts["name"], 22) for facts in panel]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": _plain(values),
        "y": list(range(len(panel))),
        "marker": {"size": 10, "color": [_colour(study, row) for row in study.rows]},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": _plain([f["ci"][1] - v for f, v in zip(panel, values, strict=True)]),
            "arrayminus": _plain([v - f["ci"][0] for f, v in zip(panel, values, strict=True)]),
            "color": GREY,
            "thickness": 1.5,
            "width": 3,
        },
        "hovertext": [_label(f"{f['name']}: {f['accuracy']:.3f}") for f in panel],
        "hoverinfo": "text",
    }
    layout = _layout(36 * len(panel) + 70, x="accuracy")
    layout["yaxis"] |= {"tickvals": trace["y"], "ticktext": [_label(n) for n in names]}
    layout["yaxis"]["range"] = [len(panel) - 0.4, -0.6]
    at = _plain([mean(study.best_single.scores)])[0]
    line = {"color": GREY, "width": 1.5, "dash": "dash"}
    layout["shapes"] = [
        {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper", "line": line}
    ]
    return {"data": [trace], "layout": layout}


def _colour(study: Study, row: Row) -> str:
    if row is study.headline:
        return ORANGE
    return GREY if row.reads == "the reference" or row.name == study.best_single.name else BLUE


def _plane(study: Study, panel: Panel) -> str:
    note = (
        "Up is better, left is cheaper. The line joins what nothing cheaper matches, among single "
        f"experts and ways of answering without the oracle: {', '.join(_undominated(study))}."
    )
    return _tag("p", note) + _plot("plot-plane", plane(study))


def _places(study: Study) -> dict[str, Point]:
    """Cost and accuracy of every expert and row that has both, by name."""
    test = study.test
    columns = zip(test.experts, test.cost.T, test.quality.T, strict=True)
    places = {name: (mean(cost), mean(quality)) for name, cost, quality in columns}
    places |= {row.name: (mean(row.costs), mean(row.scores)) for row in study.rows}
    return {name: point for name, point in places.items() if not np.isnan(point).any()}


def _achievable(study: Study) -> dict[str, Point]:
    knowing = {row.name for row in study.rows if row.reads == "the reference"}
    return {name: point for name, point in _places(study).items() if name not in knowing}


def _undominated(study: Study) -> list[str]:
    reachable = _achievable(study)
    edge = frontier(reachable.values())
    first = {point: name for name, point in reversed(reachable.items())}
    return [first[point] for point in edge]


def plane(study: Study) -> Figure:
    """Accuracy against cost of every expert and row, with the frontier as a staircase."""
    places = _places(study)
    edge = frontier(_achievable(study).values())
    groups = {
        "single expert": ([n for n in places if n in study.test.experts], GREY, "circle-open"),
        "way of answering": (
            [r.name for r in study.rows if r is not study.headline and r.name in places],
            BLUE,
            "circle",
        ),
        "coterie": ([n for n in places if n == study.headline.name], ORANGE, "diamond"),
    }
    data = [
        _scatter(name, {n: places[n] for n in names}, colour, symbol)
        for name, (names, colour, symbol) in groups.items()
    ]
    line = {"shape": "hv", "color": GREY, "width": 1.5}
    x, y = [p[0] for p in edge], [p[1] for p in edge]
    stairs = {"type": "scatter", "mode": "lines", "name": "frontier", "x": x, "y": y}
    layout = _layout(460, x=f"cost a question, {study.unit}", y="accuracy")
    layout["xaxis"]["type"] = "log" if all(p[0] > 0 for p in places.values()) else "linear"
    layout |= {"showlegend": True, "legend": {"orientation": "h", "y": 1.12, "x": 0}}
    return {"data": [{**stairs, "line": line, "hoverinfo": "skip"}, *data], "layout": layout}


def _scatter(name: str, places: Mapping[str, Point], colour: str, symbol: str) -> Figure:
    hover = [f"{n}: {accuracy:.3f} at {cost:.3g}" for n, (cost, accuracy) in places.items()]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [cost for cost, _ in places.values()],
        "y": [accuracy for _, accuracy in places.values()],
        "marker": {"size": 11, "color": colour, "symbol": symbol, "line": {"width": 2}},
        "hovertext": [_label(text) for text in hover],
        "hoverinfo": "text",
    }


def _skills(study: Study, panel: Panel) -> str:
    columns = [*study.test.experts, "coterie"]
    figure = heat_map(list(families(study)), columns, accuracy_by_family(study))
    note = "Percent of each family's test questions that each expert, and the coterie, gets right."
    return _tag("p", note) + _plot("plot-families", figure)


def _recruited(study: Study, panel: Panel) -> str:
    figure = heat_map(list(families(study)), study.test.experts, recruited_by_family(study))
    note = "Percent of each family's recruitments that went to each expert; rows sum to 100."
    shown = ", ".join(f"{rule} {value:.2f}" for rule, value in study.unique.items())
    unique = f"Distinct experts a validation question, by rule: {shown}." if shown else ""
    return _tag("p", note) + _plot("plot-recruited", figure) + _tag("p", unique, "note")


def heat_map(rows: Sequence[str], columns: Sequence[str], shares: FloatArray) -> Figure:
    """Shares as colours with percents written in the cells, rows from the top."""
    percents = [[None if np.isnan(v) else 100 * float(v) for v in row] for row in shares]
    trace = {
        "type": "heatmap",
        "z": percents,
        "text": [["" if v is None else f"{v:.0f}" for v in row] for row in percents],
        "texttemplate": "%{text}",
        "zmin": 0,
        "zmax": 100,
        "colorscale": SHADES,
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "hovertemplate": "%{text} %<extra></extra>",
    }
    layout = _layout(34 * len(rows) + 140)
    for axis, names in (("xaxis", columns), ("yaxis", rows)):
        layout[axis] |= {"tickvals": list(range(len(names))), "showgrid": False}
        layout[axis]["ticktext"] = [_label(n) for n in names]
    layout["yaxis"]["autorange"] = "reversed"
    layout["xaxis"]["tickangle"] = -45
    return {"data": [trace], "layout": layout}


def _gains(study: Study, panel: Panel) -> str:
    ways, parts = compared(study), families(study) | {"all": list(range(len(study.test)))}
    rows = []
    for family, part in parts.items():
        values = {name: mean(row.scores[part]) for name, row in ways.items()}
        gain = values["coterie"] - values["best single"]
        shown = [_number(v) for v in values.values()]
        rows.append((family, str(len(part)), *shown, _number(gain, "+.3f")))
    head = ("family", "questions", *ways, "coterie − best single")
    last = len(rows) - 1
    return _tag("p", _gain_sentence(study)) + _table(head, rows, words=1, marked={last})


def _gain_sentence(study: Study) -> str:
    parts = []
    for name in ("best single", "router, top 1"):
        if (row := compared(study).get(name)) is None:
            continue
        step = study.headline.scores - row.scores
        gains = {family: mean(step[part]) for family, part in families(study).items()}
        top, low = max(gains, key=gains.__getitem__), min(gains, key=gains.__getitem__)
        parts.append(
            f"Against {row.name} the coterie gains most on {top} ({gains[top]:+.3f}) "
            f"and least on {low} ({gains[low]:+.3f})."
        )
    return " ".join(parts)


def _machinery(study: Study, panel: Panel) -> str:
    load_names = {"actual": "grouped by expert", "naive": "question by question"}
    loads = [(load_names.get(k, k.replace("_", " ")), str(v)) for k, v in study.loads.items()]
    seconds = [(name, f"{value:.1f}") for name, value in study.seconds.items()]
    seconds.append(("all", f"{sum(study.seconds.values()):.1f}"))
    chosen = [(name, _number(value)) for name, value in study.selection.items()]
    tables = (
        _table(("model loads for the test answers", ""), loads, words=1),
        _table(("phase", "seconds"), seconds, words=1),
        _table(("rule/aggregator", "on validation"), chosen, words=1),
    )
    figure = _plot("plot-aggregators", bars(study.aggregators)) if study.aggregators else ""
    side_by_side = f'<div class="tables">{"".join(tables)}</div>'
    return _tag("p", _merging_sentence(study)) + figure + side_by_side


def _merging_sentence(study: Study) -> str:
    if not study.aggregators:
        return "No expert was tried as aggregator."
    best = max(study.aggregators, key=lambda name: study.aggregators[name])
    text = (
        "Shown one right and two wrong answers to a validation question, the expert that gives "
        f"the right one most often is {best} ({study.aggregators[best]:.3f})"
    )
    if (row := _row(study, "recruit 3, merged by")) is None:
        return f"{text}."
    test, coterie = mean(row.scores), mean(study.headline.scores)
    return f"{text}; on test {row.name} scores {test:.3f}, the coterie {coterie:.3f}."


def bars(values: Mapping[str, float]) -> Figure:
    """One horizontal bar a name, the largest on top."""
    order = sorted(values, key=lambda name: -np.nan_to_num(values[name], nan=-1))
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": _plain([values[n] for n in order]),
        "y": list(range(len(order))),
        "text": [_number(values[n]) for n in order],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": BLUE},
        "hoverinfo": "skip",
    }
    layout = _layout(26 * len(order) + 70, x="right answers found")
    layout["xaxis"]["range"] = [0, 1.08]
    layout["yaxis"] |= {"tickvals": trace["y"], "ticktext": [_label(n) for n in order]}
    layout["yaxis"]["autorange"] = "reversed"
    return {"data": [trace], "layout": layout}


def _examples(study: Study, panel: Panel) -> str:
    parts = []
    for won, title in (
        (True, "The coterie is right, the best single expert wrong"),
        (False, "The coterie is wrong"),
    ):
        cards = "".join(_card(study, i) for i in examples(study, won))
        parts.append(_tag("h3", title) + (cards or _tag("p", "There is no such question.")))
    return "".join(parts)


def _card(study: Study, row: int) -> str:
    """One question: its reference, and what coterie, best single and the recruited answered."""
    answer, single = study.answers[row], _single(study)
    alone = study.test.completion(row, single) if single in study.test.experts else None
    said = [("coterie", answer.completion), ("best single", alone)]
    recruited = len(answer.decision.experts)
    for turn, completion in enumerate(answer.trace):
        said.append(("recruited" if turn < recruited else "aggregator", completion))
    lines = [(role, *_said(study, row, c)) for role, c in said if c is not None]
    category, reference = study.test.categories[row], study.test.references[row]
    top = _tag("p", f"{category or ''} · {study.test.queries[row].id}", "note")
    question = _tag("p", _cut(study.test.queries[row].text), "question")
    right = _tag("p", f"right answer: {_cut(reference)}") if reference is not None else ""
    table = _table(("role", "expert", "answer", "", "whole text"), lines, words=5)
    return f"<article>{top}{question}{right}{table}</article>"


def _said(study: Study, row: int, completion: Completion) -> tuple[str, str, str, str]:
    """Expert, extracted answer, whether it is right, and the text where it says more."""
    if completion.failed:
        return completion.expert, "failed", "✗", _cut(str(completion.error))
    extract, reference = extractor(study.extract), study.test.references[row]
    answer, text = extract(completion.text), completion.text.strip()
    right = reference is not None and score(text, reference, extract) == 1
    return completion.expert, _cut(answer), "✓" if right else "✗", _cut(text)


SECTIONS: dict[str, Callable[[Study, Panel], str]] = {
    "The panel": _panel,
    "Accuracy with intervals": _whiskers,
    "Quality against cost": _plane,
    "Who is good at what": _skills,
    "Who was recruited for what": _recruited,
    "Where recruiting helps": _gains,
    "Merging, loads and time": _machinery,
    "Ten questions": _examples,
}


# HTML and plotly


def _tag(name: str, text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f"<{name}{attribute}>{escape(text)}</{name}>" if text else ""


def _table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    words: int,
    marked: Iterable[int] = (),
) -> str:
    """A table of plain texts; the first ``words`` columns are words, the others numbers."""
    lines = [_cells("th scope=col", head, words)]
    lines += [_cells("td", row, words) for row in rows]
    for i in marked:
        lines[i + 1] = lines[i + 1].replace("<tr>", '<tr class="marked">', 1)
    body = "\n".join(lines[1:])
    return f'<div class="wide"><table><thead>{lines[0]}</thead><tbody>{body}</tbody></table></div>'


def _cells(tag: str, texts: Sequence[str], words: int) -> str:
    end = tag.split()[0]
    kinds = ["" if i < words else " class=number" for i in range(len(texts))]
    cells = [f"<{tag}{k}>{escape(t)}</{end}>" for k, t in zip(kinds, texts, strict=True)]
    return f"<tr>{''.join(cells)}</tr>"


def _plot(name: str, figure: Figure) -> str:
    from plotly.io import to_html

    config = {"displayModeBar": False, "responsive": True}
    html = to_html(
        figure,
        config=config,
        include_plotlyjs=False,
        full_html=False,
        validate=False,
        div_id=name,
    )
    return f'<div class="plot">{html}</div>'


def _layout(height: int, x: str = "", y: str = "") -> Figure:
    axis = {"automargin": True, "fixedrange": True, "zeroline": False}
    return {
        "height": height,
        "margin": {"l": 10, "r": 24, "t": 20, "b": 10},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', sans-serif", "size": 12},
        "showlegend": False,
        "dragmode": False,
        "xaxis": {**axis, "title": {"text": _label(x)}},
        "yaxis": {**axis, "title": {"text": _label(y)}},
    }


def _label(text: str) -> str:
    """Text for a figure, where plotly would read tags; line breaks stay."""
    return escape(text, quote=False).replace("\n", "<br>")


def _plain(values: Iterable[float]) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in values]


def _number(value: float, shape: str = ".3f") -> str:
    return "–" if np.isnan(value) else format(value, shape)


def _interval(bounds: Sequence[float], shape: str = ".3f") -> str:
    low, high = (_number(b, shape) for b in bounds)
    return f"{low} to {high}"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
