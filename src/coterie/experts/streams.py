"""From callbacks to async iterators: streaming for experts whose completions are pushed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from coterie.experts.engine import Emit
from coterie.types import Completion


async def pieces_of(
    run: Callable[[Emit], Awaitable[Completion]],
) -> AsyncGenerator[str | Completion]:
    """What ``run`` emits, then the completion it returns; closing the iterator cancels ``run``."""
    queue: asyncio.Queue[str | None] = asyncio.Queue()

    async def work() -> Completion:
        try:
            return await run(queue.put_nowait)
        finally:
            queue.put_nowait(None)

    task = asyncio.ensure_future(work())
    try:
        while (piece := await queue.get()) is not None:
            yield piece
        yield await task
    finally:
        task.cancel()
        await asyncio.wait([task])
