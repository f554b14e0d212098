"""Smoothie: quality from agreement alone, where its assumption holds and where it does not."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.aggregators import Agreeing, Majority
from coterie.agreement import pair_distances, truth_distances
from coterie.answers import number
from coterie.errors import InputError
from coterie.records import Records
from coterie.routers.smoothie import Smoothie
from coterie.testing import make_records
from coterie.types import Completion, FloatArray, Query

SEEDS = st.integers(0, 10_000)


def released(vectors: FloatArray) -> FloatArray:
    """Smoothie's triplets written out: (samples, experts, dim) to (experts,)."""
    count = vectors.shape[1]
    mean = np.square(vectors[:, :, None] - vectors[:, None]).sum(axis=-1).mean(axis=0)
    apart = []
    for i in range(count):
        rest = [j for j in range(count) if j != i]
        pairs = [(j, k) for j in rest for k in rest if j < k]
        apart.append(np.mean([(mean[i, j] + mean[i, k] - mean[j, k]) / 2 for j, k in pairs]))
    return np.array(apart)


@settings(deadline=None)
@given(SEEDS, st.integers(3, 7))
def test_the_closed_form_is_the_mean_over_all_triplets(seed: int, experts: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(9, experts, 4))
    ours = truth_distances(pair_distances(vectors).mean(axis=0))
    np.testing.assert_allclose(ours, released(vectors))


def test_independent_errors_are_recovered() -> None:
    generator = np.random.default_rng(0)
    noise = np.array([0.2, 0.5, 1.0, 1.5])
    truth = generator.normal(size=(4000, 1, 8))
    vectors = truth + generator.normal(size=(4000, 4, 8)) * noise[:, None]
    apart = truth_distances(pair_distances(vectors).mean(axis=0))
    np.testing.assert_allclose(apart, 8 * noise**2, rtol=0.1, atol=0.1)


def test_experts_that_copy_each_other_look_right() -> None:
    generator = np.random.default_rng(0)
    truth, shared = generator.normal(size=(2, 4000, 8))
    good = [truth + 0.5 * generator.normal(size=(4000, 8)) for _ in range(2)]
    copies = [truth + shared + 0.01 * generator.normal(size=(4000, 8)) for _ in range(3)]
    apart = truth_distances(pair_distances(np.stack([*good, *copies], axis=1)).mean(axis=0))
    assert apart[2:].max() < apart[:2].min()


@settings(deadline=None)
@given(SEEDS, st.permutations(range(5)))
def test_the_order_of_experts_does_not_matter(seed: int, order: list[int]) -> None:
    pairs = pair_distances(np.random.default_rng(seed).normal(size=(5, 3)))
    turned = truth_distances(pairs[np.ix_(order, order)])
    np.testing.assert_allclose(turned, truth_distances(pairs)[order])


def test_pairs_that_were_never_seen_count_as_usual_and_two_experts_are_too_few() -> None:
    whole = np.full((4, 4), 2.0)
    holes = whole.copy()
    holes[0, 1] = holes[1, 0] = np.nan
    np.testing.assert_allclose(truth_distances(holes), truth_distances(whole))
    with pytest.raises(InputError, match="at least 3 experts to compare, got 2"):
        truth_distances(np.zeros((2, 2)))


WORDS = ("copper", "violin", "harbour", "lemon", "granite", "penguin", "lantern", "saddle")
SKILLS = {"metal": (0.9, 0.2, 0.5, 0.5), "music": (0.2, 0.9, 0.5, 0.5)}


def planted(seed: int, queries: int = 160, lies: bool = False) -> Records:
    """Two topics, four experts of different skill in each; wrong answers are any other word.

    With ``lies`` all wrong experts agree on one wrong word, against the assumption.
    """
    generator = np.random.default_rng(seed)
    made, texts, right = [], [], []
    for row in range(queries):
        topic = ("metal", "music")[row % 2]
        made.append(Query.from_text(f"q{row}", f"A question of {topic}, number {row}"))
        words = generator.permutation(WORDS)
        known = generator.random(4) < SKILLS[topic]
        wrong = [words[1]] * 4 if lies else list(generator.choice(words[1:], 4))
        texts.append([words[0] if k else w for k, w in zip(known, wrong, strict=True)])
        right.append(known)
    return Records(
        tuple(made), ("ann", "bob", "cid", "dan"), quality=np.array(right, float),
        cost=np.ones((queries, 4)), texts=np.array(texts, object),
    )  # fmt: skip


def chosen(router: Smoothie, records: Records) -> float:
    """Mean score of the router's choices."""
    picked = router.predict(records.queries).quality.argmax(axis=1)
    return float(records.quality[np.arange(len(records)), picked].mean())


def test_agreement_finds_the_better_expert_of_each_topic_without_labels() -> None:
    training, test = planted(0), planted(1)
    unlabelled = replace(training, quality=np.full(training.quality.shape, np.nan))
    local, everywhere = (Smoothie(k).fit(unlabelled) for k in (30, None))
    best_single = test.quality.mean(axis=0).max()
    assert chosen(local, test) > max(chosen(everywhere, test), best_single) + 0.15


def test_agreement_misleads_where_wrong_experts_agree() -> None:
    skills = planted(0, lies=True).quality.mean(axis=0)
    assert skills.max() < 0.7
    honest, lying = (
        chosen(Smoothie(30).fit(planted(0, lies=x)), planted(1)) for x in (False, True)
    )
    assert lying < honest - 0.05


def test_answers_without_relation_to_each_other_give_no_ranking() -> None:
    training, generator = planted(0), np.random.default_rng(5)
    shuffled = np.array([generator.permutation(column) for column in training.texts.T]).T
    quality = (
        Smoothie(None).fit(replace(training, texts=shuffled)).predict(training.queries).quality
    )
    assert np.ptp(quality, axis=1).max() < 0.1


def test_records_without_answers_teach_nothing() -> None:
    records = make_records()
    with pytest.raises(InputError, match="recorded answers of 3 experts"):
        Smoothie().fit(replace(records, texts=np.full(records.quality.shape, None, object)))
    with pytest.raises(InputError, match="recorded answers of 3 experts"):
        Smoothie().fit(records.select(records.experts[:2]))
    with pytest.raises(InputError, match="at least 1, got 0"):
        Smoothie(0).fit(records)


def test_the_answer_nearest_to_the_others_is_taken() -> None:
    said = [Completion("a", "granite"), Completion("b", "a lemon"), Completion("c", "lemon")]
    assert Agreeing()(Query.from_text("q", "?"), said, (1.0,) * 3, 0).text != "granite"
    numbers = [Completion(e, t) for e, t in (("a", "12"), ("b", "so 95"), ("c", "it is 95"))]
    assert Agreeing(number)(Query.from_text("q", "?"), numbers, (1.0,) * 3, 0).expert == "b"


def test_two_answers_cannot_be_told_apart_and_none_is_a_failure() -> None:
    query, failed = Query.from_text("q", "?"), Completion("c", error="broken")
    two = [Completion("a", "x"), Completion("b", "y"), failed]
    assert Agreeing()(query, two, (1.0,) * 3, 0) == Majority()(query, two, (1.0,) * 3, 0)
    assert Agreeing()(query, [failed], (1.0,), 0).failed
