"""Requests one after another over experts of which few fit: what the batch driver is compared with.

A request needs several experts, each once. Those in memory work first; the others are loaded as
soon as the residency finds room, while the ones before them work. Requests do not overtake.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from coterie.experts.base import Expert
from coterie.residency import Move, Residency, Tier
from coterie.types import Call, Completion


class Served(NamedTuple):
    """What a trace took; ``texts`` in the order of the calls."""

    seconds: float
    loads: int
    texts: list[str]


class Server:
    """Experts in memory by the rules of a residency."""

    def __init__(self, experts: Mapping[str, Expert], residency: Residency) -> None:
        self.experts, self.residency = experts, residency
        self.loads = 0

    async def answer(self, calls: Sequence[Call], upcoming: Sequence[str]) -> list[Completion]:
        """The completions of one request; ``upcoming`` names known uses after it."""
        order = sorted(calls, key=lambda call: call.expert not in self.residency.resident)
        names = [call.expert for call in order]
        working: dict[str, asyncio.Task[Completion]] = {}
        for at, call in enumerate(order):
            busy = {name for name, task in working.items() if not task.done()}
            known = [*names[at:], *upcoming]
            while (moves := self.residency.place(call.expert, busy=busy, upcoming=known)) is None:
                waiting = [working[name] for name in busy]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                busy = {name for name in busy if not working[name].done()}
            await self.execute(moves)
            working[call.expert] = asyncio.create_task(self.experts[call.expert].complete(call))
        return [await working[call.expert] for call in calls]

    async def execute(self, moves: Sequence[Move]) -> None:
        """Make the moves of a residency."""
        for name, source, target in moves:
            if target is Tier.DEVICE:
                await self.experts[name].load()
                self.loads += 1
            elif source is Tier.DEVICE:
                await self.experts[name].unload(keep=target is Tier.HOST)
            else:
                await self.experts[name].unload()

    async def empty(self) -> None:
        """Give all memory back."""
        for name in self.residency.resident:
            await self.experts[name].unload()


async def serve(
    requests: Sequence[Sequence[Call]],
    experts: Mapping[str, Expert],
    residency: Residency,
    window: int = 0,
) -> Served:
    """Every request in turn; ``window`` is how many requests after it are known."""
    server = Server(experts, residency)
    texts: list[str] = []
    start = time.perf_counter()
    for at, calls in enumerate(requests):
        known = requests[at + 1 : at + 1 + window]
        upcoming = [call.expert for request in known for call in request]
        texts += [one.text for one in await server.answer(calls, upcoming)]
    await server.empty()
    return Served(time.perf_counter() - start, server.loads, texts)


async def serve_naively(
    requests: Sequence[Sequence[Call]], experts: Mapping[str, Expert]
) -> Served:
    """Room for one expert that nobody keeps: every call loads its expert and unloads it again."""
    texts: list[str] = []
    start = time.perf_counter()
    for call in (call for request in requests for call in request):
        expert = experts[call.expert]
        await expert.load()
        texts.append((await expert.complete(call)).text)
        await expert.unload()
    return Served(time.perf_counter() - start, len(texts), texts)
