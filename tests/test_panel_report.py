"""The panel's page: offline, escaped, honest, and every number from the panel."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from cli_world import Project
from plotly.graph_objects import Figure

from coterie import figures, panel_report, views
from coterie.holdouts import Transfer, transfer
from coterie.learning import LearningCurve, halving_curve
from coterie.newcomers import ColdStart, cold_start
from coterie.panel import Entrant, Panel, judge
from coterie.panel_report import HeldOut
from coterie.perturbations import Robustness, robustness
from coterie.policies import Recruit, Utility
from coterie.records import Records
from coterie.routers.base import Router, mean_or, spread
from coterie.routers.linear import Linear
from coterie.testing import EXPERTS, make_records, with_quality
from coterie.types import Estimates, Query

RECORDS = make_records(60)
GUARDED = Entrant("<b>guarded</b>", lambda: Knowing(), lambda training: Utility())


class Knowing(Router):
    """Knows that in this world each category has one expert of its name."""

    name = "knowing"

    def fit(self, records: Records) -> Self:
        self.experts_, self.cost_ = records.experts, mean_or(records.cost, 0.0)
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        quality = np.array([[0.9 * (e == q.category) for e in self.experts_] for q in queries])
        return Estimates(self.experts_, quality, spread(self.cost_, queries))


def entrants() -> list[Entrant]:
    own = [GUARDED, Entrant("knowing", GUARDED.make_router)]
    three = Entrant("three", GUARDED.make_router, lambda training: Recruit(k=3))
    return [*own, three, Entrant("linear", Linear)]


@pytest.fixture(scope="module")
def panel() -> Panel:
    return judge(RECORDS, entrants(), default=GUARDED.name)


@pytest.fixture(scope="module")
def learned(panel: Panel) -> LearningCurve:
    return halving_curve(panel, GUARDED)


def body(html: str) -> str:
    """The page without plotly's own script."""
    from plotly.offline import get_plotlyjs

    assert html.count(get_plotlyjs()) == 1
    return html.replace(get_plotlyjs(), "")


@pytest.fixture(scope="module")
def page(panel: Panel, learned: LearningCurve) -> str:
    return body(panel_report.render(panel, learned))


def section(page: str, heading: str) -> str:
    return page.split(f"<h2>{heading}</h2>")[1].split("</section>")[0]


def drawn(page: str, name: str) -> list[dict[str, Any]]:
    """The traces of a figure as the page gives them to plotly."""
    start = page.index("[", page.index(f'"{name}",', page.index("Plotly.newPlot")))
    traces: list[dict[str, Any]] = json.JSONDecoder().raw_decode(page[start:])[0]
    return traces


def test_the_page_refers_to_nothing_outside_itself(page: str) -> None:
    assert not re.search(r"(src|href|action)\s*=|@import|url\(", page)
    assert not re.search(r"https?:|//\w+\.\w+", page)
    assert "default-src 'none'" in page


def test_the_verdict_comes_first_and_names_what_was_declared(page: str) -> None:
    first = page.split("</h1>")[1]
    assert first.startswith('<p class="verdict">&lt;b&gt;guarded&lt;/b&gt;, the default declared')
    assert "beats the best single expert: a mean score of 1.000 against" in first


def test_names_are_text_everywhere(panel: Panel, page: str) -> None:
    assert "<b>guarded" not in page.replace("<b>&lt;b&gt;guarded&lt;/b&gt;</b>", "")
    hostile = ("<script>alert(1)</script>", "</script><i>", *EXPERTS[2:])
    records = replace(RECORDS, experts=hostile, facts={})
    html = body(panel_report.render(judge(records, [Entrant("<u>", Linear)])))
    assert "<script>alert" not in html
    assert "<i>" not in html
    assert "<u>" not in html


def test_every_row_stands_in_the_panel_with_its_numbers(panel: Panel, page: str) -> None:
    table = section(page, "The panel")
    for row in panel.rows:
        name = row.name.replace("<", "&lt;").replace(">", "&gt;")
        score = f"<td class=number>{row.quality.value:.3f}</td>"
        assert f"<td>{name}</td><td>{row.reads}</td>{score}" in table
    assert re.findall("<tr class=marked><td>(.*?)</td>", table) == ["&lt;b&gt;guarded&lt;/b&gt;"]


def test_whiskers_are_the_intervals_of_the_panel(panel: Panel, page: str) -> None:
    (trace,) = drawn(page, "plot-panel")
    assert trace["x"] == pytest.approx([row.quality.value for row in panel.rows])
    high = np.array(trace["x"]) + trace["error_x"]["array"]
    assert high == pytest.approx([row.quality.high for row in panel.rows])


