"""Which expert a conversation had last, so that it can stay there while that pays."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

from coterie.gateway.asked import Asked
from coterie.gateway.ledger import Ledger
from coterie.gateway.ledger_writer import StoreDown

MOST = 20_000  # conversations remembered here, some megabytes; the ledger has all


class Sessions:
    """Experts by conversation, the most recent ones, for ``seconds`` each.

    A conversation is what the client names, or else the key and the first user message: a client
    that sends the whole conversation each time, as OpenAI's API has it, needs to change nothing.
    """

    def __init__(
        self,
        seconds: float = 3600.0,
        ledger: Ledger | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.seconds, self._ledger, self._clock = seconds, ledger, clock
        self._known: OrderedDict[str, tuple[str, float, float]] = OrderedDict()  # when: used, told

    @staticmethod
    def name(key: str, asked: Asked) -> str:
        """The conversation's identity: a hash that says nothing of its contents."""
        given = asked.wishes.session
        words = f"{key}\0{given}" if given else f"{key}\0\0{asked.opening}"
        return hashlib.blake2b(words.encode("utf-8", "replace"), digest_size=12).hexdigest()

    async def expert(self, name: str) -> str:
        """Who answered last, "" where nobody did or it is too long ago.

        What is not known here another replica may know, or this one before it was started anew.
        """
        known = self._known.get(name)
        found = None if known is None else known[:2]
        if found is None and self._ledger is not None:
            with suppress(StoreDown):
                row = await self._ledger.get_session(name)
                found = None if row is None else (row.expert, row.time)
        if found is None or self._clock() - found[1] > self.seconds:
            return ""
        return found[0]

    def put(self, name: str, expert: str) -> None:
        """Remember who answered; tell the other replicas of a change, and before they forget."""
        before = self._known.get(name)
        now = told = self._clock()
        if before is not None and before[0] == expert and now - before[2] < self.seconds / 2:
            told = before[2]
        self._known[name] = (expert, now, told)
        self._known.move_to_end(name)
        if len(self._known) > MOST:
            self._known.popitem(last=False)
        if self._ledger is not None and told == now:
            self._ledger.put_session(name, expert, now)
