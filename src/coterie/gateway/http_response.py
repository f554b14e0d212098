"""A response of a server as it comes, piece by piece."""

from __future__ import annotations

import asyncio
from typing import Protocol

UNREAD = 1 << 17  # bytes of a body that wait before the server has to


class Connection(Protocol):
    """What a response comes over."""

    def abort(self) -> None:
        """Break it off."""

    def hold(self, paused: bool) -> None:
        """Read nothing, or go on."""


class Response:
    """A response under way: status and headers (names in lower case, the first of each counts).

    ``whole`` says that the body's end has come, ``ended`` that it has been read up to there.
    """

    __slots__ = (
        "_connection", "_error", "_loop", "_paused", "_pieces", "_size", "_waiter", "headers",
        "status", "whole",
    )  # fmt: skip

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection: Connection | None = connection
        self._loop = loop
        self.status = 0
        self.headers: dict[str, str] = {}
        self.whole = self._paused = False
        self._pieces: list[bytes] = []
        self._size = 0
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def ended(self) -> bool:
        """The whole body has been read."""
        return self.whole and not self._pieces

    async def read(self) -> bytes:
        """What has come of the body, at least a byte; empty at its end.

        Raises ConnectionError where it breaks off, BadResponse where it is malformed, and what it
        was made to ``fail`` with.
        """
        while (piece := self.taken()) is None:
            await self.arrival()
        return piece

    def taken(self) -> bytes | None:
        """The same, None where nothing has come yet."""
        if not (pieces := self._pieces):
            if not self.whole and self._error is not None:
                raise self._error
            return b"" if self.whole else None
        self._pieces, self._size = [], 0
        if self._paused:
            self.hold(False)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def arrival(self) -> asyncio.Future[None]:
        """Done when something new is known; for one who waits at a time."""
        self._waiter = self._loop.create_future()
        return self._waiter

    async def begun(self) -> None:
        """Return when the head has come; raises what ``read`` does."""
        while not self.status:
            if self._error is not None:
                raise self._error
            await self.arrival()

    def fail(self, error: BaseException) -> None:
        """Have the reader raise this, once it has read what came before the body's end."""
        if not self.whole and self._error is None:
            self._error = error
            self.wake()

    def close(self) -> None:
        """Break the connection off, unless the body is whole: who reads gets ConnectionError."""
        if self._connection is not None:
            self._connection.abort()

    # -- for the connection

    def fed(self, piece: bytes) -> None:
        """More of the body."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > UNREAD and not self._paused:
            self.hold(True)
        self.wake()

    def finished(self) -> None:
        """The body is whole; the connection is another's from now on."""
        self.whole, self._connection = True, None
        self.wake()

    def hold(self, paused: bool) -> None:
        """Have the server wait, or not any more."""
        self._paused = paused
        if self._connection is not None:
            self._connection.hold(paused)

    def wake(self) -> None:
        """There is something to look at."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
