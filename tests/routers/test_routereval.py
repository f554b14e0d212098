import itertools

import numpy as np
import pytest

from coterie.errors import InputError
from coterie.metrics.routereval import classification_bias, mu
from coterie.routers.routereval import (
    Baseline,
    RouterEvalCluster,
    RouterEvalKNN,
    RouterEvalLinear,
    RouterEvalMLC,
    RouterEvalMLP,
)
from coterie.routers.routereval_chances import cluster_chances, relu_chances, softmax_chances
from coterie.routers.routereval_nets import (
    Training,
    _backward,
    _slope,
    _start,
    cosine,
    layers_of,
    logits,
    train,
    warm_up,
)
from coterie.testing import make_records, with_quality
from coterie.types import FloatArray

RECORDS, NEW = make_records(60), make_records(40, seed=7)
SCORES = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]], float)
MEANS = np.array([[0.8, 0.4, 0.2], [0.2, 1, 0.4], [0.6, 0.6, 0], [0.4, 0.2, 0.2]])


@pytest.mark.parametrize(
    "router",
    [
        RouterEvalLinear(),
        RouterEvalLinear("published"),
        RouterEvalMLP(),
        RouterEvalMLC(),
        RouterEvalCluster(),
        RouterEvalKNN(),
    ],
    ids=lambda r: f"{r.name} {getattr(r, 'variant', '')}",
)
def test_topics_go_to_their_specialists(router: Baseline) -> None:
    estimates = router.fit(RECORDS).predict(NEW.queries)
    chosen = [estimates.experts[j] for j in estimates.quality.argmax(axis=1)]
    assert chosen == list(NEW.categories)


def test_the_published_settings_are_routerevals() -> None:
    linear, mlp, mlc = (r.published for r in (RouterEvalLinear, RouterEvalMLP, RouterEvalMLC))
    assert (linear.epochs, linear.batch_size, linear.rate, linear.schedule) == (
        10,
        1,
        0.01,
        "cosine",
    )
    assert (mlp.epochs, mlp.batch_size, mlp.rate, mlp.hidden) == (100, 1, 1e-4, (256, 256))
    assert (mlc.epochs, mlc.batch_size, mlc.decay, mlc.schedule) == (10, 10, 0.01, "warm-up")
    assert (RouterEvalCluster().clusters, RouterEvalKNN().k) == (3, 5)


def test_minibatches_grow_with_the_queries() -> None:
    batch = RouterEvalMLP.minibatch.batch
    assert [batch(n) for n in (1, 640, 6400, 10**6)] == [8, 10, 100, 256]


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(InputError, match="expected one of minibatch, published, got 'quick'"):
        RouterEvalMLP("quick").fit(RECORDS)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_gradients_are_those_of_finite_differences(activation: str) -> None:
    generator, sizes = np.random.default_rng(0), (4, 5, 3)
    inputs = generator.normal(size=(6, 4)).astype(np.float32)
    targets = generator.random((6, 3)).astype(np.float32)
    targets[0, 1] = np.nan
    flat = _start(sizes, generator) + generator.normal(0, 0.3, 43).astype(np.float32)
    gradient = np.zeros_like(flat)
    views = layers_of(flat, sizes), layers_of(gradient, sizes)
    _backward(*views, inputs, targets, activation, _slope(activation))

    def loss(parameters: FloatArray) -> float:
        odds = logits(inputs, layers_of(parameters, sizes), activation)
        cells = np.logaddexp(0, odds) - targets * odds
        return float(np.nansum(cells) / targets.size)

    exact = flat.astype(float)
    steps = 1e-6 * np.eye(len(flat))
    numeric = [(loss(exact + step) - loss(exact - step)) / 2e-6 for step in steps]
    np.testing.assert_allclose(gradient, numeric, atol=1e-5)


def test_training_finds_the_frequency_of_success() -> None:
    targets = np.tile([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0, 0.0]], (50, 1))
    vectors = np.zeros((200, 3))
    parameters = train(vectors, targets, Training(60, 8, 0.01, "cosine"), seed=0)
    odds = logits(vectors[:1], layers_of(parameters, (3, 2)), "relu")
    np.testing.assert_allclose(1 / (1 + np.exp(-odds)), [[0.75, 0.25]], atol=0.05)


