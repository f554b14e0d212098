"""Connections that a reload replaced: closed once the last request that has them ends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from coterie.gateway.replies import Upstream


@dataclass(slots=True)
class _Retired:
    upstreams: Mapping[str, Upstream]
    left: int  # requests under way that may still ask them


class Retiring:
    """Upstreams on their way out; nothing is counted for requests that have those of now."""

    def __init__(self) -> None:
        self._retired: list[_Retired] = []
        self._closing: set[asyncio.Task[None]] = set()

    def retire(self, upstreams: Mapping[str, Upstream], in_flight: int) -> None:
        """These are replaced now; ``in_flight`` requests are under way, with them or older ones."""
        older = sum(one.left for one in self._retired)
        self._retired.append(_Retired(upstreams, in_flight - older))
        self._look()

    def ended(self, upstreams: Mapping[str, Upstream]) -> None:
        """A request that had these is over."""
        for one in self._retired:
            one.left -= one.upstreams is upstreams
        self._look()

    def _look(self) -> None:
        over = [one for one in self._retired if one.left <= 0]
        self._retired = [one for one in self._retired if one.left > 0]
        for one in over:
            task = asyncio.get_running_loop().create_task(_close(one.upstreams))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close what is left, and wait for what is being closed."""
        for one in self._retired:
            one.left = 0
        self._look()
        await asyncio.gather(*self._closing)


async def _close(upstreams: Mapping[str, Upstream]) -> None:
    for upstream in upstreams.values():
        await upstream.close()
