"""Blocking functions on threads of their own, awaited from whatever event loop is running."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """``function(*args)`` on a daemon thread: one that never returns does not hold up the exit."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = function(*args)
        except BaseException as error:
            call_in(loop, _settle, future, None, error)
        else:
            call_in(loop, _settle, future, result, None)

    threading.Thread(target=run, daemon=True).start()
    return await future


def call_in(loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *args: Any) -> None:
    """Call ``function`` in the loop's thread; nothing happens where the loop is gone."""
    with suppress(RuntimeError):  # the loop was closed
        loop.call_soon_threadsafe(function, *args)


def _settle(future: asyncio.Future[T], result: T | None, error: BaseException | None) -> None:
    if future.done():  # cancelled meanwhile
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(cast(T, result))


class PerLoop(Generic[T]):
    """A value that belongs to one event loop (a lock, a session), made anew in every other loop."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._loop: asyncio.AbstractEventLoop | None = None
        self._value: T | None = None

    def get(self) -> T:
        """The value of the running loop."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop or self._value is None:
            self._loop, self._value = loop, self._make()
        return self._value

    def pop(self) -> T | None:
        """The value made last, if any; the next ``get`` makes another."""
        value, self._value = self._value, None
        return value
