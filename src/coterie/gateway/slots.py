"""How many calls an expert gets at once, and how many may wait for it."""

from __future__ import annotations

import asyncio
from collections import deque


class Slots:
    """``size`` calls at once (None: any number), ``queue`` more in line, the rest turned away."""

    def __init__(self, size: int | None, queue: int) -> None:
        self.size, self.queue = size, queue
        self.running = 0
        self._line: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Calls in line."""
        return len(self._line)

    def take_now(self) -> bool:
        """Take a slot if one is free and nobody is in line."""
        if self.size is not None and (self.running >= self.size or self._line):
            return False
        self.running += 1
        return True

    async def take(self, seconds: float) -> bool:
        """Take a slot within so many seconds; False where the line is full or too slow."""
        if self.take_now():
            return True
        if len(self._line) >= self.queue:
            return False
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            async with asyncio.timeout(seconds):
                await turn
        except BaseException as error:
            self._leave(turn)
            if isinstance(error, TimeoutError):
                return False
            raise
        return True

    def give(self) -> None:
        """Give a slot back, to the first in line."""
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1

    def _leave(self, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():
            self.give()  # the slot came when it was too late
        elif turn in self._line:
            self._line.remove(turn)
