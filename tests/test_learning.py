import numpy as np
import pytest

from coterie.errors import InputError
from coterie.learning import halving_curve, learning_curve
from coterie.panel import Entrant, judge
from coterie.policies import Guarded
from coterie.records import Records
from coterie.routers.base import mean_or
from coterie.routers.baselines import BestSingle
from coterie.routers.neighbors import KNN
from coterie.testing import make_records

RECORDS = make_records(100)
KNN5 = Entrant("knn", lambda: KNN(k=5))


class Counting(BestSingle):
    """Notes which queries every fit was given."""

    def __init__(self, seen: list[set[str]]) -> None:
        self.seen = seen

    def fit(self, records: Records) -> "Counting":
        self.seen.append({query.id for query in records.queries})
        super().fit(records)
        return self


class Fastidious(KNN):
    """Learns from thirty questions or not at all."""

    def fit(self, records: Records) -> "Fastidious":
        if len(records) < 30:
            raise InputError("wants thirty")
        super().fit(records)
        return self


def test_all_training_questions_give_the_row_of_the_panel() -> None:
    panel = judge(RECORDS, [KNN5], seed=1)
    (point,) = learning_curve(RECORDS, KNN5, [80], seed=1).points
    assert point.size == 80
    assert point.router == pytest.approx(panel["knn"].quality)
    assert point.best_single == pytest.approx(panel.best_single.quality)
    assert point.gain == pytest.approx(panel["knn"].versus[:3])


def test_a_router_learns_from_as_many_questions_as_said_and_smaller_parts_are_nested() -> None:
    seen: list[set[str]] = []
    learning_curve(RECORDS, Entrant("own", lambda: Counting(seen)), [40, 10], folds=2)
    assert [len(part) for part in seen] == [10, 10, 40, 40]
    assert seen[0] < seen[2]
    assert seen[1] < seen[3]
    assert seen[2].isdisjoint(seen[3])


def test_best_single_is_chosen_from_the_same_few_questions() -> None:
    entrant = Entrant("same", BestSingle)
    for point in learning_curve(RECORDS, entrant, [2, 8, 50]).points:
        assert list(point.gain) == [0, 0, 0]
        assert point.router == point.best_single


def test_halving_ends_in_the_panel_and_fits_only_the_parts() -> None:
    seen: list[set[str]] = []
    entrant = Entrant("own", lambda: Counting(seen))
    panel = judge(RECORDS, [entrant])
    seen.clear()
    curve = halving_curve(panel, entrant)
    assert [point.size for point in curve.points] == [10, 20, 40, 80]
    assert curve.points[-1].router == pytest.approx(panel["own"].quality)
    assert sum(map(len, seen)) < 5 * 80


def test_policies_see_only_the_few_questions_too() -> None:
    seen: list[int] = []

    def policy(training: Records) -> Guarded:
        seen.append(len(training))
        best = training.experts[int(mean_or(training.quality, 0.0).argmax())]
        return Guarded(fallback=best)

    learning_curve(RECORDS, Entrant("guarded", KNN5.make_router, policy), [20, 30], folds=2)
    assert seen == [20, 20, 30, 30]


def test_a_size_that_the_router_refuses_becomes_a_note() -> None:
    curve = learning_curve(RECORDS, Entrant("picky", Fastidious), [10, 40])
    assert [point.size for point in curve.points] == [40]
    assert curve.notes == ("picky does not learn from 10 questions: wants thirty",)


@pytest.mark.parametrize("size", [0, 81])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(InputError, match=f"expected 1 to 80 questions, got {size}"):
        learning_curve(RECORDS, KNN5, [size])


def test_progress_counts_every_fold_of_every_size() -> None:
    steps: list[tuple[str, int, int]] = []
    learning_curve(RECORDS, KNN5, [20, 40], folds=3, report=lambda *step: steps.append(step))
    assert steps == [("learning curve of knn", n, 6) for n in range(1, 7)]


def test_the_same_seed_gives_the_same_curve() -> None:
    one, other = (learning_curve(RECORDS, KNN5, [20, 40], seed=s).points for s in (3, 3))
    np.testing.assert_array_equal(np.concatenate(one[0][1:]), np.concatenate(other[0][1:]))
    assert one == other
