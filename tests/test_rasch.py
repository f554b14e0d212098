import tracemalloc

import numpy as np
import pytest

from coterie.errors import InputError
from coterie.rasch import fit_rasch, null_oracle


def additive(questions: int = 4000, experts: int = 8, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    ability, difficulty = np.linspace(-1, 1, experts), generator.normal(0, 1.5, (questions, 1))
    chance = 1 / (1 + np.exp(difficulty - ability))
    return (generator.random((questions, experts)) < chance).astype(float)


def test_abilities_are_found_again() -> None:
    fitted = fit_rasch(additive())
    found = fitted.ability - fitted.ability.mean()
    assert found == pytest.approx(np.linspace(-1, 1, 8), abs=0.15)
    assert fitted.share.sum() == pytest.approx(1.0)


def test_where_experts_differ_in_ability_alone_the_null_reaches_the_oracle() -> None:
    outcomes = additive()
    assert null_oracle(outcomes).mean() == pytest.approx(outcomes.max(axis=1).mean(), abs=0.01)


def test_specialists_have_an_oracle_beyond_the_null() -> None:
    generator = np.random.default_rng(0)
    special = np.arange(4) == generator.integers(0, 4, (2000, 1))
    outcomes = (generator.random((2000, 4)) < np.where(special, 0.95, 0.1)).astype(float)
    assert outcomes.max(axis=1).mean() - null_oracle(outcomes).mean() > 0.15


def test_an_expert_that_is_always_right_leaves_nothing_to_luck() -> None:
    outcomes = np.column_stack([np.ones(200), additive(200, 2)])
    assert null_oracle(outcomes).mean() == pytest.approx(1.0, abs=0.01)


def test_equal_scores_have_their_value_as_oracle() -> None:
    assert null_oracle(np.full((5, 3), 0.4)).tolist() == pytest.approx([0.4] * 5)


def test_fractional_scores_are_integrated_over_their_levels() -> None:
    scores = np.round(np.random.default_rng(0).random((1500, 4)), 2)
    assert null_oracle(scores).mean() == pytest.approx(scores.max(axis=1).mean(), abs=0.02)


@pytest.mark.parametrize(("low", "width"), [(0.95, 0.05), (0.0, 0.09), (0.2, 0.01)])
def test_scores_in_a_narrow_range_have_a_null_within_it(low: float, width: float) -> None:
    generator = np.random.default_rng(0)
    skill, luck = np.linspace(0, 0.2, 4), generator.random((600, 4))
    scores = low + width * (0.5 * generator.random((600, 1)) + 0.3 * luck + skill)
    null, oracle = null_oracle(scores).mean(), scores.max(axis=1).mean()
    assert null == pytest.approx(oracle, abs=0.05 * width)


def test_fractional_specialists_have_an_oracle_beyond_the_null() -> None:
    generator = np.random.default_rng(0)
    special = np.arange(4) == generator.integers(0, 4, (600, 1))
    scores = np.where(special, 0.9, 0.1) + 0.1 * generator.random((600, 4))
    assert scores.max(axis=1).mean() - null_oracle(scores).mean() > 0.15


def test_the_null_of_right_or_wrong_is_the_oracle_of_its_model() -> None:
    outcomes = additive(500, 5)
    right = outcomes.sum(axis=1).astype(int)
    assert null_oracle(outcomes).tolist() == fit_rasch(outcomes).oracle(right).tolist()


def test_a_fit_needs_no_more_memory_than_a_few_times_its_outcomes() -> None:
    outcomes = additive(20, 2000)
    tracemalloc.start()
    fit_rasch(outcomes)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < 16_000_000  # experts squared would be 32 million bytes


def test_missing_outcomes_are_refused() -> None:
    with pytest.raises(InputError, match="every expert's outcome"):
        fit_rasch(np.array([[1.0, np.nan]]))
