"""What is evaluated offline is what serves online: three drivers, one answer."""

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
from fakes import Fake, World, batch, decision, questions, recorded, records_of, text_of
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.aggregators import Agreeing, ByExpert, Fusion, Majority, Weighted
from coterie.compositions import Composition, ask, cascade, confident, recruit, single
from coterie.compositions.mixture import Mixture
from coterie.compositions.multi_round import Forward, MultiRound
from coterie.compositions.prompted import Prompted
from coterie.compositions.rank_and_fuse import RankAndFuse
from coterie.drivers import live
from coterie.drivers.batch import Progress, answer_all
from coterie.drivers.replay import replay
from coterie.experts.base import Expert
from coterie.experts.function import FunctionExpert
from coterie.store import Journal
from coterie.types import Answer, Call, Completion, Decision, Final, Flow, Query, Seed, derive_seed

NAMES = "abc"


def lively(
    queries: Sequence[Query],
    decisions: Sequence[Decision],
    composition: Composition,
    experts: Mapping[str, Expert],
) -> list[Answer]:
    async def one_by_one() -> list[Answer]:
        pairs = zip(queries, decisions, strict=True)
        return [await live.answer(q, d, composition, experts) for q, d in pairs]

    return asyncio.run(one_by_one())


def streaming(
    queries: Sequence[Query],
    decisions: Sequence[Decision],
    composition: Composition,
    experts: Mapping[str, Expert],
) -> list[Answer]:
    async def last(query: Query, decided: Decision) -> Answer:
        pieces = [p async for p in live.stream(query, decided, composition, experts)]
        assert isinstance(pieces[-1], Answer)
        return pieces[-1]

    async def one_by_one() -> list[Answer]:
        return [await last(q, d) for q, d in zip(queries, decisions, strict=True)]

    return asyncio.run(one_by_one())


COMPOSITIONS: dict[str, Composition] = {
    "single": single,
    "cascade": cascade,
    "careful cascade": partial(cascade, accept=confident(-0.3)),
    "majority": partial(recruit, aggregator=Majority()),
    "weighted": partial(recruit, aggregator=Weighted()),
    "fusion": partial(recruit, aggregator=Fusion()),
    "agreeing": partial(recruit, aggregator=Agreeing()),
    "forwarded": MultiRound(Forward()),
}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_replay_live_stream_and_batch_agree(name: str) -> None:
    queries, composition = questions(40), COMPOSITIONS[name]
    records = records_of(queries, NAMES)
    decisions = [decision(*NAMES[i % 3 :], *NAMES[: i % 3]) for i in range(40)]
    replayed = replay(queries, decisions, composition, records)
    experts = recorded(records)
    assert list(batch(queries, decisions, composition, experts).answers) == replayed
    assert lively(queries, decisions, composition, experts) == replayed
    assert streaming(queries, decisions, composition, experts) == replayed


def test_an_expert_recruited_twice_is_asked_twice_by_all() -> None:
    queries = questions(5)
    records = records_of(queries, NAMES)
    decisions = [decision("a", "b", "a")] * 5
    replayed = replay(queries, decisions, recruit, records)
    assert list(batch(queries, decisions, recruit, recorded(records)).answers) == replayed
    assert [len(a.trace) for a in replayed] == [3] * 5


def plain(answers: Sequence[Answer]) -> list[tuple[str, str, str | None, list[str]]]:
    """Everything in the answers but the time it took."""
    return [
        (a.query_id, a.completion.text, a.completion.error, [c.text for c in a.trace])
        for a in answers
    ]


@pytest.mark.parametrize("broken", ["", "a", "c", "ab", "abc"])
def test_live_stream_and_batch_agree_on_an_aggregating_expert(broken: str) -> None:
    def reply(call: Call) -> str:
        if call.expert in broken:
            raise RuntimeError("broken")
        return f"{call.expert}, {call.purpose}, seed {call.options['seed']}: {text_of(call)}"

    queries, decisions = questions(2), [decision(*NAMES)] * 2
    experts = {name: FunctionExpert(name, reply) for name in NAMES}
    merge = partial(recruit, aggregator=ByExpert("c"))
    batched = plain(batch(queries, decisions, merge, experts).answers)
    assert plain(lively(queries, decisions, merge, experts)) == batched
    assert plain(streaming(queries, decisions, merge, experts)) == batched


ASKING: dict[str, Composition] = {
    "mixture": Mixture(),
    "multi-round": MultiRound(rounds=2),
    "prompted": Prompted(),
    "rank and fuse": RankAndFuse(),
}


@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize("silent", ["", "a", "c", "ab", "abc"])
def test_live_stream_and_batch_agree_where_experts_route_judge_and_merge(
    silent: str, name: str
) -> None:
    def reply(call: Call) -> str:
        said = f"{call.expert}, {call.purpose}, seed {call.options['seed']}: {text_of(call)}"
        return "" if call.expert in silent else said

    queries, decisions = questions(2), [decision(*NAMES)] * 2
    experts = {name: FunctionExpert(name, reply) for name in NAMES}
    batched = plain(batch(queries, decisions, ASKING[name], experts).answers)
    assert plain(lively(queries, decisions, ASKING[name], experts)) == batched
    assert plain(streaming(queries, decisions, ASKING[name], experts)) == batched


