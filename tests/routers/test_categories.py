import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coterie.errors import InputError
from coterie.records import Records
from coterie.routers.base import load_router
from coterie.routers.categories import (
    CategoryRouter,
    CategoryTable,
    cross_classify,
    cross_route,
    uncertainty,
)
from coterie.routers.tables import Key, find_effects
from coterie.testing import make_records, with_quality
from coterie.types import Query

RECORDS = make_records(48)
NEW = make_records(30, seed=7)


def labelled(labels: list[Key], quality: list[list[float]]) -> Records:
    queries = tuple(
        replace(Query.from_text(f"q{i}", f"question {i}"), category=c, subject=s)
        for i, (c, s) in enumerate(labels)
    )
    return Records(queries, ("ann", "bob")[: len(quality[0])], np.array(quality))


def ask(category: str | None, subject: str | None = None) -> list[Query]:
    return [replace(Query.from_text("n", "?"), category=category, subject=subject)]


def test_a_given_category_sends_queries_to_who_is_good_at_it() -> None:
    estimates = CategoryTable().fit(RECORDS).predict(NEW.queries)
    chosen = [estimates.experts[j] for j in estimates.quality.argmax(axis=1)]
    assert chosen == list(NEW.categories)
    assert estimates.evidence[0] == f"given category {NEW.categories[0]!r}"


def test_equal_categories_are_shrunk_to_the_overall_means() -> None:
    draws = np.random.default_rng(0).integers(0, 2, (400, 2)).astype(float)
    records = labelled([(str(i % 8), None) for i in range(400)], draws.tolist())
    raw = np.array([draws[c::8].mean(axis=0) for c in range(8)])
    cells = CategoryTable().fit(records).predict([ask(str(c))[0] for c in range(8)]).quality
    assert abs(cells - draws.mean(axis=0)).mean() < 0.4 * abs(raw - draws.mean(axis=0)).mean()


def test_few_questions_are_shrunk_more_than_many() -> None:
    labels: list[Key] = [*[("many", None)] * 60, *[("few", None)] * 2]
    labels += [("other", None)] * 60
    quality = [[1.0, 0.0]] * 50 + [[0.0, 1.0]] * 12 + [[0.0, 1.0]] * 50 + [[1.0, 0.0]] * 10
    router = CategoryTable().fit(labelled(labels, quality))
    many, few = (router.predict(ask(name)) for name in ("many", "few"))
    assert many.quality[0, 0] == pytest.approx(50 / 60, abs=0.03)
    assert 0.05 < few.quality[0, 0] < 0.45
    assert many.error is not None
    assert few.error is not None
    assert few.error[0, 0] > 2 * many.error[0, 0]


def test_an_expert_seldom_asked_somewhere_does_there_as_the_others_do() -> None:
    labels: list[Key] = [*[("easy", None), ("hard", None)] * 40]
    quality = [[1.0, 1.0] if i % 2 == 0 else [0.0, np.nan] for i in range(80)]
    quality[1][1] = quality[4][1] = quality[6][0] = 0.0
    estimates = CategoryTable().fit(labelled(labels, quality)).predict(ask("hard"))
    assert estimates.quality[0, 1] < 0.5


def test_an_unknown_category_gets_overall_means_and_a_larger_error() -> None:
    router = CategoryTable().fit(RECORDS)
    known, unknown, none = (router.predict(ask(c)) for c in ("sums", "new", None))
    np.testing.assert_allclose(unknown.quality[0], RECORDS.quality.mean(axis=0))
    np.testing.assert_array_equal(none.quality, unknown.quality)
    assert known.error is not None
    assert unknown.error is not None
    assert (unknown.error >= known.error).all()
    assert "overall means" in unknown.evidence[0]


