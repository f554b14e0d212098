import asyncio
from functools import partial

import pytest
from fakes import Fake, Reply, World, batch, decision, questions, text_of

from coterie.aggregators import ByExpert
from coterie.compositions import cascade, recruit, single
from coterie.drivers.batch import PATIENCE, Progress, answer_all, distinct_loads, naive_loads
from coterie.errors import ExpertError, NotRecordedError
from coterie.experts.base import Expert
from coterie.experts.recorded import RecordedExpert
from coterie.store import Journal
from coterie.types import Answer, Call, Completion, Query


def local(world: World, *names: str, reply: Reply | None = None, slots: int = 1) -> dict[str, Fake]:
    return {n: Fake(n, world, reply, size=100, slots=slots, pause=3) for n in names}


def failing_on(*texts: str) -> Reply:
    return lambda call: None if text_of(call) in texts else "yes"


def test_each_expert_is_loaded_once_for_all_questions() -> None:
    world = World()
    result = batch(questions(20), [decision("a", "b", "c")] * 20, recruit, local(world, *"abc"))
    assert sorted(world.loads) == ["a", "b", "c"]
    assert (result.progress.loads, result.progress.calls) == (3, 60)


def test_answers_keep_the_order_of_the_queries() -> None:
    queries = questions(7)
    decisions = [decision("ab"[i % 2]) for i in range(7)]
    result = batch(queries, decisions, single, local(World(), *"ab"))
    assert [a.query_id for a in result.answers] == [q.id for q in queries]
    assert [a.completion.expert for a in result.answers] == list("abababa")


def test_an_expert_in_memory_is_used_before_another_is_loaded() -> None:
    world = World()
    decisions = [decision("a", "b"), decision("b", "a")] * 5
    batch(questions(10), decisions, partial(cascade, accept=lambda c: False), local(world, *"ab"))
    assert world.loads == ["a", "b", "a"]


@pytest.mark.parametrize("capacity", [1, 2, 3])
def test_no_more_experts_are_in_memory_than_fit(capacity: int) -> None:
    world = World()
    names = "abcdefg"
    orders = [decision(*names[i % 7 :], *names[: i % 7]) for i in range(30)]
    experts = local(world, *names, slots=2)
    refuse = partial(cascade, accept=lambda c: False)
    batch(questions(30), orders, refuse, experts, capacity=capacity)
    assert world.peak == capacity
    assert world.faults == []


def test_an_expert_at_work_keeps_its_place() -> None:
    world = World()
    experts = local(world, *"abc")
    experts["a"].pause = 50  # still at its only call when b is done and c wants a place
    batch(questions(3), [decision(n) for n in "abc"], single, experts, capacity=2)
    assert world.faults == []
    assert world.unloads[0] == "b"


def test_the_next_wave_fits_as_well() -> None:
    world = World()
    decisions = [decision("a", "c"), decision("b", "d")]
    refuse = partial(cascade, accept=lambda c: False)
    batch(questions(2), decisions, refuse, local(world, *"abcd"), capacity=2)
    assert (world.peak, sorted(world.loads)) == (2, ["a", "b", "c", "d"])


def test_everything_is_unloaded_in_the_end() -> None:
    world = World()
    batch(questions(4), [decision("a", "b")] * 4, recruit, local(world, *"ab"), capacity=2)
    assert world.present == []


def test_an_expert_may_be_recruited_and_aggregate() -> None:
    world = World()
    experts = local(world, *"abc")
    merge = partial(recruit, aggregator=ByExpert("c"))
    result = batch(questions(6), [decision("a", "b", "c")] * 6, merge, experts)
    assert {a.completion.expert for a in result.answers} == {"c"}
    assert sorted(world.loads) == ["a", "b", "c"]
    assert result.progress.calls == 24


def test_remote_and_local_experts_work_together() -> None:
    world = World()
    experts = {**local(world, *"ab"), "r": Fake("r", world, slots=4)}
    result = batch(questions(8), [decision("a", "r", "b")] * 8, recruit, experts)
    assert (world.peak, sorted(world.loads)) == (1, ["a", "b"])
    assert [len(a.trace) for a in result.answers] == [3] * 8