def test_the_plane_has_experts_rows_curves_hull_and_oracle(panel: Panel, page: str) -> None:
    traces = {trace["name"]: trace for trace in drawn(page, "plot-plane")}
    assert {"coins between experts", "frontier", "oracle", "knowing", "linear"} <= set(traces)
    experts = traces["single expert"]
    assert experts["y"] == pytest.approx(RECORDS.quality.mean(axis=0))
    assert experts["x"] == pytest.approx(RECORDS.cost.mean(axis=0))
    assert traces["the default"]["y"] == [1.0]
    assert set(traces["knowing"]["y"]) == set(panel.curves["knowing"].quality)


def test_without_costs_the_page_says_so_and_draws_no_plane() -> None:
    records = replace(RECORDS, cost=np.full(RECORDS.quality.shape, np.nan))
    html = body(panel_report.render(judge(records, [GUARDED], default=GUARDED.name)))
    assert "The records hold no costs" in section(html, "Quality against cost")
    assert "plot-plane" not in html
    assert "cheapest-correct" not in section(html, "Who is chosen")
    assert "nan" not in html.split("<body>")[1].lower()


def test_free_experts_make_the_axis_linear_and_keep_the_hull_drawable() -> None:
    cost = np.tile([0.0, 1.0, 2.0, 3.0], (60, 1))
    shown = judge(replace(RECORDS, cost=cost), [GUARDED])
    points = views.hull(cost, shown.records.quality)
    assert points[0][0] == 0.0
    assert '"type":"linear"' in body(panel_report.render(shown)).replace(" ", "")


def test_the_hull_is_monotone_and_no_expert_is_above_it() -> None:
    generator = np.random.default_rng(0)
    cost, quality = generator.random((40, 6)) + np.arange(6), generator.random((40, 6))
    costs, heights = np.array(views.hull(cost, quality)).T
    assert (np.diff(costs) > 0).all()
    assert (np.diff(heights) >= -1e-12).all()
    means = np.interp(cost.mean(axis=0), costs, heights)
    assert (quality.mean(axis=0) <= means + 1e-12).all()


def test_calibration_shows_the_default_and_the_best_router_with_other_estimates(
    panel: Panel, page: str
) -> None:
    assert [row.name for row in views.judges(panel)] == [GUARDED.name, "linear"]
    first, _ = drawn(page, "plot-calibration")
    assert first["x"] == pytest.approx([0.0, 0.9])
    assert first["y"][1] == 1.0
    table = section(page, "Whether estimates come true")
    ece = panel.summary(panel["linear"])["ece"]
    assert f"<td>linear</td><td class=number>{ece:.3f}</td>" in table


def test_rows_of_one_router_share_a_line(panel: Panel) -> None:
    names = [found.names for found in views.estimators(panel)]
    assert names == [f"{GUARDED.name}; knowing; three", "linear"]


def test_bins_that_hardly_anything_falls_into_are_not_drawn() -> None:
    expected = np.r_[np.full(5000, 0.5), 0.99]
    hoped, came, share = views.bins(expected, np.zeros(5001))
    assert (hoped.tolist(), came.tolist()) == ([0.5], [0.0])
    assert share == pytest.approx([5000 / 5001])


def test_regret_is_oracle_minus_router_with_the_largest_on_top(panel: Panel) -> None:
    single = views.regrets(panel, panel.best_single)
    assert [r.value for r in single] == sorted((r.value for r in single), reverse=True)
    total = sum(r.value * r.questions for r in single) / 60
    lost = panel["oracle"].quality.value - panel.best_single.quality.value
    assert total == pytest.approx(lost)
    assert {r.value for r in views.regrets(panel, panel[GUARDED.name])} == {0.0}


def test_only_the_categories_that_lose_most_are_shown() -> None:
    queries = tuple(replace(q, category=f"c{i % 20:02}") for i, q in enumerate(RECORDS.queries))
    shown = judge(replace(RECORDS, queries=queries), [GUARDED])
    found = views.regrets(shown, shown["random"])
    lost = {r.category: r.value * r.questions for r in found}
    assert len(lost) == views.CATEGORIES
    every = shown["oracle"].scores - shown["random"].scores
    others = [every[n].sum() for c, n in shown.groups().items() if c not in lost]
    assert min(lost.values()) >= max(others) - 1e-9


def test_a_choice_among_the_best_counts_as_itself_and_ties_in_equal_parts() -> None:
    quality = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1]], float)
    counts = views.confusion(np.array([0, 0, 1, 2]), quality)
    assert counts.tolist() == [[1, 0.5, 0.5], [0, 0, 0], [0, 0, 1]]


