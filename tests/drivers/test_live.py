import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest
from fakes import Fake, World, decision

from coterie.aggregators import ByExpert
from coterie.compositions import Composition, ask, recruit, single
from coterie.drivers import live
from coterie.errors import ExpertError
from coterie.experts.base import Expert
from coterie.types import Answer, Call, Completion, Decision, Final, Flow, Query, Seed

QUERY = Query.from_text("q", "what?")


class Talker(Expert):
    """Streams these words, then fails where told to."""

    def __init__(self, name: str, *words: str, error: str | None = None) -> None:
        self.name, self.words, self.error = name, words, error
        self.left_early = False

    async def complete(self, call: Call) -> Completion:
        return Completion(self.name, "".join(self.words), error=self.error)

    async def stream(self, call: Call) -> AsyncIterator[str | Completion]:
        try:
            for word in self.words:
                yield word
            yield await self.complete(call)
        except GeneratorExit:
            self.left_early = True
            raise


def ending(prefix: str = "", *fallbacks: Completion | str) -> Composition:
    """A flow that is one final call to ``a``; texts among the fallbacks are experts."""

    def flow(query: Query, decided: Decision, seed: Seed) -> Flow:
        others = [ask(query, f, seed) if isinstance(f, str) else f for f in fallbacks]
        yield from ()
        return Final(ask(query, "a", seed), prefix, tuple(others))

    return flow


def streamed(composition: Composition, *experts: Expert) -> tuple[list[str], Answer]:
    async def collect() -> list[str | Answer]:
        named = {e.name: e for e in experts}
        return [p async for p in live.stream(QUERY, decision("a", "b"), composition, named)]

    *pieces, answer = asyncio.run(collect())
    assert isinstance(answer, Answer)
    return [str(piece) for piece in pieces], answer


def answered(composition: Composition, *experts: Expert) -> Answer:
    named = {e.name: e for e in experts}
    return asyncio.run(live.answer(QUERY, decision("a", "b"), composition, named))


def test_calls_of_a_round_run_side_by_side() -> None:
    world = World()
    started: list[int] = []

    def reply(call: Call) -> str:
        started.append(len(world.calls))
        return "yes"

    experts = [Fake(name, world, reply) for name in "ab"]
    answered(recruit, *experts)
    assert started == [2, 2]


def test_the_final_call_streams_with_its_prefix() -> None:
    pieces, answer = streamed(ending("> "), Talker("a", "one ", "two"))
    assert pieces == ["> one ", "two"]
    assert answer.completion.text == "> one two"


def test_a_stream_ends_in_the_answer_that_is_given_without_one() -> None:
    for composition in (single, recruit, ending("> ", "b")):
        experts = Talker("a", "one ", "two"), Talker("b", "three")
        pieces, answer = streamed(composition, *experts)
        assert answer == answered(composition, *experts)
        assert "".join(pieces) == answer.completion.text


def test_a_fallback_streams_where_the_first_fails_in_silence() -> None:
    experts = Talker("a", error="no idea"), Talker("b", "three", " four")
    pieces, answer = streamed(ending("> ", "b"), *experts)
    assert pieces == ["> three", " four"]
    assert [c.error for c in answer.trace] == ["no idea", None]


def test_once_a_piece_was_sent_no_fallback_replaces_it() -> None:
    experts = Talker("a", "one ", error="cut off"), Talker("b", "three")
    pieces, answer = streamed(ending("", "b"), *experts)
    assert pieces == ["one "]
    assert (answer.completion.error, len(answer.trace)) == ("cut off", 1)


def test_a_vote_that_stands_in_comes_in_one_piece() -> None:
    world = World()
    experts = [Fake(name, world, lambda call: "yes") for name in "ab"]
    broken = Talker("judge", error="no idea")

    def flow(query: Query, decided: Decision, seed: Seed) -> Flow:
        return recruit(query, decided, seed, aggregator=ByExpert("judge"))

    pieces, answer = streamed(flow, *experts, broken)
    assert pieces == ["yes"]
    assert [c.expert for c in answer.trace] == ["a", "b", "judge"]


def test_a_total_failure_streams_nothing_but_the_answer() -> None:
    experts = Talker("a", error="no idea"), Talker("b", error="no idea either")
    pieces, answer = streamed(ending("> ", "b"), *experts)
    assert pieces == []
    assert answer.completion.error == "no idea either"


def test_a_listener_that_leaves_ends_the_expert_s_stream() -> None:
    talker = Talker("a", "one ", "two")

    async def leave(experts: Mapping[str, Expert]) -> None:
        stream = live.stream(QUERY, decision("a"), single, experts)
        assert await anext(stream) == "one "
        await stream.aclose()
        assert talker.left_early

    asyncio.run(leave({"a": talker}))


def test_an_expert_that_is_not_there_is_named() -> None:
    with pytest.raises(ExpertError, match="no expert called 'b'"):
        answered(recruit, Talker("a", "one"))
    with pytest.raises(ExpertError, match="no expert called 'a'"):
        streamed(single, Talker("b", "one"))