def test_a_subject_is_read_within_its_category_unless_told_not_to() -> None:
    labels: list[Key] = [("math", "algebra"), ("math", "sets")] * 30
    quality = [[1.0, 0.0], [0.0, 1.0]] * 30
    records = labelled([*labels, ("law", None)], [*quality, [1.0, 1.0]])
    fine, coarse = (CategoryTable(level).fit(records) for level in ("subject", "category"))
    asked = ask("math", "algebra")
    assert fine.predict(asked).quality[0, 0] > 0.9
    assert coarse.predict(asked).quality[0, 0] == pytest.approx(0.5, abs=0.05)
    new = fine.predict(ask("math", "topology")).quality
    np.testing.assert_array_equal(new, fine.predict(ask("math")).quality)
    with pytest.raises(InputError, match="level"):
        CategoryTable("topic").fit(records)


def test_the_standard_error_is_the_size_of_the_error() -> None:
    generator, scaled = np.random.default_rng(0), []
    for _ in range(20):
        truth = np.clip(generator.normal(0.5, 0.15, (12, 3)), 0, 1)
        chances = truth[np.arange(240) % 12]
        quality = (generator.random((240, 3)) < chances).astype(float)
        queries = [ask(str(i % 12))[0] for i in range(240)]
        named = tuple(replace(q, id=str(i)) for i, q in enumerate(queries))
        router = CategoryTable().fit(Records(named, ("ann", "bob", "cid"), quality))
        estimates = router.predict(named[:12])
        scaled.append((estimates.quality - truth) / np.asarray(estimates.error))
    assert 0.85 < np.sqrt(np.mean(np.square(scaled))) < 1.2


def test_a_left_out_effect_is_that_of_the_other_rows() -> None:
    deviations = np.random.default_rng(0).normal(size=(9, 2))
    groups = np.array([0, 0, 0, 1, 1, 1, 2, 2, -1])
    effects = find_effects(deviations, groups, 3)
    left_out = effects.left_out(deviations, groups)
    total = deviations[[0, 2]].sum(axis=0)
    expected = total * effects.between / (2 * effects.between + effects.within)
    np.testing.assert_allclose(left_out[1], expected)
    assert left_out[8].tolist() == [0.0, 0.0]


def test_the_text_alone_tells_the_category() -> None:
    router = CategoryRouter().fit(RECORDS)
    queries = [replace(q, category=None) for q in NEW.queries]
    estimates = router.predict(queries)
    chosen = [estimates.experts[j] for j in estimates.quality.argmax(axis=1)]
    assert chosen == list(NEW.categories)
    assert estimates.evidence[0].startswith(f"category {NEW.categories[0]!r} (")
    np.testing.assert_allclose(router.chances(queries).sum(axis=1), 1.0)


def test_an_unsure_classifier_leaves_it_to_the_generalist() -> None:
    sure, unsure = (CategoryRouter(threshold=t).fit(RECORDS) for t in (1.0, 0.0))
    general = unsure.predict(NEW.queries)
    np.testing.assert_allclose(general.quality[0], RECORDS.quality.mean(axis=0))
    assert general.evidence[0].endswith("general category")
    assert (sure.predict(NEW.queries).quality.argmax(axis=1) != 3).all()


def test_the_threshold_is_chosen_by_what_routing_scored() -> None:
    # Texts say nothing about the category, so that only the generalist is worth asking.
    told = CategoryRouter().fit(RECORDS)
    shuffled = np.random.default_rng(0).permutation(48)
    queries = tuple(
        replace(q, category=RECORDS.queries[i].category)
        for q, i in zip(RECORDS.queries, shuffled, strict=True)
    )
    misled = CategoryRouter().fit(replace(RECORDS, queries=queries))
    assert misled.threshold_ < told.threshold_


