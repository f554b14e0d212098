import builtins
from typing import Any

import numpy as np
import pytest

from coterie import index as module
from coterie.errors import CoterieError
from coterie.index import Index, distances, learn_centres
from coterie.types import FloatArray


def unit(count: int, dim: int = 16, seed: int = 0) -> FloatArray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    made: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return made


def test_the_nearest_are_those_of_a_full_sort() -> None:
    vectors, queries = unit(200), unit(9, seed=1)
    rows, near = Index(vectors).nearest(queries, 10)
    similarity = queries @ vectors.T
    np.testing.assert_array_equal(rows, np.argsort(-similarity, axis=1)[:, :10])
    np.testing.assert_allclose(near, -np.sort(-similarity, axis=1)[:, :10], atol=1e-6)


def test_ties_go_to_the_first_row_in_any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.tile(unit(3), (20, 1))
    whole, _ = Index(vectors).nearest(vectors[:9], 4)
    assert whole[1].tolist() == [1, 4, 7, 10]
    monkeypatch.setattr(module, "BLOCK", 2)
    np.testing.assert_array_equal(Index(vectors).nearest(vectors[:9], 4)[0], whole)


def test_a_row_left_out_is_not_its_own_neighbour() -> None:
    vectors = unit(30)
    rows, _ = Index(vectors).nearest(vectors, 100, without=np.arange(30))
    assert rows.shape == (30, 29)
    assert not (rows == np.arange(30)[:, None]).any()


def test_many_vectors_without_usearch_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("usearch"):
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(module, "EXACT", 10)
    assert Index(unit(10)).nearest(unit(1), 1)[0].shape == (1, 1)
    with pytest.raises(CoterieError, match=r'11 vectors need .* pip install "coterie\[usearch\]"'):
        Index(unit(11))


@pytest.mark.parametrize("left_out", [False, True])
def test_the_graph_finds_nearly_all_of_the_nearest(
    monkeypatch: pytest.MonkeyPatch, left_out: bool
) -> None:
    pytest.importorskip("usearch")
    vectors = unit(2000)
    own = np.arange(50) if left_out else None
    exact, _ = Index(vectors).nearest(vectors[:50], 20, own)
    monkeypatch.setattr(module, "EXACT", 1000)
    found, near = Index(vectors).nearest(vectors[:50], 20, own)
    shared = [len(set(a) & set(b)) for a, b in zip(exact.tolist(), found.tolist(), strict=True)]
    assert sum(shared) > 0.95 * exact.size
    assert (np.diff(near, axis=1) < 1e-3).all()
    np.testing.assert_array_equal(Index(vectors).nearest(vectors[:50], 20, own)[0], found)


def test_centres_are_those_of_the_clusters_and_the_same_every_time() -> None:
    truth = unit(4)
    vectors = np.repeat(truth, 25, axis=0) + 0.01 * unit(100, seed=1)
    centres = learn_centres(vectors, 4)
    assert distances(truth, centres).min(axis=1).max() < 0.02
    np.testing.assert_array_equal(learn_centres(vectors, 4), centres)
    assert len(learn_centres(np.tile(unit(3), (5, 1)), 8)) == 3
