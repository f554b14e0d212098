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


def test_missing_outcomes_are_refused() -> None:
    with pytest.raises(InputError, match="every expert's outcome"):
        fit_rasch(np.array([[1.0, np.nan]]))
