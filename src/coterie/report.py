"""The demo's report: one HTML file that needs nothing else, in the order a reader needs it.

Every text that comes from a study is escaped where it becomes HTML (``coterie.page``), and in
figures by ``coterie.figures``.
"""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from coterie import figures
from coterie.answers import extractor, score
from coterie.evaluation import Row
from coterie.figures import Point, number
from coterie.page import cut, interval, page, section, table, tag, tile
from coterie.study import Study, relation
from coterie.types import Completion, FloatArray

Panel: TypeAlias = Sequence[Mapping[str, Any]]  # Row.summary of every row, in order

EXAMPLES = 5  # of each kind


def render(study: Study) -> str:
    """The whole report of ``study`` as one HTML page that makes no request."""
    panel = study.panel
    parts = (section(heading, content(study, panel)) for heading, content in SECTIONS.items())
    return page("\n".join([_opening(study), *parts]))


# What is computed


def mean(values: FloatArray) -> float:
    """Mean of what was observed, NaN where nothing was."""
    seen = values[~np.isnan(values)]
    return float(seen.mean()) if seen.size else float("nan")


def families(study: Study) -> dict[str, list[int]]:
    """The test questions of each category, categories in the order of their best experts."""
    found: dict[str, list[int]] = {}
    for row, category in enumerate(study.test.categories):
        found.setdefault(category or "(none)", []).append(row)
    means = {name: study.test.quality[rows].mean(axis=0) for name, rows in found.items()}
    return {name: found[name] for name in sorted(found, key=lambda name: int(means[name].argmax()))}


def accuracy_by_family(study: Study) -> FloatArray:
    """Mean score, shape (families, experts + 1); the last column is the coterie."""
    quality = np.column_stack([study.test.quality, study.headline.scores])
    return np.array([[mean(column) for column in quality[p].T] for p in families(study).values()])


def recruited_by_family(study: Study) -> dict[str, FloatArray]:
    """Each expert's share of every family's recruitments, also of experts not judged on test."""
    chosen = [answer.decision.experts for answer in study.answers]
    parts = [Counter(e for i in part for e in chosen[i]) for part in families(study).values()]
    experts = dict.fromkeys([*study.test.experts, *(e for part in parts for e in part)])
    return {e: np.array([part[e] / max(part.total(), 1) for part in parts]) for e in experts}


def places(study: Study) -> dict[str, Point]:
    """Cost and accuracy of every expert and row that has both, by name."""
    test = study.test
    columns = zip(test.experts, test.cost.T, test.quality.T, strict=True)
    found = {name: (mean(cost), mean(quality)) for name, cost, quality in columns}
    found |= {row.name: (mean(row.costs), mean(row.scores)) for row in study.rows}
    return {name: point for name, point in found.items() if not np.isnan(point).any()}


def frontier(points: Mapping[str, Point]) -> dict[str, Point]:
    """The points that no other matches at lower or equal cost, from the cheapest upwards."""
    best: dict[str, Point] = {}
    highest = -np.inf
    for name, (cost, accuracy) in sorted(points.items(), key=lambda p: (p[1][0], -p[1][1])):
        if accuracy > highest:
            best[name], highest = (cost, accuracy), accuracy
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
    turns = [enumerate(i for i in part if wanted[i]) for part in families(study).values()]
    return [i for _, i in sorted(turn for family in turns for turn in family)[:EXAMPLES]]


def _row(study: Study, start: str) -> Row | None:
    return next((row for row in study.rows if row.name.startswith(start)), None)


def _single(study: Study) -> str:
    """The name of the best single expert, from its row."""
    return study.best_single.name.removeprefix("best single (").removesuffix(")")


# Sections: a study and its panel in, HTML out


def _opening(study: Study) -> str:
    size = sum(study.parameters.get(e, 0) for e in study.test.experts)
    pool = f"{len(study.test.experts)} experts with {size / 1e6:.3g} million parameters in all"
    where = f"Python {platform.python_version()}, {os.cpu_count()} processors"
    tiles = "".join(
        tile(name, number(mean(row.scores)), row is study.headline)
        for name, row in compared(study).items()
    )
    return (
        f"<header>{tag('h1', 'Coterie against its best single expert')}"
        f'{tag("p", verdict(study), "verdict")}<dl class="tiles">{tiles}</dl>'
        f"{tag('p', _ahead(study))}{tag('p', _chosen(study))}"
        f"{tag('p', f'{pool}; {where}. {_absent(study)}', 'note')}</header>"
    )


def verdict(study: Study) -> str:
    """One sentence: whether the coterie beats the best single expert, and by how much."""
    facts = study.headline.summary(study.best_single)
    difference, (low, high) = facts["vs_best_single"]["diff"], facts["vs_best_single"]["ci"]
    gain, least, most = (number(100 * v, "+.1f") for v in (difference, low, high))
    return (
        f"The coterie {relation(low, high)} the best single expert: "
        f"{100 * facts['accuracy']:.1f} % of {len(study.test)} held-out questions right against "
        f"{100 * mean(study.best_single.scores):.1f} % ({_single(study)}), a difference of "
        f"{gain} percentage points (95 % interval {least} to {most})."
    )


