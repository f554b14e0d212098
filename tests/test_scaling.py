import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.folds import text_groups
from coterie.records import Records
from coterie.scaling import (
    Group,
    ScoreMatrix,
    candidate_groups,
    feasible_sizes,
    matrix,
    scaling_curve,
    split_rows,
)
from coterie.scaling.baselines import BASELINES, judge_baselines
from coterie.scaling.sources import from_records, open_source
from coterie.synthetic import World
from coterie.testing import make_records, with_quality
from coterie.types import FloatArray

WORLD = World(experts=60, items=300, skills=4, dim=16)
SCORES = WORLD.scores()


def by_enumeration(scores: FloatArray) -> FloatArray:
    """The definition: the mean best score over every subset of m experts."""
    experts = range(scores.shape[1])
    return np.array(
        [
            np.mean([scores[:, s].max(axis=1).mean() for s in itertools.combinations(experts, m)])
            for m in range(1, scores.shape[1] + 1)
        ]
    )


@given(
    st.sampled_from(["uint8", "float16", "float32", "float64"]),
    st.tuples(st.integers(1, 5), st.integers(1, 7)),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_the_curve_is_the_mean_over_all_subsets(
    kind: str, shape: tuple[int, int], seed: int
) -> None:
    levels = np.random.default_rng(seed).integers(0, 2 if kind == "uint8" else 5, shape)
    scores = levels.astype(kind) if kind == "uint8" else (levels / 4).astype(kind)
    curve = scaling_curve(ScoreMatrix(scores), threads=1)
    np.testing.assert_allclose(curve.oracle, by_enumeration(scores.astype(float)), atol=1e-12)


def test_a_single_right_expert_is_found_in_proportion_to_the_candidates() -> None:
    scores = np.zeros((1, 8567), np.uint8)
    scores[0, 1234] = 1
    curve = scaling_curve(ScoreMatrix(scores))
    np.testing.assert_allclose(curve.oracle, curve.sizes / 8567, rtol=1e-11)


def test_binary_scores_give_the_same_curve_in_every_type() -> None:
    curves = [scaling_curve(ScoreMatrix(SCORES.astype(kind))).oracle for kind in matrix.KINDS]
    for other in curves[1:]:
        np.testing.assert_allclose(curves[0], other, atol=1e-12)


def test_the_curve_begins_at_random_rises_and_ends_at_the_oracle() -> None:
    curve = scaling_curve(ScoreMatrix(SCORES))
    assert curve.random == pytest.approx(SCORES.mean())
    assert curve.oracle[-1] == pytest.approx(SCORES.max(axis=1).mean())
    assert (np.diff(curve.oracle) >= -1e-12).all()


def test_r_o_lies_between_random_and_the_oracle() -> None:
    curve = scaling_curve(ScoreMatrix(SCORES))
    np.testing.assert_allclose(curve.mixed(0.25), 0.25 * curve.oracle + 0.75 * curve.random)
    with pytest.raises(InputError, match="probability"):
        curve.mixed(1.5)


def test_a_size_beyond_the_experts_is_refused() -> None:
    curve = scaling_curve(ScoreMatrix(SCORES))
    assert curve.at([60])[0] == curve.oracle[-1]
    with pytest.raises(InputError, match="1 to 60 candidates, got 61"):
        curve.at([3, 61])


@pytest.mark.parametrize(("kind", "hole"), [("uint8", 255), ("float16", np.nan)])
def test_items_with_a_hole_are_left_out_and_counted(kind: str, hole: float) -> None:
    scores = SCORES.astype(kind)
    scores[[3, 200], 5] = hole
    curve = scaling_curve(ScoreMatrix(scores))
    whole = scaling_curve(ScoreMatrix(np.delete(SCORES, [3, 200], axis=0)))
    assert (curve.items, curve.skipped) == (298, 2)
    np.testing.assert_allclose(curve.oracle, whole.oracle, atol=1e-12)


def test_a_matrix_without_a_complete_item_is_refused() -> None:
    scores = np.full((3, 2), np.nan)
    for use in (scaling_curve, ScoreMatrix.means):
        with pytest.raises(InputError, match="no item has a score of every expert"):
            use(ScoreMatrix(scores))


@pytest.mark.parametrize(("kind", "value"), [("uint8", 2), ("float32", -0.5), ("float64", 1.5)])
def test_a_score_outside_the_unit_interval_is_named_by_row(kind: str, value: float) -> None:
    scores = SCORES.astype(kind)
    scores[7, 3] = value
    with pytest.raises(InputError, match=r"row 7, expert 3: .* is not in \[0, 1\]"):
        scaling_curve(ScoreMatrix(scores))


def test_minus_zero_is_zero() -> None:
    scores = np.array([[-0.0, 0.5], [0.25, -0.0]], np.float16)
    assert scaling_curve(ScoreMatrix(scores)).oracle.tolist() == [0.1875, 0.375]


def test_a_file_gives_what_the_array_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "BLOCK_BYTES", 60 * 64)  # several blocks, the last one short
    np.save(tmp_path / "scores.npy", SCORES)
    whole, stored = ScoreMatrix(SCORES), ScoreMatrix(tmp_path / "scores.npy")
    np.testing.assert_array_equal(scaling_curve(whole).oracle, scaling_curve(stored).oracle)
    np.testing.assert_array_equal(whole.take([5, 2])[1], stored.take([5, 2])[1])
    np.testing.assert_array_equal(SCORES[:, [5, 2]], stored.take([5, 2])[1])


