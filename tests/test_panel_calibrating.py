import json
from collections.abc import Sequence
from typing import Self

import numpy as np
import pytest

from coterie.panel import Entrant, judge
from coterie.panel.calibrating import Calibration, summed_up
from coterie.panel.specs import parse_specs, policy_factory
from coterie.policies import Certified
from coterie.records import Records
from coterie.routers.categories import CategoryTable
from coterie.types import FloatArray, Query

SPECIALIST = np.array([[0.7, 0.2], [0.6, 0.98]])  # chances of two experts in two categories
NO_GAIN = np.array([[0.8, 0.5], [0.8, 0.6]])


def topics(numbers: Sequence[int]) -> tuple[Query, ...]:
    return tuple(Query(f"q{i}", (), category=f"topic {n}") for i, n in enumerate(numbers))


def world(chances: FloatArray, count: int, seed: int = 0) -> Records:
    """Two experts that are right with these chances, (categories, experts)."""
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, len(chances), count)
    right = generator.random((count, 2)) < chances[drawn]
    return Records(topics(drawn.tolist()), ("known", "other"), right.astype(float))


def certified(text: str = "certified") -> Entrant:
    (spec,) = parse_specs(text)
    return Entrant("guard", CategoryTable, policy_factory(spec))


def test_a_certified_policy_switches_where_the_gain_is_large() -> None:
    panel = judge(world(SPECIALIST, 800), [certified()])
    row, chosen = panel["guard"], panel["guard"].chosen
    assert chosen is not None
    specialist = panel.groups()["topic 1"]
    assert (chosen[specialist] == 1).mean() > 0.9
    assert row.versus.value > 0.1
    assert "with 95% confidence at most 5.0% of queries switched and answered worse" in row.note


def test_it_abstains_where_there_is_no_gain() -> None:
    panel = judge(world(NO_GAIN, 800), [certified()])
    assert panel.switching(panel["guard"]) == {"share": 0.0, "gain": 0.0}


def test_it_abstains_where_the_other_is_better_on_average_but_too_often_worse() -> None:
    even = np.array([[0.5, 0.3], [0.5, 0.6]])  # switching the second topic loses 10 % of all
    panel = judge(world(even, 1200), [certified("certified(fallback=known)")])
    assert panel["guard"].chosen is not None
    assert panel["guard"].chosen.sum() == 0


def test_too_few_records_certify_nothing_and_the_notes_say_so() -> None:
    panel = judge(world(SPECIALIST, 100), [certified()])
    assert panel.notes[-1] == "guard: nothing could be certified: the fallback answers everything"
    assert panel["guard"].scores.tolist() == panel.best_single.scores.tolist()


def test_the_guarantee_is_in_the_row_and_in_the_notes() -> None:
    panel = judge(world(SPECIALIST, 800), [certified()])
    (row,) = [r for r in json.loads(json.dumps(panel.to_dict()))["panel"] if r["name"] == "guard"]
    assert row["note"].startswith("in 5 of 5 folds certified on a quarter of the training records")
    assert f"guard: {row['note']}" in panel.notes


def test_the_policy_is_calibrated_on_what_its_router_has_not_seen() -> None:
    seen: list[set[str]] = []

    class Watching(CategoryTable):
        def fit(self, records: Records) -> Self:
            seen.append({q.id for q in records.queries})
            return super().fit(records)

    training = world(SPECIALIST, 400)
    policy, expected = Calibration(Watching, training, topics([0, 1])).of(lambda t: Certified())
    assert isinstance(policy, Certified)
    assert [len(ids) for ids in seen] == [300]
    assert policy.calibration == 100
    assert expected.quality.shape == (2, 2)


def test_policies_of_one_router_share_its_second_fit_and_others_need_none() -> None:
    fits: list[int] = []

    class Counting(CategoryTable):
        def fit(self, records: Records) -> Self:
            fits.append(len(records))
            return super().fit(records)

    strict = Entrant("strict", Counting, lambda training: Certified("known", 0.01))
    records = world(SPECIALIST, 400)
    judge(records, [Entrant("plain", Counting)], folds=2)
    assert fits == [200, 200]
    guard = Entrant("guard", Counting, lambda training: Certified("known"))
    judge(records, [Entrant("plain", Counting), guard, strict], folds=2)
    assert fits[2:] == [200, 150, 200, 150]


@pytest.mark.parametrize(("confidence", "most"), [(0.95, 0.1), (0.5, 1.0)])
def test_the_guarantee_holds_over_many_seeds(confidence: float, most: float) -> None:
    chances = np.column_stack([np.full(8, 0.7), np.linspace(0.65, 1.0, 8)])
    loss = chances[:, 0] * (1 - chances[:, 1]) / 8  # of switching a category
    broken = []
    for seed in range(60):
        training = world(chances, 600, seed)
        policy, expected = Calibration(CategoryTable, training, topics(range(8))).of(
            lambda fitted_on: Certified("known", 0.05, confidence)
        )
        decisions = policy.decide(topics(range(8)), expected)
        switched = np.array([d.experts[0] == "other" for d in decisions])
        broken.append(loss[switched].sum() > 0.05)
    assert np.mean(broken) <= most
    assert confidence > 0.9 or np.mean(broken) > 0.1  # where less is promised, less is kept


def test_a_row_sums_up_its_folds() -> None:
    assert summed_up([None, None]) == ""
    assert summed_up(["", ""]).startswith("nothing could be certified")
    assert summed_up(["", "at most 5%"]) == (
        "in 1 of 2 folds certified on a quarter of the training records, "
        "which its router did not see: at most 5%"
    )