def _ahead(study: Study) -> str:
    """Which other ways score higher, the oracle aside."""
    own = mean(study.headline.scores)
    higher = [r for r in study.rows if r.reads != "the reference" and mean(r.scores) > own]
    if not higher:
        return "No other way of answering in the panel scores higher, the oracle aside."
    names = [f"{r.name} ({mean(r.scores):.3f}, reads {r.reads})" for r in higher]
    return f"Higher than the coterie on these questions: {'; '.join(names)}."


def _chosen(study: Study) -> str:
    rule, aggregator = study.chosen["rule"], study.chosen["aggregator"]
    merged = f"merged by {study.chosen['aggregating expert']}"
    text = f"Chosen on {len(study.validation)} validation questions: {rule} rule, "
    text += merged if aggregator == "expert" else f"{aggregator} vote"
    value = study.selection.get(f"{rule}/{aggregator}")
    if value is None:
        return f"{text}."
    return f"{text} ({value:.3f} there, cross-fitted, among {len(study.selection)} combinations)."


def _absent(study: Study) -> str:
    """Who is not in the panel, and why."""
    parts = [
        f"{name} was asked only {count} validation questions ({value:.3f} right)."
        for name, (value, count) in study.sampled.items()
    ]
    if study.left_out:
        parts.append(f"Not installed, left out: {', '.join(study.left_out)}.")
    return " ".join(parts)


def _panel(study: Study, panel: Panel) -> str:
    head = ("who answers", "reads", "accuracy", "95 %", "vs best single", "95 %", "cost", "calls")
    rows = [
        (
            facts["name"],
            facts["reads"],
            number(facts["accuracy"]),
            interval(facts["ci"]),
            number(facts["vs_best_single"]["diff"], "+.3f"),
            interval(facts["vs_best_single"]["ci"], "+.3f"),
            number(facts["cost"], "#.3g"),
            number(facts["calls"], ".2f"),
        )
        for facts in panel
    ]
    marked = [i for i, row in enumerate(study.rows) if row is study.headline]
    note = (
        f"Accuracy is the share of {len(study.test)} test questions answered right. Intervals are "
        "percentile bootstraps over questions; differences are paired: both ways are resampled on "
        "the same questions, so what both find hard cancels. The best single expert and trio, the "
        f"rule and the aggregator were chosen on {len(study.validation)} validation questions, "
        "whose keys (what is asked, however it is phrased) are disjoint from the test questions'. "
        f"Cost is in {study.unit} a question. The oracle knows the right answer: it is the "
        "ceiling, not a method."
    )
    return table(head, rows, words=2, marked=marked) + tag("p", note, "note")


def _whiskers(study: Study, panel: Panel) -> str:
    note = "Dots are accuracies, lines 95 % intervals; the dashed line is the best single expert."
    colours = [_colour(study, row) for row in study.rows]
    figure = figures.whiskers(panel, colours, mean(study.best_single.scores))
    return tag("p", note) + figures.embed("plot-panel", figure)


def _colour(study: Study, row: Row) -> str:
    if row is study.headline:
        return figures.ORANGE
    aside = row.reads == "the reference" or row.name == study.best_single.name
    return figures.GREY if aside else figures.BLUE


def _plane(study: Study, panel: Panel) -> str:
    note = (
        "Up is better, left is cheaper. The line joins what nothing cheaper matches, among single "
        f"experts and ways of answering without the oracle: {'; '.join(_edge(study))}."
    )
    found, rows = places(study), [r.name for r in study.rows if r is not study.headline]
    groups = {
        "single expert": {n: found[n] for n in study.test.experts if n in found},
        "way of answering": {n: found[n] for n in rows if n in found},
        "coterie": {n: found[n] for n in (study.headline.name,) if n in found},
    }
    figure = figures.plane(groups, list(_edge(study).values()), study.unit)
    return tag("p", note) + figures.embed("plot-plane", figure)


def _edge(study: Study) -> dict[str, Point]:
    """The frontier of what can be done without knowing the answer."""
    knowing = {row.name for row in study.rows if row.reads == "the reference"}
    return frontier({n: p for n, p in places(study).items() if n not in knowing})


def _skills(study: Study, panel: Panel) -> str:
    columns = [*study.test.experts, "coterie"]
    figure = figures.heat_map(list(families(study)), columns, accuracy_by_family(study))
    note = "Percent of each family's test questions that each expert, and the coterie, gets right."
    return tag("p", note) + figures.embed("plot-families", figure)


def _recruited(study: Study, panel: Panel) -> str:
    shares = recruited_by_family(study)
    figure = figures.heat_map(
        list(families(study)), list(shares), np.column_stack(list(shares.values()))
    )
    note = "Percent of each family's recruitments that went to each expert; rows sum to 100."
    shown = ", ".join(f"{rule} {value:.2f}" for rule, value in study.unique.items())
    unique = f"Distinct experts a validation question, by rule: {shown}." if shown else ""
    return tag("p", note) + figures.embed("plot-recruited", figure) + tag("p", unique, "note")