@st.composite
def flows(draw: st.DrawFn) -> Composition:
    """A random conversation that depends on everything it may depend on."""
    widths = draw(st.lists(st.integers(0, 3), max_size=4))
    ending = draw(st.sampled_from(["completion", "final", "fallback call", "fallback completion"]))
    salt = draw(st.integers(0, 1000))

    def flow(query: Query, decided: Decision, seed: Seed) -> Flow:
        said = ""
        completion = Completion("nobody", "nothing")

        def pick(step: int, index: int) -> Call:
            number = derive_seed(salt, seed, said, step, index)
            return ask(query, decided.experts[number % len(decided.experts)], seed, step, index)

        for step, width in enumerate(widths):
            completions = yield [pick(step, index) for index in range(width)]
            said += "|".join(str((c.text, c.error)) for c in completions)
            completion = completions[-1] if completions else completion
            if derive_seed(said, "enough") % 4 == 0:
                break
        if ending == "completion":
            return completion
        others: dict[str, tuple[Call | Completion, ...]] = {
            "fallback call": (pick(9, 1), pick(9, 2)),
            "fallback completion": (pick(9, 1), completion),
        }
        return Final(pick(9, 0), f"{step_mark(said)}> ", others.get(ending, ()))

    return flow


def step_mark(said: str) -> str:
    return str(derive_seed(said) % 100)


@settings(max_examples=60, deadline=None)
@given(flows(), st.integers(1, 3), st.integers(0, 99))
def test_any_flow_is_the_same_for_every_driver(flow: Composition, capacity: int, seed: int) -> None:
    queries = questions(6)
    records = records_of(queries, NAMES, seed)
    decisions = [decision(*NAMES)] * 6
    replayed = replay(queries, decisions, flow, records)
    experts = recorded(records)
    assert list(batch(queries, decisions, flow, experts, capacity).answers) == replayed
    assert streaming(queries, decisions, flow, experts) == replayed


@settings(max_examples=60, deadline=None)
@given(flows(), st.integers(1, 4), st.integers(2, 9))
def test_a_flow_that_is_dropped_and_run_again_is_the_same(
    flow: Composition, window: int, failing: int
) -> None:
    experts = unreliable(failing, 100, World())
    queries, decisions = questions(6), [decision(*NAMES)] * 6
    with patch("coterie.drivers.batch.PATIENCE", 1000):
        whole = batch(queries, decisions, flow, experts)
        job = answer_all(queries, decisions, flow, experts, window=window)
        dropped = asyncio.run(job)
    assert dropped.answers == whole.answers
    assert dropped.progress.calls == whole.progress.calls


def unreliable(failing: int, size: int, world: World) -> dict[str, Expert]:
    """Experts of which each fails on about one call in ``failing``."""

    def reply(call: Call) -> str | None:
        number = derive_seed(call.digest())
        return None if number % failing == 0 else f"{call.expert} {number % 3}"

    return {name: Fake(name, world, reply, size=size, slots=3) for name in NAMES}


class KilledError(Exception):
    """The run was killed."""


def run_until(
    calls: int,
    queries: Sequence[Query],
    flow: Composition,
    experts: Mapping[str, Expert],
    path: Path,
) -> tuple[Answer, ...]:
    """A run over the journal at ``path`` that is cut short after so many calls."""

    def report(progress: Progress) -> None:
        if progress.calls >= calls:
            raise KilledError

    decisions = [decision(*NAMES)] * len(queries)
    with Journal(path, {"run": "1"}) as journal:
        job = answer_all(queries, decisions, flow, experts, journal=journal, report=report)
        return asyncio.run(job).answers


@settings(max_examples=60, deadline=None)
@given(flows(), st.lists(st.integers(1, 12), max_size=4), st.integers(2, 9), st.booleans())
def test_any_flow_is_the_same_however_often_it_is_killed(
    flow: Composition, kills: list[int], failing: int, in_memory: bool
) -> None:
    world = World()
    experts = unreliable(failing, 100 if in_memory else 0, world)
    queries, decisions = questions(6), [decision(*NAMES)] * 6
    with patch("coterie.drivers.batch.PATIENCE", 1000), tempfile.TemporaryDirectory() as folder:
        unbroken = batch(queries, decisions, flow, experts).answers
        for calls in kills:
            try:
                run_until(calls, queries, flow, experts, Path(folder) / "journal")
            except KilledError:
                continue
        resumed = run_until(10_000, queries, flow, experts, Path(folder) / "journal")
    assert resumed == unbroken
    assert (world.faults, world.present) == ([], [])
