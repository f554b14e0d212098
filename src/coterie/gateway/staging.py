"""Which local experts are in memory while requests come in: loads, evictions, and whose turn it is.

Requests for an expert in memory start at once, also while another one loads. The next to be loaded
is the one most requests wait for, unless somebody waited longer than ``patience``: then it is that
one's turn, and those in its way take no further requests until they are idle and gone.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from coterie.drivers.rooms import by_count, residency_of
from coterie.errors import CoterieError, ExpertError
from coterie.experts.base import Expert
from coterie.pool import Pool
from coterie.residency import Move, Residency, Tier


@dataclass(slots=True, eq=False)
class _Waiter:
    backend: str
    since: float
    turn: asyncio.Future[None]


@dataclass(slots=True)
class StagingState:
    """What the dashboard and the metrics show."""

    resident: tuple[str, ...] = ()
    loading: str = ""
    waiting: dict[str, int] = field(default_factory=dict)
    loads: int = 0


class Staging:
    """Lets requests use local experts within the pool's capacity.

    Parameters
    ----------
    pool
        Its experts with a size are staged, by backend; its capacity or memory bounds them.
    patience
        Seconds after which a waiting request has its expert loaded next.
    pinned
        Experts that stay once they are in memory; ExpertError where they cannot all fit.
    """

    def __init__(
        self,
        pool: Pool,
        patience: float = 10.0,
        pinned: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.patience, self._clock = patience, clock
        self._bytes = pool.memory is not None
        self._experts = _by_backend(pool.experts.values())
        self._residency: Residency = residency_of(pool) or by_count(pool.experts, pool.capacity)
        self._pinned = {pool.experts[name].backend for name in pinned}
        for backend in sorted(self._pinned):
            self._residency.pin(backend)
        self._running: Counter[str] = Counter()
        self._waiting: deque[_Waiter] = deque()
        self._ready: set[str] = set()
        self._draining: frozenset[str] = frozenset()
        self._loading: asyncio.Task[None] | None = None
        self._coming = ""
        self.loads = 0

    def missing(self) -> frozenset[str]:
        """Backends that would have to be loaded first."""
        return frozenset(self._experts.keys() - self._ready)

    def state(self) -> StagingState:
        """Who is in memory, who is on the way, who is waited for."""
        waiting = Counter(one.backend for one in self._waiting)
        resident = tuple(name for name in self._residency.resident if name in self._ready)
        return StagingState(resident, self._coming, dict(waiting), self.loads)

    @asynccontextmanager
    async def use(self, expert: Expert) -> AsyncIterator[None]:
        """Hold the expert in memory; raises ExpertError where it cannot be loaded."""
        backend = expert.backend
        if backend not in self._experts:
            yield
            return
        if backend in self._ready and backend not in self._draining:
            self._residency.place(backend)  # counts the use
            self._running[backend] += 1
        else:
            await self._turn(backend)
        try:
            yield
        finally:
            self._leave(backend)

    async def close(self) -> None:
        """End a load under way; the pool unloads its experts itself."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait([self._loading])

    def _leave(self, backend: str) -> None:
        self._running[backend] -= 1
        if self._waiting and not self._running[backend]:
            self._next()

    async def _turn(self, backend: str) -> None:
        """Wait until the expert is in memory; it counts as running from that moment."""
        loop = asyncio.get_running_loop()
        waiter = _Waiter(backend, self._clock(), loop.create_future())
        self._waiting.append(waiter)
        timer = loop.call_later(self.patience, self._next)
        self._next()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif waiter.turn.done() and not waiter.turn.cancelled():
                self._leave(backend)
            raise
        finally:
            timer.cancel()

    def _next(self) -> None:
        """Load whoever's turn it is, if there is room now."""
        if self._coming or not self._waiting:
            return
        backend, urgent = self._choose()
        if backend in self._ready:  # it was leaving, and now it stays
            self._draining = frozenset()
            self._let_in(backend)
            return
        busy = [name for name, count in self._running.items() if count]
        upcoming = [one.backend for one in self._waiting]
        try:
            moves = self._residency.place(backend, busy=busy, upcoming=upcoming)
        except CoterieError as error:
            self._refuse(backend, error)
            return
        if moves is None:
            if urgent:
                self._draining = frozenset(self._ready - self._pinned - {backend})
            return
        self._draining = frozenset()
        self._send_off(moves)
        self._coming = backend
        self._loading = asyncio.get_running_loop().create_task(self._carry_out(backend, moves))

    def _choose(self) -> tuple[str, bool]:
        """The backend to load next, and whether it must not wait any longer."""
        oldest = self._waiting[0]
        if self._clock() - oldest.since >= self.patience:
            return oldest.backend, True
        counts = Counter(one.backend for one in self._waiting)
        return counts.most_common(1)[0][0], False  # the longest queue, of equals the oldest

    async def _carry_out(self, backend: str, moves: list[Move]) -> None:
        """Execute the moves; whoever waited for the expert goes on."""
        error: CoterieError | None = None
        try:
            for move in moves:
                await self._move(move)
            await self._measure(backend, moves)
        except Exception as failure:  # whatever it is, somebody waits to hear of it
            error = _told(backend, failure)
            self._residency.forget(backend)
            self._ready.discard(backend)
        finally:
            self._coming = ""
        if error is not None:
            self._refuse(backend, error)
        else:
            self._let_in(backend)
        self._next()

    def _send_off(self, moves: Iterable[Move]) -> None:
        """Let nobody into those that leave, from the moment that this is decided."""
        self._ready -= {move.name for move in moves if move.target is not Tier.DEVICE}

    async def _move(self, move: Move) -> None:
        expert = self._experts[move.name]
        if move.target is Tier.DEVICE:
            await expert.load()
            self._ready.add(move.name)
            self.loads += 1
            return
        await expert.unload(keep=move.target is Tier.HOST)

    async def _measure(self, backend: str, moves: list[Move]) -> None:
        """Book what the expert really takes; whoever no longer fits leaves."""
        if not self._bytes or not moves:
            return
        if size := await self._experts[backend].footprint():
            self._residency.resize(backend, size)
        busy = [backend, *(name for name, count in self._running.items() if count)]
        moves = self._residency.overflow(busy=busy)
        self._send_off(moves)
        for move in moves:
            await self._move(move)

    def _let_in(self, backend: str) -> None:
        for waiter in [one for one in self._waiting if one.backend == backend]:
            self._waiting.remove(waiter)
            if not waiter.turn.done():
                self._running[backend] += 1
                waiter.turn.set_result(None)

    def _refuse(self, backend: str, error: CoterieError) -> None:
        for waiter in [one for one in self._waiting if one.backend == backend]:
            self._waiting.remove(waiter)
            if not waiter.turn.done():
                waiter.turn.set_exception(error)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)


def _told(backend: str, failure: Exception) -> CoterieError:
    if isinstance(failure, CoterieError):
        return failure
    return ExpertError(f"{backend}: could not be loaded: {type(failure).__name__}: {failure}")


def _by_backend(experts: Collection[Expert]) -> dict[str, Expert]:
    """The experts that hold weights, one for each backend (the first that names it)."""
    found: dict[str, Expert] = {}
    for expert in experts:
        if expert.size:
            found.setdefault(expert.backend, expert)
    return found
