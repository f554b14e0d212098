"""Many questions, little memory: windows, caps, caches, bytes, backends."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes import Fake, World, batch, decision, questions, text_of

from coterie.aggregators import ByExpert
from coterie.caching import Cache
from coterie.compositions import Composition, recruit, single
from coterie.drivers.batch import Progress, Result, answer_all
from coterie.drivers.flows import Calls, Flows
from coterie.drivers.limits import Caps
from coterie.drivers.rooms import by_size
from coterie.errors import ArtifactError, ExpertError, InputError
from coterie.experts.base import Expert, Price
from coterie.residency import Residency
from coterie.store import Journal
from coterie.types import Call, Completion, Decision, Usage


def answered(
    count: int, decided: Decision, experts: Mapping[str, Expert], how: Composition, **settings: Any
) -> Result:
    return asyncio.run(answer_all(questions(count), [decided] * count, how, experts, **settings))


def test_no_more_conversations_are_kept_than_the_window_has() -> None:
    with Journal("", {}) as journal:
        flows = Flows(questions(50), [decision("a", "b")] * 50, recruit, 0, journal, window=3)
        for position in range(50):
            flows.admit(position)
        assert len(flows._live) == 3
        held = [flows.take(position) for position in range(10, 20)]
        assert len(flows._live) == 13
        for current in held:
            flows.give(current)
        assert len(flows._live) == 3


def test_a_window_changes_no_answer_and_no_load() -> None:
    results = []
    for window in (1, 4, 100):
        world = World()
        experts: dict[str, Expert] = {n: Fake(n, world, size=9, slots=3) for n in "abc"}
        merged = [decision("a", "b", "c")] * 30
        job = answer_all(questions(30), merged, merge_by_c, experts, window=window)
        results.append((asyncio.run(job), sorted(world.loads)))
    assert results[0] == results[1] == results[2]
    assert results[0][0].progress.calls == 120


def merge_by_c(*flow: Any) -> Any:
    return recruit(*flow, aggregator=ByExpert("c"))


def test_a_queue_of_calls_is_first_in_first_out_however_long() -> None:
    queue = Calls()
    seen = []
    for number in range(20_000):
        queue.append(number, number % 3)
        if number % 2:
            seen.append(queue.popleft())
    seen += [queue.popleft() for _ in range(len(queue))]
    assert seen == [(number, number % 3) for number in range(20_000)]


def test_a_cap_on_calls_stops_cleanly_and_says_what_is_left() -> None:
    world = World()
    result = answered(10, decision("a"), {"a": Fake("a", world)}, single, caps=Caps(calls=4))
    assert (len(world.calls), result.progress.answered, result.progress.left) == (4, 4, 6)
    errors = [a.completion.error for a in result.answers]
    assert errors[:4] == [None] * 4
    assert errors[4] == "left unanswered: the cap on cost or calls was reached"


class Priced(Fake):
    """Answers with two tokens of a coin each, after a prompt that is free."""

    price = Price(0.0, 1.0)

    async def complete(self, call: Call) -> Completion:
        await super().complete(call)
        return Completion(self.name, "ok", Usage(3, 2), cost=2.0)


@pytest.mark.parametrize(("cap", "expected"), [(0, 0), (7, 2), (8, 3), (20, 9), (100, 10)])
def test_a_cap_on_cost_is_never_exceeded(cap: float, expected: int) -> None:
    expert = Priced("a", World(), slots=3, pause=4)
    queries = [query_with_limit(q) for q in questions(10)]
    job = answer_all(queries, [decision("a")] * 10, single, {"a": expert}, caps=Caps(cost=cap))
    progress = asyncio.run(job).progress
    assert progress.cost <= cap
    assert progress.answered == expected  # a call reserves the four tokens it may take


def query_with_limit(query: Any) -> Any:
    from dataclasses import replace

    return replace(query, params={"max_tokens": 4})


def test_what_an_earlier_run_spent_counts_against_the_cap(tmp_path: Path) -> None:
    def run(calls: int) -> Progress:
        with Journal(tmp_path / "j", {}) as journal:
            fake: dict[str, Expert] = {"a": Fake("a", World())}
            return answered(
                10, decision("a"), fake, single, caps=Caps(calls=calls), journal=journal
            ).progress

    assert [run(4).calls, run(4).calls, run(7).calls, run(99).calls] == [4, 0, 3, 3]


def test_a_call_that_is_asked_again_counts_against_the_cap_too() -> None:
    expert = Crowded("a", World(), size=9, slots=4, pause=3)
    result = answered(8, decision("a"), {"a": expert}, single, caps=Caps(calls=6))
    assert len(expert.world.calls) == 6
    assert result.progress.answered < 8


class Crowded(Fake):
    """Fails while it is at other calls."""

    async def complete(self, call: Call) -> Completion:
        done = await super().complete(call)
        if self.busy:
            return Completion(self.name, finish_reason="error", error="too crowded")
        return done


def test_a_cap_is_a_number_of_at_least_0() -> None:
    with pytest.raises(InputError, match=r"max_cost.*: expected a number of at least 0, got nan"):
        Caps(cost=float("nan"))


def test_equal_calls_come_from_the_cache_at_no_cost(tmp_path: Path) -> None:
    world = World()
    experts: dict[str, Expert] = {"a": Fake("a", world), "b": Fake("b", world)}
    runs = []
    for _ in range(2):
        with Cache(tmp_path / "cache") as cache:
            runs.append(answered(5, decision("a", "b"), experts, recruit, cache=cache))
    assert [(r.progress.calls, r.progress.hits) for r in runs] == [(10, 0), (0, 10)]
    assert runs[1].progress.cost == 0
    texts = [[c.text for a in r.answers for c in a.trace] for r in runs]
    assert texts[0] == texts[1]


def test_another_seed_or_expert_is_no_hit(tmp_path: Path) -> None:
    with Cache(tmp_path / "cache") as cache:
        answered(3, decision("a"), {"a": Fake("a", World())}, single, cache=cache)
        other = answered(3, decision("a"), {"a": Fake("a", World())}, single, cache=cache, seed=1)
        renamed = answered(3, decision("b"), {"b": Fake("b", World())}, single, cache=cache)
    assert (other.progress.hits, renamed.progress.hits) == (0, 0)


def test_what_is_no_cache_is_refused_and_untouched(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal", {}):
        pass
    before = (tmp_path / "journal").read_bytes()
    with pytest.raises(ArtifactError, match="a database of something else"):
        Cache(tmp_path / "journal")
    assert (tmp_path / "journal").read_bytes() == before


class Moded(Fake):
    """One of several ways to use the weights called ``weights``."""

    backend = "weights"

    async def load(self) -> None:
        if "weights" not in self.world.present:
            self.world.enter("weights")

    async def unload(self, keep: bool = False) -> None:
        self.world.present.remove("weights")

    async def complete(self, call: Call) -> Completion:
        assert "weights" in self.world.present
        self.world.calls.append((self.name, text_of(call)))
        return Completion(self.name, "yes", Usage(1, 1))


def test_experts_of_one_backend_share_one_load() -> None:
    world = World()
    experts = {n: Moded(n, world, size=9) for n in ("quick", "thinking", "terse")}
    result = batch(questions(6), [decision(*experts)] * 6, recruit, experts)
    assert (world.loads, result.progress.loads, len(world.calls)) == (["weights"], 1, 18)


class Sized(Fake):
    """Takes more once it is loaded than its file would have one think."""

    grown = 0

    async def footprint(self) -> int:
        return self._size + self.grown


def test_memory_is_kept_in_bytes_as_measured() -> None:
    world = World()
    experts = {n: Sized(n, world, size=40) for n in "abc"}
    answered(6, decision(*"abc"), experts, recruit, residency=by_size(experts, device=130))
    assert world.peak == 3
    for expert in experts.values():
        expert.grown = 20
    world.peak = 0
    answered(6, decision(*"abc"), experts, recruit, residency=by_size(experts, device=130))
    assert world.peak == 3  # until they were measured
    assert world.faults == []


def test_an_expert_that_can_never_fit_is_refused_with_the_arithmetic() -> None:
    experts = {"a": Fake("a", World(), size=200)}
    with pytest.raises(ExpertError, match=r"'a' can never fit: 200 > 100 on the device"):
        by_size(experts, device=100)


def test_what_leaves_the_device_stays_in_host_memory_where_it_fits() -> None:
    kept: list[tuple[str, bool]] = []

    class Keeping(Fake):
        async def unload(self, keep: bool = False) -> None:
            kept.append((self.name, keep))
            await super().unload()

    experts = {n: Keeping(n, World(), size=40) for n in "abc"}
    room = Residency(40, 120)  # one on the device, all in host memory
    for name in "abc":
        room.resize(name, 40)
    answered(3, decision(*"abc"), experts, recruit, residency=room)
    assert kept == [("a", True), ("b", True), ("c", False)]  # the last in the end


def test_a_remote_expert_starts_on_calls_that_come_up_in_the_middle_of_a_wave() -> None:
    order: list[str] = []

    def note(call: Call) -> str:
        order.append(call.expert)
        return "yes"

    world = World()
    experts = {n: Fake(n, world, note, size=9) for n in "ab"}
    experts["judge"] = Fake("judge", world, note)
    merged = [decision("a")] * 3 + [decision("b")] * 3

    def by_judge(*flow: Any) -> Any:
        return recruit(*flow, aggregator=ByExpert("judge"))

    batch(questions(6), merged, by_judge, experts)
    assert order.index("judge") < order.index("b")


def test_a_decision_for_nobody_leaves_its_query() -> None:
    decided: Sequence[Decision] = [decision("a"), Decision("single", (), ()), decision("a")]
    result = batch(questions(3), decided, single, {"a": Fake("a", World())})
    assert [a.completion.finish_reason for a in result.answers] == ["stop", "left", "stop"]
    assert result.progress.left == 1
