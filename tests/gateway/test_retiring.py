"""Connections of settings that a reload replaced are closed, and not before their last request."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from fault_upstream import whole
from served_world import World, serving, write_pool

from coterie.gateway.wire import raw

BODY = bytes(raw(whole()))


class Kept:
    """A server that keeps connections open, and answers while ``gate`` is."""

    def __init__(self) -> None:
        self.open, self.url, self.gate = 0, "", asyncio.Event()
        self.gate.set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
                await reader.readexactly(int(length))
                await self.gate.wait()
                kind = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                writer.write(b"%bContent-Length: %d\r\n\r\n%b" % (kind, len(BODY), BODY))
        self.open -= 1
        writer.close()

    async def has(self, count: int) -> bool:
        for _ in range(200):
            if self.open == count:
                return True
            await asyncio.sleep(0.005)
        return False


@asynccontextmanager
async def behind(folder: Path) -> AsyncIterator[tuple[World, Kept]]:
    kept = Kept()
    server = await asyncio.start_server(kept.accept, "127.0.0.1", 0)
    kept.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with serving(write(folder, kept, 30.0)) as world:
        yield world, kept
    server.close()
    assert await kept.has(0)


def write(folder: Path, kept: Kept, first: float) -> Path:
    remote = {"kind": "openai", "base_url": kept.url, "model": "m"}
    times: dict[str, Any] = {"timeouts": {"first": first}}
    return write_pool(folder, {"ann": remote}, quality=None, gateway=times)


async def reloaded(folder: Path, world: World, kept: Kept, first: float) -> None:
    write(folder, kept, first)
    await world.gateway.reload()


def test_reloads_leave_no_connection_behind(tmp_path: Path) -> None:
    async def main() -> None:
        async with behind(tmp_path) as (world, kept):
            assert (await world.ask("ann")).status == 200
            files = psutil.Process(os.getpid()).num_fds()
            for turn in range(30):
                await reloaded(tmp_path, world, kept, 40.0 + turn)
                assert (await world.ask("ann")).status == 200
            assert await kept.has(1)
            assert psutil.Process(os.getpid()).num_fds() <= files + 4

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize("others", [0, 3])
def test_a_request_under_way_keeps_its_connection_through_reloads(
    tmp_path: Path, others: int
) -> None:
    async def main() -> None:
        async with behind(tmp_path) as (world, kept):
            kept.gate.clear()
            asking = [asyncio.ensure_future(world.ask("ann")) for _ in range(2)]
            assert await kept.has(2)
            await reloaded(tmp_path, world, kept, 40.0)
            asking += [asyncio.ensure_future(world.ask("ann")) for _ in range(others)]
            assert await kept.has(2 + others)
            await reloaded(tmp_path, world, kept, 50.0)
            kept.gate.set()
            answers = await asyncio.gather(*asking)
            assert [answer.status for answer in answers] == [200] * (2 + others)
            assert await kept.has(0)

    asyncio.run(asyncio.wait_for(main(), 10))