def test_calls_that_come_up_later_fill_all_slots() -> None:
    world = World()
    experts = {"a": Fake("a", world, slots=8), "b": Fake("b", world, slots=8, pause=9)}
    decisions = [decision("b", "a"), *[decision("a", "b")] * 30]
    refuse = partial(cascade, accept=lambda c: False)
    batch(questions(31), decisions, refuse, experts)
    assert experts["b"].most_busy == 8


def test_slots_are_not_exceeded() -> None:
    expert = Fake("a", World(), slots=3, pause=5)
    batch(questions(20), [decision("a")] * 20, single, {"a": expert})
    assert expert.most_busy == 3


def test_failures_in_a_row_stop_the_run() -> None:
    world = World()
    experts = {"a": Fake("a", world, lambda call: None)}
    with pytest.raises(ExpertError, match=r"'a' failed 5 times in a row, last with: no idea\."):
        batch(questions(20), [decision("a")] * 20, single, experts)
    assert len(world.calls) == PATIENCE


def test_a_poisoned_question_does_not_stop_the_run() -> None:
    experts = {"a": Fake("a", World(), failing_on("question 3"))}
    result = batch(questions(9), [decision("a")] * 9, single, experts)
    assert [a.query_id for a in result.answers if a.completion.failed] == ["q3"]


def test_many_poisoned_questions_left_over_do_not_stop_the_second_run() -> None:
    poisoned = [f"question {i}" for i in range(0, 20, 2)]
    with Journal(":memory:", {}) as journal:
        for expected_calls in (20, 10):
            world = World()
            experts = {"a": Fake("a", world, failing_on(*poisoned))}
            decisions = [decision("a")] * 20
            result = batch(questions(20), decisions, single, experts, journal=journal)
            assert len(world.calls) == expected_calls
            assert sum(a.completion.failed for a in result.answers) == 10


def test_a_dead_expert_stops_the_second_run_too() -> None:
    with Journal(":memory:", {}) as journal:
        for expected_calls in (5, 10):
            world = World()
            experts = {"a": Fake("a", world, lambda call: None)}
            with pytest.raises(ExpertError, match="5 times in a row"):
                batch(questions(20), [decision("a")] * 20, single, experts, journal=journal)
            assert len(world.calls) == expected_calls


class Crashing(Fake):
    """Weights that die on ``bad`` questions, and every call under way with them."""

    bad: tuple[str, ...] = ("question 2",)
    deaths = 0

    async def complete(self, call: Call) -> Completion:
        before = self.deaths
        completion = await super().complete(call)
        if text_of(call) in self.bad:
            self.deaths += 1
        if self.deaths > before:
            return Completion(self.name, finish_reason="error", error="died")
        return completion


def test_a_question_that_kills_the_weights_does_not_take_others_along() -> None:
    expert = Crashing("a", World(), size=100, slots=8, pause=5)
    result = batch(questions(30), [decision("a")] * 30, single, {"a": expert})
    assert [a.query_id for a in result.answers if a.completion.failed] == ["q2"]
    assert expert.most_busy == 8
    assert result.progress.calls == 30


def test_weights_that_die_on_everything_stop_the_run() -> None:
    world = World()
    expert = Crashing("a", world, size=100, slots=8, pause=9)
    expert.bad = tuple(f"question {i}" for i in range(99))
    with pytest.raises(ExpertError, match="failed 5 times in a row, last with: died"):
        batch(questions(99), [decision("a")] * 99, single, {"a": expert})
    assert len(world.calls) == 8 + 5


def test_an_expert_that_cannot_load_stops_the_run_and_frees_the_others() -> None:
    class Broken(Fake):
        async def load(self) -> None:
            await super().load()
            raise ExpertError("weights are damaged")

    world = World()
    experts = {**local(world, "a"), "b": Broken("b", world, size=100)}
    with pytest.raises(ExpertError, match="weights are damaged"):
        batch(questions(4), [decision("a", "b")] * 4, recruit, experts, capacity=2)
    assert world.present == []


def test_an_expert_that_cannot_unload_does_not_keep_the_others() -> None:
    class Clinging(Fake):
        async def unload(self, keep: bool = False) -> None:
            raise ExpertError("it clings")

    world = World()
    experts = {**local(world, "a", "c"), "b": Clinging("b", world, size=100)}
    with pytest.raises(ExpertError, match="it clings"):
        batch(questions(2), [decision("a", "b", "c")] * 2, recruit, experts, capacity=3)
    assert world.present == ["b"]


