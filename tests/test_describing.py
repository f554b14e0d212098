from dataclasses import replace

import numpy as np
import pytest

from coterie import describing
from coterie.describing import describe
from coterie.records import Records
from coterie.testing import make_records
from coterie.types import Query

NAN = float("nan")


def records_of(quality: list[list[float]], categories: str) -> Records:
    queries = [replace(Query.from_text(str(i), "?"), category=c) for i, c in enumerate(categories)]
    experts = tuple("abcdef"[: len(quality[0])])
    return Records(tuple(queries), experts, np.array(quality))


def test_figures_of_a_world_that_is_known() -> None:
    facts = describe(make_records(48))
    figures = facts["figures"]["observed"]
    assert (facts["queries"], facts["experts"], facts["density"]) == (48, 4, 1.0)
    assert figures["best_single"] == {"expert": "generalist", "quality": 0.5}
    assert (figures["category_best"], figures["oracle"], figures["headroom"]) == (1.0, 1.0, 0.5)
    assert figures["random"] == pytest.approx((1 + 0.5) / 4)
    assert facts["figures"]["complete"] == figures


def test_the_best_expert_comes_first_with_its_cost() -> None:
    first = describe(make_records(48))["per_expert"][0]
    assert (first["expert"], first["score"], first["cost"]) == ("generalist", 0.5, 4.0)


def test_open_cells_count_as_neither_right_nor_wrong() -> None:
    records = records_of([[1.0, NAN], [0.0, 1.0], [NAN, NAN], [0.0, 0.0]], "xxyy")
    facts = describe(records)
    observed, complete = facts["figures"]["observed"], facts["figures"]["complete"]
    assert (facts["observed"], facts["density"]) == (5, 5 / 8)
    assert (observed["queries"], observed["random"]) == (3, pytest.approx((1 + 0.5 + 0) / 3))
    assert observed["best_single"] == {"expert": "b", "quality": 0.5}
    assert (observed["all_right"], observed["all_wrong"]) == (0.0, 0.5)
    assert (complete["queries"], complete["oracle"]) == (2, 0.5)


def test_categories_have_their_own_best_and_the_largest_comes_first() -> None:
    rows = describe(records_of([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], "xyy"))["per_category"]
    assert [(row["category"], row["queries"]) for row in rows] == [("y", 2), ("x", 1)]
    assert [row["best_single"]["expert"] for row in rows] == ["b", "a"]


def test_a_category_is_also_described_on_the_questions_all_experts_answered() -> None:
    rows = [[1.0, NAN], [0.0, 0.0], [0.0, NAN], [NAN, 1.0], [NAN, 1.0]]
    first, second = describe(records_of(rows, "yyyxx"))["per_category"]
    assert (first["best_single"]["quality"], first["oracle"]) == (1 / 3, 1 / 3)
    complete = first["complete"]
    assert (complete["queries"], complete["best_single"]["quality"], complete["oracle"]) == (
        1,
        0,
        0,
    )
    assert second["complete"] is None


def test_records_without_a_score_have_no_figures() -> None:
    facts = describe(records_of([[NAN, NAN]], "x"))
    assert facts["figures"] == {"observed": None, "complete": None}
    assert [row["score"] for row in facts["per_expert"]] == [None, None]


def test_blocks_of_rows_give_what_all_rows_give(monkeypatch: pytest.MonkeyPatch) -> None:
    records = make_records(48)
    whole = describe(records)
    monkeypatch.setattr(describing, "MANY", 20)
    assert describe(records) == whole
