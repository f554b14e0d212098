"""Local experts come and go by what requests wait for; nobody is loaded beyond the capacity."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from coterie.errors import ExpertError
from coterie.experts.base import Expert
from coterie.gateway.staging import Staging
from coterie.pool import Pool
from coterie.types import Call, Completion


class Heavy(Expert):
    """An expert with weights that takes notes of its moves."""

    def __init__(self, name: str, notes: list[str], broken: bool = False) -> None:
        self.name, self.notes, self.broken = name, notes, broken

    @property
    def size(self) -> int:
        return 10

    async def load(self) -> None:
        await asyncio.sleep(0.001)
        if self.broken:
            raise ExpertError(f"{self.name}: no such file")
        self.notes.append(f"+{self.name}")

    async def unload(self, keep: bool = False) -> None:
        self.notes.append(f"-{self.name}")

    async def complete(self, call: Call) -> Completion:
        return Completion(self.name, "yes")


def world(names: str, capacity: int = 1, **settings: Any) -> tuple[Staging, Pool, list[str]]:
    notes: list[str] = []
    pool = Pool("p", {name: Heavy(name, notes) for name in names}, capacity=capacity)
    return Staging(pool, **settings), pool, notes


async def used(staging: Staging, expert: Expert, seconds: float = 0.0) -> str:
    async with staging.use(expert):
        await asyncio.sleep(seconds)
    return expert.name


def run(*jobs: Awaitable[object]) -> list[object]:
    async def all_of_them() -> list[object]:
        return list(await asyncio.wait_for(asyncio.gather(*jobs), 5))

    return asyncio.run(all_of_them())


def test_requests_for_one_expert_share_one_load() -> None:
    staging, pool, notes = world("ab")
    run(*(used(staging, pool.experts["a"]) for _ in range(5)))
    assert notes == ["+a"]
    assert staging.state().resident == ("a",)
    assert staging.missing() == {"b"}


def test_the_longest_queue_is_loaded_next_whatever_the_order_of_arrival() -> None:
    staging, pool, notes = world("abc", patience=60)
    run(*(used(staging, pool.experts[name], 0.01) for name in "abccbc"))
    assert notes == ["+a", "-a", "+c", "-c", "+b"]


def test_an_expert_in_memory_answers_while_another_one_loads() -> None:
    staging, pool, _ = world("ab", capacity=2)

    async def job() -> list[str]:
        await used(staging, pool.experts["a"])
        order: list[str] = []
        loading = asyncio.ensure_future(used(staging, pool.experts["b"]))
        loading.add_done_callback(lambda done: order.append(done.result()))
        await asyncio.sleep(0)
        order.append(await used(staging, pool.experts["a"]))
        await loading
        await asyncio.sleep(0)
        return order

    assert asyncio.run(job()) == ["a", "b"]


def test_nobody_waits_for_ever_behind_a_busy_expert() -> None:
    staging, pool, _ = world("ab", patience=0.02)

    async def job() -> bool:
        stop = asyncio.Event()

        async def busy() -> None:
            while not stop.is_set():
                await used(staging, pool.experts["a"], 0.002)

        crowd = [asyncio.ensure_future(busy()) for _ in range(4)]
        await asyncio.sleep(0.005)
        await asyncio.wait_for(used(staging, pool.experts["b"]), 2)
        stop.set()
        await asyncio.wait_for(asyncio.gather(*crowd), 2)
        return True

    assert asyncio.run(job())


def test_an_expert_that_cannot_be_loaded_fails_its_requests_and_no_others() -> None:
    notes: list[str] = []
    pool = Pool("p", {"a": Heavy("a", notes, broken=True), "b": Heavy("b", notes)})
    staging = Staging(pool)

    async def lost() -> str:
        with pytest.raises(ExpertError, match="no such file"):
            await used(staging, pool.experts["a"])
        return "lost"

    assert run(lost(), used(staging, pool.experts["b"])) == ["lost", "b"]


def test_a_pinned_expert_stays() -> None:
    staging, pool, notes = world("abc", capacity=2, pinned=["a"])
    run(used(staging, pool.experts["a"]))
    for name in "bcb":
        run(used(staging, pool.experts[name]))
    assert "-a" not in notes
    with pytest.raises(ExpertError, match="can never fit"):
        Staging(Pool("p", {n: Heavy(n, notes) for n in "ab"}), pinned=["a", "b"])


def test_who_gives_up_while_waiting_leaves_no_trace() -> None:
    staging, pool, _ = world("ab")

    async def job() -> None:
        async with staging.use(pool.experts["a"]):
            waiting = asyncio.ensure_future(used(staging, pool.experts["b"]))
            await asyncio.sleep(0.005)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert staging.state().waiting == {}
        assert await used(staging, pool.experts["b"]) == "b"

    asyncio.run(asyncio.wait_for(job(), 5))


class Slow(Heavy):
    """Leaves slowly, and notes whether somebody is in it meanwhile."""

    async def unload(self, keep: bool = False) -> None:
        await asyncio.sleep(0.02)
        await super().unload(keep)

    async def complete(self, call: Call) -> Completion:
        self.notes.append(f"in {self.name}")
        await asyncio.sleep(0.03)
        self.notes.append(f"out {self.name}")
        return Completion(self.name, "yes")


@pytest.mark.parametrize("later", [0.0, 0.01, 0.03])
def test_nobody_is_let_into_an_expert_that_leaves(later: float) -> None:
    notes: list[str] = []
    sizes = {"a": 1, "b": 1, "c": 2}

    class Sized(Slow):
        @property
        def size(self) -> int:
            return sizes[self.name]

    pool = Pool("p", {n: Sized(n, notes) for n in sizes}, memory=2)
    staging = Staging(pool)

    async def visit(name: str, after: float) -> None:
        await asyncio.sleep(after)
        async with staging.use(pool.experts[name]):
            await pool.experts[name].complete(Call(name, (), "answer"))

    async def main() -> None:
        await asyncio.gather(visit("a", 0.0), visit("b", 0.0))
        await asyncio.gather(visit("c", 0.0), visit("a", later), visit("b", later))

    run(main())
    inside: set[str] = set()
    for note in notes:
        if note.startswith("in "):
            inside.add(note[3:])
        elif note.startswith("out "):
            inside.discard(note[4:])
        elif note.startswith("-"):
            assert note[1:] not in inside, notes


def test_a_load_that_fails_in_any_way_is_told_to_who_waits() -> None:
    class Torn(Heavy):
        async def load(self) -> None:
            raise RuntimeError("out of memory")

    notes: list[str] = []
    pool = Pool("p", {"a": Torn("a", notes), "b": Heavy("b", notes)}, capacity=1)
    staging = Staging(pool)

    async def main() -> None:
        with pytest.raises(ExpertError, match="could not be loaded: RuntimeError: out of memory"):
            await used(staging, pool.experts["a"])
        assert await used(staging, pool.experts["b"]) == "b"

    run(main())