def _gains(study: Study, panel: Panel) -> str:
    ways, parts = compared(study), families(study) | {"all": list(range(len(study.test)))}
    rows = []
    for family, part in parts.items():
        values = {name: mean(row.scores[part]) for name, row in ways.items()}
        gain = values["coterie"] - values["best single"]
        shown = [number(v) for v in values.values()]
        rows.append((family, str(len(part)), *shown, number(gain, "+.3f")))
    head = ("family", "questions", *ways, "coterie − best single")
    sentences = " ".join(
        _gain(study, ways[n]) for n in ("best single", "router, top 1") if n in ways
    )
    return tag("p", sentences) + table(head, rows, words=1, marked=[len(rows) - 1])


def _gain(study: Study, other: Row) -> str:
    """On which families the coterie gains most and least against another row."""
    step = study.headline.scores - other.scores
    gains = {family: mean(step[part]) for family, part in families(study).items()}
    top, low = max(gains, key=gains.__getitem__), min(gains, key=gains.__getitem__)
    most, least = number(gains[top], "+.3f"), number(gains[low], "+.3f")
    return (
        f"Against {other.name} the coterie gains most on {top} ({most}), least on {low} ({least})."
    )


def _machinery(study: Study, panel: Panel) -> str:
    names = {"actual": "grouped by expert", "naive": "question by question"}
    loads = [(names.get(k, k.replace("_", " ")), str(v)) for k, v in study.loads.items()]
    seconds = study.seconds
    chosen = [(name, number(value)) for name, value in study.selection.items()]
    tables = (
        table(("model loads for the test", ""), loads, words=1),
        table(("phase", "seconds"), [(n, f"{v:.1f}") for n, v in seconds.items()], words=1),
        table(("rule/aggregator", "on validation"), chosen, words=1) if chosen else "",
    )
    figure = (
        figures.embed("plot-aggregators", figures.bars(study.aggregators))
        if study.aggregators
        else ""
    )
    return f'{tag("p", _merging(study))}{figure}<div class="tables">{"".join(tables)}</div>'


def _merging(study: Study) -> str:
    """Who merges best, and what merging came to on test."""
    if not study.aggregators:
        return "No expert was tried as aggregator."
    best = max(study.aggregators, key=lambda name: np.nan_to_num(study.aggregators[name]))
    text = (
        "Shown one right and two wrong answers to a validation question, the expert that gives "
        f"the right one most often is {best} ({number(study.aggregators[best])})"
    )
    if (row := _row(study, "recruit 3, merged by")) is None:
        return f"{text}."
    test, coterie = mean(row.scores), mean(study.headline.scores)
    return f"{text}; on test “{row.name}” scores {test:.3f}, the coterie {coterie:.3f}."


def _examples(study: Study, panel: Panel) -> str:
    titles = {True: "The coterie is right, the best single wrong", False: "The coterie is wrong"}
    parts = []
    for won, title in titles.items():
        cards = "".join(_card(study, i) for i in examples(study, won))
        parts.append(tag("h3", title) + (cards or tag("p", "There is no such question.")))
    return "".join(parts)


def _card(study: Study, row: int) -> str:
    """One question: its reference, and what coterie, best single and the recruited answered."""
    answer, single, test = study.answers[row], _single(study), study.test
    alone = test.completion(row, single) if single in test.experts else None
    said = [("coterie", answer.completion), ("best single", alone)]
    recruited = len(answer.decision.experts)
    for turn, completion in enumerate(answer.trace):
        said.append(("recruited" if turn < recruited else "aggregator", completion))
    lines = [_said(study, row, role, c) for role, c in said if c is not None]
    reference = test.references[row]
    name = f"{test.categories[row] or ''} {test.queries[row].id}"
    right = "" if reference is None else f"right answer: {cut(reference)}"
    return (
        f"<article>{tag('p', name, 'note')}"
        f"{tag('p', cut(test.queries[row].text), 'question')}{tag('p', right)}"
        f"{table(('who', 'answer', '', 'whole text, where longer'), lines, words=4)}</article>"
    )


def _said(study: Study, row: int, role: str, completion: Completion) -> tuple[str, ...]:
    """Role and expert, extracted answer, whether it is right, and the text where it says more."""
    who, reference = f"{role}: {completion.expert}", study.test.references[row]
    if completion.failed:
        return who, "failed", "✗", cut(str(completion.error))
    extract, text = extractor(study.extract), completion.text.strip()
    right = reference is not None and score(text, reference, extract) == 1
    answer = extract(text)
    return who, cut(answer), "✓" if right else "✗", "" if text == answer else cut(text)


SECTIONS: dict[str, Callable[[Study, Panel], str]] = {
    "The panel": _panel,
    "Accuracy with intervals": _whiskers,
    "Quality against cost": _plane,
    "Who is good at what": _skills,
    "Who was recruited for what": _recruited,
    "Where recruiting helps": _gains,
    "Merging, loads and time": _machinery,
    "Example questions": _examples,
}
