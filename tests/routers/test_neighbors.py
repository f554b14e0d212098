from collections.abc import Sequence

import numpy as np
import pytest

from coterie.records import Records
from coterie.routers.neighbors import KNN
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
    estimates = KNN(k=20, shrinkage=0.0).fit(records).predict(records.queries[:1])
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
    router = KNN(k=2, shrinkage=0.0).fit(world(texts, [[1.0, 0.0], [0.0, 1.0]]))
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
    few, many = (KNN(k=k).fit(RECORDS).predict(NEW.queries).quality for k in (48, 1000))
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