def test_experts_beyond_the_eighth_are_others_and_nothing_is_lost() -> None:
    weights = np.array([1.0, 9, 8, 7, 6, 5, 4, 3, 2, 0.5])
    labels, parts = views.gathered([f"e{i}" for i in range(10)], weights)
    assert labels == [*(f"e{i}" for i in range(1, 9)), "others"]
    assert sorted(np.concatenate(parts)) == list(range(10))
    labels, _ = views.gathered([f"e{i}" for i in range(9)], weights[:9])
    assert labels == [*(f"e{i}" for i in range(1, 9)), "e0"]


def test_shares_are_those_of_the_choices_and_rows_sum_to_100(panel: Panel, page: str) -> None:
    (trace,) = drawn(page, "plot-shares")
    assert np.sum(trace["z"], axis=1) == pytest.approx(np.full(len(trace["z"]), 100))
    at = list(views.choosers(panel)).index(GUARDED.name)
    shares = panel[GUARDED.name].shares
    assert shares is not None
    assert sorted(trace["z"][at]) == pytest.approx(sorted(100 * shares))
    assert "three" not in views.choosers(panel)


def test_the_learning_curve_is_drawn_with_its_intervals(learned: LearningCurve, page: str) -> None:
    own, best = drawn(page, "plot-learning")
    assert own["x"] == [12, 24, 48]
    assert own["y"] == pytest.approx([p.router.value for p in learned.points])
    assert best["y"] == pytest.approx([p.best_single.value for p in learned.points])
    assert "&lt;b&gt;guarded" in own["name"]


def test_without_a_learning_curve_the_page_says_so(panel: Panel) -> None:
    html = panel_report.render(panel)
    assert "No learning curve was computed." in html
    refused = panel_report.render(panel, LearningCurve("x", (), ("x wants <more>",)))
    assert "No learning curve was computed. x wants &lt;more&gt;" in refused


def test_without_routers_there_are_no_claims_about_routers() -> None:
    bare = replace(RECORDS, queries=tuple(replace(q, category=None) for q in RECORDS.queries))
    html = body(panel_report.render(judge(bare)))
    assert "No router was declared in advance" in html
    assert "No other router was judged." in html
    assert "plot-calibration" not in html
    assert "plot-regret" not in html
    assert "No query has a category" in section(html, "What was left out")


def test_a_router_that_loses_is_said_to_lose() -> None:
    quality = np.tile([1.0, 0.0, 0.0, 0.0], (60, 1))
    shown = judge(with_quality(RECORDS, quality), [GUARDED], default=GUARDED.name)
    assert "loses to the best single expert" in panel_report.verdict(shown)
    equal = judge(with_quality(RECORDS, np.ones((60, 4))), [GUARDED], default=GUARDED.name)
    assert "does not beat the best single expert" in panel_report.verdict(equal)
    assert "All experts score alike on every question" in panel_report.render(equal)


def test_other_routers_are_named_only_where_they_beat_best_single(panel: Panel) -> None:
    opening = panel_report.render(panel).partition("</header>")[0]
    assert "Of the other routers (3) these beat it: knowing (+50.0 points); " in opening
    noise = with_quality(RECORDS, np.random.default_rng(3).integers(0, 2, (60, 4)))
    luckless = panel_report.render(judge(noise, [Entrant("linear", Linear)]))
    assert "None of the other routers (1) beats it" in luckless


def test_two_experts_get_the_metrics_of_pairs() -> None:
    two = RECORDS.select(EXPERTS[:2])
    better = two.quality.copy()
    better[:40, 1] = 1.0
    shown = judge(with_quality(two, better), [Entrant("linear", Linear)])
    table = section(body(panel_report.render(shown)), "What routers know about questions")
    assert f"<td>linear</td><td class=number>{shown.pairs['linear'].apgr:.3f}</td>" in table


def test_what_was_left_out_is_named() -> None:
    quality = RECORDS.quality.copy()
    quality[:30, 0] = quality[40, 1] = np.nan
    html = panel_report.render(judge(with_quality(RECORDS, quality), keep=EXPERTS[1:]))
    assert f"Experts observed too seldom: {EXPERTS[0]}." in html
    assert "Questions without every expert&#x27;s score: 1." in html


def test_every_figure_is_one_that_plotly_accepts(page: str) -> None:
    names = re.findall(r'id="(plot-\w+)"', page)
    assert len(names) == len(set(names)) == 7
    for name in names:
        assert Figure({"data": drawn(page, name)}).data


def test_long_names_break_where_words_end() -> None:
    ticks = figures.dots(
        ["claude-3-5-sonnet-20241022", "x" * 30, "short name"],
        {"a": figures.Series([1, 2, 3], "red")},
        "x",
    )["layout"]["yaxis"]["ticktext"]
    assert ticks[0] == "claude-3-5-sonnet-<br>20241022"
    assert ticks[1].replace("<br>", "") == "x" * 30
    assert ticks[2] == "short name"