def test_a_question_alone_in_its_category_is_not_routed_by_its_own_outcome() -> None:
    # Twenty categories with specialists, so that tables are believed; then a hundred of one row.
    generator = np.random.default_rng(0)
    many = np.repeat(generator.integers(0, 2, (20, 6)), 10, axis=0)
    quality = np.vstack([many, generator.integers(0, 2, (100, 6))]).astype(float)
    labels = [f"c{i // 10}" if i < 200 else f"alone {i}" for i in range(300)]
    queries = tuple(
        replace(Query.from_text(f"q{i}", f"question {i}"), category=c) for i, c in enumerate(labels)
    )
    records = Records(queries, tuple("abcdef"), quality)
    sure = (np.array(labels)[:, None] == sorted(set(labels))).astype(float)
    routed, _ = cross_route(records, labels, sure)
    known = CategoryTable().fit(records).predict(queries).quality.argmax(axis=1)
    assert quality[np.arange(300), known][200:].mean() > 0.9
    assert routed[:200].mean() > 0.9
    assert routed[200:].mean() == pytest.approx(0.5, abs=0.12)


def test_chances_of_a_category_come_from_a_classifier_that_did_not_see_the_text() -> None:
    generator = np.random.default_rng(0)
    vectors, classes = generator.normal(size=(120, 300)), generator.integers(0, 2, 120)
    alone, twice = np.arange(120), np.arange(240) % 120
    _, chances = cross_classify(vectors, classes, 2, alone, (100.0,))
    assert np.mean(chances.argmax(axis=1) == classes) < 0.6
    repeated = np.vstack([vectors, vectors]), np.concatenate([classes, classes])
    _, chances = cross_classify(*repeated, 2, twice, (100.0,))
    assert np.mean(chances.argmax(axis=1) == repeated[1]) < 0.6
    _, leaked = cross_classify(*repeated, 2, np.arange(240), (100.0,))
    assert np.mean(leaked.argmax(axis=1) == repeated[1]) > 0.75


def test_records_without_categories_get_clusters() -> None:
    queries = tuple(replace(q, category=None) for q in RECORDS.queries)
    router = CategoryRouter().fit(replace(RECORDS, queries=queries))
    assert router.categories_[0] == "cluster 0"
    estimates = router.predict(NEW.queries)
    chosen = [estimates.experts[j] for j in estimates.quality.argmax(axis=1)]
    assert np.mean([c == t for c, t in zip(chosen, NEW.categories, strict=True)]) > 0.9


def test_one_category_and_some_unlabelled_queries_are_learnt_from() -> None:
    queries = tuple(replace(q, category="one" if i else None) for i, q in enumerate(NEW.queries))
    estimates = CategoryRouter().fit(replace(NEW, queries=queries)).predict(NEW.queries[:2])
    np.testing.assert_allclose(estimates.quality[0], estimates.quality[1])


def test_uncertainty_runs_from_none_to_one() -> None:
    chances = np.array([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]])
    np.testing.assert_allclose(uncertainty(chances), [0.0, 1.0, np.log(2) / np.log(3)], atol=1e-9)
    assert uncertainty(np.ones((2, 1))).tolist() == [0.0, 0.0]


def test_prediction_needs_no_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    router = CategoryRouter(encoder="lexical").fit(RECORDS)
    router.save(tmp_path / "r")
    before = router.predict(NEW.queries).quality
    for name in [n for n in sys.modules if n.startswith("sklearn")]:
        monkeypatch.setitem(sys.modules, name, None)
    np.testing.assert_array_equal(load_router(tmp_path / "r").predict(NEW.queries).quality, before)
    with pytest.raises(ImportError):
        CategoryRouter().fit(RECORDS)


def test_a_threshold_out_of_range_is_refused() -> None:
    with pytest.raises(InputError, match=r"threshold.*\[0, 1\] or None, got 2"):
        CategoryRouter(threshold=2).fit(RECORDS)


def test_partial_scores_still_find_the_specialists() -> None:
    holes = np.random.default_rng(0).random((90, 4)) < 0.6
    records = make_records(90)
    partial = with_quality(records, np.where(holes, np.nan, records.quality))
    for router in (CategoryTable(), CategoryRouter()):
        estimates = router.fit(partial).predict(NEW.queries)
        chosen = [estimates.experts[j] for j in estimates.quality.argmax(axis=1)]
        assert chosen == list(NEW.categories)
