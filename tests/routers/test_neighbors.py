from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coterie.errors import InputError
from coterie.records import Records
from coterie.routers import neighbors
from coterie.routers.base import load_router
from coterie.routers.neighbors import KNN, CategoryKNN
from coterie.testing import make_records, with_quality
from coterie.types import Query

RECORDS = make_records(48)
NEW = make_records(30, seed=7)


def world(texts: list[str], quality: Sequence[Sequence[float]]) -> Records:
    queries = tuple(Query.from_text(f"q{i}", text) for i, text in enumerate(texts))
    names = ("ann", "bob", "cid")[: len(quality[0])]
    return Records(queries, names, np.array(quality, float))


def test_questions_like_recorded_ones_go_to_who_was_good_at_those() -> None:
    estimates = KNN(k=5).fit(RECORDS).predict(NEW.queries)
    chosen = [estimates.experts[j] for j in estimates.quality.argmax(axis=1)]
    assert chosen == list(NEW.categories)


def test_scores_are_averaged_and_never_reduced_to_who_won() -> None:
    # Each question has another sole winner, always tied with bob: labels never name bob.
    quality = [[1, 1, 0], [1, 1, 0], [0, 1, 1], [0, 1, 1]] * 5
    records = world(["What is 2 plus 2?"] * 20, quality)
    estimates = KNN(k=20, shrinkage=0.0, temperature=1.0).fit(records).predict(records.queries[:1])
    np.testing.assert_allclose(estimates.quality, [[0.5, 1.0, 0.5]], atol=1e-6)


def test_the_order_of_experts_breaks_no_tie_in_training() -> None:
    quality = [[1, 1], [1, 1], [0, 1]]
    texts = ["What is 2 plus 2?"] * 3
    first = KNN().fit(world(texts, quality)).predict([Query.from_text("n", texts[0])])
    turned = KNN().fit(world(texts, [row[::-1] for row in quality]))
    second = turned.predict([Query.from_text("n", texts[0])])
    np.testing.assert_allclose(first.quality, second.quality[:, ::-1])
    assert first.quality[0, 1] > first.quality[0, 0]


def test_nearer_questions_weigh_more() -> None:
    texts = ["Sort these numbers: 4, 2.", "Which day is it?"]
    router = KNN(k=2, shrinkage=0.0, temperature=0.1).fit(world(texts, [[1.0, 0.0], [0.0, 1.0]]))
    estimates = router.predict([Query.from_text("n", "Sort these numbers: 9, 1.")])
    assert estimates.quality[0, 0] > 0.6
    assert estimates.quality[0].sum() == pytest.approx(1.0)


def test_shrinkage_pulls_towards_the_mean_of_the_expert() -> None:
    query = [RECORDS.queries[0]]
    means = RECORDS.quality.mean(axis=0)
    loose, tight = (KNN(k=3, shrinkage=s).fit(RECORDS).predict(query).quality for s in (1e-3, 1e6))
    np.testing.assert_allclose(tight[0], means, atol=1e-3)
    assert abs(loose[0] - means).sum() > 0.5


@pytest.mark.parametrize("shrinkage", [0.0, 1.0])
def test_a_question_that_resembles_nothing_gets_the_means(shrinkage: float) -> None:
    router = KNN(shrinkage=shrinkage, encoder="lexical").fit(RECORDS)
    estimates = router.predict([Query.from_text("n", "")])
    np.testing.assert_allclose(estimates.quality[0], RECORDS.quality.mean(axis=0))
    np.testing.assert_allclose(estimates.cost[0], RECORDS.cost.mean(axis=0))


def test_cells_that_were_not_observed_count_neither_way() -> None:
    texts = ["What is 2 plus 2?"] * 4
    quality = [[1.0, 1.0], [1.0, np.nan], [0.0, np.nan], [0.0, np.nan]]
    estimates = (
        KNN(shrinkage=0.0).fit(world(texts, quality)).predict([Query.from_text("n", texts[0])])
    )
    np.testing.assert_allclose(estimates.quality, [[0.5, 1.0]])


def test_more_neighbours_than_records_are_all_records() -> None:
    few, many = (KNN(k, 1.0, 0.1).fit(RECORDS).predict(NEW.queries).quality for k in (48, 1000))
    np.testing.assert_array_equal(few, many)


def test_queries_beyond_one_block_are_estimated_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    router = KNN().fit(RECORDS)
    whole = router.predict(NEW.queries)
    monkeypatch.setattr("coterie.routers.neighbors.BLOCK", 7)
    parts = router.predict(NEW.queries)
    np.testing.assert_allclose(parts.quality, whole.quality, atol=1e-6)
    assert parts.evidence == whole.evidence


def test_the_evidence_is_the_nearest_recorded_question() -> None:
    estimates = KNN().fit(RECORDS).predict(RECORDS.queries[:1])
    assert estimates.evidence == (f"nearest recorded query: {RECORDS.queries[0].text!r}",)


def test_fractional_scores_are_kept() -> None:
    halves = with_quality(RECORDS, np.full((48, 4), 0.5))
    estimates = KNN().fit(halves).predict(NEW.queries)
    np.testing.assert_allclose(estimates.quality, 0.5)


def noisy(queries: int, seed: int, chance: float = 0.9) -> Records:
    """Three topics, three experts: each is right with ``chance`` on its own, else with its rest."""
    records = make_records(queries, seed=seed).select(["sums", "sorting", "reversal"])
    chances = np.where(records.quality > 0, chance, 1 - chance)
    draws = np.random.default_rng(seed).random(chances.shape)
    return with_quality(records, (draws < chances).astype(float))


