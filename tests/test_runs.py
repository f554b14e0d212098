import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from coterie.aggregators import ByExpert, Majority, Weighted
from coterie.answers import arrow, number, whole
from coterie.compositions import cascade, confident, recruit, single
from coterie.drivers.batch import Result
from coterie.errors import CoterieError, ResumeError
from coterie.experts.function import FunctionExpert
from coterie.policies import Recruit, Utility
from coterie.pool import Pool
from coterie.questions import Questions, parse_questions
from coterie.records import Records
from coterie.routers.baselines import BestSingle
from coterie.runs import (
    AnswerFile,
    answer_questions,
    answer_row,
    describe,
    fingerprint,
    profile_questions,
)
from coterie.types import Answer, Call, Completion, Decision, Flow, Query, Seed

LINES = [json.dumps({"id": f"q{i}", "question": f"What is {i}?"}).encode() for i in range(4)]
QUESTIONS = parse_questions(LINES, "test")


def echo(call: Call) -> str:
    return f"{call.expert} => {call.messages[-1]['content']}"


POOL = Pool("test", {name: FunctionExpert(name, echo) for name in "abc"}, extract="arrow")


def fitted(*experts: str) -> BestSingle:
    scores = np.linspace(1.0, 0.5, len(experts))[None, :]
    return BestSingle().fit(Records((Query.from_text("1", "one"),), experts, scores))


def run(
    journal: Path, pool: Pool = POOL, questions: Questions = QUESTIONS, seed: int = 0
) -> Result:
    answers: dict[int, Answer] = {}
    job = answer_questions(
        pool,
        questions.queries,
        fitted("a", "b"),
        Recruit(2),
        recruit,
        answers.__setitem__,
        journal=journal,
        seed=seed,
    )
    progress = asyncio.run(job)
    return Result(tuple(answers[i] for i in range(len(questions))), progress)


def nowhere(position: int, answer: Answer) -> None:
    """Forgets the answers."""


def test_a_second_run_asks_nothing_and_answers_alike(tmp_path: Path) -> None:
    first, second = run(tmp_path / "j"), run(tmp_path / "j")
    assert (first.progress.calls, first.progress.reused) == (8, 0)
    assert (second.progress.calls, second.progress.reused) == (0, 8)
    assert first.answers == second.answers


def test_decisions_are_not_made_again(tmp_path: Path) -> None:
    class Fickle(Recruit):
        def decide(self, queries, estimates):  # type: ignore[no-untyped-def]
            raise AssertionError("decided again")

    run(tmp_path / "j")
    fickle = Fickle(2)
    fickle.__class__.__name__ = "Recruit"
    job = answer_questions(
        POOL,
        QUESTIONS.queries,
        fitted("a", "b"),
        fickle,
        recruit,
        nowhere,
        journal=tmp_path / "j",
    )
    assert asyncio.run(job).calls == 0


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"seed": 1}, "seed was '0', is '1'"),
        ({"questions": QUESTIONS.take([0, 1])}, "questions was"),
        ({"pool": replace(POOL, options={"max_tokens": 9})}, "pool was .*; questions was"),
        ({"pool": replace(POOL, extract="whole")}, "extract was 'arrow', is 'whole'"),
    ],
)
def test_another_run_over_the_journal_is_refused(
    tmp_path: Path, changed: dict[str, object], name: str
) -> None:
    run(tmp_path / "j")
    with pytest.raises(ResumeError, match=name):
        run(tmp_path / "j", **changed)  # type: ignore[arg-type]


def test_a_router_of_another_pool_is_refused_by_the_names_it_lacks(tmp_path: Path) -> None:
    router = fitted("a", "x", "y")
    job = answer_questions(POOL, QUESTIONS.queries, router, Recruit(2), recruit, nowhere)
    with pytest.raises(CoterieError, match="this pool lacks: x, y; profile this pool"):
        asyncio.run(job)


