"""Judging on experts that are known from few labelled questions."""

import functools
import json
from collections.abc import Sequence
from typing import Self

import numpy as np
import pytest

from coterie.errors import InputError
from coterie.newcomers import cold_start, masked
from coterie.panel import Entrant, judge
from coterie.policies import Utility
from coterie.records import NUMBERS, Records
from coterie.routers.base import Router
from coterie.routers.clusters import KMeans
from coterie.testing import EXPERTS, make_records
from coterie.types import Estimates, IntArray, Query

RECORDS = make_records(60)
SIZES = (0, 5, 20)


class Counting(Router):
    """Expects as much of an expert as the share of its cells that it was shown."""

    name = "counting"

    def fit(self, records: Records) -> Self:
        self.experts_, self.shown_ = records.experts, records.observed.mean(axis=0)
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        quality = np.tile(self.shown_, (len(queries), 1))
        return Estimates(self.experts_, quality, np.zeros(quality.shape))


class Choosy(Counting):
    """Refuses records with holes."""

    def fit(self, records: Records) -> Self:
        if not records.observed.all():
            raise InputError("wants all scores")
        return super().fit(records)


def in_turn(records: Records, size: int, seed: int) -> IntArray:
    return np.arange(size)


def backwards(records: Records, size: int, seed: int) -> IntArray:
    return np.arange(len(records))[::-1][:size]


WAYS = {"in turn": in_turn, "backwards": backwards}
COUNTING = Entrant("counting", Counting)


def test_the_router_sees_so_many_labels_of_the_newcomer() -> None:
    panel = judge(RECORDS)
    found = cold_start(panel, [COUNTING], WAYS, ["sums"], SIZES)
    labels = [(point.labels, point.way) for point in found.curves["counting"]]
    pairs = [(size, way) for size in (5, 20) for way in WAYS]
    assert labels == [(0, "none"), *pairs, (48, "all")]
    right = np.array([q.category == "sums" for q in RECORDS.queries])[panel.fold_of == 0]
    for point in found.curves["counting"][1:]:
        expected = point.labels / 48
        assert point.brier == pytest.approx(((expected - right) ** 2).mean())


def test_without_labels_the_newcomer_takes_no_part() -> None:
    panel = judge(RECORDS)
    kmeans = Entrant("kmeans", functools.partial(KMeans, 3))
    found = cold_start(panel, [kmeans], newcomers=["sums"], sizes=(0, 30))
    nothing, *_, everything = found.curves["kmeans"]
    assert (nothing.share, nothing.brier) == (0.0, None)
    test = RECORDS.take(np.flatnonzero(panel.fold_of == 0))
    assert everything.share == pytest.approx(np.mean(np.array(test.categories) == "sums"))
    assert everything.quality.value == 1.0 > nothing.quality.value


def test_routers_that_grow_are_judged_growing_too() -> None:
    kmeans = Entrant("kmeans", functools.partial(KMeans, 3))
    found = cold_start(judge(RECORDS), [kmeans, COUNTING], newcomers=["sums"], sizes=(0, 30))
    assert [*found.curves] == ["best single", "kmeans", "kmeans, add_expert", "counting"]
    grown = found.curves["kmeans, add_expert"]
    assert grown[0].quality == found.curves["kmeans"][0].quality
    assert grown[-1].quality.value == 1.0


def test_ways_are_compared_with_the_first_on_the_same_questions() -> None:
    found = cold_start(judge(RECORDS), [COUNTING], WAYS, ["sums"], SIZES)
    points = {(p.labels, p.way): p for p in found.curves["best single"]}
    first, second = points[20, "in turn"], points[20, "backwards"]
    assert first.vs_first is None
    assert second.vs_first is not None
    gain = second.quality.value - first.quality.value
    assert second.vs_first.value == pytest.approx(gain)
    assert points[0, "none"].vs_first is points[48, "all"].vs_first is None


def test_choosing_sees_nothing_of_the_newcomer_and_of_the_test() -> None:
    panel = judge(RECORDS)
    test = {q.id for q, fold in zip(RECORDS.queries, panel.fold_of, strict=True) if fold == 0}

    def spy(records: Records, size: int, seed: int) -> IntArray:
        assert records.experts == tuple(e for e in EXPERTS if e != "sorting")
        assert test.isdisjoint(q.id for q in records.queries)
        return np.arange(size)

    cold_start(panel, [], {"spy": spy}, ["sorting"], (5,))


def test_equal_orders_are_tried_once() -> None:
    steps: list[int] = []
    cold_start(judge(RECORDS), [], WAYS, 2, (0, 5), 3, lambda name, done, all: steps.append(all))
    assert len(steps) == steps[0] == 2 * (1 + 2 + 1)


def test_the_best_experts_are_held_out_unless_others_are_named() -> None:
    panel = judge(RECORDS)
    assert cold_start(panel, [], newcomers=1, sizes=()).newcomers == ("generalist",)
    with pytest.raises(InputError, match="no expert 'nobody'; there are sums"):
        cold_start(panel, [], newcomers=["nobody"])


def test_what_is_not_labelled_is_hidden_whatever_is_known_of_it() -> None:
    hidden = masked(RECORDS, "sorting", np.array([1, 3]))
    column = EXPERTS.index("sorting")
    for name in NUMBERS:
        kept, before = getattr(hidden, name), getattr(RECORDS, name)
        assert np.isnan(np.delete(kept[:, column], [1, 3])).all()
        np.testing.assert_array_equal(np.delete(kept, column, 1), np.delete(before, column, 1))
    assert [row for row, text in enumerate(hidden.texts[:, column]) if text] == [1, 3]
    assert hidden.quality[1, column] == RECORDS.quality[1, column]


def test_one_expert_alone_is_said_so() -> None:
    found = cold_start(judge(RECORDS.select(["sums"])), [])
    assert found.notes == ("cold start needs at least two experts",)
    assert [*found.tables()] == []


def test_routers_that_refuse_become_notes_and_policies_take_no_part() -> None:
    entrants = [Entrant("choosy", Choosy), Entrant("p", Counting, lambda training: Utility())]
    found = cold_start(judge(RECORDS), entrants, WAYS, 1, SIZES)
    assert [*found.curves] == ["best single"]
    assert found.notes == ("choosy was left out of cold start: wants all scores",)


def test_cold_start_becomes_json() -> None:
    found = cold_start(judge(RECORDS), [COUNTING], WAYS, 1, SIZES)
    facts = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (facts["newcomers"], facts["queries"]) == (["generalist"], 12)
    assert [point["labels"] for point in facts["curves"]["counting"]] == [0, 5, 5, 20, 20, 48]
