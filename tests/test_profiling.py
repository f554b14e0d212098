import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from coterie.aggregator_benchmark import aggregator_accuracy, benchmark
from coterie.aggregators import ByExpert
from coterie.answers import number
from coterie.compositions import recruit
from coterie.drivers.live import answer
from coterie.drivers.replay import replay
from coterie.errors import InputError
from coterie.experts.base import Price
from coterie.experts.function import FunctionExpert
from coterie.pool import Pool
from coterie.profiling import annotate_queries, profile_decisions, profile_pool, records_of
from coterie.questions import Questions
from coterie.testing import make_records
from coterie.types import Answer, Call, Completion, Decision, Query, Usage

COUNT = 12
QUESTIONS = Questions(
    tuple(
        replace(Query.from_text(f"q{i}", f"What is {i} plus 1?"), category=("even", "odd")[i % 2])
        for i in range(COUNT)
    ),
    tuple(str(i + 1) for i in range(COUNT)),
)


def add(call: Call) -> str:
    return f"it is {int(call.messages[-1]['content'].split()[2]) + 1}"


def broken(call: Call) -> str:
    raise RuntimeError("out of order")


def pool(**functions: Callable[[Call], Any]) -> Pool:
    experts = {n: FunctionExpert(n, f, price=Price(1.0, 1.0)) for n, f in functions.items()}
    return Pool("test", experts, extract="number")


def test_a_profile_holds_what_every_expert_made_of_every_question() -> None:
    records = asyncio.run(profile_pool(pool(adder=add, liar=lambda c: "0"), QUESTIONS))
    assert records.experts == ("adder", "liar")
    assert records.quality.tolist() == [[1.0, 0.0]] * COUNT
    assert records.texts[3].tolist() == ["it is 4", "0"]
    assert (records.references, records.categories) == (QUESTIONS.references, QUESTIONS.categories)


def test_costs_are_recorded_beside_the_scores() -> None:
    records = asyncio.run(profile_pool(pool(adder=add), QUESTIONS))
    tokens = records.prompt_tokens + records.completion_tokens
    np.testing.assert_array_equal(records.cost, tokens)
    assert (records.latency >= 0).all()


def test_what_the_pool_knows_of_its_experts_goes_with_the_records() -> None:
    priced = FunctionExpert("big", add, price=Price(0.1e-6, 0.3e-6))
    free = FunctionExpert("small", add)
    made = Pool("test", {"big": priced, "small": free}, {"big": 7_000_000_000}, extract="number")
    facts = {"big": {"parameters": 7.0, "input_price": 0.1, "output_price": 0.3}}
    assert asyncio.run(profile_pool(made, QUESTIONS)).facts == facts
    counted = replace(made, unit="G parameter-tokens")
    assert asyncio.run(profile_pool(counted, QUESTIONS)).facts == {"big": {"parameters": 7.0}}


def test_only_the_experts_asked_for_are_profiled() -> None:
    records = asyncio.run(
        profile_pool(pool(adder=add, broken=broken), QUESTIONS, experts=["adder"])
    )
    assert records.experts == ("adder",)


def test_a_question_without_an_answer_cannot_be_profiled() -> None:
    open_ended = replace(QUESTIONS, references=(*QUESTIONS.references[:-1], None))
    with pytest.raises(InputError, match="field 'answer': question 'q11' has none"):
        asyncio.run(profile_pool(pool(adder=add), open_ended))


def test_a_slow_expert_gets_its_sample_and_no_more() -> None:
    limited = replace(pool(fast=add, slow=add), samples={"slow": 5})
    records = asyncio.run(profile_pool(limited, QUESTIONS))
    assert records.observed.sum(axis=0).tolist() == [COUNT, 5]


def test_the_sample_depends_on_the_seed_alone() -> None:
    limited = replace(pool(slow=add), samples={"slow": 5})
    first, same, other = (
        profile_decisions(limited, QUESTIONS, ["slow"], seed) for seed in (0, 0, 1)
    )
    assert first == same
    assert first != other
    assert sum(len(d.experts) for d in first) == 5


def test_a_failed_completion_is_a_wrong_answer_with_its_cost() -> None:
    failed = Completion("ann", "1", Usage(5, 0), cost=2.5, error="cut off")
    outcome = Answer("q0", failed, (failed,), Decision("recruit", ("ann",), (1.0,)))
    records = records_of(QUESTIONS.take([0]), [outcome], ["ann", "bob"], number)
    assert records.quality[0, 0] == 0.0
    assert np.isnan(records.quality[0, 1])
    assert (records.cost[0, 0], records.texts[0, 0]) == (2.5, "")


