"""RouterRetriever's router, and experts that are retrievers."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from coterie.compositions import single
from coterie.drivers.live import answer
from coterie.errors import InputError
from coterie.evaluation import best_single_row
from coterie.experts.retriever import RetrieverExpert, ranked_ids
from coterie.metrics.ranked import ndcg
from coterie.policies import Utility
from coterie.records import Records
from coterie.routers.centroids import Centroid, _winners
from coterie.testing import TOPICS, make_records, with_quality
from coterie.types import Call, Query


def held_out_score(router: Centroid, records: Records, test: Records) -> float:
    estimates = router.fit(records).predict(test.queries)
    chosen = estimates.quality.argmax(axis=1)
    return float(test.quality[np.arange(len(test)), chosen].mean())


# the router


@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize("assign", ["best", "category"])
def test_the_nearest_pilot_names_the_specialist(assign: str, reduce: str) -> None:
    both = (make_records(60), make_records(30, seed=5))
    records, test = (each.select(list(TOPICS)) for each in both)
    assert held_out_score(Centroid(assign, reduce), records, test) > 0.95
    assert best_single_row(records, test).scores.mean() < 0.6


def test_the_mean_tells_a_specialist_from_a_generalist_and_the_largest_does_not() -> None:
    records, test = make_records(60), make_records(30, seed=5)
    mean, most = (held_out_score(Centroid(reduce=r), records, test) for r in ("mean", "max"))
    assert mean > 0.95 > most  # the generalist has pilots beside those of every specialist


def test_where_scores_belong_to_other_questions_nothing_is_gained() -> None:
    records, test = make_records(60), make_records(30, seed=5)
    order = np.random.default_rng(0).permutation(60)
    score = held_out_score(Centroid(), with_quality(records, records.quality[order]), test)
    assert score < 0.75


def test_pilots_are_centres_of_the_questions_an_expert_is_best_at() -> None:
    records = make_records(48)
    router = Centroid().fit(records)
    vectors = router.encoder_.encode([q.text for q in records.queries if q.category == "sums"])
    own = (router.owners_ == 0) & (np.array(router.sources_) == "sums")
    centre = vectors.mean(axis=0)
    np.testing.assert_allclose(router.pilots_[own][0], centre / np.linalg.norm(centre), atol=1e-6)


def test_a_tie_counts_for_all_and_no_difference_for_nobody() -> None:
    quality = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 0], [np.nan, 0, 1]])
    won = _winners(quality, "best")
    assert won.tolist() == [[True, True, False], [False] * 3, [False] * 3, [False, False, True]]
    assert _winners(quality, "category")[0].tolist() == [True, False, False]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_adding_and_removing_an_expert_leaves_the_others_alone(k: int, reduce: str) -> None:
    records, new = make_records(30), make_records(9, seed=7).queries
    router = Centroid(reduce=reduce, k=k).fit(records)
    before = router.predict(records.queries)
    router.add_expert("newcomer", new[:5], cost=2.0)
    grown = router.predict(records.queries)
    assert grown.experts == (*before.experts, "newcomer")
    np.testing.assert_allclose(grown.quality[:, :-1], before.quality, atol=1e-12)
    np.testing.assert_array_equal(grown.cost[:, -1], 2.0)
    after = router.remove_expert("newcomer").predict(records.queries)
    np.testing.assert_allclose(after.quality, before.quality, atol=1e-12)
    fewer = router.remove_expert("sorting").predict(records.queries)
    np.testing.assert_allclose(fewer.quality, np.delete(before.quality, 1, axis=1), atol=1e-12)


def test_a_newcomer_gets_the_questions_it_is_for() -> None:
    router = Centroid().fit(make_records(48))
    capitals = [Query.from_text(f"c{i}", f"What is the capital of {x}?") for i, x in
                enumerate(["France", "Spain", "Italy", "Poland"])]  # fmt: skip
    router.add_expert("geographer", capitals[:3])
    decided = Utility().decide(capitals[3:], router.predict(capitals[3:]))
    assert decided[0].experts[0] == "geographer"
    assert "nearest pilot: all questions of geographer" in decided[0].reason


def test_mean_and_max_agree_where_every_expert_has_one_pilot() -> None:
    records = make_records(48).select(list(TOPICS))
    one = with_quality(records, records.quality)
    mean, most = (Centroid(reduce=r).fit(one).similarity(one.queries) for r in ("mean", "max"))
    np.testing.assert_array_equal(mean, most)


def test_mean_and_max_differ_where_an_expert_has_far_apart_pilots() -> None:
    records = make_records(48)
    mean, most = (
        Centroid(reduce=r).fit(records).similarity(records.queries) for r in ("mean", "max")
    )
    assert (most >= mean - 1e-12).all()
    assert (most[:, 3] > mean[:, 3] + 0.01).any()  # the generalist has pilots of three topics


def test_an_expert_that_is_never_best_is_below_all() -> None:
    records = make_records(30)
    quality = records.quality.copy()
    quality[:, 2] = 0.0
    similarity = Centroid().fit(with_quality(records, quality)).similarity(records.queries)
    assert (similarity[:, 2] == -1.0).all()
    assert (similarity[:, [0, 1, 3]] > -1.0).all()


@pytest.mark.parametrize(
    "settings", [{"assign": "label"}, {"reduce": "median"}, {"k": 0}, {"k": 1.5}]
)
def test_senseless_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        Centroid(**settings).fit(make_records())


def test_adding_who_is_there_or_removing_who_is_not_is_refused() -> None:
    router = Centroid().fit(make_records())
    with pytest.raises(InputError, match="known already"):
        router.add_expert("sums", make_records().queries)
    with pytest.raises(InputError, match="got none"):
        router.add_expert("new", [])
    with pytest.raises(InputError, match="got 'zoe'"):
        router.remove_expert("zoe")


# experts that are retrievers


DOCUMENTS = {
    "medicine": {"m1": "fever and infection of the lung", "m2": "dose of insulin for diabetes"},
    "physics": {"p1": "lift and drag of a thin wing", "p2": "boundary layer of a hot plate"},
}


def search_of(documents: dict[str, str]) -> Any:
    def search(question: str, k: int) -> Sequence[str]:
        words = set(question.lower().split())
        overlap = {name: -len(words & set(text.split())) for name, text in documents.items()}
        return sorted(overlap, key=lambda name: (overlap[name], name))[:k]

    return search


def test_a_pool_of_retrievers_is_routed_and_served_like_any_other() -> None:
    experts = {n: RetrieverExpert(n, search_of(d), k=2) for n, d in DOCUMENTS.items()}
    asked = {
        "insulin for diabetes patients": "m2",
        "lung infection with fever": "m1",
        "drag of the wing": "p1",
        "heat in a boundary layer": "p2",
    }
    queries = tuple(Query.from_text(f"q{i}", text) for i, text in enumerate(asked))
    scores = [
        [ndcg(search_of(d)(text, 2), {best: 1.0}) for d in DOCUMENTS.values()]
        for text, best in asked.items()
    ]
    router = Centroid().fit(Records(queries, tuple(DOCUMENTS), np.array(scores)))
    new = Query.from_text("new", "diabetes and its dose of insulin")
    (decision,) = Utility().decide([new], router.predict([new]))
    served = asyncio.run(answer(new, decision, single, experts))
    assert decision.experts[0] == "medicine"
    assert ranked_ids(served.completion) == ["m2", "m1"]


def test_ids_that_are_no_ranking_are_an_error_of_the_expert() -> None:
    wrong: list[list[str]] = [["a", "a"], ["a\nb"], []]
    for found in wrong:
        expert = RetrieverExpert("odd", partial(lambda ids, question, k: ids, found))
        completion = asyncio.run(expert.complete(Call("odd", ({"role": "user", "content": "?"},))))
        assert completion.failed
        assert ranked_ids(completion) == []


def test_ndcg_is_trec_evals() -> None:
    relevance = {"a": 3.0, "b": 1.0, "c": 2.0}
    ideal = 3 + 2 / np.log2(3) + 1 / 2
    assert ndcg(["a", "c", "b"], relevance) == pytest.approx(1.0)
    assert ndcg(["x", "a", "y", "b"], relevance) == pytest.approx(
        (3 / np.log2(3) + 1 / np.log2(5)) / ideal
    )
    assert ndcg(["x", "a"], relevance, k=1) == 0.0
    assert ndcg([], relevance) == 0.0
    assert np.isnan(ndcg(["a"], {"a": 0.0}))
    with pytest.raises(ValueError, match="twice"):
        ndcg(["a", "a"], relevance)
