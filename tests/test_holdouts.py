"""Judging on categories that training did not hold."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import pytest

from coterie.errors import InputError
from coterie.holdouts import transfer
from coterie.panel import Entrant, judge
from coterie.panel.trials import sharing
from coterie.policies import Utility
from coterie.records import Records
from coterie.routers.base import Router, spread
from coterie.routers.neighbors import KNN
from coterie.testing import EXPERTS, make_records
from coterie.types import Estimates, Query
from coterie.vectors import SharedEncoder

RECORDS = make_records(60)


class Known(Router):
    """Chooses the topic's expert where training held the topic, else the first expert."""

    name = "known"

    def fit(self, records: Records) -> Self:
        self.experts_, self.seen_ = records.experts, set(records.categories)
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        best = [q.category if q.category in self.seen_ else self.experts_[0] for q in queries]
        quality = np.array([[float(e == name) for e in self.experts_] for name in best])
        return Estimates(self.experts_, quality, spread(np.ones(4), queries))


class Narrow(Known):
    """Refuses records of fewer than three topics."""

    def fit(self, records: Records) -> Self:
        if len(set(records.categories)) < 3:
            raise InputError("wants three topics")
        return super().fit(records)


ENTRANTS = [Entrant("known", Known), Entrant("guarded", Known, lambda training: Utility())]


def recategorised(records: Records, categories: Sequence[str | None]) -> Records:
    pairs = zip(records.queries, categories, strict=True)
    return replace(records, queries=tuple(replace(q, category=c) for q, c in pairs))


def test_a_category_held_out_is_not_in_training() -> None:
    found = transfer(judge(RECORDS, ENTRANTS), ENTRANTS)
    quality = {held.category: held.quality for held in found.rows[0].categories}
    assert quality == {name: float(name == EXPERTS[0]) for name in set(RECORDS.categories)}
    assert found.rows[0].overall.in_folds == 1.0
    assert [row.name for row in found.rows] == ["known", "guarded"]


def test_best_single_is_chosen_on_the_other_categories() -> None:
    found = transfer(judge(RECORDS, ENTRANTS), ENTRANTS).rows[0]
    for held in found.categories:
        rest = RECORDS.take([i for i, c in enumerate(RECORDS.categories) if c != held.category])
        own = RECORDS.take([i for i, c in enumerate(RECORDS.categories) if c == held.category])
        column = int(rest.quality.mean(axis=0).argmax())
        assert held.best_single == pytest.approx(own.quality[:, column].mean())
        assert held.vs_best_single.value == pytest.approx(held.quality - held.best_single)


def test_gains_are_paired_and_have_intervals() -> None:
    row = transfer(judge(RECORDS, ENTRANTS), ENTRANTS).rows[0]
    overall = row.overall
    assert (overall.category, overall.queries) == (None, 60)
    assert overall.vs_in_folds.value == pytest.approx(overall.quality - 1.0)
    assert overall.vs_best_single.low < overall.vs_best_single.value < overall.vs_best_single.high
    mean = np.mean([held.vs_best_single.value for held in row.categories])
    assert row.by_category.value == pytest.approx(mean)
    assert row.by_category.low < mean < row.by_category.high


@pytest.mark.parametrize(("categories", "count"), [(["x"] * 60, 1), ([None] * 60, 0)])
def test_fewer_than_two_categories_are_said_so(categories: list[Any], count: int) -> None:
    found = transfer(judge(recategorised(RECORDS, categories), ENTRANTS), ENTRANTS)
    assert found.rows == ()
    assert found.notes == (f"transfer needs at least two categories; the records have {count}",)


def test_questions_without_a_category_take_no_part() -> None:
    categories = [None if row < 9 else c for row, c in enumerate(RECORDS.categories)]
    panel = judge(recategorised(RECORDS, categories), ENTRANTS)
    (row, _) = transfer(panel, ENTRANTS).rows
    assert row.overall.queries == sum(held.queries for held in row.categories) == 51
    assert row.overall.in_folds == panel["known"].scores[9:].mean()


def test_a_router_that_refuses_becomes_a_note() -> None:
    entrants = [*ENTRANTS, Entrant("narrow", Narrow)]
    found = transfer(judge(RECORDS, entrants), entrants)
    assert [row.name for row in found.rows] == ["known", "guarded"]
    assert found.notes == ("narrow was left out of transfer: wants three topics",)


def test_transfer_becomes_json() -> None:
    found = transfer(judge(RECORDS, ENTRANTS), ENTRANTS[:1])
    (row,) = json.loads(json.dumps(found.to_dict(), allow_nan=False))["rows"]
    assert len(row["categories"]) == 3
    assert len(row["overall"]["vs_best_single"]["ci"]) == 2
    assert "mean_over_categories" in row


def test_routers_share_one_encoder() -> None:
    make = sharing(KNN)
    one, other = make(), make()
    assert isinstance(one, KNN)
    assert isinstance(one.encoder, SharedEncoder)
    assert vars(one)["encoder"] is vars(other)["encoder"]
    assert sharing(Known) is Known
