"""The report: one page, offline, escaped, and every number from the study."""

import re
from dataclasses import replace

import numpy as np
import pytest

from coterie import figures, report
from coterie.answers import whole
from coterie.evaluation import answers_row, best_single_row, oracle_row, random_row
from coterie.records import Records
from coterie.study import Study
from coterie.types import Answer, Completion, Decision, Query

EXPERTS = ("add-expert", "sort-expert", "<b>bold</b>")
QUESTIONS = ("1+1?", "2+2?", "sort <script>alert(1)</script>", "sort ba")
FAMILIES = ("add", "add", "sort", "sort")
RIGHT = np.array([[1, 0, 0], [1, 0, 1], [0, 1, 0], [0, 0, 0]], dtype=float)


def records(quality: np.ndarray = RIGHT) -> Records:
    texts = np.where(quality == 1, "right", "wrong").astype(object)
    return Records(
        queries=tuple(
            replace(Query.from_text(f"q{i}", text), category=FAMILIES[i])
            for i, text in enumerate(QUESTIONS)
        ),
        experts=EXPERTS,
        quality=quality,
        cost=np.tile([0.1, 0.2, 0.4], (len(quality), 1)),
        texts=texts,
        references=("right",) * len(quality),
    )


def answer(query: str, text: str, *recruited: str) -> Answer:
    trace = tuple(Completion(expert, text, cost=0.1) for expert in recruited)
    return Answer(query, trace[0], trace, Decision("recruit", recruited, (0.5,) * len(recruited)))


def study(test: Records | None = None) -> Study:
    test = test or records()
    answers = (
        answer("q0", "right", "add-expert", "add-expert"),
        answer("q1", "right", "add-expert", "sort-expert"),
        answer("q2", "right", "sort-expert", "outsider"),
        answer("q3", "<script>alert(2)</script>", "sort-expert", "sort-expert"),
    )
    headline = answers_row("coterie", answers, test, whole)
    best = best_single_row(records(), test)
    return Study(
        rows=(random_row(test), best, headline, oracle_row(test)),
        headline=headline,
        best_single=best,
        validation=records(),
        test=test,
        answers=answers,
        chosen={"rule": "greedy", "aggregator": "weighted", "aggregating expert": "add-expert"},
        aggregators={"add-expert": 0.25, "sort-expert": 0.75},
        selection={"greedy/weighted": 0.625},
        loads={"actual": 2, "naive": 8, "lower_bound": 2},
        unique={"greedy": 1.5},
        seconds={"answer": 1.25},
        parameters=dict.fromkeys(EXPERTS, 500_000),
        left_out=("absent-expert",),
        unit="USD",
        extract="whole",
    )


@pytest.fixture(scope="module")
def page() -> str:
    """The report without plotly's own script."""
    from plotly.offline import get_plotlyjs

    html = report.render(study())
    assert html.count(get_plotlyjs()) == 1
    return html.replace(get_plotlyjs(), "")


def test_the_page_refers_to_nothing_outside_itself(page: str) -> None:
    assert not re.search(r"(src|href|action)\s*=|@import|url\(", page)
    assert not re.search(r"https?:|//\w+\.\w+", page)
    assert "default-src 'none'" in page


def test_every_section_has_its_heading(page: str) -> None:
    assert re.findall("<h2>(.*?)</h2>", page) == list(report.SECTIONS)


def test_every_row_appears_with_its_accuracy(page: str) -> None:
    for row in study().rows:
        assert re.search(
            rf"<td>{re.escape(row.name)}</td><td>{row.reads}</td>"
            rf"<td class=number>{row.scores.mean():.3f}</td>",
            page,
        )


def test_only_the_coterie_is_highlighted_in_the_panel(page: str) -> None:
    panel = page.split("<h2>The panel</h2>")[1].split("</section>")[0]
    assert re.findall("<tr class=marked><td>(.*?)</td>", panel) == ["coterie"]


def test_a_question_or_answer_that_contains_a_script_stays_text(page: str) -> None:
    assert "sort &lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;script&gt;alert(2)&lt;/script&gt;" in page
    assert "<script>alert" not in page


def test_names_are_text_in_figures_too(page: str) -> None:
    assert "<b>bold" not in page
    ticks = figures.bars({"<b>bold</b>": 0.5})["layout"]["yaxis"]["ticktext"]
    assert ticks == ["&lt;b&gt;bold&lt;/b&gt;"]


def test_every_figure_is_one_that_plotly_accepts() -> None:
    from plotly.graph_objects import Figure

    shown, points = study(), {"a": (0.1, 0.5)}
    panel = [row.summary(shown.best_single) for row in shown.rows]
    for figure in (
        figures.whiskers(panel, ["red"] * len(panel), 0.5),
        figures.plane({"expert": points}, list(points.values()), "USD"),
        figures.heat_map(["add"], ["a", "b"], np.array([[0.5, np.nan]])),
        figures.bars({"a": 0.5, "b": float("nan")}),
    ):
        assert Figure(figure).data


