from typing import Any

import numpy as np
import pytest

from coterie.errors import InputError
from coterie.routers.ensembles import inputs
from coterie.routers.gradient import distinct
from coterie.routers.irt import IRT, _Items, responses
from coterie.testing import make_records, with_quality
from coterie.types import FloatArray, Query

RECORDS = make_records(240)
NEW = make_records(40, seed=7)


@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_topics_go_to_their_specialists(warmup: float) -> None:
    estimates = IRT(warmup=warmup).fit(RECORDS).predict(NEW.queries)
    chosen = [estimates.experts[j] for j in estimates.quality.argmax(axis=1)]
    assert chosen == list(NEW.categories)


def test_the_evidence_tells_hard_topics_from_easy_ones() -> None:
    hard = np.array([[q.category == "sorting"] for q in RECORDS.queries])
    records = with_quality(RECORDS, np.where(hard, 0.1, 0.9) * np.ones((1, 4)))
    evidence = IRT().fit(records).predict(NEW.queries).evidence
    harder = [int(sentence.split()[-6]) for sentence in evidence]
    topics = [q.category for q in NEW.queries]
    sorting = [h for h, t in zip(harder, topics, strict=True) if t == "sorting"]
    assert min(sorting) > max(h for h, t in zip(harder, topics, strict=True) if t != "sorting")
    assert evidence[topics.index("sorting")].startswith(("looks hard", "looks rather hard"))


def loss(logits: FloatArray, quality: FloatArray) -> float:
    return float((np.logaddexp(0, logits) - quality * logits).mean())


@pytest.mark.parametrize("key", ["discrimination", "difficulty", "ability"])
def test_the_gradient_is_the_slope_of_the_cross_entropy(key: str) -> None:
    generator = np.random.default_rng(0)
    quality = generator.uniform(size=(8, 3)).astype(np.float32)
    items = _Items(inputs(generator.normal(size=(8, 4))), distinct(quality), 2)
    weights = items.start(generator)
    slope = items.slope(weights, np.arange(8), generator)[key][1, 0]
    sides = []
    for change in (1e-2, -1e-2):
        moved = {k: v.astype(float) for k, v in weights.items()}
        moved[key][1, 0] += change
        sides.append(loss(responses(moved, items.inputs), items.quality))
    assert slope == pytest.approx((sides[0] - sides[1]) / 2e-2, abs=1e-3)


def test_predictions_are_calibrated_to_the_mean() -> None:
    quality = IRT().fit(RECORDS).predict(RECORDS.queries).quality
    assert quality.mean() == pytest.approx(RECORDS.quality.mean(), abs=0.02)


def test_warming_up_draws_strange_queries_towards_recorded_ones() -> None:
    strange = [Query.from_text("s", "Name a river in Peru.")]
    cold, warm = (IRT(warmup=w).fit(RECORDS) for w in (0.0, 1.0))
    near = warm.predict(RECORDS.queries).quality
    assert abs(near - warm.predict(strange).quality).sum(axis=1).min() < 0.2
    assert cold.vectors_.shape[0] == 0


@pytest.mark.parametrize(
    "settings", [{"dim": 0}, {"warmup": 1.5}, {"neighbours": 0}, {"decay": -0.1}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        IRT(**settings).fit(RECORDS)
