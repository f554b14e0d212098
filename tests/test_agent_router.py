"""AgentRouter: soft labels, what becomes of them, and the graph in a world made for it."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from coterie.aggregators import Fusion
from coterie.errors import CoterieError, InputError
from coterie.records import Records
from coterie.routers.agent_graph import AgentGraph, Facts, Graph, entities
from coterie.routers.base import Router
from coterie.routers.linear import with_intercept
from coterie.routers.soft_labels import (
    SoftLabels,
    Targets,
    as_quality,
    cross_entropy,
    masked_softmax,
    soft_labels,
    solve_soft,
)
from coterie.testing import ROUTER_CHECKS, MakeRouter, make_records
from coterie.types import Completion, FloatArray, Query

GRAPH = pytest.mark.skipif(
    importlib.util.find_spec("torch_geometric") is None,
    reason="the extra graph is not installed",
)
SCORES = st.lists(st.floats(0, 1).map(lambda q: round(q, 2)), min_size=2, max_size=6)


@settings(deadline=None)
@given(SCORES, st.floats(0.05, 5))
def test_soft_labels_are_the_softmax_of_the_observed_scores(
    scores: list[float], temperature: float
) -> None:
    weights = np.exp(np.array(scores) / temperature)
    labels = soft_labels(np.array([[*scores, np.nan]]), temperature)[0]
    np.testing.assert_allclose(labels[:-1], weights / weights.sum())
    assert labels[-1] == 0


def test_the_limits_of_the_temperature_are_the_best_experts_and_all_of_them() -> None:
    scores = np.array([[1.0, 1.0, 0.0, np.nan], [0.2, 0.4, 0.3, 0.1]])
    cold, hot = soft_labels(scores, 1e-5), soft_labels(scores, 1e9)
    np.testing.assert_allclose(cold, [[0.5, 0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    third, quarter = 1 / 3, 1 / 4
    np.testing.assert_allclose(hot, [[third, third, third, 0.0], [quarter] * 4])
    assert soft_labels(np.full((1, 3), np.nan), 0.1).tolist() == [[0.0] * 3]


def test_the_head_is_the_minimiser_that_a_general_solver_finds() -> None:
    generator = np.random.default_rng(0)
    vectors, quality = generator.normal(size=(40, 3)), generator.random((40, 4))
    quality[generator.random(quality.shape) < 0.2] = np.nan
    targets, shape = Targets.of(quality, 0.2), (4, 4)
    centre = with_intercept(vectors - vectors.mean(axis=0))

    def objective(flat: FloatArray) -> float:
        weights = flat.reshape(shape)
        penalty = 0.7 * np.square(weights[:-1]).sum() / 2
        return cross_entropy(centre @ weights, targets) + float(penalty)

    (ours,) = solve_soft(vectors, targets, [0.7])
    found = minimize(objective, np.zeros(16), method="BFGS")
    moved = np.vstack([ours[:-1], ours[-1] + vectors.mean(axis=0) @ ours[:-1]])
    assert objective(moved.ravel()) == pytest.approx(found.fun, abs=1e-5)


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 0.3))
def test_the_fusion_gives_the_distribution_back(seed: int, temperature: float) -> None:
    logits = np.random.default_rng(seed).uniform(0, 1, (3, 4)) / temperature
    quality = as_quality(logits, np.array([[0.0], [0.5], [1.0]]), temperature)
    assert (quality >= 0).all()
    assert (quality <= 1).all()
    shares = masked_softmax(quality / temperature, np.ones(quality.shape, bool))
    np.testing.assert_allclose(shares, masked_softmax(logits, np.ones(logits.shape, bool)))


def test_a_question_goes_to_the_expert_of_its_topic_and_the_fusion_believes_it() -> None:
    records = make_records(60)
    estimates = SoftLabels(encoder="lexical").fit(records).predict(records.queries)
    chosen = estimates.quality.argmax(axis=1)
    assert records.quality[np.arange(60), chosen].mean() == 1.0
    said = [
        Completion(e, t) for e, t in zip(records.experts, ("yes", "no", "no", "no"), strict=True)
    ]
    first = Fusion()(records.queries[0], said, [*estimates.quality[0].tolist()], 0)
    assert (records.queries[0].category, first.text) == ("sums", "yes")


def test_a_temperature_of_zero_is_refused() -> None:
    for router in (SoftLabels(0.0), SoftLabels(penalty=-1.0), AgentGraph(0.0)):
        with pytest.raises(InputError, match="a number above 0"):
            router.fit(make_records())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Where did Marie Curie, born in Warsaw, work?", ["marie curie", "warsaw"]),
        ("What is 37 plus 58?", []),
        ("Is it in Paris? Paris is large.", ["paris"]),
        ("Who wrote “The Waves”?", ["the waves"]),
        ("the Bank of England", ["bank of england"]),
        ("", []),
    ],
)
def test_entities_are_names_and_quotations(text: str, names: list[str]) -> None:
    assert entities(text) == names


def test_what_stands_on_an_edge_in_training_comes_from_other_folds() -> None:
    records = planted(0, 40)
    graph = Graph.of([q.text for q in records.queries], SoftLabels().fit(records).encoder_)
    part, rest = np.arange(10), np.arange(10, 40)
    gains = records.quality - records.quality.mean(axis=1, keepdims=True)
    ours = Facts.of(graph, gains).less(Facts.of(graph.take(part), gains[part]))
    wanted = Facts.of(graph.take(rest), gains[rest])
    np.testing.assert_allclose(ours.edges(graph.names), wanted.edges(graph.names), atol=1e-12)
    np.testing.assert_allclose(ours.profile, wanted.profile, atol=1e-12)


STARTS = ("Al", "Bo", "Cas", "Dun", "El", "Fen", "Gal", "Hes")
ENDS = ("dera", "vento", "trin", "more", "vany", "wick")
PLACES = [start + end for start in STARTS for end in ENDS]
WORDS = ("river", "paper", "stone", "window", "garden", "market", "silver", "winter", "table",
    "music", "letter", "forest", "animal", "number", "colour", "engine", "bridge", "bottle",
    "summer", "castle", "doctor", "flower", "island", "kitchen")  # fmt: skip


def planted(seed: int, queries: int, shuffled: bool = False) -> Records:
    """Random words and one place, which alone decides who of four experts is likely right.

    ``shuffled`` shows another place than the one that decides.
    """
    generator, made, right = np.random.default_rng(seed), [], []
    for row in range(queries):
        place = int(generator.integers(len(PLACES)))
        shown = int(generator.integers(len(PLACES))) if shuffled else place
        words = [*generator.choice(WORDS, 12)]
        words.insert(int(generator.integers(3, 12)), PLACES[shown])
        made.append(Query.from_text(f"q{row}", " ".join(words)))
        right.append(generator.random(4) < np.where(np.arange(4) == place % 4, 0.95, 0.3))
    return Records(
        tuple(made), tuple("abcd"), quality=np.array(right, float), cost=np.ones((queries, 4))
    )


def score(router: Router, shuffled: bool) -> float:
    """Mean score of the choices on new questions, after a fit on 240."""
    test = planted(1, 400, shuffled)
    chosen = router.fit(planted(0, 240, shuffled)).predict(test.queries).quality.argmax(axis=1)
    return float(test.quality[np.arange(len(test)), chosen].mean())


@GRAPH
def test_the_graph_beats_the_flat_head_where_entities_decide() -> None:
    assert score(AgentGraph(epochs=12), False) > score(SoftLabels(), False) + 0.2


@GRAPH
def test_the_graph_has_no_lead_where_entities_are_shuffled() -> None:
    assert abs(score(AgentGraph(epochs=12), True) - score(SoftLabels(), True)) < 0.08


def small() -> AgentGraph:
    return AgentGraph(epochs=3, hidden=8)


@GRAPH
@pytest.mark.parametrize("check", ROUTER_CHECKS)
def test_the_graph_keeps_the_promises_of_a_router(check: Callable[[MakeRouter], None]) -> None:
    check(small)


def test_without_the_extra_the_graph_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch_geometric", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CoterieError, match=r"needs torch: pip install 'coterie\[graph\]'"):
        AgentGraph().fit(make_records())


def test_a_router_that_saw_a_part_of_the_scores_still_ranks_everyone() -> None:
    records = make_records(60)
    quality = records.quality.copy()
    quality[::2, 3] = np.nan
    partial = replace(records, quality=quality)
    estimates = SoftLabels(encoder="lexical").fit(partial).predict(records.queries)
    chosen = estimates.quality[:, :3].argmax(axis=1)
    assert records.quality[np.arange(60), chosen].mean() == 1.0
