"""A reload is one at a time, nobody waits for it, and whatever goes wrong it says why."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from served_world import World, serving, write_pool

from coterie.errors import CoterieError
from coterie.gateway import building


def with_world(path: Path, main: Any) -> None:
    async def inside() -> None:
        async with serving(path) as world:
            await main(world)

    asyncio.run(asyncio.wait_for(inside(), 10))


def test_requests_go_on_while_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*args: Any) -> None:
        time.sleep(0.3)

    async def main(world: World) -> None:
        monkeypatch.setattr(building, "load_router_of", slowly)
        going = asyncio.ensure_future(world.gateway.reload())
        await asyncio.sleep(0.05)
        start = time.monotonic()
        assert (await world.ask("ann")).status == 200
        assert time.monotonic() - start < 0.2
        assert not going.done()
        await going

    with_world(write_pool(tmp_path), main)


def test_an_odd_fault_keeps_what_runs_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(*args: Any) -> None:
        raise ValueError("cannot be read")

    async def main(world: World) -> None:
        before = world.gateway.live.services
        monkeypatch.setattr(building, "load_router_of", torn)
        with pytest.raises(ValueError, match="cannot be read"):
            await world.gateway.reload()
        assert world.gateway.trouble == "cannot be read"
        assert world.gateway.live.services is before

    with_world(write_pool(tmp_path), main)


def test_what_cannot_change_while_it_runs_is_refused(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        write_pool(tmp_path, gateway={"residency": {"patience": 1.0}})
        with pytest.raises(CoterieError, match="needs a restart"):
            await world.gateway.reload()

    with_world(write_pool(tmp_path), main)


def test_reloads_at_the_same_time_come_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[int] = []
    most: list[int] = []

    def counted(*args: Any) -> None:
        running.append(1)
        time.sleep(0.05)
        most.append(len(running))
        running.pop()

    async def main(world: World) -> None:
        monkeypatch.setattr(building, "load_router_of", counted)
        await asyncio.gather(world.gateway.reload(), world.gateway.reload())
        assert most == [1, 1]

    with_world(write_pool(tmp_path), main)
