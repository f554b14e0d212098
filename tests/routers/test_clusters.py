from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coterie.errors import InputError, NotFittedError
from coterie.records import Records
from coterie.routers.base import load_router
from coterie.routers.clusters import Avengers, KMeans
from coterie.testing import make_records, with_quality
from coterie.types import Query

RECORDS = make_records(90)
NEW = make_records(30, seed=7)


def chosen(router: KMeans | Avengers) -> list[str]:
    estimates = router.predict(NEW.queries)
    return [estimates.experts[j] for j in estimates.quality.argmax(axis=1)]


def scored(quality: list[list[float]], texts: list[str]) -> Records:
    queries = tuple(Query.from_text(f"q{i}", text) for i, text in enumerate(texts))
    return Records(queries, ("ann", "bob", "cid")[: len(quality[0])], np.array(quality))


@pytest.mark.parametrize("router", [KMeans(), KMeans(clusters=3), Avengers(), Avengers(64)])
def test_queries_go_to_who_was_good_in_their_cluster(router: KMeans | Avengers) -> None:
    assert chosen(router.fit(RECORDS)) == list(NEW.categories)
    assert " recorded queries" in router.predict(NEW.queries[:1]).evidence[0]


def test_as_many_clusters_are_kept_as_help() -> None:
    blank = with_quality(RECORDS, np.random.default_rng(0).integers(0, 2, (90, 4)))
    assert len(KMeans().fit(RECORDS).centres_) in (4, 8)
    assert len(KMeans(clusters=5).fit(blank).centres_) == 5


def test_scores_that_no_cluster_explains_are_overall_means() -> None:
    blank = with_quality(RECORDS, np.random.default_rng(0).integers(0, 2, (90, 4)))
    quality = KMeans(clusters=16).fit(blank).predict(NEW.queries).quality
    raw = Avengers(16, nearest=1).fit(blank).predict(NEW.queries).quality
    overall = blank.quality.mean(axis=0)
    assert abs(quality - overall).mean() < 0.5 * abs(raw - overall).mean()


def test_a_softer_share_lies_nearer_the_mean_of_the_clusters() -> None:
    hard, soft, even = (KMeans(3, t).fit(RECORDS).predict(NEW.queries) for t in (0.0, 0.3, 1e6))
    assert hard.quality.std(axis=0).max() > soft.quality.std(axis=0).max() > 1e-3
    np.testing.assert_allclose(even.quality[0], even.quality[1], atol=1e-4)
    with pytest.raises(InputError, match="temperature"):
        KMeans(temperature=-1.0).fit(RECORDS)


def test_a_text_that_says_nothing_gets_the_overall_means() -> None:
    for router in (KMeans(encoder="lexical"), Avengers(encoder="lexical")):
        estimates = router.fit(RECORDS).predict([Query.from_text("n", "")])
        np.testing.assert_allclose(estimates.quality[0], RECORDS.quality.mean(axis=0))
        assert "overall means" in estimates.evidence[0]


def test_a_new_expert_joins_from_a_few_scores_and_changes_nothing_else() -> None:
    router = KMeans(clusters=3).fit(RECORDS.select(["sums", "sorting", "generalist"]))
    before, centres = router.predict(NEW.queries), router.centres_.copy()
    few = make_records(24, seed=3).select(["reversal"])
    assert router.add_expert("reversal", few) is router
    after = router.predict(NEW.queries)
    assert after.experts == (*before.experts, "reversal")
    np.testing.assert_array_equal(after.quality[:, :3], before.quality)
    np.testing.assert_array_equal(router.centres_, centres)
    assert chosen(router) == list(NEW.categories)


def test_a_new_expert_is_not_flattered_by_easy_questions() -> None:
    easy = np.arange(90) % 3 == 0  # sums are easy for everyone, the rest is hard
    quality = np.where(easy[:, None], [1.0, 0.9], [0.2, 0.1])
    router = KMeans(clusters=3).fit(with_quality(RECORDS.select(["sums", "sorting"]), quality))
    weak = with_quality(RECORDS.select(["reversal"]), quality[:, 1:] - 0.1)
    router.add_expert("reversal", weak.take(np.flatnonzero(easy)[:10]))
    estimates = router.predict(NEW.queries)
    assert (estimates.quality.argmax(axis=1) == 0).all()
    assert abs(estimates.quality[1, 2]) < 0.1


def test_a_new_expert_survives_saving_and_another_fit_forgets_it(tmp_path: Path) -> None:
    router = KMeans(clusters=3).fit(RECORDS.select(["sums", "sorting"]))
    router.add_expert("generalist", RECORDS).save(tmp_path / "r")
    again = load_router(tmp_path / "r").predict(NEW.queries)
    np.testing.assert_array_equal(again.quality, router.predict(NEW.queries).quality)
    assert router.fit(RECORDS.select(["sums"])).experts_ == ("sums",)


def test_an_expert_that_cannot_be_added_is_refused() -> None:
    with pytest.raises(NotFittedError):
        KMeans().add_expert("sums", RECORDS)
    router = KMeans(clusters=3).fit(RECORDS.select(["sums"]))
    with pytest.raises(InputError, match="'sums' is known already"):
        router.add_expert("sums", RECORDS)
    with pytest.raises(InputError, match="no records of expert 'stranger'"):
        router.add_expert("stranger", RECORDS)
    empty = with_quality(RECORDS, np.full((90, 4), np.nan))
    with pytest.raises(InputError, match="hold no scores"):
        router.add_expert("sorting", empty)
    assert router.experts_ == ("sums",)


def test_avengers_orders_experts_by_the_min_max_scores_of_the_paper() -> None:
    # Two far clusters, seen from the first text: only its own cluster counts with a large beta.
    texts = ["What is 2 plus 2?"] * 4 + ["Write the word llama backwards."] * 4
    records = scored([[1.0, 0.5, 0.25]] * 4 + [[0.0, 0.5, 0.6]] * 4, texts)
    query = [Query.from_text("n", texts[0])]
    alone = Avengers(2, nearest=1).fit(records).predict(query)
    np.testing.assert_allclose(alone.quality, [[1.0, 0.5, 0.25]])
    both = Avengers(2, nearest=2, beta=0.0).fit(records).predict(query)
    minmax = (np.array([1, 1 / 3, 0]) + np.array([0, 5 / 6, 1])) / 2
    low, width = 0.125, (0.75 + 0.6) / 2
    np.testing.assert_allclose(both.quality, [low + width * minmax])


def test_avengers_weighs_nearer_clusters_more_by_beta() -> None:
    near, far = (Avengers(3, beta=b).fit(RECORDS).predict(NEW.queries).quality for b in (9.0, 0.0))
    assert near.std(axis=0).max() > 0.1
    assert far.std(axis=0).max() < 1e-9


@pytest.mark.parametrize(
    ("router", "field"),
    [
        (KMeans(clusters=0), "clusters"),
        (Avengers(clusters=0), "clusters"),
        (Avengers(nearest=0), "nearest"),
    ],
)
def test_a_number_below_one_is_refused(router: Any, field: str) -> None:
    with pytest.raises(InputError, match=f"'{field}'"):
        router.fit(RECORDS)


def test_the_standard_error_falls_with_the_number_of_queries() -> None:
    for kind in (KMeans, Avengers):
        small, large = (kind(clusters=3).fit(make_records(n)) for n in (30, 600))
        errors = [router.predict(NEW.queries).error for router in (small, large)]
        assert errors[0] is not None
        assert errors[1] is not None
        assert errors[1][:, 3].mean() < 0.5 * errors[0][:, 3].mean()
