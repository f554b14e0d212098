from typing import Any

import numpy as np
import pytest

from coterie.errors import InputError
from coterie.routers.ensembles import fit_link
from coterie.routers.factorization import Factorization, battles
from coterie.testing import make_records, with_quality
from coterie.types import FloatArray

RECORDS = make_records(240)
NEW = make_records(40, seed=7)


@pytest.mark.parametrize("loss", ["scores", "battles"])
def test_topics_go_to_their_specialists(loss: str) -> None:
    estimates = Factorization(loss).fit(RECORDS).predict(NEW.queries)
    chosen = [estimates.experts[j] for j in estimates.quality.argmax(axis=1)]
    assert chosen == list(NEW.categories)


def one_by_one(logits: FloatArray, quality: FloatArray) -> FloatArray:
    """Gradient of the mean loss over battles, by the definition."""
    gradient, count = np.zeros_like(logits), 0
    for row, (scores, values) in enumerate(zip(quality, logits, strict=True)):
        for a in range(len(scores)):
            for b in range(len(scores)):
                if scores[a] > scores[b]:
                    lost = 1 / (1 + np.exp(values[a] - values[b]))
                    gradient[row, a] -= lost
                    gradient[row, b] += lost
                    count += 1
    return gradient / count


def test_every_decided_pair_is_a_battle_and_ties_are_none() -> None:
    generator = np.random.default_rng(0)
    quality = generator.choice([0.0, 0.5, 1.0, np.nan], (6, 4))
    logits = generator.normal(size=(6, 4))
    slopes = battles(logits, quality, np.ones(4), generator)
    np.testing.assert_allclose(slopes, one_by_one(logits, quality), atol=1e-6)


def test_tied_experts_give_no_gradient() -> None:
    tied = np.ones((3, 5))
    generator = np.random.default_rng(0)
    assert not battles(generator.normal(size=(3, 5)), tied, np.ones(5), generator).any()


def test_in_large_pools_opponents_are_drawn() -> None:
    generator = np.random.default_rng(1)
    quality = np.tile(np.arange(60) < 30, (4, 1)).astype(float)
    slopes = battles(np.zeros((4, 60)), quality, np.ones(60), generator)
    assert (slopes[:, :30] < 0).all()
    assert (slopes[:, 30:] > 0).all()


def test_battles_give_levels_through_the_link() -> None:
    estimates = Factorization("battles").fit(RECORDS).predict(RECORDS.queries)
    assert estimates.quality.mean() == pytest.approx(RECORDS.quality.mean(), abs=0.02)


def test_the_link_recovers_slope_and_intercept() -> None:
    logits = np.random.default_rng(2).normal(size=(500, 4))
    quality = 1 / (1 + np.exp(-(0.5 * logits + 1)))
    np.testing.assert_allclose(fit_link(logits, quality), [0.5, 1.0], atol=0.01)


def test_the_link_never_turns_the_order_around() -> None:
    logits = np.random.default_rng(2).normal(size=(50, 4))
    quality = 1 / (1 + np.exp(logits))
    assert fit_link(logits, quality)[0] == 0.0


def test_the_published_sizes_can_be_fitted() -> None:
    records = make_records(30)
    estimates = Factorization(dim=232, members=2, epochs=2).fit(records).predict(NEW.queries)
    assert estimates.error is not None
    assert estimates.error.shape == estimates.quality.shape


def test_an_expert_never_observed_meets_no_battle() -> None:
    quality = RECORDS.quality.copy()
    quality[:, 1] = np.nan
    router = Factorization("battles", members=1, epochs=3)
    estimates = router.fit(with_quality(RECORDS, quality)).predict(NEW.queries)
    assert np.isfinite(estimates.quality).all()


@pytest.mark.parametrize("settings", [{"loss": "margin"}, {"dim": 0}, {"noise": -1.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        Factorization(**settings).fit(RECORDS)
