import asyncio

import numpy as np
import pytest

from coterie.errors import NotRecordedError
from coterie.experts.recorded import RecordedExpert
from coterie.records import Records
from coterie.testing import ask
from coterie.types import Call, Completion, Query

RECORDS = Records(
    queries=(Query.from_text("q1", "one?"), Query.from_text("q2", "two?")),
    experts=("a", "b"),
    quality=np.array([[1.0, 0.0], [np.nan, 1.0]]),
    cost=np.array([[0.1, 0.2], [np.nan, 0.4]]),
    texts=np.array([["1", "uno"], [None, "due"]], object),
)


def test_it_answers_what_the_records_hold() -> None:
    expert = RecordedExpert.from_records(RECORDS, "b")
    completion = asyncio.run(expert.complete(ask(expert, "two?")))
    assert (completion.expert, completion.text, completion.cost) == ("b", "due", 0.4)


def test_what_was_not_recorded_is_refused() -> None:
    expert = RecordedExpert.from_records(RECORDS, "a")
    with pytest.raises(NotRecordedError, match="a: no recorded answer to this answer call 'two"):
        asyncio.run(expert.complete(ask(expert, "two?")))


def test_an_unknown_expert_is_refused() -> None:
    with pytest.raises(NotRecordedError, match="no expert 'c'; they hold a, b"):
        RecordedExpert.from_records(RECORDS, "c")


def test_a_whole_conversation_can_be_the_key() -> None:
    expert = RecordedExpert("a", {("be brief", "one?"): Completion("a", "1")})
    system = {"role": "system", "content": "be brief"}
    call = Call("a", (system, {"role": "user", "content": "one?"}))
    assert asyncio.run(expert.complete(call)).text == "1"
    with pytest.raises(NotRecordedError):
        asyncio.run(expert.complete(ask(expert, "one?")))
