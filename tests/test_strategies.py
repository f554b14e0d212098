"""Every strategy on docs/strategies.md has a class that resolves and runs, and an example."""

import inspect
import re
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from coterie import plugins
from coterie.answers import arrow
from coterie.compositions import bound
from coterie.policies import Utility
from coterie.records import Records
from coterie.routers.skills import Skills
from coterie.scorers import learn_scorer
from coterie.testing import DECISION, EXPERTS, converse, make_records
from coterie.types import Completion

PAGE = Path(__file__).parents[1] / "docs" / "strategies.md"
TEXT = PAGE.read_text(encoding="utf-8")
NAME = re.compile(r"\[`(\w+)`\]\(([\w./-]+)\) \((\w+) `([\w-]+)`\)")
# Sections of the survey's table of strategies.
SECTIONS = """
4.1.1 4.1.2 4.1.3 4.2.1 4.2.2 4.2.3 4.2.4 4.2.5
4.3.1 4.3.2 4.3.3 4.4.1 4.4.2 4.4.3 4.4.4 4.4.5 4.4.6
"""
PACKAGES = {"agent-graph": "torch_geometric"}  # of extras
KINDS = {"router": "routers", "policy": "policies", "composition": "compositions",
         "aggregator": "aggregators"}  # fmt: skip


class Named(NamedTuple):
    """A class named on the page."""

    cls: str
    path: str
    kind: str
    name: str


ROWS = [
    line.strip("| ").split(" | ")
    for line in TEXT.splitlines()
    if line.startswith("| ") and NAME.search(line)
]
NAMES = list(dict.fromkeys(Named(*found) for found in NAME.findall(TEXT)))


def named(value: Named) -> str:
    return f"{value.kind} {value.name}"


@cache
def records() -> Records:
    return make_records(24)


@cache
def scorer() -> Any:
    return learn_scorer(records(), arrow)[0]


def run_router(factory: Any) -> None:
    router = factory().fit(records())
    decided = Utility(10.0).decide(records().queries, router.predict(records().queries))
    assert {d.experts[0] for d in decided} <= set(EXPERTS)


def run_policy(factory: Any) -> None:
    required = {"mean_cost": 2.0, "policy": Utility()}
    parameters = inspect.signature(factory).parameters.values()
    needed = {p.name: required[p.name] for p in parameters if p.default is p.empty}
    estimates = Skills(annotator="tags").fit(records()).predict(records().queries)
    quality = np.asarray(estimates.quality)
    with_errors = type(estimates)(
        estimates.experts, quality, estimates.cost, estimates.suitability, estimates.strength,
        error=np.full(quality.shape, 0.1),
    )  # fmt: skip
    decided = factory(**needed).decide(records().queries, with_errors)
    assert len(decided) == len(records())
    assert all(decision.experts for decision in decided)


def run_composition(factory: Any) -> None:
    parameters = inspect.signature(factory).parameters
    needed = {"scorer": scorer(), "runner": "generalist"}
    settings = {name: value for name, value in needed.items() if name in parameters}
    _, found = converse(bound(factory, settings))
    assert isinstance(found, Completion)
    assert not found.failed


def run_aggregator(factory: Any) -> None:
    said = [Completion(e, f"=> {i // 2}") for i, e in enumerate(("sums", "sorting", "generalist"))]
    merged = factory(arrow)(records().queries[0], said, DECISION.weights, 0)
    assert isinstance(merged, Completion)
    assert not merged.failed


RUN = {"router": run_router, "policy": run_policy, "composition": run_composition,
       "aggregator": run_aggregator}  # fmt: skip


def test_every_section_of_the_survey_has_a_row() -> None:
    assert [row[0] for row in ROWS if row[0][0].isdigit()] == SECTIONS.split()


@pytest.mark.parametrize("found", NAMES, ids=named)
def test_a_name_leads_to_its_class(found: Named) -> None:
    factory = plugins.load(KINDS[found.kind], found.name)
    assert factory.__name__ == found.cls
    assert Path(str(inspect.getsourcefile(factory))) == (PAGE.parent / found.path).resolve()


@pytest.mark.parametrize("found", NAMES, ids=named)
def test_a_strategy_runs(found: Named) -> None:
    if found.name in PACKAGES:
        pytest.importorskip(PACKAGES[found.name], reason="its extra is not installed")
    RUN[found.kind](plugins.load(KINDS[found.kind], found.name))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row[1]))
def test_a_row_has_an_example_that_is_python_which_runs(row: list[str]) -> None:
    links = re.findall(r"\]\(([^)]+)\)", row[-1])
    assert links
    for link in links:
        page, _, anchor = link.partition("#")
        text = TEXT if not page else (PAGE.parent / page).read_text(encoding="utf-8")
        heading = anchor.replace("-", " ")
        sections = re.split(r"^#+ ", text, flags=re.MULTILINE)
        part = [s for s in sections if s.lower().startswith(heading)] if anchor else [text]
        assert any("```python\n" in s for s in part), link  # tests/test_docs.py runs them


def test_the_check_would_see_a_name_that_leads_nowhere() -> None:
    wrong = Named("KNN", "../src/coterie/routers/linear.py", "router", "linear")
    with pytest.raises(AssertionError):
        test_a_name_leads_to_its_class(wrong)
    with pytest.raises(AssertionError):
        run_aggregator(partial(lambda extract: lambda *a: Completion("x", error="no")))
