"""Whole gateways, two of them on one store, and experts that charge: no budget is ever exceeded.

What experts have charged, and what the calls under way may still come to, is counted here, not by
the gateway. Whenever a call begins or ends, that is within the cap, and within what the gateways
have set aside and settled, which is so too. Each byte of a prompt is a token to these experts.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from served_world import World, serving, write_pool
from test_money_paths import bearer

from coterie.compositions.mixture import Mixture
from coterie.experts.openai import estimate_usage
from coterie.gateway.entries import Tokens
from coterie.gateway.failures import UpstreamError, failure
from coterie.gateway.locals import Chunks, whole
from coterie.gateway.replies import Outgoing, Reply
from coterie.gateway.retries import Deadline, RetryBudget
from coterie.gateway.usage import estimate
from coterie.gateway.wire import value_of
from coterie.types import Completion

CAP, PRICE, BOUND = 12.0, 0.001, 40
TEXTS = ("count", "count " * 30, "\U0001f600" * 60, "\u1200\ua4d0" * 40, "aGVsbG8=" * 30)
FRAME = 30  # tokens of what a template adds
CLOSE = 1e-6
FATES = ("answers", "answers", "answers", "fails", "times out", "declines", "slow", "breaks off")


class Till:
    """What experts have charged, and what the calls under way may still come to.

    ``aside`` is what the gateways have settled and reserved; ``wrong`` is what was ever wrong.
    """

    def __init__(self) -> None:
        self.charged = self.open = 0.0
        self.fates: Counter[str] = Counter()
        self.steps = 0
        self.wrong: list[tuple[float, float]] = []
        self.aside: Callable[[], float] = lambda: 0.0

    def begin(self, most: float, fate: str) -> None:
        self.fates[fate] += 1
        self.open += most
        self.look()

    def end(self, most: float, used: Tokens) -> None:
        self.open -= most
        self.charged += used.total * PRICE
        self.look()

    def look(self) -> None:
        self.steps += 1
        real, aside = self.charged + self.open, self.aside()
        if not real <= aside + CLOSE <= CAP + 2 * CLOSE:
            self.wrong.append((real, aside))


def set_aside(worlds: list[World]) -> float:
    """What these gateways have settled and hold reserved of the one budget there is."""
    found = [one for world in worlds for one in world.gateway.accounts._allowances.values()]
    assert not any(one.forced for one in found)
    return sum(one.settled + one.held for one in found)


class Charging:
    """An expert that charges for what it reads and says, also where that is of no use."""

    slots, limit, context_length = 8, None, None

    def __init__(self, name: str, till: Till, chance: random.Random) -> None:
        self.name, self.till, self.chance = name, till, chance

    async def open(self, out: Outgoing, deadline: Deadline) -> Reply:
        fate, read = self.chance.choice(FATES), len(value_of(out.fields, "messages")) * FRAME
        read += sum(len(m["content"].encode()) for m in value_of(out.fields, "messages"))
        bound = Tokens(read, BOUND)
        most = bound.total * PRICE
        used = estimate(out, 0)  # where it is ended while it thinks
        self.till.begin(most, fate)
        try:
            await asyncio.sleep(0.03 if fate == "slow" else self.chance.uniform(0, 0.004))
            if fate == "fails":
                used = Tokens()
                raise UpstreamError(failure("http_5xx", "fails"))
            if fate in ("times out", "breaks off") and not out.stream:
                kind = "timeout_first" if fate == "times out" else "cut"
                raise UpstreamError(failure(kind, fate))
            used = Tokens(bound.prompt, self.chance.randint(1, bound.completion))
        finally:
            self.till.end(most, used)
        return self._reply(out, fate, used)

    def _reply(self, out: Outgoing, fate: str, tokens: Tokens) -> Reply:
        said = " ".join(["word"] * tokens.completion)
        finish = "content_filter" if fate == "declines" else "stop"
        if out.stream:
            return Flowing(self.name, said, finish, tokens, fate == "breaks off")
        counted = Completion(self.name, said, estimate_usage((), said), finish_reason=finish)
        reply = whole([counted], out.path)
        reply.tokens, reply.finish = tokens, finish
        return reply

    async def close(self) -> None:
        pass


class Flowing(Reply):
    """A stream of few words, that may break off, whose usage is known from the start."""

    def __init__(self, name: str, said: str, finish: str, tokens: Tokens, breaks: bool) -> None:
        super().__init__(name, None, tokens, finish)
        self._said, self._breaks = said, breaks

    async def events(self) -> AsyncGenerator[bytes, None]:
        chunks = Chunks(self.model)
        self.shown = True
        yield chunks.piece(self._said)
        await asyncio.sleep(0.001)
        if self._breaks:
            raise UpstreamError(failure("cut", "broke off"))
        assert self.tokens is not None
        yield chunks.end(self.finish, self.tokens, False)


MODELS = ("auto", "ann", "recruit:2", "mixture:2")


async def client(worlds: list[World], key: dict[str, str], chance: random.Random) -> None:
    """A few requests, one after the other, some of which their client leaves."""
    for _ in range(6):
        wish: Any = {"coterie": {"mid_stream": "restart"}} if chance.random() < 0.5 else {}
        said: Any = {"max_tokens": BOUND, "stream": chance.random() < 0.5, **wish}
        if chance.random() < 0.5:
            said["models"] = ["bob", "cid"]
        said["messages"] = [{"role": "user", "content": chance.choice(TEXTS)}]
        visit = chance.choice(worlds).visit(chance.choice(MODELS), key, **said)
        task = asyncio.ensure_future(visit.run())
        if chance.random() < 0.2:
            await asyncio.sleep(chance.uniform(0, 0.01))
            visit.leave()
        await task
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("seed", [0, 1])
def test_nothing_is_charged_that_was_not_reserved(tmp_path: Path, seed: int) -> None:
    chance, till = random.Random(seed), Till()
    names = ("ann", "bob", "cid")
    path = write_pool(tmp_path, gateway={"hedge": 0.008, "refusals": "next"})

    async def main() -> None:
        async with AsyncExitStack() as stack:
            worlds = [await stack.enter_async_context(serving(path)) for _ in range(2)]
            key = await bearer(worlds[0], budget=CAP)
            await worlds[1].gateway.accounts.refresh()
            for world in worlds:
                services = world.gateway.live.services
                services.upstreams = {name: Charging(name, till, chance) for name in names}
                services.attempts.draw = lambda: 0.0
                services.attempts.hedges = RetryBudget(share=1.0, free=1e3)
                for made in (services, services.routing):
                    made.compositions = {**made.compositions, "mixture": Mixture()}
            till.aside = partial(set_aside, worlds)
            await asyncio.gather(*[client(worlds, key, chance) for _ in range(32)])
            for world in worlds:
                await world.gateway.ledger.flush()
            (found,) = await worlds[0].gateway.ledger.balances()
            assert not till.wrong
            assert till.steps > 100
            assert till.fates.keys() == set(FATES)
            assert found.settled == pytest.approx(till.charged)
            assert found.settled + found.reserved <= CAP + CLOSE
            assert found.settled > 0.9 * CAP  # there was something to fight over

    asyncio.run(asyncio.wait_for(main(), 20))
