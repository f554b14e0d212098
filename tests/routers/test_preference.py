from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coterie.errors import InputError
from coterie.records import Records
from coterie.routers import ranking
from coterie.routers.base import Router
from coterie.routers.preference import BradleyTerry, Elo
from coterie.routers.preference_by_text import P2L, SimilarityWeighted, _folds_by_text
from coterie.testing import make_records, with_quality
from coterie.types import FloatArray, Query

ROUTERS: dict[str, Callable[[], Router]] = {
    "elo": Elo,
    "bradley-terry": BradleyTerry,
    "p2l": P2L,
    "similarity-weighted": SimilarityWeighted,
}
any_router = pytest.mark.parametrize("make", ROUTERS.values(), ids=ROUTERS)


def records_of(scores: FloatArray, texts: list[str] | None = None) -> Records:
    texts = texts or [f"question {row}" for row in range(len(scores))]
    queries = tuple(Query.from_text(f"q{row}", text) for row, text in enumerate(texts))
    return Records(queries, tuple("abcdefgh"[: scores.shape[1]]), np.asarray(scores, float))


def duels(strengths: FloatArray, count: int, seed: int = 0) -> Records:
    """Pairwise preferences: two observed experts a query, drawn under the Bradley-Terry model."""
    generator = np.random.default_rng(seed)
    scores = np.full((count, len(strengths)), np.nan)
    for row in scores:
        a, b = generator.choice(len(strengths), 2, replace=False)
        row[a] = generator.random() < 1 / (1 + np.exp(strengths[b] - strengths[a]))
        row[b] = 1 - row[a]
    return records_of(scores)


def test_a_battle_is_won_tied_lost_or_not_fought() -> None:
    outcome = ranking.results(np.array([0.9, 0.4, 0.4, np.nan]))
    np.testing.assert_array_equal(outcome[0], [np.nan, 1, 1, np.nan])
    np.testing.assert_array_equal(outcome[1], [0, np.nan, 0.5, np.nan])
    np.testing.assert_allclose(ranking.results(np.array([0.9, 0.4]), soft=True)[0, 1], 0.75)


def test_three_wins_against_one_are_odds_of_three() -> None:
    scores = np.array([[1, 0], [1, 0], [1, 0], [0, 1]])
    router = BradleyTerry(ridge=1e-9).fit(records_of(scores))
    assert router.strengths_[0] - router.strengths_[1] == pytest.approx(np.log(3))
    assert router.ratings["a"] - router.ratings["b"] == pytest.approx(400 * np.log10(3))
    assert sum(router.ratings.values()) == pytest.approx(2000)


def test_two_ties_count_as_a_win_each() -> None:
    tied = BradleyTerry().fit(records_of(np.array([[1, 0], [0.5, 0.5], [1, 1]])))
    fought = BradleyTerry().fit(records_of(np.array([[1, 0], [1, 0], [0, 1]])))
    np.testing.assert_allclose(tied.strengths_, fought.strengths_)


