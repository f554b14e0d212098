import pytest
from fakes import decision

from coterie.compositions import ask, single
from coterie.drivers.conversation import Conversation
from coterie.types import Call, Completion, Decision, Final, Flow, Query, Seed, derive_seed

QUERY = Query.from_text("q", "what?")
FAILED = Completion("a", error="no idea")


def call(expert: str) -> Call:
    return ask(QUERY, expert, 0)


def ending(final: Final) -> Conversation:
    def flow(query: Query, decided: Decision, seed: Seed) -> Flow:
        yield from ()
        return final

    return Conversation(QUERY, decision("a"), flow, 0)


def test_a_flow_is_seeded_by_run_and_query() -> None:
    seeds = []

    def flow(query: Query, decided: Decision, seed: Seed) -> Flow:
        seeds.append(seed)
        yield from ()
        return Completion("a")

    Conversation(QUERY, decision("a"), flow, 7)
    assert seeds == [derive_seed(7, "q")]


def test_there_is_no_answer_while_calls_are_pending() -> None:
    conversation = Conversation(QUERY, decision("a"), single, 0)
    with pytest.raises(ValueError, match="'q' still waits for 1 calls"):
        _ = conversation.answer


def test_as_many_completions_as_calls_are_expected() -> None:
    conversation = Conversation(QUERY, decision("a"), single, 0)
    with pytest.raises(ValueError, match="expected 1 completions, got 2"):
        conversation.send([Completion("a"), Completion("b")])


def test_a_round_without_calls_goes_on() -> None:
    def flow(query: Query, decided: Decision, seed: Seed) -> Flow:
        got = yield []
        return Completion("a", f"{len(got)} completions")

    conversation = Conversation(QUERY, decision("a"), flow, 0)
    assert (conversation.pending, conversation.ended) == ((), False)
    conversation.send([])
    assert conversation.answer.completion.text == "0 completions"


def test_a_prefix_precedes_the_final_text_but_not_the_trace() -> None:
    conversation = ending(Final(call("a"), prefix="> "))
    conversation.send([Completion("a", "yes")])
    assert conversation.answer.completion.text == "> yes"
    assert [c.text for c in conversation.answer.trace] == ["yes"]


def test_fallbacks_are_tried_in_order_and_counted_as_steps() -> None:
    conversation = ending(Final(call("a"), "> ", (call("b"), call("c"))))
    for name in "ab":
        assert conversation.pending == (call(name),)
        conversation.send([FAILED])
    conversation.send([Completion("c", "yes")])
    assert (conversation.step, conversation.answer.completion.text) == (3, "> yes")
    assert len(conversation.answer.trace) == 3


def test_a_completion_as_fallback_stands_as_it_is() -> None:
    conversation = ending(Final(call("a"), "> ", (Completion("vote", "no"),)))
    conversation.send([FAILED])
    assert conversation.answer.completion == Completion("vote", "no")
    assert conversation.answer.trace == (FAILED,)


def test_the_last_failure_is_the_answer_where_nothing_stands_in() -> None:
    conversation = ending(Final(call("a"), "> ", (call("b"),)))
    conversation.send([FAILED])
    conversation.send([Completion("b", "half", error="cut off")])
    assert conversation.answer.completion == Completion("b", "half", error="cut off")


def test_abandoned_fallbacks_are_not_tried() -> None:
    conversation = ending(Final(call("a"), fallbacks=(call("b"),)))
    conversation.abandon_fallbacks()
    conversation.send([FAILED])
    assert conversation.answer.completion == FAILED


def test_cost_and_latency_are_sums_over_the_trace() -> None:
    conversation = ending(Final(call("a"), fallbacks=(call("b"),)))
    conversation.send([Completion("a", cost=1.0, latency=2.0, error="no")])
    conversation.send([Completion("b", "yes", cost=0.5, latency=0.25)])
    assert (conversation.answer.cost, conversation.answer.latency) == (1.5, 2.25)
