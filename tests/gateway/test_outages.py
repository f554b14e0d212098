"""Processes on one store tell each other which experts are left alone."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import pytest
from ledger_world import Store

from coterie.gateway.attempts import Attempts
from coterie.gateway.breakers import TRIP_AFTER, Breaker, Permit
from coterie.gateway.ledger import Ledger
from coterie.gateway.outages import Outages


@dataclass
class Far:
    """An expert that is never asked here."""

    name: str = "ann"

    async def open(self, out: Any, deadline: Any) -> Any:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


class Process:
    """One of several gateways: its breaker for ann, and its clock."""

    def __init__(self, ledger: Ledger, holder: str, name: str = "ann") -> None:
        self.now, self.ledger = 1000.0, ledger
        upstream = Far(name)
        attempts = Attempts(lambda: self.now, lambda: 0.5)
        self.outages = Outages(attempts, ledger, holder, lambda: [upstream], lambda: self.now)
        self.breaker: Breaker = attempts.deployment(upstream).breaker

    def fail(self) -> None:
        for _ in range(TRIP_AFTER):
            self.breaker.leave(Permit.NORMAL, False)

    async def exchange(self) -> None:
        await self.outages.exchange()
        await self.ledger.flush()


def run(store: Store, talk: Any, other: str = "ann") -> None:
    with store.open() as one, store.open() as two:
        work: Coroutine[Any, Any, None] = talk(Process(one, "a"), Process(two, "b", other))
        asyncio.run(work)


def test_an_expert_that_fails_here_is_left_alone_there_until_a_probe(store: Store) -> None:
    async def talk(here: Process, there: Process) -> None:
        here.fail()
        await here.exchange()
        await there.exchange()
        assert there.breaker.state == "open"
        assert there.breaker.wait() == pytest.approx(here.breaker.wait())
        assert there.breaker.enter() is None
        there.now += there.breaker.wait()
        assert there.breaker.enter() is Permit.PROBE

    run(store, talk)


def test_an_expert_that_asked_to_be_left_alone_is_there_too(store: Store) -> None:
    async def talk(here: Process, there: Process) -> None:
        here.breaker.limit(30.0)
        await here.exchange()
        await there.exchange()
        assert there.breaker.state == "limited"
        assert 30 <= there.breaker.wait() <= 35

    run(store, talk)


def test_news_is_not_told_back_and_forth(store: Store) -> None:
    async def talk(here: Process, there: Process) -> None:
        here.breaker.limit(30.0)
        for _ in range(20):
            await here.exchange()
            await there.exchange()
        assert here.breaker.wait() <= 33
        assert there.breaker.wait() <= 35

    run(store, talk)


def test_old_news_and_news_of_strangers_change_nothing(store: Store) -> None:
    async def talk(here: Process, there: Process) -> None:
        here.fail()
        await here.exchange()
        there.now += 60
        await there.exchange()
        assert there.breaker.state == "closed"

    run(store, talk)
    run(store, talk, other="bob")


def test_what_is_no_news_is_passed_over(store: Store) -> None:
    async def talk(here: Process, there: Process) -> None:
        here.ledger.put_state("breaker:ann", b"{}")
        await here.ledger.flush()
        await there.exchange()
        assert there.breaker.state == "closed"

    run(store, talk)