@pytest.mark.parametrize("seed", range(5))
def test_strengths_are_where_the_likelihood_is_flat(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = np.where(generator.random((40, 6)) < 0.4, np.nan, generator.random((40, 6)))
    found = ranking.fit_global(scores, ridge=0.1)
    np.testing.assert_allclose(found.directions.sum(axis=0), 0.1 * found.strengths, atol=1e-8)


@pytest.mark.parametrize("ridge", [1e-6, 0.1, 10])
def test_an_unbeaten_expert_stays_finite(ridge: float) -> None:
    router = BradleyTerry(ridge).fit(records_of(np.tile([1.0, 0.5, 0.0], (500, 1))))
    found = ranking.fit_global(router_scores := np.tile([1.0, 0.5, 0.0], (500, 1)), ridge)
    gap = np.abs(found.directions.sum(axis=0) - ridge * found.strengths).max()
    assert gap < 1e-6 * router_scores.size
    assert np.isfinite(router.strengths_).all()
    assert router.strengths_[0] > router.strengths_[1] > router.strengths_[2]


def test_an_expert_seen_on_easy_questions_only_gains_nothing_by_it() -> None:
    hard, easy = [[1, 0, np.nan]] * 30 + [[0, 0, np.nan]] * 30, [[1, 1, 0.9]] * 20
    router = BradleyTerry().fit(records_of(np.array(hard + easy)))
    means = np.nanmean(np.array(hard + easy), axis=0)
    assert means.argmax() == 2
    assert router.predict([Query.from_text("new", "?")]).quality[0].argmax() == 0


def test_one_game_of_elo_moves_half_of_k() -> None:
    router = Elo(k=32).fit(records_of(np.array([[1.0, 0.0]])))
    assert router.ratings == pytest.approx({"a": 1016, "b": 984})


def test_a_second_game_of_elo_expects_what_the_first_taught() -> None:
    router = Elo(k=32).fit(records_of(np.array([[1.0, 0.0], [1.0, 0.0]])))
    expected = 1 / (1 + 10 ** (-32 / 400))
    assert router.ratings["a"] == pytest.approx(1016 + 32 * (1 - expected))


def test_elo_and_bradley_terry_recover_the_order_of_drawn_duels() -> None:
    truth = np.array([0.0, 1.5, -1.5, 0.7])
    records = duels(truth, 800)
    for router in (Elo(k=16).fit(records), BradleyTerry().fit(records)):
        assert router.strengths_.argsort().tolist() == truth.argsort().tolist()
    np.testing.assert_allclose(router.strengths_, truth - truth.mean(), atol=0.4)


@pytest.mark.parametrize("complete", [True, False], ids=["scores", "preferences"])
def test_the_error_is_the_spread_over_other_samples(complete: bool) -> None:
    truth = np.array([0.0, 1.0, -0.5, 0.3])
    query, found, said = [Query.from_text("new", "?")], [], []
    for seed in range(80):
        chance = np.random.default_rng(seed).random((120, 4)) < 1 / (1 + np.exp(-truth))
        records = records_of(chance.astype(float)) if complete else duels(truth, 240, seed)
        router = BradleyTerry().fit(records)
        share = ranking.win_share(router.strengths_)
        found.append(share)
        said.append(ranking.win_share_error(router.strengths_, router.covariance_))
        assert router.predict(query).error is not None
    ratio = np.mean(said, axis=0) / np.std(found, axis=0)
    assert ((ratio > 0.75) & (ratio < 1.33)).all(), ratio


def test_elo_errors_shrink_with_more_duels() -> None:
    truth = np.array([0.0, 1.0])
    few, many = (Elo(k=4).fit(duels(truth, n)).predict(_one()).error for n in (60, 2000))
    assert few is not None
    assert many is not None
    assert (many < few).all()


def _one() -> list[Query]:
    return [Query.from_text("new", "What is 2 plus 3?")]


@pytest.mark.parametrize("make", [P2L, SimilarityWeighted])
def test_the_query_decides_who_is_better(make: Callable[[], Router]) -> None:
    train, test = make_records(90), make_records(30, seed=1)
    quality = make().fit(train).predict(test.queries).quality
    chosen = np.take_along_axis(test.quality, quality.argmax(axis=1)[:, None], axis=1)
    assert chosen.mean() == 1.0  # the best single expert has 0.5


@any_router
def test_preferences_alone_are_enough(make: Callable[[], Router]) -> None:
    records = duels(np.array([0.0, 2.0, -2.0]), 300)
    estimates = make().fit(records).predict(records.queries[:3])
    assert (estimates.quality.argsort(axis=1) == [2, 0, 1]).all()
    assert estimates.error is not None
    assert ((estimates.error > 0) & (estimates.error < 0.2)).all()


@any_router
def test_quality_is_on_the_scale_of_the_scores(make: Callable[[], Router]) -> None:
    generator = np.random.default_rng(0)
    scores = 0.3 + 0.2 * (generator.random((300, 3)) < [0.8, 0.5, 0.2])
    quality = make().fit(records_of(scores)).predict(_one()).quality[0]
    np.testing.assert_allclose(quality, [0.46, 0.40, 0.34], atol=0.02)


def test_the_scale_is_learnt_within_queries() -> None:
    share = np.array([[0.7, 0.3], [0.6, 0.4], [0.3, 0.7]])
    difficulty = np.array([[0.5], [0.2], [0.7]])
    scale = ranking.fit_scale(share, difficulty + 0.3 * share)
    assert scale.slope == pytest.approx(0.3)
    assert scale.quality(np.array([0.5])) == pytest.approx(difficulty.mean() + 0.15)
    assert ranking.fit_scale(share, 1 - share).slope == 1.0


@any_router
def test_an_expert_without_records_is_unsure(make: Callable[[], Router]) -> None:
    records = make_records(60)
    quality = records.quality.copy()
    quality[:, 0] = np.nan
    error = make().fit(with_quality(records, quality)).predict(records.queries).error
    assert error is not None
    if make is not Elo:  # bootstrap orders know nothing of an expert that never played
        assert (error[:, 0] > 1.5 * error[:, 1:].max(axis=1)).all()


def test_weights_in_the_similarity_are_the_published_ones() -> None:
    records = records_of(np.array([[1.0, 0.0]] * 3))
    router = SimilarityWeighted(base=10).fit(records)
    weights = router._weigh(np.array([[0.8, 0.4, -0.3]]))
    np.testing.assert_allclose(10 * weights[0], [10, 10**0.5, 1])  # 10 * 10**(sim / max), over ten


def test_a_weight_of_three_is_three_rows() -> None:
    scores = np.random.default_rng(0).random((4, 3))
    weighted = ranking.tally(scores, weights=np.array([[3, 1, 0, 2.0]]))
    repeated = ranking.tally(scores[[0, 0, 0, 1, 3, 3]])
    np.testing.assert_allclose(weighted.won[0], repeated.won)
    np.testing.assert_allclose(weighted.played[0], repeated.played)


def test_problems_side_by_side_are_solved_as_on_their_own() -> None:
    scores = np.random.default_rng(1).random((30, 4))
    weights = np.random.default_rng(2).random((5, 30))
    together, _ = ranking.fit_strengths(ranking.tally(scores, weights=weights), 0.1)
    for row, mass in enumerate(weights):
        alone, _ = ranking.fit_strengths(ranking.tally(scores, weights=mass[None]), 0.1)
        np.testing.assert_allclose(alone[0], together[row], atol=1e-9)


def test_only_the_nearest_count_where_a_number_is_given() -> None:
    router = SimilarityWeighted(base=100, nearest=2).fit(records_of(np.array([[1.0, 0.0]] * 4)))
    weights = router._weigh(np.array([[0.1, 0.9, 0.3, 0.6]]))
    np.testing.assert_array_equal(weights[0] > 0, [False, True, False, True])


def test_the_base_is_large_only_where_similar_queries_tell_something() -> None:
    noise = (np.random.default_rng(0).random((48, 4)) < 0.5).astype(float)
    assert SimilarityWeighted().fit(make_records()).base_ > 100
    assert SimilarityWeighted().fit(with_quality(make_records(), noise)).base_ == 10


def test_a_repeated_text_does_not_vouch_for_itself() -> None:
    generator = np.random.default_rng(0)
    words = ["".join(generator.choice(list("abdegilmnorst"), 6)) for _ in range(40)]
    luck = (generator.random((40, 3)) < 0.5).astype(float)  # no pattern, but the same again
    records = records_of(np.tile(luck, (5, 1)), words * 5)
    assert SimilarityWeighted().fit(records).base_ == 10


def test_the_plainest_of_choices_that_cannot_be_told_apart_wins() -> None:
    noise = np.random.default_rng(0).standard_normal(50)
    assert ranking.plainest(np.array([noise + 1, noise[::-1], noise])) == 1
    assert ranking.plainest(np.array([noise + 0.1, noise])) == 1


def test_p2l_is_nearly_always_global_where_the_text_tells_nothing() -> None:
    chosen = []
    for seed in range(6):
        generator = np.random.default_rng(seed)
        noise = (generator.random((200, 4)) < [0.8, 0.5, 0.4, 0.2]).astype(float)
        records = with_quality(make_records(200), noise)
        router = P2L().fit(records)
        chosen.append(router.penalty_)
    assert np.mean(np.array(chosen) >= 1000) > 0.8
    flat = BradleyTerry().fit(records).predict(records.queries).quality
    np.testing.assert_allclose(router.predict(records.queries).quality, flat, atol=0.02)


def test_the_map_of_p2l_is_where_the_penalised_likelihood_is_flat() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((80, 3))
    vectors -= vectors.mean(axis=0)
    scores = np.where(generator.random((80, 4)) < 0.3, np.nan, generator.random((80, 4)))
    problem = ranking.Conditional(vectors, scores, ridge=0.1)
    weights = problem.maximise(2.0)
    _, directions = problem.loss(weights)
    np.testing.assert_allclose(vectors.T @ directions, 2.0 * weights, atol=1e-4)


def test_equal_texts_stay_in_one_fold() -> None:
    texts = [f"text {row % 9}" for row in range(40)]
    folds = _folds_by_text(texts, 3, seed=0)
    assert sorted(np.concatenate(folds).tolist()) == list(range(40))
    assert all(len({texts[i] for i in f} & {texts[i] for i in g}) == 0 for f, g in [folds[:2]])
    assert _folds_by_text(texts[:5], 3, seed=0) == []


@pytest.mark.parametrize("make", [P2L, SimilarityWeighted])
def test_estimates_away_from_the_records_are_less_sure(make: Callable[[], Router]) -> None:
    generator = np.random.default_rng(0)
    texts = [f"What is {row} plus {row + 2}?" for row in range(60)]
    scores = (generator.random((60, 3)) < [0.7, 0.5, 0.3]).astype(float)
    few = make().fit(records_of(scores[:12], texts[:12])).predict(_one()).error
    many = make().fit(records_of(scores, texts)).predict(_one()).error
    assert few is not None
    assert many is not None
    assert (many < few).all()


@any_router
def test_costs_are_the_means_of_what_was_seen(make: Callable[[], Router]) -> None:
    records = make_records(12)
    cost = records.cost.copy()
    cost[::2, 3] = np.nan
    estimates = make().fit(replace(records, cost=cost)).predict(records.queries[:2])
    np.testing.assert_allclose(estimates.cost, [[1, 1, 1, 4]] * 2)


@pytest.mark.parametrize(
    ("router", "field"),
    [
        (Elo(k=0), "k, orders"),
        (Elo(orders=1), "k, orders"),
        (BradleyTerry(ridge=0), "ridge"),
        (P2L(ridge=-1), "ridge"),
        (SimilarityWeighted(base=0.5), "base, nearest"),
        (SimilarityWeighted(nearest=0), "base, nearest"),
    ],
)
def test_settings_that_make_no_sense_are_refused(router: Router, field: str) -> None:
    with pytest.raises(InputError, match=f"field '{field}': expected"):
        router.fit(make_records())


def test_a_saved_ranking_keeps_its_ratings(tmp_path: Path) -> None:
    router = BradleyTerry().fit(make_records())
    router.save(tmp_path / "router")
    assert BradleyTerry.load(tmp_path / "router").ratings == router.ratings