def test_what_an_expert_raises_comes_through_as_it_is() -> None:
    experts: dict[str, Expert] = {"a": RecordedExpert("a", {})}
    with pytest.raises(NotRecordedError, match="a: no recorded answer"):
        batch(questions(3), [decision("a")] * 3, single, experts)


def test_an_unknown_expert_is_named_before_anything_is_asked() -> None:
    world = World()
    decisions = [decision("a"), decision("b")]
    with pytest.raises(ExpertError, match="no expert called 'b' in the pool; there are a"):
        batch(questions(2), decisions, single, local(world, "a"))
    assert world.calls == []


def test_cancelling_unloads_the_experts_and_keeps_what_was_journaled() -> None:
    world = World()
    experts = local(world, *"ab")
    experts["a"].pause = 100

    async def interrupted(journal: Journal) -> None:
        job = answer_all(
            questions(50), [decision("a", "b")] * 50, recruit, experts, capacity=2, journal=journal
        )
        task = asyncio.create_task(job)
        while journal.count() < 10:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with Journal(":memory:", {}) as journal:
        asyncio.run(interrupted(journal))
        assert world.present == []
        assert 10 <= journal.count() < 20


def test_progress_is_reported_after_every_completion() -> None:
    seen: list[tuple[int, int]] = []

    def report(progress: Progress) -> None:
        seen.append((progress.calls, progress.answered))

    experts = {"a": Fake("a", World())}
    asyncio.run(answer_all(questions(3), [decision("a")] * 3, single, experts, report=report))
    assert seen == [(1, 1), (2, 2), (3, 3)]


def test_loads_are_counted_by_hand() -> None:
    experts = {**local(World(), *"ab"), "remote": Fake("remote", World())}
    traces = ["a", "b"], ["b", "remote", "a"], ["a"]
    answers = [
        Answer("q", Completion("a"), tuple(map(Completion, trace)), decision("a"))
        for trace in traces
    ]
    assert naive_loads(answers, experts) == 3  # a, b (kept for the second question), a (kept)
    assert distinct_loads(answers, experts) == 2
    assert naive_loads([], experts) == distinct_loads([], experts) == 0


def test_a_slow_expert_does_not_hold_up_a_remote_one() -> None:
    order: list[str] = []

    def note(call: Call) -> str:
        order.append(call.expert)
        return "yes"

    world = World()
    slow = Fake("slow", world, note, size=100, pause=60)
    experts = {"slow": slow, "quick": Fake("quick", world, note)}
    batch(questions(4), [decision("slow", "quick")] * 4, recruit, experts)
    assert order[:4] == ["quick"] * 4


def test_two_questions_with_one_text_stay_two() -> None:
    queries = [Query.from_text(i, "same") for i in ("q1", "q2")]
    with Journal(":memory:", {}) as journal:
        batch(queries, [decision("a")] * 2, single, {"a": Fake("a", World())}, journal=journal)
        assert journal.count() == 2


def test_empty_answers_do_not_stop_the_run_nor_are_they_asked_again() -> None:
    world = World()
    silent = Silent("a", world, slots=4, size=1)
    result = batch(questions(20), [decision("a")] * 20, single, {"a": silent})
    assert all(answer.completion.failed for answer in result.answers)
    assert len(world.calls) == 20


class Silent(Fake):
    """Stops at once and says so, as a model does that has nothing to say."""

    async def complete(self, call: Call) -> Completion:
        await super().complete(call)
        return Completion(self.name, finish_reason="stop", error="answered nothing")


def test_more_room_saves_loads_question_by_question_too() -> None:
    world = World()
    experts = local(world, "a", "b")
    answers = batch(questions(4), [decision("a", "b")] * 4, recruit, experts).answers
    assert [naive_loads(answers, experts, room) for room in (1, 2)] == [8, 2]


class Lawless(Fake):
    """Breaks the contract: raises, or returns what is no completion."""

    async def complete(self, call: Call) -> Completion:
        if "0" in text_of(call):
            raise ZeroDivisionError("oops")
        return Completion(self.name, "yes", cost=-1.0)


def test_an_expert_that_breaks_its_contract_has_failed() -> None:
    experts = {"a": Lawless("a", World())}
    errors = [
        a.completion.error
        for a in batch(questions(2), [decision("a")] * 2, single, experts).answers
    ]
    assert errors[0] == "a: ZeroDivisionError: oops"
    assert "a cost of -1.0" in str(errors[1])