def test_a_file_cut_short_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.npy"
    np.save(path, SCORES)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"scores\.npy: cannot be read as \.npy"):
        ScoreMatrix(path)
    np.save(path, SCORES.astype(np.int32))
    with pytest.raises(InputError, match="expected items x experts of uint8, float16"):
        ScoreMatrix(path)


def test_objects_in_a_file_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "scores.npy", np.array([["a"]], object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        ScoreMatrix(tmp_path / "scores.npy")


def plain_groups(scores: FloatArray, m: int, seed: int) -> dict[str, list[int]]:
    """The definition, candidate by candidate."""
    order = [int(j) for j in np.argsort(scores.mean(axis=0), kind="stable")]
    valid = [j for j in order if 0.1 < scores[:, j].mean() <= 0.9]
    width = max(scores.shape[1] // 5, m)
    generator = np.random.default_rng(seed)
    parts = np.array_split(valid, m)
    drawn = np.array([part[generator.integers(0, len(part), 1000)] for part in parts]).T.tolist()
    weak, strong = (
        [region[i : i + m] for i in range(len(region) - m + 1)]
        for region in (valid[:width], valid[-width:])
    )
    choices = {"all_strong": strong, "all_weak": weak, "strong_to_weak": drawn}
    return {
        kind: max(every, key=lambda members: scores[:, members].max(axis=1).sum())
        for kind, every in choices.items()
    }


@pytest.mark.parametrize("kind", ["uint8", "float16", "float64"])
@pytest.mark.parametrize("m", [1, 3, 8, 40])
def test_groups_are_those_of_the_plain_definition(kind: str, m: int) -> None:
    scores = SCORES.astype(kind)
    wanted = plain_groups(scores.astype(float), m, seed=4)
    for group in candidate_groups(ScoreMatrix(scores), [m], seed=4):
        oracle = scores[:, wanted[group.kind]].astype(float).max(axis=1).mean()
        assert group.oracle == pytest.approx(oracle)
        assert group.members.tolist() == wanted[group.kind]


@pytest.mark.parametrize("m", [1, 3, 5, 11])
def test_groups_of_fractional_scores_are_those_of_the_plain_definition(m: int) -> None:
    generator = np.random.default_rng(m)
    scores = np.round(generator.random((40, 60)) * generator.random(60), 2)
    wanted = plain_groups(scores, m, seed=0)
    for group in candidate_groups(ScoreMatrix(scores), [m]):
        assert group.members.tolist() == wanted[group.kind]


def test_the_oracle_of_a_group_is_that_of_its_members() -> None:
    fractional = World(experts=60, items=300, fractional=True).scores()
    for scores in (SCORES, fractional):
        for group in candidate_groups(ScoreMatrix(scores), [3, 20], draws=50):
            best = scores[:, group.members].max(axis=1).astype(float).mean()
            assert len(group.members) == group.size
            assert group.oracle == pytest.approx(best)


def test_strong_groups_are_stronger_than_weak_ones_and_mixed_ones_span_both() -> None:
    groups = {g.kind: g for g in candidate_groups(ScoreMatrix(SCORES), [5])}
    means = {kind: SCORES.mean(axis=0)[g.members] for kind, g in groups.items()}
    assert means["all_weak"].max() < means["all_strong"].min()
    assert np.ptp(means["strong_to_weak"]) > np.ptp(means["all_strong"])


def test_hopeless_and_saturated_experts_are_no_candidates() -> None:
    share = np.array([0.05, 0.1, 0.5, 0.6, 0.9, 0.95])
    scores = (np.arange(100)[:, None] < 100 * share).astype(np.uint8)
    assert feasible_sizes(ScoreMatrix(scores), [1, 3, 4]) == [1, 3]
    groups = candidate_groups(ScoreMatrix(scores), [3])
    assert {tuple(g.members.tolist()) for g in groups} == {(2, 3, 4)}
    with pytest.raises(InputError, match="4 candidates are asked for, 3 of 6 experts"):
        candidate_groups(ScoreMatrix(scores), [4])


def test_a_split_takes_eight_one_and_one_tenth_of_every_category() -> None:
    labels = np.repeat([0, 1], [50, 21])
    train, validation, test = split_rows(labels)
    assert [len(part) for part in (train, validation, test)] == [56, 7, 8]
    assert sorted(np.concatenate([train, validation, test])) == list(range(71))
    assert np.bincount(labels[test]).tolist() == [5, 3]


def test_a_question_that_repeats_is_split_to_one_side() -> None:
    labels = np.repeat([0, 1], 60)
    groups = text_groups(f"question {i % 20} of {label}" for i, label in enumerate(labels))
    parts = split_rows(labels, groups=groups)
    assert sorted(np.concatenate(parts)) == list(range(120))
    assert [len(part) for part in parts] == [96, 12, 12]
    assert sum(len(np.unique(groups[part])) for part in parts) == len(np.unique(groups))
    plain = split_rows(labels, groups=np.arange(120))
    assert [p.tolist() for p in plain] == [p.tolist() for p in split_rows(labels)]


def test_the_split_of_records_knows_their_repeated_questions() -> None:
    records = make_records(6)
    twice = Records(
        tuple(replace(q, id=f"{i}{q.id}") for i in range(2) for q in records.queries),
        records.experts,
        np.tile(records.quality, (2, 1)),
    )
    groups = from_records(twice).groups
    assert groups is not None
    assert groups.tolist() == [*range(6), *range(6)]


def test_the_best_of_many_coins_is_chosen_in_training_and_no_better_in_test() -> None:
    tosses = np.random.default_rng(0).integers(0, 2, (200, 60)).astype(np.uint8)
    group = Group("all_strong", 60, np.arange(60), 1.0)
    parts = (np.arange(160), np.arange(0), np.arange(160, 200))
    cells = judge_baselines(ScoreMatrix(tosses), np.eye(200), [group], parts, routers=())
    found = {cell.router: cell.quality for cell in cells}
    best_in_test = tosses[160:].mean(axis=0).max()
    best_in_training = tosses[160:, tosses[:160].mean(axis=0).argmax()].mean()
    assert found["best-single"] == pytest.approx(best_in_training)
    assert found["best-single"] < best_in_test - 0.1


def test_baselines_are_judged_with_bounds_around_them() -> None:
    groups = candidate_groups(ScoreMatrix(SCORES), [5])[:1]
    parts = split_rows(WORLD.main_skills)
    cells = list(judge_baselines(ScoreMatrix(SCORES), WORLD.vectors(), groups, parts))
    found = {cell.router: cell for cell in cells}
    assert list(found) == ["oracle", "r_o(0.5)", "random", "best-single", *BASELINES]
    test = SCORES[np.sort(parts[-1])][:, groups[0].members].astype(float)
    assert found["oracle"].quality == pytest.approx(test.max(axis=1).mean())
    assert found["random"].quality == pytest.approx(test.mean())
    assert found["random"].bias == pytest.approx(np.log2(5))
    half = (found["oracle"].quality + found["random"].quality) / 2
    assert found["r_o(0.5)"].quality == pytest.approx(half)
    assert max(cell.quality for cell in cells) == found["oracle"].quality
    assert found["routereval-mlp"].variant == "minibatch"


def test_where_vectors_name_the_right_expert_the_baselines_find_it() -> None:
    right = np.arange(400) % 4
    scores = np.eye(4, dtype=np.uint8)[right]
    vectors: NDArray[np.float32] = np.eye(4, dtype=np.float32)[right]
    groups = candidate_groups(ScoreMatrix(scores), [4])[:1]
    cells = judge_baselines(ScoreMatrix(scores), vectors, groups, split_rows(right))
    quality = {cell.router: cell.quality for cell in cells}
    assert quality["random"] == 0.25
    for name in ("routereval-linear", "routereval-mlp", "routereval-mlc", "routereval-knn"):
        assert quality[name] == 1.0
    assert quality["routereval-cluster"] == 0.75  # three clusters for four kinds of items


def test_vectors_have_to_fit_the_matrix() -> None:
    with pytest.raises(InputError, match="expected 300 vectors, one an item, got 2"):
        list(judge_baselines(ScoreMatrix(SCORES), np.eye(2), [], split_rows([0])))


def test_records_become_bytes_where_scores_are_right_or_wrong() -> None:
    records = make_records(12)
    quality = records.quality.copy()
    quality[2, 1] = np.nan
    source = from_records(with_quality(records, quality))
    assert source.matrix.dtype == np.uint8
    assert scaling_curve(source.matrix).skipped == 1
    halves = from_records(with_quality(records, quality / 2))
    assert halves.matrix.dtype == np.float64


def test_a_source_that_holds_nothing_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a folder of records, a folder with scores"):
        open_source(tmp_path)
    np.save(tmp_path / "scores.npy", SCORES)
    assert open_source(tmp_path).vectors is None
    with pytest.raises(InputError, match="only be chosen from records"):
        open_source(tmp_path, ["ann"])
    np.save(tmp_path / "categories.npy", np.zeros(7))
    with pytest.raises(InputError, match="300 rows, got shape"):
        open_source(tmp_path)
