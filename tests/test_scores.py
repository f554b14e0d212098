"""Selections from score arrays: the papers' formulas, limits, and what permutations change."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import InputError
from coterie.policies import Recruit
from coterie.policies.scores import (
    Selection,
    entropy_switch,
    rank_k,
    ranking,
    softmax,
    top_k,
    top_p,
    tsallis,
    with_prior,
)
from coterie.types import Estimates, FloatArray, Query

SEEDS = st.integers(0, 10_000)


def logits(seed: int, *shape: int) -> FloatArray:
    return np.random.default_rng(seed).normal(size=shape or (4, 6)) * 2


def dynamic_moe(scores: FloatArray, p: float) -> FloatArray:
    """Dynamic_MoE's rule, one row after the other: kept while the sum before is not above p."""
    shares, kept = softmax(scores), np.zeros_like(scores)
    for row, chances in zip(kept, shares, strict=True):
        total = 0.0
        for expert in np.argsort(-chances):
            row[expert] = chances[expert]
            total += chances[expert]
            if total > p:
                break
    return kept


@settings(deadline=None)
@given(SEEDS, st.floats(0, 1))
def test_top_p_is_the_rule_of_dynamic_moe_with_raw_weights(seed: int, p: float) -> None:
    scores = logits(seed)
    np.testing.assert_array_equal(top_p(scores, p).spread(6), dynamic_moe(scores, p))


def test_a_share_that_only_reaches_p_is_not_enough() -> None:
    even = np.zeros((1, 4))
    assert top_p(even, 0.5).counts(4).tolist() == [3]
    assert top_p(even, 0.0).counts(4).tolist() == [1]
    assert top_p(even, 1.0).counts(4).tolist() == [4]


