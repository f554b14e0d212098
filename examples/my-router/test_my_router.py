"""The contract that Coterie's own routers keep, and what this one is for."""

from dataclasses import replace

import pytest
from my_router import LengthRouter

from coterie.testing import ROUTER_CHECKS, make_records
from coterie.types import Query


@pytest.mark.parametrize("check", ROUTER_CHECKS)
def test_the_router_keeps_its_promise(check):
    check(LengthRouter)


def test_short_and_long_questions_go_to_different_experts():
    known = make_records(60).select(["sums", "sorting"])
    records = known.take([i for i, q in enumerate(known.queries) if q.category != "reversal"])
    texts = ["short" if right else "a very long question" for right in records.quality[:, 0]]
    asked = tuple(Query.from_text(f"q{i}", text) for i, text in enumerate(texts))
    router = LengthRouter().fit(replace(records, queries=asked))
    estimates = router.predict([Query.from_text("a", "brief"), Query.from_text("b", "x" * 20)])
    assert estimates.quality.argmax(axis=1).tolist() == [0, 1]
    assert estimates.evidence == ("length 5, part 1", "length 20, part 2")
