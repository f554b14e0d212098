"""From callbacks to async iterators: streaming for experts whose completions are pushed."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing

from coterie.experts.base import Expert
from coterie.experts.engine import Emit
from coterie.types import Call, Completion


class PushingExpert(Expert):
    """An expert with one way to answer, which hands on pieces as they come if it is asked to."""

    async def complete(self, call: Call) -> Completion:
        """The completion of ``call``; whatever went wrong is its ``error``."""
        return await self._complete(call, None)

    async def stream(self, call: Call) -> AsyncIterator[str | Completion]:
        """Pieces of text as they come, then the completion; closing it early ends the call."""
        async with aclosing(pieces_of(lambda emit: self._complete(call, emit))) as pieces:
            async for piece in pieces:
                yield piece

    @abstractmethod
    async def _complete(self, call: Call, emit: Emit | None) -> Completion:
        """The completion; pieces go to ``emit``, if there is one, and add up to its text."""


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
