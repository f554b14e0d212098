"""What processes on one store tell each other of experts that are ill or ask to be left alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import msgspec

from coterie.gateway.attempts import Attempts
from coterie.gateway.ledger import Ledger
from coterie.gateway.replies import Upstream
from coterie.gateway.retries import Clock

PREFIX = "breaker:"
EVERY = 1.0  # seconds between two looks
SLACK = 0.5  # seconds that are no news


class News(msgspec.Struct, frozen=True):
    """``expert`` is left alone until a time (seconds since 1970), says ``holder``.

    ``asked``: because it asked to be; else because it failed.
    """

    expert: str
    until: float
    asked: bool
    holder: str


_news = msgspec.json.Decoder(News)


class Outages:
    """The breakers of this process and of the others on its ledger.

    ``upstreams`` are the experts of now. What one process finds out the others know about a second
    later; each of them sends a probe of its own when the pause is over.
    """

    def __init__(
        self,
        attempts: Attempts,
        ledger: Ledger,
        holder: str,
        upstreams: Callable[[], Iterable[Upstream]],
        clock: Clock = time.time,
    ) -> None:
        self._attempts, self._ledger, self._holder = attempts, ledger, holder
        self._upstreams, self._clock = upstreams, clock
        self._known: dict[str, float] = {}  # until when, as far as the others know

    async def watch(self) -> None:
        """Exchange news for ever."""
        while True:
            await asyncio.sleep(EVERY)
            with suppress(Exception):  # the store may be down: the next second tries again
                await self.exchange()

    async def exchange(self) -> None:
        """Tell what is new here, and heed what is new elsewhere."""
        self._tell()
        for content in await self._ledger.states(PREFIX):
            with suppress(msgspec.MsgspecError):
                self._heed(_news.decode(content))

    def _tell(self) -> None:
        now = self._clock()
        for name, deployment in self._attempts.deployments.items():
            wait = deployment.breaker.wait()
            until = now + wait
            if wait > 0 and until > self._known.get(name, 0.0) + SLACK:
                self._known[name] = until
                news = News(name, until, deployment.breaker.limited, self._holder)
                self._ledger.put_state(PREFIX + name, msgspec.json.encode(news))

    def _heed(self, news: News) -> None:
        now = self._clock()
        if news.holder == self._holder or news.until <= max(now, self._known.get(news.expert, 0.0)):
            return
        for upstream in self._upstreams():
            if upstream.name == news.expert:
                breaker = self._attempts.deployment(upstream).breaker
                (breaker.limit if news.asked else breaker.open)(news.until - now)
                self._known[news.expert] = now + breaker.wait()  # and is not told on