def test_of_two_completions_of_one_expert_the_first_counts() -> None:
    trace = (Completion("ann", "1"), Completion("ann", "7"))
    outcome = Answer("q0", trace[0], trace, Decision("recruit", ("ann", "ann"), (1.0, 1.0)))
    records = records_of(QUESTIONS.take([0]), [outcome], ["ann"], number)
    assert (records.texts[0, 0], records.quality[0, 0]) == ("1", 1.0)


def test_replay_comes_to_the_answers_that_live_came_to_failures_included() -> None:
    def moody(call: Call) -> str:
        return broken(call) if "3" in call.messages[-1]["content"] else "0"

    experts = pool(moody=moody, grumpy=moody, adder=add)
    records = asyncio.run(profile_pool(experts, QUESTIONS))
    decisions = [Decision("recruit", tuple(experts.experts), (1.0,) * 3)] * COUNT
    again = replay(records.queries, decisions, recruit, records)
    for query, decision, replayed in zip(QUESTIONS.queries, decisions, again, strict=True):
        live = asyncio.run(answer(query, decision, recruit, experts.experts))
        assert live.completion.text == replayed.completion.text
        assert [c.failed for c in live.trace] == [c.failed for c in replayed.trace]


def test_annotated_queries_carry_keywords_as_tags() -> None:
    annotating = pool(tagger=lambda call: "Keywords: Sums, digits.")
    queries = asyncio.run(annotate_queries(annotating, QUESTIONS.queries[:2], "tagger"))
    assert [q.tags for q in queries] == [("sums", "digits")] * 2
    assert [q.id for q in queries] == ["q0", "q1"]


def test_queries_without_agreed_keywords_have_no_tags() -> None:
    annotating = pool(tagger=lambda call: f"Keywords: number {call.options['seed']}")
    (query,) = asyncio.run(annotate_queries(annotating, QUESTIONS.queries[:1], "tagger"))
    assert query.tags == ()


def test_an_annotator_that_is_not_in_the_pool_is_named() -> None:
    with pytest.raises(InputError, match="field 'annotator': no expert 'zoe' in the pool"):
        asyncio.run(annotate_queries(pool(adder=add), QUESTIONS.queries, "zoe"))


# the aggregator benchmark


def shown(prompt: str) -> list[str]:
    return [line.split(": ", 1)[1] for line in prompt.splitlines() if line.startswith("Model ")]


def test_the_benchmark_shows_one_right_and_two_wrong_answers_shuffled() -> None:
    records = make_records(24)
    prompts = [q.text for q in benchmark(records, ByExpert("")).queries]
    assert all(sorted(shown(p)) == ["=> right", "=> wrong", "=> wrong"] for p in prompts)
    assert len({shown(p).index("=> right") for p in prompts}) == 3


def test_failed_completions_are_no_answers_to_show() -> None:
    records = make_records(1)
    texts = np.array([["=> right", "", "=> wrong", "=> also wrong"]], object)
    failed = replace(records, texts=texts, quality=np.array([[1.0, 0, 0, 0]]))
    (query,) = benchmark(failed, ByExpert("")).queries
    assert sorted(shown(query.text)) == ["=> also wrong", "=> right", "=> wrong"]


def test_without_a_right_answer_its_place_is_empty() -> None:
    records = make_records(1)
    texts = np.full((1, 4), "=> wrong", object)
    wrong = replace(records, texts=texts, quality=np.zeros((1, 4)))
    (query,) = benchmark(wrong, ByExpert("", template="{answers}|")).queries
    assert query.text.count("=> wrong") == 2
    assert query.text.count(": =>") == 2


def test_the_better_reader_is_the_better_aggregator() -> None:
    readers = pool(
        careful=lambda call: "right" if "=> right" in call.messages[-1]["content"] else "none",
        careless=lambda call: call.messages[-1]["content"].split("Model 1: => ")[1].split()[0],
    )
    readers = replace(readers, extract="whole")
    accuracy = asyncio.run(aggregator_accuracy(readers, make_records(24), ByExpert("")))
    assert accuracy["careful"] == 1.0
    assert 0.1 < accuracy["careless"] < 0.6
