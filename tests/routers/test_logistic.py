import numpy as np
import pytest

from coterie.errors import InputError
from coterie.routers.linear import posterior, principal_axes
from coterie.routers.logistic import PENALTIES, Logistic, fit_logistic
from coterie.testing import make_records, with_quality
from coterie.types import FloatArray

RECORDS = make_records(60)
NEW = make_records(40, seed=7)


def sigmoid(logits: FloatArray) -> FloatArray:
    return np.asarray(1 / (1 + np.exp(-logits)))


def test_topics_go_to_their_specialists() -> None:
    estimates = Logistic().fit(RECORDS).predict(NEW.queries)
    chosen = [estimates.experts[j] for j in estimates.quality.argmax(axis=1)]
    assert chosen == list(NEW.categories)


def test_planted_coefficients_are_recovered_from_soft_scores() -> None:
    vectors = np.random.default_rng(0).normal(size=(2000, 3))
    planted = np.array([[1.0, -0.5], [0.0, 2.0], [-1.0, 0.0], [0.5, -1.0]])
    scores = sigmoid(vectors @ planted[:3] + planted[3])
    fitted = fit_logistic(vectors, scores, penalty=0.01)
    np.testing.assert_allclose(fitted.coefficients, planted, atol=0.02)


def test_at_the_solution_the_gradient_of_the_penalised_loss_is_zero() -> None:
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(80, 4))
    scores = generator.uniform(size=(80, 2))
    weights = fit_logistic(vectors, scores, penalty=2.0).coefficients
    softened = scores + (0.5 - scores) / 81
    error = sigmoid(vectors @ weights[:4] + weights[4]) - softened
    np.testing.assert_allclose(vectors.T @ error + 2.0 * weights[:4], 0, atol=0.02)
    np.testing.assert_allclose(error.sum(axis=0), 0, atol=0.02)


def test_noise_gets_a_stronger_penalty_than_signal() -> None:
    generator = np.random.default_rng(2)
    vectors = generator.normal(size=(300, 4))
    signal = generator.uniform(size=300) < sigmoid(3 * vectors[:, 0])
    noise = generator.uniform(size=300) < 0.5
    scores = np.column_stack([signal, noise]).astype(float)
    separate = [fit_logistic(vectors, column[:, None]) for column in scores.T]
    shrunk = [abs(fit.coefficients[:4]).max() for fit in separate]
    assert separate[0].penalty[0] < separate[1].penalty[0]
    assert shrunk[1] < 0.5 < 1.5 < shrunk[0]


def test_noise_that_repeats_is_noise_where_repetitions_are_held_out_together() -> None:
    generator = np.random.default_rng(0)
    vectors = np.tile(generator.normal(size=(40, 30)), (4, 1))
    noise = np.tile(generator.integers(0, 2, (40, 1)).astype(float), (4, 1))
    together = fit_logistic(vectors, noise, groups=np.arange(160) % 40)
    apart = fit_logistic(vectors, noise)
    assert apart.penalty[0] * apart.noise[0] ** -1 < together.penalty[0] * together.noise[0] ** -1
    assert abs(together.coefficients[:30]).max() < 0.3 < abs(apart.coefficients[:30]).max()


def test_an_expert_that_is_always_right_keeps_a_finite_logit() -> None:
    quality = np.ones(RECORDS.quality.shape)
    estimates = Logistic(penalty=1.0).fit(with_quality(RECORDS, quality)).predict(NEW.queries)
    assert 0.98 < estimates.quality.min() <= estimates.quality.max() < 1.0


def test_unobserved_cells_have_no_influence() -> None:
    quality = RECORDS.quality.copy()
    quality[::2, 0] = np.nan
    vectors = np.random.default_rng(3).normal(size=(60, 3))
    holes = fit_logistic(vectors, quality, penalty=1.0).coefficients[:, 0]
    half = fit_logistic(vectors[1::2], quality[1::2], penalty=1.0).coefficients[:, 0]
    np.testing.assert_allclose(holes, half, atol=1e-3)


def test_the_error_is_the_spread_of_refitted_predictions() -> None:
    generator = np.random.default_rng(4)
    vectors, new = generator.normal(size=(400, 3)), np.array([[1.0, -1.0, 0.5]])
    chance = sigmoid(vectors @ [0.8, -0.4, 0.2])
    draws = (generator.uniform(size=(400, 200)) < chance[:, None]).astype(float)
    fitted = fit_logistic(vectors, draws, penalty=0.05)
    logits = new @ fitted.coefficients[:3] + fitted.coefficients[3]
    axes, strength = principal_axes(vectors)
    variance = posterior(strength, 400, fitted)
    turned = np.square(np.append(new, 1.0) @ axes)
    claimed = np.sqrt(turned @ variance[:3] + variance[3]).mean()
    assert claimed == pytest.approx(logits.std(), rel=0.2)


def test_fewer_observations_mean_a_larger_error() -> None:
    quality = RECORDS.quality.copy()
    quality[6:, 0] = np.nan
    full = Logistic(penalty=1.0).fit(RECORDS).predict(NEW.queries)
    few = Logistic(penalty=1.0).fit(with_quality(RECORDS, quality)).predict(NEW.queries)
    assert full.error is not None
    assert few.error is not None
    assert (few.error[:, 0] > full.error[:, 0]).all()


def test_a_penalty_that_is_not_positive_is_refused() -> None:
    with pytest.raises(InputError, match="penalty"):
        Logistic(penalty=0.0).fit(RECORDS)


def test_penalties_are_tried_from_the_strongest() -> None:
    assert (np.diff(PENALTIES) < 0).all()
