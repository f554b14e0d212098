import numpy as np
import pytest

from coterie.errors import InputError
from coterie.routers.gap import Gap, relaxation
from coterie.testing import make_records, with_quality

RECORDS = make_records(120)
NEW = make_records(40, seed=7)


def test_topics_go_to_their_specialists() -> None:
    estimates = Gap().fit(RECORDS).predict(NEW.queries)
    chosen = [estimates.experts[j] for j in estimates.quality.argmax(axis=1)]
    right = [c == e for c, e in zip(chosen, NEW.categories, strict=True)]
    assert np.mean(right) > 0.9


def test_the_best_single_expert_is_the_reference_and_has_its_mean_everywhere() -> None:
    quality = Gap().fit(RECORDS).predict(NEW.queries).quality
    np.testing.assert_allclose(quality[:, 3], RECORDS.quality[:, 3].mean())


def test_a_named_reference_is_taken() -> None:
    quality = Gap(reference="sums").fit(RECORDS).predict(NEW.queries).quality
    np.testing.assert_allclose(quality[:, 0], RECORDS.quality[:, 0].mean())


def test_the_order_of_queries_is_that_of_the_probabilities() -> None:
    router = Gap().fit(RECORDS)
    quality, chance = router.predict(NEW.queries).quality, router.probabilities(NEW.queries)
    for column in range(3):
        order = np.argsort(chance[:, column])
        assert (np.diff(quality[order, column]) >= -1e-12).all()


def test_scores_that_are_right_or_wrong_need_no_relaxation() -> None:
    assert relaxation(np.array([-1.0, 0.0, 0.0, 1.0, -1.0])) == 0.0


def test_the_relaxation_makes_labels_differ_most() -> None:
    worse = np.array([-0.4, -0.3, -0.2, -0.1])  # at t = 0 every label is the same
    found = relaxation(worse)
    assert 0.2 <= found < 0.3
    assert (worse >= -found).mean() == 0.5


def test_unobserved_gaps_are_left_out_of_the_relaxation() -> None:
    assert relaxation(np.array([np.nan, -0.4, -0.1])) == pytest.approx(0.1)
    assert relaxation(np.array([np.nan])) == 0.0


def test_an_expert_that_only_ever_loses_is_rated_below_the_reference() -> None:
    quality = np.column_stack([np.full(120, 0.9), np.full(120, 0.5)])
    two = with_quality(RECORDS.select(["sums", "sorting"]), quality)
    estimates = Gap().fit(two).predict(NEW.queries).quality
    np.testing.assert_allclose(estimates, [[0.9, 0.5]] * len(NEW), atol=1e-6)


def test_an_expert_never_observed_is_rated_last() -> None:
    quality = RECORDS.quality.copy()
    quality[:, 1] = np.nan
    estimates = Gap().fit(with_quality(RECORDS, quality)).predict(NEW.queries).quality
    assert (estimates[:, 1] <= estimates.min(axis=1)).all()


def test_a_reference_without_records_is_refused() -> None:
    with pytest.raises(InputError, match="'nobody'"):
        Gap(reference="nobody").fit(RECORDS)