@pytest.mark.parametrize(
    ("scores", "relation"),
    [
        ((1, 1, 1, 1), "beats"),
        ((0, 0, 0, 0), "loses to"),
        ((1, 0, 0, 1), "does not reliably differ from"),
    ],
)
def test_the_verdict_follows_the_interval(scores: tuple[float, ...], relation: str) -> None:
    test = records(np.tile(scores, (3, 1)).T.astype(float))
    shown = study(test)
    own = replace(shown.headline, scores=np.array(scores, float))
    other = replace(shown.best_single, scores=np.array([0.5, 0.5, 0.5, 0.5]))
    sentence = report.verdict(replace(shown, headline=own, best_single=other))
    assert sentence.startswith(f"The coterie {relation} the best single expert: ")


def test_what_scores_higher_than_the_coterie_is_named() -> None:
    shown = study()
    better = replace(shown.best_single, name="a table", scores=np.ones(4))
    assert "a table (1.000" in report.render(replace(shown, rows=(*shown.rows, better)))


def test_the_heat_map_shows_the_means_of_the_records() -> None:
    shown = study()
    expected = [[1, 0, 0.5, 1], [0, 0.5, 0, 0.5]]
    assert list(report.families(shown)) == ["add", "sort"]
    np.testing.assert_array_equal(report.accuracy_by_family(shown), expected)
    (trace,) = figures.heat_map(["add", "sort"], "abcd", np.array(expected))["data"]
    assert trace["z"] == [[100, 0, 50, 100], [0, 50, 0, 50]]


def test_recruitments_of_a_family_sum_to_one_with_experts_that_are_not_judged() -> None:
    shares = report.recruited_by_family(study())
    assert shares["add-expert"].tolist() == [0.75, 0]
    assert shares["outsider"].tolist() == [0, 0.25]
    np.testing.assert_allclose(sum(shares.values()), 1)


def test_the_frontier_rises_with_cost_and_nothing_beats_it() -> None:
    values = np.random.default_rng(0).random((50, 2))
    points = {str(i): (float(c), float(a)) for i, (c, a) in enumerate(values)}
    edge = list(report.frontier(points).values())
    costs, accuracies = zip(*edge, strict=True)
    assert (np.diff(costs) > 0).all()
    assert (np.diff(accuracies) > 0).all()
    assert all(any(c <= x and a >= y for c, a in edge) for x, y in points.values())


def test_a_cost_of_zero_makes_the_axis_linear() -> None:
    free = figures.plane({"expert": {"a": (0.0, 0.5)}}, [(0.0, 0.5)], "USD")
    priced = figures.plane({"expert": {"a": (0.3, 0.5)}}, [(0.3, 0.5)], "USD")
    assert free["layout"]["xaxis"]["type"] == "linear"
    assert priced["layout"]["xaxis"]["type"] == "log"


def test_examples_are_won_and_lost_questions() -> None:
    assert report.examples(study(), won=True) == [2]
    assert report.examples(study(), won=False) == [3]


def test_examples_are_at_most_five_and_of_different_families_first() -> None:
    shown, families = study(), ("a", "a", "a", "a", "b", "b", "c")
    asked = Query.from_text("", "?")
    queries = tuple(replace(asked, id=str(i), category=f) for i, f in enumerate(families))
    test = Records(queries, ("e",), np.zeros((len(families), 1)))
    lost = replace(shown.headline, scores=np.zeros(len(families)))
    chosen = report.examples(replace(shown, test=test, headline=lost), won=False)
    assert chosen == [0, 4, 6, 1, 5]


def test_gaps_are_shown_as_gaps() -> None:
    quality = RIGHT.copy()
    quality[:, 2] = np.nan
    bare = replace(study(records(quality)), selection={}, aggregators={}, unique={}, left_out=())
    html = report.render(bare)
    assert "Chosen on 4 validation questions: greedy rule, weighted vote.<" in html
    assert "No expert was tried as aggregator." in html
    assert "nan" not in html.split("<body>")[1].lower()


def test_without_an_example_the_report_says_so() -> None:
    shown = study()
    headline = replace(shown.headline, scores=shown.best_single.scores)
    html = report.render(replace(shown, headline=headline))
    assert html.count("There is no such question.") == 1


def test_failed_answers_are_named_with_their_error() -> None:
    shown = study()
    failed = Completion("sort-expert", error="no <reply>")
    lost = replace(shown.answers[3], completion=failed, trace=(failed,))
    html = report.render(replace(shown, answers=(*shown.answers[:3], lost)))
    assert "no &lt;reply&gt;" in html
