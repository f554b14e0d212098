from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import InputError
from coterie.merging import merge
from coterie.records import NUMBERS, Records
from coterie.testing import make_records
from coterie.types import Query

NAN = float("nan")
A = Records((Query.from_text("q", "2 + 2?"),), ("ann",), np.array([[1.0]]))


def same(first: Records, second: Records) -> bool:
    """Whether two sets of records hold the same in the same order."""
    arrays = (
        np.array_equal(getattr(first, n), getattr(second, n), equal_nan=True) for n in NUMBERS
    )
    plain = ("queries", "experts", "references", "facts")
    return (
        all(getattr(first, name) == getattr(second, name) for name in plain)
        and all(arrays)
        and first.texts.tolist() == second.texts.tolist()
    )


def merged(*parts: Records | None) -> Records | None:
    """The union; None where parts disagree."""
    known = [part for part in parts if part is not None]
    try:
        return merge(known) if len(known) == len(parts) else None
    except InputError:
        return None


@st.composite
def parts(draw: Any) -> Records:
    """Records of some of three queries and three experts that mostly agree with each other."""
    rows = draw(st.lists(st.sampled_from("xyz"), min_size=1, unique=True))
    columns = draw(st.lists(st.sampled_from("abc"), min_size=1, unique=True))
    off = draw(st.sampled_from([0.0] * 7 + [0.5]))  # now and then another score of the same cell
    quality = np.array([[(ord(r) + ord(c)) % 5 / 10 + off for c in columns] for r in rows])
    open_cells = draw(st.lists(st.booleans(), min_size=quality.size, max_size=quality.size))
    quality[np.array(open_cells).reshape(quality.shape)] = NAN
    labels = [draw(st.sampled_from([None, f"kind of {r}"])) for r in rows]
    queries = [
        replace(Query.from_text(r, r), category=k) for r, k in zip(rows, labels, strict=True)
    ]
    texts = np.full(quality.shape, "said", object)
    texts[np.isnan(quality)] = None
    if draw(st.booleans()):
        texts[:] = None
    facts = {c: {draw(st.sampled_from(["size", "price"])): 1} for c in columns}
    return Records(tuple(queries), tuple(columns), quality, texts=texts, facts=facts)


@settings(max_examples=60)
@given(first=parts(), second=parts(), third=parts())
def test_merging_is_associative(first: Records, second: Records, third: Records) -> None:
    left, right = merged(merged(first, second), third), merged(first, merged(second, third))
    assert (left is None) == (right is None)
    assert left is None or right is None or same(left, right)


@settings(max_examples=40)
@given(records=parts())
def test_merging_with_itself_changes_nothing(records: Records) -> None:
    assert same(merge([records, records]), records)


def test_halves_give_the_whole_again() -> None:
    records = make_records(8)
    top, bottom = records.take(range(4)), records.take(range(4, 8))
    left, right = records.select(["sums", "sorting"]), records.select(["reversal", "generalist"])
    assert same(merge([top, bottom]), records)
    assert same(merge([left, right]), records)


def test_what_nobody_observed_stays_open() -> None:
    other = replace(A, queries=(Query.from_text("r", "?"),), experts=("bob",))
    union = merge([A, other])
    np.testing.assert_array_equal(union.quality, [[1.0, NAN], [NAN, 1.0]])
    assert not any(union.cost.strides)


def test_one_part_fills_what_another_leaves_open() -> None:
    known = replace(
        A,
        queries=(replace(A.queries[0], category="sums"),),
        quality=np.array([[NAN]]),
        cost=np.array([[2.0]]),
        references=("4",),
    )
    union = merge([A, known])
    assert (union.quality.tolist(), union.cost.tolist()) == ([[1.0]], [[2.0]])
    assert (union.categories, union.references) == (("sums",), ("4",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"quality": np.array([[0.0]])},
            "'score': query 'q', expert 'ann' is '1.0' in A, '0.0' in",
        ),
        ({"cost": np.array([[3.0]])}, "'cost': query 'q', expert 'ann' is '2.0' in A, '3.0' in B"),
        (
            {"texts": np.array([["5"]], object)},
            "'answer': query 'q', expert 'ann' is '4' in A, '5'",
        ),
        (
            {"queries": (Query.from_text("q", "3 + 3?"),)},
            "'text': query 'q' is '2 \\+ 2\\?' in A, '3 \\+ 3\\?' in B",
        ),
        ({"references": ("5",)}, "'reference': query 'q' is '4' in A, '5' in B"),
        ({"facts": {"ann": {"parameters": 9}}}, "'parameters': expert 'ann' is '7' in A, '9' in B"),
    ],
)
def test_parts_that_disagree_are_named(change: dict[str, Any], message: str) -> None:
    known = replace(
        A,
        cost=np.array([[2.0]]),
        texts=np.array([["4"]], object),
        references=("4",),
        facts={"ann": {"parameters": 7}},
    )
    with pytest.raises(InputError, match=message):
        merge([known, replace(known, **change)], ["A", "B"])


def test_the_part_that_said_it_first_is_named() -> None:
    silent = replace(A, quality=np.array([[NAN]]))
    with pytest.raises(InputError, match=r"'1\.0' in part 2, '0\.0' in part 3"):
        merge([silent, A, replace(A, quality=np.array([[0.0]]))])


def test_nothing_cannot_be_merged() -> None:
    with pytest.raises(InputError, match="expected records to merge, got none"):
        merge([])
