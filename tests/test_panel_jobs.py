import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pytest

from coterie.errors import CoterieError, InputError
from coterie.panel import Entrant, judge
from coterie.panel.jobs import run
from coterie.policies import Utility
from coterie.records import Records
from coterie.routers.base import Router, mean_or, spread
from coterie.routers.linear import Linear
from coterie.routers.neighbors import KNN
from coterie.testing import make_records
from coterie.types import Estimates, Query

RECORDS = make_records(60)


class Means(Router):
    name = "means"

    def fit(self, records: Records) -> Self:
        self.experts_, self.mean_ = records.experts, mean_or(records.quality, 0.0)
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        table = spread(self.mean_, queries)
        return Estimates(self.experts_, table, 0 * table)


class Refusing(Means):
    def fit(self, records: Records) -> Self:
        raise InputError("wants skills", field="skills")


class Dying(Means):
    def fit(self, records: Records) -> Self:
        os._exit(1)


def facts(jobs: int) -> dict[str, Any]:
    entrants = [
        Entrant("knn", lambda: KNN(encoder="lexical")),
        Entrant("linear", Linear),
        Entrant("linear, utility", Linear, lambda training: Utility(2.0)),
        Entrant("refusing", Refusing),
    ]
    found = judge(RECORDS, entrants, folds=3, tolerant=True, jobs=jobs).to_dict("category")
    for row in found["panel"]:
        row.pop("seconds", None)
    found["data"].pop("seconds")
    return found


def test_a_panel_is_the_same_with_any_number_of_jobs() -> None:
    assert facts(1) == facts(2)


def test_estimates_of_forked_processes_are_equal_to_the_last_bit() -> None:
    one, two = (judge(RECORDS, [Entrant("linear", Linear)], jobs=jobs) for jobs in (1, 2))
    assert np.array_equal(one["linear"].expected, two["linear"].expected)  # type: ignore[arg-type]
    assert one.notes == two.notes


def test_progress_is_counted_with_several_jobs() -> None:
    steps: list[tuple[str, int, int]] = []
    entrants = [Entrant("one", Means), Entrant("two", Refusing)]
    judge(
        RECORDS, entrants, folds=2, tolerant=True, jobs=2, report=lambda *step: steps.append(step)
    )
    assert steps == [("one", 1, 4), ("one", 2, 4)]


def test_a_refusal_in_a_forked_process_is_the_error_it_was() -> None:
    with pytest.raises(InputError, match="field 'skills': wants skills"):
        judge(RECORDS, [Entrant("refusing", Refusing)], jobs=2)


def test_a_process_that_dies_is_named_as_such() -> None:
    with pytest.raises(CoterieError, match="use fewer jobs"):
        judge(RECORDS, [Entrant("dying", Dying)], jobs=2)


@pytest.mark.parametrize("jobs", [0, -1, 1.5])
def test_a_number_of_jobs_that_is_none_is_refused(jobs: Any) -> None:
    with pytest.raises(InputError, match="whole number of at least 1"):
        judge(RECORDS, [Entrant("means", Means)], jobs=jobs)


def test_results_come_in_the_order_of_the_tasks_and_are_made_as_asked_for() -> None:
    assert dict(run(lambda n: n * n, range(20), 2)) == {n: n * n for n in range(20)}
    seen: list[int] = []
    lazy = run(seen.append, range(20))
    next(lazy)
    assert seen == [0]
