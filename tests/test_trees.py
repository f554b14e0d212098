import numpy as np
import pytest
from sklearn.ensemble import (
    ExtraTreesRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)

from coterie.trees import Trees

GENERATOR = np.random.default_rng(0)
ROWS = GENERATOR.random((200, 5)).round(2)  # float64 that float32 does not hold
TARGETS = np.column_stack([ROWS[:, 0] > 0.5, ROWS[:, 1] + ROWS[:, 2]]).astype(float)
HOLES = np.where(GENERATOR.random(ROWS.shape) < 0.2, np.nan, ROWS)


def forest(rows: np.ndarray = ROWS, leaf: int = 3) -> ExtraTreesRegressor:
    return ExtraTreesRegressor(20, min_samples_leaf=leaf, random_state=0).fit(rows, TARGETS)


def boosting(rows: np.ndarray = ROWS) -> HistGradientBoostingRegressor:
    grown = HistGradientBoostingRegressor(max_iter=30, min_samples_leaf=2, random_state=0)
    return grown.fit(rows, TARGETS[:, 1])


@pytest.mark.parametrize("kind", [ExtraTreesRegressor, RandomForestRegressor])
def test_a_forest_of_arrays_predicts_what_scikit_learn_does(kind: type) -> None:
    grown = kind(20, min_samples_leaf=3, random_state=0).fit(ROWS, TARGETS)
    means, _ = Trees.of(grown.estimators_).predict(ROWS)
    np.testing.assert_allclose(means, grown.predict(ROWS), atol=1e-6)


def test_boosted_trees_sum_to_what_scikit_learn_predicts_but_for_the_start() -> None:
    rows = GENERATOR.random((900, 3)).round(3)  # more values than bins, so thresholds are values
    grown = HistGradientBoostingRegressor(max_iter=30, random_state=0).fit(rows, rows[:, 0])
    difference = grown.predict(rows) - Trees.of_boosting(grown).total(rows)
    np.testing.assert_allclose(difference, rows[:, 0].mean(), atol=1e-12)


def test_boosted_trees_compare_float64_and_a_value_at_a_threshold_goes_left() -> None:
    data = np.array([[0.1], [0.1], [np.nextafter(0.1, 1.0)], [0.7]])  # the first three: one float32
    grown = HistGradientBoostingRegressor(max_iter=1, min_samples_leaf=1).fit(data, data[:, 0])
    nodes = grown._predictors[0][0].nodes
    nodes["num_threshold"][~nodes["is_leaf"].astype(bool)] = 0.1
    leaves = Trees.of_boosting(grown).leaves(data)[:, 0]
    assert leaves[0] == leaves[1] != leaves[2]
    np.testing.assert_allclose(
        np.ptp(grown.predict(data) - Trees.of_boosting(grown).total(data)), 0
    )


def test_forests_compare_float32_and_a_value_at_a_threshold_goes_left() -> None:
    edges = forest().estimators_[0].tree_.threshold[:, None] * np.ones(5)
    rows = np.vstack([edges, np.nextafter(edges, 2.0), edges.astype(np.float32)])
    leaves = np.column_stack([e.apply(rows) for e in forest().estimators_])
    trees = Trees.of(forest().estimators_)
    np.testing.assert_array_equal(trees.leaves(rows) - trees.roots, leaves)


def test_a_missing_value_goes_where_scikit_learn_sends_it() -> None:
    for grown in (forest(HOLES), forest()):
        leaves = np.column_stack(
            [e.tree_.apply(HOLES.astype(np.float32)) for e in grown.estimators_]
        )
        trees = Trees.of(grown.estimators_)
        np.testing.assert_array_equal(trees.leaves(HOLES) - trees.roots, leaves)
    for boosted in (boosting(HOLES), boosting()):
        difference = boosted.predict(HOLES) - Trees.of_boosting(boosted).total(HOLES)
        np.testing.assert_allclose(difference, TARGETS[:, 1].mean(), atol=1e-12)


def test_the_error_of_a_leaf_falls_with_its_records() -> None:
    noise = GENERATOR.random(200)
    few, many = (
        ExtraTreesRegressor(10, min_samples_leaf=n, random_state=0).fit(ROWS, noise)
        for n in (4, 60)
    )
    errors = [Trees.of(g.estimators_).predict(ROWS)[1].mean() for g in (few, many)]
    assert errors[0] > 1.5 * errors[1]


def test_rows_do_not_influence_each_other() -> None:
    trees = Trees.of(forest().estimators_)
    together, alone = trees.predict(ROWS)[0][7], trees.predict(ROWS[7:8])[0][0]
    np.testing.assert_array_equal(together, alone)


def test_no_rows_give_no_predictions() -> None:
    assert Trees.of(forest().estimators_).predict(ROWS[:0])[0].shape == (0, 2)


def test_outputs_can_be_put_in_another_order() -> None:
    trees = Trees.of(forest().estimators_)
    turned = trees.reordered([1, 0]).predict(ROWS)[0]
    np.testing.assert_array_equal(turned, trees.predict(ROWS)[0][:, ::-1])
