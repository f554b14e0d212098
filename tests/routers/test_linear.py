from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.features import Encoder, Vectors
from coterie.records import Records
from coterie.routers.linear import (
    PENALTIES,
    Linear,
    fit_ridge,
    gaps,
    posterior,
    principal_axes,
    standard_error,
)
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


def test_the_error_is_the_spread_of_refitted_predictions() -> None:
    generator = np.random.default_rng(5)
    records, vectors = planted(300, seed=4)
    noisy = records.quality[:, [0]] + generator.normal(0, 0.1, (300, 200))
    fitted = fit_ridge(vectors, noisy)
    axes, strength = principal_axes(vectors)
    claimed = standard_error(vectors[:5], axes, posterior(strength, 300, fitted)).mean()
    spread = (np.hstack([vectors[:5], np.ones((5, 1))]) @ fitted.coefficients).std(axis=1).mean()
    assert claimed == pytest.approx(spread, rel=0.25)


def test_an_expert_seen_less_has_a_larger_error() -> None:
    records, _ = planted(200, noise=0.1)
    quality = records.quality.copy()
    quality[20:, 0] = np.nan
    full, few = (
        Linear(Numbers()).fit(Records(records.queries, records.experts, q)).predict(records.queries)
        for q in (records.quality, quality)
    )
    assert full.error is not None
    assert few.error is not None
    assert (few.error[:, 0] > 1.5 * full.error[:, 0]).all()


def test_between_two_experts_the_gap_is_regressed_under_its_own_penalty() -> None:
    records, vectors = planted(60, noise=0.2)
    gap = records.quality[:, 0] - records.quality[:, 1]
    quality = Linear(Numbers(), target="gap").fit(records).predict(records.queries).quality
    alone = fit_ridge(vectors, gap[:, None]).coefficients[:, 0]
    wanted = np.hstack([vectors, np.ones((60, 1))]) @ alone
    np.testing.assert_allclose(quality[:, 0] - quality[:, 1], wanted, atol=1e-8)


def test_gaps_survive_scores_that_are_missing_at_random() -> None:
    truth = np.tile([0.2, 0.5, 0.8, 0.5], (4000, 1))
    truth[::2, :2] = truth[::2, 1::-1]  # on every second query the first two change places
    holes = np.random.default_rng(0).random(truth.shape) < 0.5
    level, apart = gaps(np.where(holes, np.nan, truth))
    estimated = np.nanmean(level[::2]) + np.nanmean(apart[::2], axis=0)
    np.testing.assert_allclose(estimated, truth[0], atol=0.02)


def test_a_target_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="expected one of score, gap"):
        Linear(target="rank").fit(RECORDS)