def test_what_is_left_open_is_chosen_on_the_training_records() -> None:
    alike = KNN().fit(noisy(240, 0, chance=0.5))  # nothing to learn: shrink all the way
    apart = KNN().fit(noisy(240, 0, chance=1.0))
    assert apart.shrinkage_ == 1.0
    assert alike.shrinkage_ >= 30.0
    assert KNN(k=7, shrinkage=2.0, temperature=0.3).fit(RECORDS).k_ == 7


def test_choosing_leaves_the_record_itself_out() -> None:
    # Each text is unique noise and scores are drawn: who saw itself would trust the nearest most.
    words = np.random.default_rng(0).permutation(2000).reshape(200, 10)
    texts = [" ".join(f"w{word}" for word in row) for row in words]
    quality = np.random.default_rng(1).integers(0, 2, (200, 2)).tolist()
    assert KNN(k=10, temperature=0.05, encoder="lexical").fit(world(texts, quality)).shrinkage_ > 30


def test_the_standard_error_is_the_size_of_the_error() -> None:
    new = noisy(90, 5)
    truth = np.where(make_records(90, seed=5).quality[:, :3] > 0, 0.9, 0.1)
    estimates = [KNN().fit(noisy(150, seed)).predict(new.queries) for seed in range(4)]
    z = np.array([(e.quality - truth) / np.asarray(e.error) for e in estimates])
    assert 0.5 < np.sqrt((z**2).mean()) < 2.0


def test_more_evidence_means_a_smaller_error() -> None:
    few, many = (KNN(50, 1.0, 1.0).fit(noisy(n, 0)).predict(NEW.queries) for n in (30, 300))
    assert few.error is not None
    assert many.error is not None
    assert many.error.mean() < few.error.mean()


def test_the_support_gives_the_estimates_back() -> None:
    router = KNN(k=5, shrinkage=0.0, temperature=0.1).fit(RECORDS)
    estimates = router.predict(NEW.queries)
    support = estimates.support
    assert support is not None
    mean = np.einsum("qk,qke->qe", support.weights, support.quality[support.rows])
    mean /= support.weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(estimates.quality, mean, atol=1e-6)
    assert support.texts[support.rows[0, 0]] in [q.text for q in RECORDS.queries]


def test_a_floor_takes_in_whatever_is_nearly_as_near() -> None:
    texts = ["What is 2 plus 2?"] * 3 + ["Sort these numbers: 4, 2."] * 5
    records = world(texts, [[1.0]] * 3 + [[0.0]] * 5)
    query = [Query.from_text("n", texts[0])]
    for floor, expected in ((None, 1), (0.95, 3)):
        support = KNN(1, 1.0, 1.0, floor).fit(records).predict(query).support
        assert support is not None
        assert (support.weights > 0).sum() == expected


def test_a_given_category_is_the_prior_and_neighbours_add_what_it_leaves() -> None:
    # In both categories ann is right on sums alone; bob is better throughout in "hard".
    records = make_records(90).select(["sums", "sorting"])
    hard = np.arange(90) % 2 == 0
    queries = tuple(
        replace(q, category="hard" if h else "easy")
        for q, h in zip(records.queries, hard, strict=True)
    )
    quality = np.clip(records.quality * 0.5 + np.where(hard[:, None], [0.0, 0.4], [0.4, 0.0]), 0, 1)
    router = CategoryKNN().fit(replace(with_quality(records, quality), queries=queries))
    estimates = router.predict(queries)
    np.testing.assert_allclose(estimates.quality, quality, atol=0.15)
    unknown = router.predict([replace(queries[0], category="new")]).quality
    assert abs(unknown - estimates.quality[0]).max() > 0.1


def test_a_category_router_survives_saving(tmp_path: Path) -> None:
    router = CategoryKNN().fit(RECORDS)
    router.save(tmp_path / "r")
    again = load_router(tmp_path / "r").predict(NEW.queries)
    np.testing.assert_array_equal(again.quality, router.predict(NEW.queries).quality)


@pytest.mark.parametrize(
    "wrong",
    [{"k": 0}, {"shrinkage": -1.0}, {"temperature": 0.0}, {"floor": 1.5}, {"shrinkage": np.nan}],
)
def test_a_parameter_out_of_range_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        KNN(**wrong).fit(RECORDS)


def test_a_second_prediction_makes_no_tables_again(monkeypatch: pytest.MonkeyPatch) -> None:
    router = KNN(k=5, shrinkage=1.0, temperature=0.1).fit(RECORDS)
    first = router.predict(NEW.queries)
    monkeypatch.setattr(neighbors.Known, "of", None)
    np.testing.assert_array_equal(router.predict(NEW.queries).quality, first.quality)


@pytest.mark.parametrize("kind", [KNN, CategoryKNN])
def test_another_fit_forgets_the_tables_of_the_first(kind: type[KNN]) -> None:
    other = with_quality(RECORDS, 1.0 - RECORDS.quality)
    router = kind(k=5).fit(RECORDS)
    router.predict(NEW.queries)
    again, fresh = router.fit(other).predict(NEW.queries), kind(k=5).fit(other).predict(NEW.queries)
    np.testing.assert_array_equal(again.quality, fresh.quality)
    np.testing.assert_array_equal(again.cost, fresh.cost)
    np.testing.assert_array_equal(again.error, fresh.error)
