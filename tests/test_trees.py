import numpy as np
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor

from coterie.trees import Trees

GENERATOR = np.random.default_rng(0)
ROWS = GENERATOR.random((200, 5)).astype(np.float32)
TARGETS = np.column_stack([ROWS[:, 0] > 0.5, ROWS[:, 1] + ROWS[:, 2]]).astype(float)


def test_a_forest_of_arrays_predicts_what_scikit_learn_does() -> None:
    grown = ExtraTreesRegressor(20, min_samples_leaf=3, random_state=0).fit(ROWS, TARGETS)
    means, _ = Trees.of(grown.estimators_).predict(ROWS)
    np.testing.assert_allclose(means, grown.predict(ROWS), atol=1e-6)


def test_boosted_trees_sum_to_what_scikit_learn_predicts_but_for_the_start() -> None:
    grown = HistGradientBoostingRegressor(max_iter=30, random_state=0).fit(ROWS, TARGETS[:, 1])
    difference = grown.predict(ROWS) - Trees.of_boosting(grown).total(ROWS)
    np.testing.assert_allclose(difference, TARGETS[:, 1].mean(), atol=1e-5)


def test_the_error_of_a_leaf_falls_with_its_records() -> None:
    noise = GENERATOR.random(200)
    few, many = (
        ExtraTreesRegressor(10, min_samples_leaf=n, random_state=0).fit(ROWS, noise)
        for n in (4, 60)
    )
    errors = [Trees.of(g.estimators_).predict(ROWS)[1].mean() for g in (few, many)]
    assert errors[0] > 1.5 * errors[1]


def test_rows_do_not_influence_each_other() -> None:
    trees = Trees.of(ExtraTreesRegressor(8, random_state=0).fit(ROWS, TARGETS).estimators_)
    together, alone = trees.predict(ROWS)[0][7], trees.predict(ROWS[7:8])[0][0]
    np.testing.assert_array_equal(together, alone)


def test_no_rows_give_no_predictions() -> None:
    trees = Trees.of(ExtraTreesRegressor(2, random_state=0).fit(ROWS, TARGETS).estimators_)
    assert trees.predict(ROWS[:0])[0].shape == (0, 2)


def test_outputs_can_be_put_in_another_order() -> None:
    trees = Trees.of(ExtraTreesRegressor(4, random_state=0).fit(ROWS, TARGETS).estimators_)
    turned = trees.reordered([1, 0]).predict(ROWS)[0]
    np.testing.assert_array_equal(turned, trees.predict(ROWS)[0][:, ::-1])
