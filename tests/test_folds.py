import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.folds import deal_rows, fold_rows, text_groups

GROUPS = st.lists(st.integers(0, 6), min_size=1, max_size=30).map(
    lambda n: text_groups(map(str, n))
)


def test_texts_are_equal_but_for_case_space_and_a_final_full_stop() -> None:
    texts = ["Why?", "why? ", "Say a\n b.", "say A b", "", " ", "Why", "."]
    assert text_groups(texts).tolist() == [0, 0, 1, 1, 2, 3, 4, 5]


@settings(max_examples=60, deadline=None)
@given(GROUPS, st.integers(1, 6), st.integers(0, 99))
def test_groups_are_kept_whole_and_no_part_is_empty(
    groups: np.ndarray, count: int, seed: int
) -> None:
    parts = fold_rows(groups, count, seed)
    assert sorted(np.concatenate(parts)) == list(range(len(groups)))
    assert all(len(part) for part in parts) or len(groups) < count
    if len(np.unique(groups)) >= count:
        members = [set(groups[part].tolist()) for part in parts]
        assert sum(map(len, members)) == len(np.unique(groups))


def test_parts_are_as_equal_as_whole_groups_allow() -> None:
    sizes = [len(part) for part in fold_rows(np.repeat(np.arange(50), 3), 4, seed=0)]
    assert max(sizes) - min(sizes) <= 3


@settings(max_examples=40, deadline=None)
@given(GROUPS, st.integers(1, 6), st.integers(0, 99))
def test_dealt_rows_keep_groups_whole_and_parts_alike(
    groups: np.ndarray, count: int, seed: int
) -> None:
    part_of = deal_rows(groups, count, seed)
    unique = len(np.unique(groups))
    if unique >= count:
        pairs = set(zip(groups.tolist(), part_of.tolist(), strict=True))
        assert len(pairs) == unique
        sizes = np.bincount([part for _, part in pairs], minlength=count)
        assert np.ptp(sizes) <= 1


def test_without_repetition_rows_are_dealt_as_by_a_plain_permutation() -> None:
    plain = np.random.default_rng(3).permutation(50) % 4
    assert deal_rows(np.arange(50), 4, seed=3).tolist() == plain.tolist()
