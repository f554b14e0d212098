import asyncio
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from fakes import batch, decision, questions, records_of

from coterie.aggregators import ByExpert
from coterie.compositions import annotate, recruit, single
from coterie.drivers.replay import replay
from coterie.errors import NotRecordedError
from coterie.experts.function import FunctionExpert
from coterie.pool import Pool
from coterie.profiling import profile_pool
from coterie.questions import parse_questions
from coterie.types import Call, Query


def test_answers_come_from_the_records() -> None:
    queries = questions(3)
    records = records_of(queries, "ab")
    answers = replay(queries, [decision("b")] * 3, single, records)
    assert [a.completion.text for a in answers] == list(records.texts[:, 1])
    assert [a.cost for a in answers] == list(records.cost[:, 1])


def test_rows_are_found_by_id_whatever_the_order() -> None:
    queries = questions(5)
    records = records_of(queries, "ab").take([4, 2, 0, 1, 3])
    answers = replay(queries, [decision("a", "b")] * 5, recruit, records)
    again = replay(records.queries, [decision("a", "b")] * 5, recruit, records)
    assert {a.query_id: a for a in answers} == {a.query_id: a for a in again}


@pytest.mark.parametrize(
    ("composition", "purpose"),
    [(partial(recruit, aggregator=ByExpert("a")), "aggregate"), (annotate, "annotate")],
)
def test_only_answers_are_served(composition: object, purpose: str) -> None:
    queries = questions(1)
    with pytest.raises(NotRecordedError, match=f"{purpose} call to 'a' for query 'q0'"):
        replay(queries, [decision("a", "b")], composition, records_of(queries, "ab"))  # type: ignore[arg-type]


def test_an_unknown_expert_is_not_recorded() -> None:
    queries = questions(1)
    with pytest.raises(NotRecordedError, match="answer call to 'c' for query 'q0'"):
        replay(queries, [decision("c")], single, records_of(queries, "ab"))


def test_an_unknown_query_is_not_recorded() -> None:
    records = records_of(questions(1), "ab")
    with pytest.raises(NotRecordedError, match="for query 'new'"):
        replay([Query.from_text("new", "question 0")], [decision("a")], single, records)


def test_a_cell_without_a_text_is_not_recorded() -> None:
    queries = questions(2)
    records = records_of(queries, "ab")
    quality, texts = records.quality.copy(), records.texts.copy()
    quality[1, 0], texts[1, 0] = np.nan, None
    sparse = replace(records, quality=quality, texts=texts)
    with pytest.raises(NotRecordedError, match="answer call to 'a' for query 'q1'"):
        replay(queries, [decision("a")] * 2, single, sparse)


def test_a_fallback_stands_in_for_a_recorded_failure_as_it_does_live() -> None:
    def broken(call: Call) -> str:
        raise RuntimeError("broken")

    experts = {"a": FunctionExpert("a", broken), "b": FunctionExpert("b", lambda call: "yes")}
    labelled = parse_questions([b'{"id": "q", "question": "?", "answer": "yes"}'], "test")
    records = asyncio.run(profile_pool(Pool("test", experts), labelled))
    (replayed,) = replay(labelled.queries, [decision("a", "b")], single, records)
    (batched,) = batch(labelled.queries, [decision("a", "b")], single, experts).answers
    for answer in (replayed, batched):
        assert [c.failed for c in answer.trace] == [True, False]
        assert (answer.completion.expert, answer.completion.text) == ("b", "yes")
