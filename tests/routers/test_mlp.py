from typing import Any

import numpy as np
import pytest

from coterie.errors import InputError
from coterie.routers.ensembles import inputs, train
from coterie.routers.gradient import Schedule, Weights, distinct, residual, routing_score
from coterie.routers.mlp import MLP, _Network, logits
from coterie.testing import make_records, with_quality
from coterie.types import FloatArray

RECORDS = make_records(60)
NEW = make_records(40, seed=7)


def test_topics_go_to_their_specialists() -> None:
    estimates = MLP().fit(make_records(240)).predict(NEW.queries)
    chosen = [estimates.experts[j] for j in estimates.quality.argmax(axis=1)]
    assert chosen == list(NEW.categories)


def loss(logits: FloatArray, quality: FloatArray) -> float:
    entropy = np.logaddexp(0, logits) - np.nan_to_num(quality) * logits
    return float(entropy[~np.isnan(quality)].mean())


def test_the_gradient_is_the_slope_of_the_masked_cross_entropy() -> None:
    generator = np.random.default_rng(0)
    quality = generator.uniform(size=(8, 3)).astype(np.float32)
    quality[2:5, 1] = np.nan
    vectors = inputs(generator.normal(size=(8, 4)))
    network = _Network(vectors, distinct(quality), MLP(hidden=5, dropout=0.0))
    weights = network.start(generator)
    weights["heads"] = generator.normal(size=(6, 3)).astype(np.float32)
    slopes = network.slope(weights, np.arange(8), generator)
    for key, place in (("inner", (1, 2)), ("heads", (3, 1))):
        sides = []
        for change in (1e-2, -1e-2):
            moved = {k: v.astype(float) for k, v in weights.items()}
            moved[key][place] += change
            sides.append(loss(logits(moved, vectors), network.quality))
        assert slopes[key][place] == pytest.approx((sides[0] - sides[1]) / 2e-2, abs=1e-3)


def test_what_was_not_observed_pulls_nowhere() -> None:
    quality = np.array([[1.0, np.nan]])
    error = residual(np.zeros((1, 2)), quality, np.ones(2))
    np.testing.assert_allclose(error, [[-0.5, 0.0]])


def test_experts_with_equal_scores_are_one_column() -> None:
    quality = np.array([[1.0, 0.0, 1.0], [np.nan, 0.5, np.nan]])
    columns = distinct(quality)
    assert columns.quality.shape == (2, 2)
    np.testing.assert_array_equal(columns.quality[:, columns.member], quality)
    assert sorted(columns.weight.tolist()) == [1.0, 2.0]


def test_questions_nobody_was_scored_on_change_nothing() -> None:
    asked = np.zeros(60, bool)
    asked[np.random.default_rng(0).permutation(60)[:15]] = True
    partial = with_quality(RECORDS, np.where(asked[:, None], RECORDS.quality, np.nan))
    whole = RECORDS.take(np.flatnonzero(asked))
    found, wanted = (
        MLP(members=2).fit(records).predict(NEW.queries).quality for records in (partial, whole)
    )
    np.testing.assert_allclose(found, wanted)
    assert np.ptp(found, axis=1).max() > 0.05


def test_members_keep_repeated_questions_back_together() -> None:
    vectors = np.arange(80, dtype=np.float32).reshape(40, 2) / np.float32(80)
    groups, kept = np.arange(40) % 10, list[list[int]]()

    def watched(weights: Weights, shown: FloatArray) -> FloatArray:
        kept.append(np.bincount(groups[(shown[:, 0] * 40).round().astype(int)]).tolist())
        return logits(weights, shown)

    model = _Network(vectors, distinct(np.ones((40, 2))), MLP())
    train(model, watched, Schedule(epochs=1), 2, groups, seed=0)
    assert [sorted({*counts}) for counts in kept] == [[0, 4], [0, 4]]


def test_the_routing_score_prefers_better_choices() -> None:
    quality = np.array([[1.0, 0.0], [0.0, 1.0]])
    right, wrong = np.array([[2.0, -2.0], [-2.0, 2.0]]), np.array([[-2.0, 2.0], [2.0, -2.0]])
    assert routing_score(right, quality) == 1.0
    assert routing_score(wrong, quality) == 0.0


def test_the_routing_score_sees_good_gaps_behind_one_best_expert() -> None:
    quality = np.array([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    strong = np.full(4, 2.0)
    good = np.column_stack([strong, [1.9, -2.0, 1.9, -2.0]])
    bad = np.column_stack([strong, [-2.0, 1.9, -2.0, 1.9]])
    assert (good.argmax(axis=1) == bad.argmax(axis=1)).all()
    assert routing_score(good, quality) > routing_score(bad, quality)


def test_the_routing_score_chooses_among_observed_experts_only() -> None:
    quality = np.array([[np.nan, 0.75], [np.nan, np.nan]])
    assert routing_score(np.array([[9.0, 0.0], [9.0, 0.0]]), quality) == pytest.approx(0.75)


def test_members_disagree_more_where_less_was_seen() -> None:
    sums_only = make_records(90).take(range(0, 90, 3))
    estimates = MLP(members=5).fit(sums_only).predict(NEW.queries[:30])
    assert estimates.error is not None
    known = np.array([q.category == "sums" for q in NEW.queries[:30]])
    assert estimates.error[~known].mean() > estimates.error[known].mean()


def test_a_single_member_claims_no_error() -> None:
    assert MLP(members=1).fit(RECORDS).predict(NEW.queries).error is None


def test_another_seed_gives_other_weights() -> None:
    first, same, other = (MLP(members=1, seed=seed).fit(RECORDS) for seed in (0, 0, 1))
    assert first.fingerprint() == same.fingerprint() != other.fingerprint()


def test_scores_between_right_and_wrong_are_estimated_as_such() -> None:
    half = with_quality(RECORDS, np.full(RECORDS.quality.shape, 0.3))
    quality = MLP().fit(half).predict(NEW.queries).quality
    np.testing.assert_allclose(quality, 0.3, atol=0.15)


@pytest.mark.parametrize(
    "settings", [{"hidden": 0}, {"members": 0}, {"epochs": 0}, {"dropout": 1.0}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        MLP(**settings).fit(RECORDS)