class Callable:
    """A composition with settings of its own, as a stranger may write it."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def __call__(self, query: Query, decision: Decision, seed: Seed) -> Flow:
        return single(query, decision, seed)


def test_compositions_that_differ_are_described_differently() -> None:
    shown = {
        describe(composition)
        for composition in (
            single,
            recruit,
            cascade,
            partial(cascade, accept=confident(-0.5)),
            partial(cascade, accept=confident(-0.1)),
            partial(recruit, aggregator=Majority(arrow)),
            partial(recruit, aggregator=Majority(whole)),
            partial(recruit, aggregator=Weighted(number, 4)),
            partial(recruit, aggregator=Weighted(number, 5)),
            partial(recruit, aggregator=ByExpert("a")),
            Callable(1),
            Callable(2),
        )
    }
    assert len(shown) == 12
    assert not [text for text in shown if " at 0x" in text]


def test_a_description_is_equal_in_every_process() -> None:
    script = (
        "from functools import partial; from coterie.aggregators import Weighted;"
        "from coterie.compositions import recruit; from coterie.runs import describe;"
        "print(describe(partial(recruit, aggregator=Weighted())))"
    )
    command = [sys.executable, "-c", script]
    shown = {subprocess.run(command, capture_output=True, text=True).stdout for _ in range(2)}
    assert shown == {describe(partial(recruit, aggregator=Weighted())) + "\n"}


def test_the_fingerprint_of_questions_follows_everything_in_them_but_tags() -> None:
    query = Query.from_text("q", "what?", max_tokens=3)
    others = [
        replace(query, id="p"),
        replace(query, messages=({"role": "user", "content": "when?"},)),
        replace(query, params={"max_tokens": 4}),
        replace(query, messages=({"role": "user", "content": "\ud83d"},)),
    ]
    assert len({fingerprint([q]) for q in (query, *others)}) == 5
    assert fingerprint([query]) == fingerprint([replace(query, tags=("algebra",))])
    assert fingerprint([query]) == fingerprint([replace(query)])


def test_an_answer_is_a_row_of_json() -> None:
    completion = Completion("a", "so => 7", cost=0.5)
    answer = Answer("q", completion, (completion, completion), Decision("single", ("a",), (1.0,)))
    row = answer_row(answer, arrow)
    assert (row["id"], row["answer"], row["expert"], row["cost"]) == ("q", "7", "a", 1.0)
    with AnswerFile(2, arrow) as file:
        for position in (1, 0):
            file.take(position, replace(answer, query_id=f"q{position}"))
        rows = [json.loads(line) for line in file.lines()]
    assert rows == [json.loads(json.dumps({**row, "id": f"q{i}"})) for i in (0, 1)]


def test_a_failure_has_no_answer_but_an_error() -> None:
    failed = Answer("q", Completion("a", "half", error="cut off"), (), Decision("single", (), ()))
    row = answer_row(failed, arrow)
    assert (row["answer"], row["error"]) == (None, "cut off")


def test_options_of_the_pool_are_below_those_of_a_question() -> None:
    pool = replace(POOL, options={"max_tokens": 9, "temperature": 0.0})
    prepared = pool.prepare([Query.from_text("q", "what?", max_tokens=3)])
    assert prepared[0].params == {"max_tokens": 3, "temperature": 0.0}


def test_utility_runs_are_journaled_too(tmp_path: Path) -> None:
    for calls in (4, 0):
        job = answer_questions(
            POOL,
            QUESTIONS.queries,
            fitted("a", "b"),
            Utility(),
            single,
            nowhere,
            journal=tmp_path / "j",
        )
        assert asyncio.run(job).calls == calls


def test_a_profile_goes_on_where_it_stopped_and_may_read_answers_anew(tmp_path: Path) -> None:
    asked: list[str] = []

    def reply(call: Call) -> str:
        asked.append(call.expert)
        return "so => 95"

    expert = FunctionExpert("a", reply)
    pool = Pool("mine", {"a": expert})
    known = Questions((Query.from_text("q", "37 + 58?"),), ("95",))
    first = asyncio.run(profile_questions(pool, known, journal=tmp_path / "journal"))
    read = replace(pool, extract="arrow")
    second = asyncio.run(profile_questions(read, known, journal=tmp_path / "journal"))
    assert (first.quality[0, 0], second.quality[0, 0], len(asked)) == (0.0, 1.0, 1)
