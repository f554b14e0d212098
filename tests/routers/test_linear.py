from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from coterie.features import Encoder, Vectors
from coterie.records import Records
from coterie.routers.linear import PENALTIES, Linear
from coterie.testing import make_records, with_quality
from coterie.types import FloatArray, Query

RECORDS = make_records(60)
NEW = make_records(40, seed=7)


class Numbers(Encoder):
    """Reads vectors from texts that spell them."""

    name = "numbers"
    dim = 6

    def encode(self, texts: Sequence[str]) -> Vectors:
        rows = [[float(part) for part in text.split()] for text in texts]
        return np.array(rows, np.float32).reshape(-1, self.dim)

    def fingerprint(self) -> str:
        return self.name

    def to_arrays(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        return {}, {}

    @classmethod
    def from_arrays(cls, params: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        return cls()


WEIGHTS = np.random.default_rng(0).uniform(-0.1, 0.1, (6, 2))


def planted(count: int, noise: float = 0.0, seed: int = 1) -> tuple[Records, FloatArray]:
    """Records whose scores are linear in the vectors, for two experts, and those vectors."""
    generator = np.random.default_rng(seed)
    vectors = generator.uniform(-1, 1, (count, 6)).astype(np.float32).astype(float)
    texts = [" ".join(map(repr, row.tolist())) for row in vectors]
    queries = tuple(Query.from_text(f"q{i}", text) for i, text in enumerate(texts))
    clean = 0.5 + vectors @ WEIGHTS
    quality = np.clip(clean + generator.normal(0, noise, clean.shape), 0, 1)
    return Records(queries, ("ann", "bob"), quality, cost=4 * quality), vectors


def test_a_planted_linear_world_is_recovered() -> None:
    records, _ = planted(200)
    new, _ = planted(50, seed=2)
    estimates = Linear(Numbers()).fit(records).predict(new.queries)
    np.testing.assert_allclose(estimates.quality, new.quality, atol=1e-4)
    np.testing.assert_allclose(estimates.cost, new.cost, atol=1e-3)


def test_noise_is_smoothed_better_than_by_the_mean() -> None:
    records, _ = planted(200, noise=0.1)
    new, _ = planted(100, seed=2)
    estimates = Linear(Numbers()).fit(records).predict(new.queries)
    error = np.square(estimates.quality - new.quality).mean()
    assert error < 0.2 * np.square(records.quality.mean(axis=0) - new.quality).mean()


def test_topics_go_to_their_specialists() -> None:
    estimates = Linear().fit(RECORDS).predict(NEW.queries)
    chosen = [estimates.experts[j] for j in estimates.quality.argmax(axis=1)]
    assert chosen == list(NEW.categories)


def test_pure_noise_is_answered_with_the_mean() -> None:
    generator = np.random.default_rng(0)
    quality = np.tile(generator.integers(0, 2, (60, 1)), 4).astype(float)
    estimates = Linear().fit(with_quality(RECORDS, quality)).predict(NEW.queries)
    assert abs(estimates.quality - quality.mean()).max() < 0.2


def test_an_expert_is_learnt_from_what_it_was_seen_on() -> None:
    quality = RECORDS.quality.copy()
    quality[::2, 0] = np.nan
    holes = Linear().fit(with_quality(RECORDS, quality))
    half = Linear().fit(RECORDS.take(range(1, 60, 2)))
    first, second = (router.predict(NEW.queries).quality[:, 0] for router in (holes, half))
    np.testing.assert_allclose(first, second, atol=1e-6)


@pytest.mark.parametrize("seen", [0, 1, 2])
def test_an_expert_seen_less_than_three_times_gets_its_mean(seen: int) -> None:
    quality = RECORDS.quality.copy()
    quality[seen:, 0], quality[:seen, 0] = np.nan, 0.75
    estimates = Linear().fit(with_quality(RECORDS, quality)).predict(NEW.queries)
    np.testing.assert_allclose(estimates.quality[:, 0], 0.75 if seen else 0.0)


def test_estimates_stay_within_their_bounds() -> None:
    cost = np.where(RECORDS.quality > 0, 9.0, 0.0)
    router = Linear().fit(with_quality(RECORDS, RECORDS.quality, cost=cost))
    estimates = router.predict(NEW.queries)
    assert (estimates.quality.min(), estimates.quality.max()) >= (0.0, 0.0)
    assert estimates.quality.max() <= 1.0
    assert estimates.cost.min() >= 0.0


def solved(vectors: FloatArray, target: FloatArray, penalty: float) -> FloatArray:
    """Ridge by the textbook: coefficients and the intercept, which is not penalised."""
    centred = vectors - vectors.mean(axis=0)
    gram = centred.T @ centred + penalty * np.eye(6)
    coefficients = np.linalg.solve(gram, centred.T @ (target - target.mean()))
    return np.append(coefficients, target.mean() - vectors.mean(axis=0) @ coefficients)


@pytest.mark.parametrize("expert", [0, 1])
def test_the_penalty_has_the_least_leave_one_out_error(expert: int) -> None:
    records, vectors = planted(25, noise=0.1, seed=3)
    target = records.quality[:, expert]
    extended = np.hstack([vectors, np.ones((25, 1))])

    def left_out_error(penalty: float) -> float:
        kept = [np.arange(25) != row for row in range(25)]
        solutions = [solved(vectors[rows], target[rows], penalty) for rows in kept]
        predicted = np.array([x @ w for x, w in zip(extended, solutions, strict=True)])
        return float(np.square(target - predicted).mean())

    best = min(PENALTIES.tolist(), key=left_out_error)
    estimates = Linear(Numbers()).fit(records).predict(records.queries)
    wanted = extended @ solved(vectors, target, best)
    np.testing.assert_allclose(estimates.quality[:, expert], wanted, atol=1e-8)