@pytest.fixture(scope="module")
def more(panel: Panel) -> list[HeldOut]:
    plain = [Entrant("knowing", GUARDED.make_router), Entrant("linear", Linear)]
    cold = cold_start(panel, plain, newcomers=1, sizes=(0, 10), draws=1)
    return [transfer(panel, plain), cold, robustness(panel, plain, ("upper", "role"))]


@pytest.fixture(scope="module")
def more_page(panel: Panel, more: list[HeldOut]) -> str:
    return body(panel_report.render(panel, None, more))


def test_sections_stand_for_what_else_was_judged_and_for_nothing_else(
    page: str, more_page: str
) -> None:
    added = set(re.findall("<h2>(.*?)</h2>", more_page)) - set(re.findall("<h2>(.*?)</h2>", page))
    assert added == {
        "Categories that training did not hold",
        "New experts, known from few labels",
        "Questions worded otherwise",
    }
    for name in ("plot-transfer", "plot-cold-start", "plot-robustness"):
        assert Figure({"data": drawn(more_page, name)}).data


def test_a_category_held_out_is_drawn_beside_the_folds(more: list[HeldOut], more_page: str) -> None:
    assert isinstance(more[0], Transfer)
    held = sorted(more[0].rows[0].categories, key=lambda each: each.vs_best_single.value)
    out, inside, single = drawn(more_page, "plot-transfer")
    assert out["x"] == pytest.approx([each.quality for each in held])
    assert inside["x"] == pytest.approx([each.in_folds for each in held])
    assert single["x"] == pytest.approx([each.best_single for each in held])


def test_a_newcomers_curve_has_a_point_a_number_of_labels(
    more: list[HeldOut], more_page: str
) -> None:
    assert isinstance(more[1], ColdStart)
    lines = {trace["name"]: trace["y"] for trace in drawn(more_page, "plot-cold-start")}
    for name, curve in more[1].curves.items():
        wanted = [p.quality.value for p in curve if p.way in ("none", "random", "all")]
        assert lines[name] == pytest.approx(wanted)
    assert lines["knowing, as suggested"][1] is not None
    table = section(more_page, "New experts, known from few labels")
    assert "<th class=number>0</th><th class=number>10</th><th class=number>48</th>" in table


def test_flips_are_the_cells_of_a_map(more: list[HeldOut], more_page: str) -> None:
    assert isinstance(more[2], Robustness)
    (trace,) = drawn(more_page, "plot-robustness")
    shares = [[100 * each.flips.value for each in row.flips] for row in more[2].rows]
    assert np.allclose(trace["z"], shares)
    assert trace["z"][0] == [0.0, 0.0]


def test_what_could_not_be_judged_is_said_instead(panel: Panel) -> None:
    empty: list[HeldOut] = [
        Transfer((), ("transfer needs <two>",)),
        Robustness(()),
        ColdStart((), 0, (), {}, ()),
    ]
    html = body(panel_report.render(panel, None, empty))
    assert "Transfer needs &lt;two&gt;." in section(html, "Categories that training did not hold")
    assert "plot-robustness" not in html


@pytest.fixture
def project(tmp_path: Path) -> Project:
    RECORDS.write(tmp_path / "records")
    return Project(tmp_path)


def test_evaluate_writes_the_page_beside_the_json(project: Project) -> None:
    files = ("--json", "panel.json", "--report", "new/panel.html")
    run = project.main("evaluate", "records", "--routers", "knn", "--transfer", *files)
    assert run.returncode == 0, run.stderr
    html = (project.folder / "new" / "panel.html").read_text(encoding="utf-8")
    (default,) = (
        row
        for row in json.loads((project.folder / "panel.json").read_text())["panel"]
        if row["name"] == "stack"
    )
    assert f"a mean score of {default['quality']:.3f} against" in html
    assert "plot-learning" in html
    assert "plot-transfer" in html
    assert "stack" in run.stdout


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("records/queries.parquet", "lies in the input records"),
        ("records", "--report is the name of a file"),
        ("-", "expected the name of a file"),
        ("./panel.json", "is the file of --json too"),
    ],
)
def test_the_page_overwrites_nothing_it_needs(project: Project, target: str, message: str) -> None:
    before = {p: p.read_bytes() for p in project.folder.rglob("*") if p.is_file()}
    args = ("--json", "panel.json", "--report", target)
    run = project.main("evaluate", "records", *args)
    assert run.returncode == 1
    assert message in run.stderr
    assert {p: p.read_bytes() for p in project.folder.rglob("*") if p.is_file()} == before
