"""On scores that are pure noise nothing can be gained: what is gained has looked at the test."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import pytest

from coterie.answers import whole
from coterie.errors import InputError
from coterie.panel import Entrant, Panel, judge
from coterie.panel.baselines import static_vote
from coterie.panel.setting import Setting
from coterie.panel.specs import best
from coterie.panel.table import verdict
from coterie.panel.trials import hold
from coterie.panel.values import Outcome
from coterie.policies import Certified, Guarded, Policy, Utility
from coterie.records import Records
from coterie.routers.base import Router
from coterie.routers.categories import CategoryTable
from coterie.types import Decision, Estimates, Query

NAMES = tuple(f"expert {number}" for number in range(14))
RIGHT_OR_WRONG = np.array(["wrong", "right"], object)


def noise(seed: int, count: int = 30) -> Records:
    """Fourteen coins, each right on half of the questions; no text stands twice."""
    right = np.random.default_rng(seed).integers(0, 2, (count, len(NAMES)))
    queries = tuple(Query.from_text(f"q{i}", f"question {i}") for i in range(count))
    return Records(queries, NAMES, right.astype(float), texts=RIGHT_OR_WRONG[right])


class First:
    """Everything to one expert."""

    def __init__(self, expert: str) -> None:
        self.expert = expert

    def decide(self, queries: Sequence[Query], estimates: Estimates) -> list[Decision]:
        return [Decision("single", (self.expert,), (1.0,))] * len(queries)


def gain(answer: Callable[[Setting], Outcome]) -> float:
    """Mean gain of a row over experts drawn at random, on twelve worlds."""
    settings = [Setting.make(noise(seed), 5, seed, whole) for seed in range(12)]
    return float(np.mean([answer(s).scores.mean() - s.records.quality.mean() for s in settings]))


@pytest.mark.parametrize("k", [3, 5])
def test_a_static_vote_gains_nothing_where_there_is_only_noise(k: int) -> None:
    def vote(setting: Setting) -> Outcome:
        assert setting.codes is not None
        return static_vote(setting, setting.codes, k)

    assert abs(gain(vote)) < 0.1  # chosen on all rows it is above 0.2


def test_a_policy_made_of_training_records_gains_nothing_where_there_is_only_noise() -> None:
    entrant = Entrant("first", CategoryTable, lambda training: First(best(training)))

    def held(setting: Setting) -> Outcome:
        (outcome,) = hold(setting, [entrant], "router", lambda *step: None, lambda *error: None)
        return outcome

    assert abs(gain(held)) < 0.1


@pytest.mark.parametrize("kind", [Guarded, Certified])
def test_no_policy_is_made_from_the_queries_it_decides(kind: Callable[[], Policy]) -> None:
    known: list[set[str]] = []

    def make(training: Records) -> Policy:
        known.append({query.id for query in training.queries})
        return kind()

    records = noise(0)
    judge(records, [Entrant("watched", CategoryTable, make)], folds=3)
    tests = [{records.queries[i].id for i in part} for part in records.folds(3)]
    for ids in known:
        assert any(ids.isdisjoint(test) for test in tests)


def test_a_policy_is_calibrated_on_records_it_was_not_made_of() -> None:
    class Watching(First):
        guarantee = ""

        def __init__(self, training: Records) -> None:
            super().__init__(best(training))
            self.known = {query.id for query in training.queries}

        def calibrated(
            self, queries: Sequence[Query], estimates: Estimates, records: Records
        ) -> Self:
            assert self.known.isdisjoint(query.id for query in queries)
            return self

    panel = judge(noise(0), [Entrant("watching", CategoryTable, Watching)], folds=3)
    assert panel["watching"].note.startswith("nothing could be certified")


class Wary:
    """Refuses every batch of estimates."""

    def decide(self, queries: Sequence[Query], estimates: Estimates) -> list[Decision]:
        raise InputError("wants errors", field="estimates")


def refusing(tolerant: bool, jobs: int = 1) -> Panel:
    entrants = [
        Entrant("table", CategoryTable),
        Entrant("table, wary", CategoryTable, lambda training: Wary()),
        Entrant("table, utility", CategoryTable, lambda training: Utility()),
    ]
    return judge(noise(1), entrants, default="table", tolerant=tolerant, jobs=jobs)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_policy_that_refuses_leaves_its_router_and_the_others_in(jobs: int) -> None:
    panel = refusing(tolerant=True, jobs=jobs)
    assert [r.name for r in panel.rows if r.kind == "router"] == ["table", "table, utility"]
    assert panel.default == "table"
    told = "table, wary was left out: field 'estimates': wants errors"
    assert [note for note in panel.notes if "wary" in note] == [told]
    assert f"note: {told}" in verdict(panel)


def test_a_policy_that_refuses_is_named_where_it_is_an_error() -> None:
    with pytest.raises(InputError, match=r"^table, wary: field 'estimates': wants errors"):
        refusing(tolerant=False)


def test_a_policy_that_cannot_be_made_or_calibrated_refuses_too() -> None:
    def broken(training: Records) -> Policy:
        raise InputError("no fallback")

    class Once(CategoryTable):
        def fit(self, records: Records) -> Any:
            if len(records) < 20:
                raise InputError("too few")
            return super().fit(records)

    entrants = [
        Entrant("once", Once),
        Entrant("once, broken", Once, broken),
        Entrant("once, certified", Once, lambda training: Certified()),
    ]
    panel = judge(noise(1), entrants, tolerant=True)
    assert [r.name for r in panel.rows if r.kind == "router"] == ["once"]
    assert sum("was left out" in note for note in panel.notes) == 2


def test_guarded_with_a_router_that_gives_no_errors_drops_that_entrant_only() -> None:
    class Bare(CategoryTable):
        def predict(self, queries: Sequence[Query]) -> Estimates:
            known = super().predict(queries)
            return Estimates(known.experts, known.quality, known.cost)

    make: Callable[[], Router] = Bare
    entrants = [Entrant("bare", make), Entrant("bare, guarded", make, lambda t: Guarded())]
    panel = judge(noise(1), entrants, tolerant=True)
    assert [r.name for r in panel.rows if r.kind == "router"] == ["bare"]
    assert any(note.startswith("bare, guarded was left out") for note in panel.notes)
