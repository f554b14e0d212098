"""Which questions to label for a new expert."""

import itertools
import json

import numpy as np
import pytest

from coterie.errors import InputError
from coterie.questions import parse_questions
from coterie.records import Records
from coterie.suggesting import at_random, facility_location, suggest, suggested
from coterie.testing import make_records, with_quality
from coterie.types import Query

RECORDS = make_records(60)


def unit(seed: int, rows: int, dim: int = 4) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dim))
    made: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return made


def value(vectors: np.ndarray, weights: np.ndarray, chosen: tuple[int, ...]) -> float:
    return float(weights @ np.maximum((vectors @ vectors[list(chosen)].T).max(axis=1), 0.0))


@pytest.mark.parametrize("seed", range(5))
def test_greedy_choice_is_within_its_guarantee_of_the_best_set(seed: int) -> None:
    vectors, weights = unit(seed, 9), np.random.default_rng(seed).random(9)
    order, gains, missing = facility_location(vectors, weights, 3)
    best = max(value(vectors, weights, s) for s in itertools.combinations(range(9), 3))
    reached = value(vectors, weights, tuple(order))
    assert gains.sum() == pytest.approx(reached)
    assert (1 - 1 / np.e) * best <= reached <= best + 1e-9
    assert best <= reached + missing + 1e-9


def test_lazy_choice_is_that_of_looking_at_every_question_every_time() -> None:
    vectors, weights = unit(7, 40), np.random.default_rng(7).random(40)
    order, _, _ = facility_location(vectors, weights, 6)
    taken: tuple[int, ...] = ()
    for row in order:
        values = [value(vectors, weights, (*taken, other)) for other in range(40)]
        assert values[row] == pytest.approx(max(values))
        taken = (*taken, int(row))


def test_every_topic_gets_a_suggestion_first() -> None:
    found = suggest(RECORDS, 3)
    assert {each.category for each in found.chosen} == set(RECORDS.categories)
    assert sum(each.covers for each in found.chosen) == pytest.approx(1.0)
    assert [RECORDS.queries[row].id for row in found.rows] == [each.id for each in found.chosen]


def test_questions_that_tell_experts_apart_come_first() -> None:
    quality = np.where(np.array(RECORDS.categories)[:, None] == "sums", [[1, 0, 1, 0]], 1.0)
    records = with_quality(RECORDS, quality)
    first = suggest(records, 1, emphasis=50.0).chosen[0]
    assert (first.category, first.spread > 0) == ("sums", True)
    assert "experts differ by" in first.why


def test_the_first_few_of_many_are_the_choice_of_few() -> None:
    assert suggest(RECORDS, 12).rows[:5].tolist() == suggest(RECORDS, 5).rows.tolist()


def test_all_questions_can_be_asked_for_and_none_comes_twice() -> None:
    texts = ["the same words"] * 3 + ["", "other things entirely"]
    queries = tuple(Query.from_text(str(i), text) for i, text in enumerate(texts))
    records = Records(queries, ("a", "b"), np.full((5, 2), np.nan))
    assert sorted(suggest(records, 4).rows) == [0, 1, 2, 4]
    assert sorted(suggest(records, 2).rows.tolist())[-1] == 4


def test_a_question_without_a_text_is_never_suggested() -> None:
    queries = tuple(Query.from_text(str(i), "a text" if i == 2 else " ") for i in range(4))
    records = Records(queries, ("a", "b"), np.full((4, 2), np.nan))
    assert suggest(records, 1).rows.tolist() == [2]
    with pytest.raises(InputError, match="expected 1 to 1 "):
        suggest(records, 2)
    assert len(suggested(records, 3, 0)) == 3
    with pytest.raises(InputError, match="no question of the records has a text"):
        suggest(records.take([0, 1]), 1)


@pytest.mark.parametrize("size", [0, 61, 2.5])
def test_a_size_that_cannot_be_is_refused(size: int) -> None:
    with pytest.raises(InputError, match="expected 1 to 60"):
        suggest(RECORDS, size)


def test_a_negative_emphasis_is_refused() -> None:
    with pytest.raises(InputError, match="emphasis"):
        suggest(RECORDS, 3, emphasis=-1.0)


def test_what_is_written_is_read_as_questions() -> None:
    many = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"})
    queries = (Query("m", many, category="x"), Query.from_text("t", "How many apples?"))
    records = Records(queries, ("a",), np.ones((2, 1)), references=("because", None))
    found = suggest(records, 2)
    lines = found.jsonl(records).encode().splitlines()
    read = parse_questions(lines, "here")
    assert {q.id: q.messages for q in read.queries} == {q.id: q.messages for q in queries}
    assert dict(zip([q.id for q in read.queries], read.references, strict=True))["m"] == "because"
    assert all("why" in json.loads(line) for line in lines)


def test_suggestions_become_json() -> None:
    facts = json.loads(json.dumps(suggest(RECORDS, 4).to_dict(), allow_nan=False))
    assert (facts["schema"], len(facts["questions"])) == (1, 4)
    assert 1 - 1 / np.e <= facts["guarantee"] <= 1.0
    assert sum(each["gain"] for each in facts["questions"]) == pytest.approx(1.0)


def test_ways_of_choosing_return_distinct_rows() -> None:
    for way in (at_random, suggested):
        assert len(set(way(RECORDS, 20, 1).tolist())) == 20
    assert at_random(RECORDS, 20, 1).tolist() != at_random(RECORDS, 20, 2).tolist()