@settings(deadline=None)
@given(SEEDS, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_p_never_selects_fewer(seed: int, one: float, other: float) -> None:
    few, many = (top_p(logits(seed), p).counts(6) for p in sorted((one, other)))
    assert (few <= many).all()


def test_top_k_weights_are_raw_or_sum_to_one() -> None:
    scores = np.log([[0.5, 0.3, 0.2]])
    np.testing.assert_allclose(top_k(scores, 2, renormalise=False).weights, [[0.5, 0.3]])
    np.testing.assert_allclose(top_k(scores, 2).weights, [[0.625, 0.375]])
    assert top_k(scores, 9).experts.tolist() == [[0, 1, 2]]


def test_rank_k_is_one_expert_with_all_the_weight_or_its_share() -> None:
    scores = np.log([[0.2, 0.5, 0.3]])
    assert rank_k(scores, 3).experts.tolist() == [[0]]
    assert rank_k(scores, 3).weights.tolist() == [[1.0]]
    np.testing.assert_allclose(rank_k(scores, 3, renormalise=False).weights, [[0.2]])
    with pytest.raises(InputError, match="at most the 3 experts, got 4"):
        rank_k(scores, 4)


@settings(deadline=None)
@given(SEEDS)
def test_tsallis_entropy_tends_to_shannons(seed: int) -> None:
    shares = softmax(logits(seed))
    shannon = -(shares * np.log(shares)).sum(axis=-1)
    np.testing.assert_allclose(tsallis(shares, 1.0), shannon)
    for q in (1 - 1e-9, 1 + 1e-9):
        np.testing.assert_allclose(tsallis(shares, q), shannon, rtol=1e-7)
    np.testing.assert_allclose(tsallis(shares, 1.1), (1 - (shares**1.1).sum(axis=-1)) / 0.1)


@pytest.mark.parametrize("q", [0.5, 1.0, 1.1, 2.0])
def test_entropy_is_none_for_one_expert_and_largest_for_all_alike(q: float) -> None:
    assert tsallis(np.eye(4), q).tolist() == [0.0] * 4
    alike = tsallis(np.full(6, 1 / 6), q)
    assert (tsallis(softmax(logits(1)), q) < alike).all()


def test_the_largest_entropies_of_dynmole_are_the_published_ones() -> None:
    largest = [tsallis(np.full(n, 1 / n), 1.1).item() for n in (4, 8)]
    assert [round(h, 2) for h in largest] == [1.29, 1.88]


def test_an_unsure_router_takes_everyone_and_a_sure_one_top_p_but_two() -> None:
    scores = np.array([[0.0, 0.1, 0.0, 0.1], [9.0, 0.0, 0.0, 0.0]])
    chosen = entropy_switch(scores)
    assert chosen.counts(4).tolist() == [4, 2]
    np.testing.assert_allclose(chosen.weights.sum(axis=-1), 1.0)
    np.testing.assert_allclose(chosen.spread(4)[0], softmax(scores)[0])


@settings(deadline=None)
@given(SEEDS, st.floats(0.01, 1))
def test_the_thresholds_of_the_switch_have_their_limits(seed: int, p: float) -> None:
    scores = logits(seed)
    np.testing.assert_allclose(entropy_switch(scores, 0.0).spread(6), softmax(scores))
    sure = entropy_switch(scores, float("inf"), p=p, k=2).counts(6)
    np.testing.assert_array_equal(sure, np.maximum(top_p(scores, p).counts(6), 2))


def test_a_normalised_threshold_means_the_same_for_any_number_of_experts() -> None:
    even = [np.zeros((1, n)) for n in (2, 30)]
    assert [entropy_switch(s, 0.99, normalise=True).counts(s.size).item() for s in even] == [2, 30]
    assert [entropy_switch(s, 1.01, normalise=True).counts(s.size).item() for s in even] == [2, 23]


@settings(deadline=None)
@given(SEEDS)
def test_a_prior_of_scale_zero_changes_nothing(seed: int) -> None:
    scores = logits(seed)
    np.testing.assert_array_equal(with_prior(scores, logits(seed + 1, 6), 0.0), scores)


@settings(deadline=None)
@given(SEEDS)
def test_a_prior_of_infinite_scale_is_request_routing(seed: int) -> None:
    scores, prior = logits(seed, 5, 6), logits(seed + 1, 6)
    guided = with_prior(scores, prior, float("inf"))
    np.testing.assert_array_equal(ranking(guided), np.tile(ranking(prior), (5, 1)))
    assert (top_k(guided, 2).spread(6) == np.eye(6)[prior.argmax()]).all()


@settings(deadline=None)
@given(SEEDS)
def test_a_large_scale_comes_to_the_infinite_one(seed: int) -> None:
    scores, prior = logits(seed), np.array([0.2, 0.9, 0.9, 0.1, 0.5, 0.9])
    large, limit = (softmax(with_prior(scores, prior, s)) for s in (1e4, float("inf")))
    np.testing.assert_allclose(large, limit, atol=1e-9)
    np.testing.assert_allclose(limit[:, [1, 2, 5]], softmax(scores[:, [1, 2, 5]]))


def test_a_prior_is_added_to_every_row() -> None:
    tokens, request = logits(3, 2, 5, 4), logits(4, 2, 1, 4)
    np.testing.assert_allclose(with_prior(tokens, request, 3.0), tokens + 3.0 * request)


@settings(deadline=None)
@given(SEEDS, st.permutations(range(6)))
def test_the_order_of_experts_does_not_matter(seed: int, order: list[int]) -> None:
    scores = logits(seed)
    rules: list[Callable[[FloatArray], Selection]] = [
        lambda s: top_k(s, 3),
        lambda s: top_p(s, 0.6),
        lambda s: rank_k(s, 2),
        lambda s: entropy_switch(s, 1.0),
    ]
    for select in rules:
        whole, turned = select(scores), select(scores[:, order])
        np.testing.assert_allclose(whole.spread(6)[:, order], turned.spread(6))


def test_what_was_not_selected_is_padded_with_the_number_of_experts() -> None:
    chosen = top_p(np.array([[9.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), 0.5, "token")
    assert chosen.experts.tolist() == [[0, 3], [0, 1]]
    assert chosen.weights[0, 1] == 0
    assert chosen.scope == "token"


def test_experts_that_are_ruled_out_are_never_selected() -> None:
    scores = np.array([[1.0, -np.inf, 0.0]])
    for chosen in (top_k(scores, 3), top_p(scores, 1.0), entropy_switch(scores, 0.0)):
        assert chosen.experts.tolist() == [[0, 2]]


@pytest.mark.parametrize("scores", [[[np.nan, 1.0]], [[-np.inf, -np.inf]], [[]], 1.0])
def test_scores_that_rank_nobody_are_refused(scores: object) -> None:
    with pytest.raises(InputError):
        top_k(np.asarray(scores, float), 1)


def test_a_selection_is_frozen() -> None:
    chosen = Selection(np.array([[0]]), np.array([[1.0]]))
    with pytest.raises(AttributeError):
        chosen.scope = "token"  # type: ignore[misc]


def test_requests_are_selected_by_the_same_rules() -> None:
    quality = np.random.default_rng(0).random((20, 5))
    queries = [Query.from_text(str(i), "?") for i in range(20)]
    estimates = Estimates(tuple("abcde"), quality, np.zeros_like(quality))
    for policy, chosen in (
        (Recruit(3), top_k(quality, 3)),
        (Recruit(5, "top-p", p=0.6), top_p(quality / 0.5, 0.6)),
    ):
        recruited = [[*d.experts] for d in policy.decide(queries, estimates)]
        assert recruited == [["abcde"[j] for j in row if j < 5] for row in chosen.experts]