def test_schedules_rise_and_fall() -> None:
    assert [round(cosine(step, 4), 3) for step in range(5)] == [1.0, 0.854, 0.5, 0.146, 0.0]
    assert [warm_up(step, 2000) for step in (0, 499, 500, 1250)] == [0.002, 1.0, 1.0, 0.5]
    assert [warm_up(step, 4) for step in range(4)] == [0.5, 1.0, 1.0, 0.5]


def test_an_expert_never_observed_is_never_chosen() -> None:
    quality = RECORDS.quality.copy()
    quality[:, 3] = np.nan
    for router in (RouterEvalLinear(), RouterEvalMLP(), RouterEvalMLC(), RouterEvalKNN()):
        estimates = router.fit(with_quality(RECORDS, quality)).predict(NEW.queries)
        assert estimates.quality[:, 3].max() < 1e-9


def test_a_neighbours_mean_is_over_exactly_the_nearest() -> None:
    generator = np.random.default_rng(0)
    vectors, scores = generator.normal(size=(30, 8)), generator.random((30, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    router = RouterEvalKNN(k=4).learn(vectors[5:], scores[5:])
    nearest = np.argsort(-(vectors[:5] @ vectors[5:].T), axis=1)[:, :4]
    wanted = [scores[5:][rows].mean(axis=0) for rows in nearest]
    np.testing.assert_allclose(router.expect(vectors[:5]), wanted)


def test_ties_between_neighbours_go_to_the_earlier_query() -> None:
    vectors, scores = np.tile([[1.0, 0.0]], (6, 1)), np.arange(6.0)[:, None] / 10
    router = RouterEvalKNN(k=2).learn(vectors, scores)
    assert router.expect(vectors[:1]).item() == pytest.approx(0.05)


def test_a_cluster_expects_the_mean_of_its_members() -> None:
    vectors = np.repeat(np.eye(3), 4, axis=0)
    scores = np.random.default_rng(1).random((12, 2))
    router = RouterEvalCluster().learn(vectors, scores)
    wanted = scores.reshape(3, 4, 2).mean(axis=1)
    np.testing.assert_allclose(router.expect(np.eye(3)), wanted)


@pytest.mark.parametrize(
    ("router", "field"), [(RouterEvalKNN(k=0), "k"), (RouterEvalCluster(clusters=0), "clusters")]
)
def test_nothing_to_average_is_refused(router: Baseline, field: str) -> None:
    with pytest.raises(InputError, match=f"'{field}': expected at least 1, got 0"):
        router.fit(RECORDS)


def test_chances_of_neighbours_have_the_published_entropy() -> None:
    assert MEANS.argmax(axis=1).tolist() == [0, 1, 0, 0]
    assert mu(SCORES, MEANS.argmax(axis=1)) == 0.75
    assert classification_bias(softmax_chances(MEANS)) == pytest.approx(1.537208, abs=1e-6)


def test_chances_of_the_multi_label_classifier_keep_its_artefact() -> None:
    chances = relu_chances(np.array([[3.0, 1.0, -2.0], [-1.0, -2.0, -3.0], [1.0, 5e-5, 0.0]]))
    assert chances[:2].tolist() == [[0.75, 0.25, 0.0], [0.0, 0.0, 0.0]]
    assert chances[2].tolist() == [pytest.approx(1.0, abs=1e-4), 0.0, 0.0]
    assert classification_bias(chances[1:2]) == 0.0


def test_chances_of_clusters_add_up_by_their_best_expert() -> None:
    quality = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    chances = cluster_chances(np.array([[1.0, 2.0, 4.0]]), quality)
    np.testing.assert_allclose(chances, [[5 / 7, 2 / 7]])


def test_every_baseline_gives_chances_that_add_up() -> None:
    generator = np.random.default_rng(0)
    vectors, scores = generator.normal(size=(40, 6)), generator.random((40, 3)) < 0.7
    kinds = (RouterEvalLinear, RouterEvalMLP, RouterEvalMLC, RouterEvalCluster, RouterEvalKNN)
    for kind, rows in itertools.product(kinds, (1, 40)):
        chances = kind().learn(vectors, scores.astype(float)).chances(vectors[:rows])
        assert chances.shape == (rows, 3)
        np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-3)
