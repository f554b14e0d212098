"""Which expert a conversation had last, so that it can stay there while that pays."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable

from coterie.gateway.asked import Asked

MOST = 100_000  # conversations remembered here


class Sessions:
    """Experts by conversation, the most recent ones, for ``seconds`` each.

    A conversation is what the client names, or else the key and the first user message: a client
    that sends the whole conversation each time, as OpenAI's API has it, needs to change nothing.
    """

    def __init__(
        self,
        seconds: float = 3600.0,
        share: Callable[[str, str, float], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.seconds, self._share, self._clock = seconds, share, clock
        self._known: OrderedDict[str, tuple[str, float]] = OrderedDict()

    @staticmethod
    def name(key: str, asked: Asked) -> str:
        """The conversation's identity: a hash that says nothing of its contents."""
        given = asked.wishes.session
        words = f"{key}\0{given}" if given else f"{key}\0\0{asked.opening}"
        return hashlib.blake2b(words.encode("utf-8", "replace"), digest_size=12).hexdigest()

    def expert(self, name: str) -> str:
        """Who answered last, "" where nobody did or it is too long ago."""
        found = self._known.get(name)
        if found is None or self._clock() - found[1] > self.seconds:
            return ""
        return found[0]

    def put(self, name: str, expert: str) -> None:
        """Remember who answered, and tell the other replicas of a change."""
        before = self._known.get(name)
        now = self._clock()
        self._known[name] = (expert, now)
        self._known.move_to_end(name)
        if len(self._known) > MOST:
            self._known.popitem(last=False)
        if self._share is not None and (before is None or before[0] != expert):
            self._share(name, expert, now)

    def learn(self, name: str, expert: str, at: float) -> None:
        """What another replica said; the later word holds."""
        if name not in self._known or self._known[name][1] < at:
            self._known[name] = (expert, at)
