import numpy as np
import pytest
from numpy.typing import NDArray

from coterie.routers.ensembles import Model, train
from coterie.routers.gradient import Distinct, Schedule, Weights, distinct
from coterie.types import FloatArray, IntArray

QUERIES = 40


class Witness(Model):
    """Remembers the rows of every step, by member; its weights are how many members began."""

    def __init__(self, vectors: NDArray[np.float32], columns: Distinct) -> None:
        super().__init__(vectors, columns)
        self.learnt: list[set[int]] = []
        self.judged: list[set[int]] = []

    def start(self, generator: np.random.Generator) -> Weights:
        self.learnt.append(set())
        self.judged.append(set())
        return {"w": np.zeros(1, np.float32)}

    def slope(self, weights: Weights, rows: IntArray, generator: np.random.Generator) -> Weights:
        self.learnt[-1] |= set(rows.tolist())
        return {"w": np.ones(1, np.float32)}

    def forward(self, weights: Weights, vectors: FloatArray) -> FloatArray:
        """The first number of a vector is its row."""
        self.judged[-1] |= set(vectors[:, 0].astype(int).tolist())
        return np.zeros((len(vectors), self.quality.shape[1]))


def trained(members: int, groups: IntArray, quality: FloatArray | None = None) -> Witness:
    scores = np.random.default_rng(0).random((QUERIES, 2)) if quality is None else quality
    model = Witness(np.arange(QUERIES, dtype=np.float32)[:, None], distinct(scores))
    train(model, model.forward, Schedule(epochs=2), members, groups, seed=0)
    return model


@pytest.mark.parametrize("members", [1, 3, 7])
def test_no_member_learns_from_the_part_that_it_stops_on(members: int) -> None:
    model = trained(members, np.arange(QUERIES))
    assert len(model.learnt) == members
    for learnt, judged in zip(model.learnt, model.judged, strict=True):
        assert learnt.isdisjoint(judged)
        assert learnt | judged == set(range(QUERIES))
        assert len(judged) in (QUERIES // max(members, 5), QUERIES // max(members, 5) + 1)


def test_members_stop_on_different_parts() -> None:
    judged = trained(5, np.arange(QUERIES)).judged
    assert set().union(*judged) == set(range(QUERIES))
    assert sum(map(len, judged)) == QUERIES


def test_queries_of_a_group_are_learnt_from_or_stopped_on_together() -> None:
    groups = np.arange(QUERIES) // 4
    model = trained(3, groups)
    for learnt, judged in zip(model.learnt, model.judged, strict=True):
        assert set(groups[list(learnt)]).isdisjoint(groups[list(judged)])


def test_a_query_without_scores_is_neither_learnt_from_nor_stopped_on() -> None:
    quality = np.random.default_rng(0).random((QUERIES, 2))
    quality[::2] = np.nan
    model = trained(3, np.arange(QUERIES), quality)
    for learnt, judged in zip(model.learnt, model.judged, strict=True):
        assert learnt | judged == set(range(1, QUERIES, 2))
