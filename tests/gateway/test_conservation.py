"""Whatever happens: settled + reserved <= cap. Nobody ever spends what was not reserved before."""

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from ledger_world import Store, until

from coterie.gateway.accounts import Accounts
from coterie.gateway.entries import Entry, Key, new_id
from coterie.gateway.keys import make_key
from coterie.gateway.ledger import Balance, Ledger
from coterie.gateway.wire import ApiError

SPENDER = Path(__file__).with_name("spender.py")
CLOSE = 1e-6


async def balance(ledger: Ledger, account: str) -> Balance:
    await ledger.flush()
    (found,) = [one for one in await ledger.balances() if one.account == account]
    return found


class Watch:
    """What upstreams may have charged so far: settled, or still under way."""

    def __init__(self, cap: float) -> None:
        self.cap, self.settled, self.open = cap, 0.0, 0.0

    def reserve(self, most: float) -> None:
        self.open += most
        assert self.settled + self.open <= self.cap + CLOSE

    def settle(self, most: float, cost: float) -> None:
        self.open -= most
        self.settled += cost


async def visit(accounts: Accounts, key: Key, watch: Watch, chance: random.Random) -> None:
    """One request, that is answered, fails, or is left by its client at any point."""
    most = chance.uniform(0.01, 0.5)
    try:
        reservation = await accounts.reserve(key, most, chance.randrange(100))
    except ApiError:
        return
    watch.reserve(most)
    more = most if chance.random() < 0.3 else 0.0  # a further call, or none
    try:
        await accounts.extend(reservation, more)
    except ApiError:
        more = 0.0
    except BaseException:
        reservation.release()
        watch.settle(most, 0.0)
        raise
    watch.reserve(more)
    most, cost = most + more, 0.0
    try:
        await asyncio.sleep(chance.uniform(0, 0.003))
        if chance.random() < 0.3:
            raise ConnectionError
        cost = most * chance.choice([1.0, chance.random()])
    except ConnectionError:
        reservation.release()
    finally:
        watch.settle(most, cost)
        reservation.settle(cost, chance.randrange(100))


@pytest.mark.parametrize("seed", [0, 1])
def test_64_at_a_time_never_spend_more_than_the_budget(store: Store, seed: int) -> None:
    async def main() -> None:
        chance, watch = random.Random(seed), Watch(20.0)
        with store.open() as one, store.open() as other:
            key, _ = make_key("one", budget=20.0)
            both = [Accounts(one), Accounts(other)]

            async def client() -> None:
                for _ in range(6):
                    task = asyncio.ensure_future(visit(chance.choice(both), key, watch, chance))
                    if chance.random() < 0.2:
                        await asyncio.sleep(chance.uniform(0, 0.004))
                        task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                    if not task.cancelled():
                        task.result()

            await asyncio.gather(*(client() for _ in range(64)))
            await one.flush()
            found = await balance(other, f"key:{key.id}")
            assert found.settled == pytest.approx(watch.settled)
            assert found.settled + found.reserved <= 20.0 + CLOSE
            assert watch.settled > 19.0  # there was something to fight over
            for accounts in both:
                await accounts.close()
            assert (await balance(one, f"key:{key.id}")).reserved == pytest.approx(0.0, abs=CLOSE)

    asyncio.run(main())


def noted(files: Sequence[Path]) -> tuple[float, float]:
    """What was charged for certain, and what may have been on top when the processes died."""
    opened: dict[str, float] = {}
    settled = 0.0
    for path in files:
        for line in path.read_text().splitlines():
            sign, number, cost = line.split()
            if sign == "+":
                opened[number] = float(cost)
            else:
                del opened[number]
                settled += float(cost)
    return settled, sum(opened.values())


def test_killed_processes_have_not_spent_what_they_had_not_reserved(store: Store) -> None:
    key, _ = make_key("one", budget=600.0)
    notes = [store.folder / f"notes-{i}" for i in range(5)]

    def start(i: int) -> subprocess.Popen[bytes]:
        coded = msgspec.json.encode(key).decode()
        places = (str(SPENDER), store.place, str(store.folder / "spool"))
        return subprocess.Popen([sys.executable, *places, coded, str(notes[i]), str(i)])

    def kill(process: subprocess.Popen[bytes], i: int, lines: int) -> None:
        """Kill it in the middle, unless it has come to its end before."""

        def far() -> bool:
            return notes[i].exists() and notes[i].read_bytes().count(b"\n") > lines

        until(lambda: process.poll() is not None or far(), seconds=30)
        process.kill()
        process.wait()

    async def check() -> None:
        settled, lost = noted([path for path in notes if path.exists()])
        with store.open() as ledger:
            found = await balance(ledger, f"key:{key.id}")
            logged = sum(row.cost for row in await ledger.spend("key"))
        assert settled + lost <= 600.0 + CLOSE
        reserved = found.reserved + found.forfeited
        assert found.settled + reserved <= 600.0 + CLOSE
        assert found.settled <= settled + CLOSE  # nothing is invented
        assert settled + lost <= found.settled + reserved + CLOSE  # nothing is hidden
        assert logged <= found.settled + CLOSE

    for i, lines in enumerate((20, 150)):
        kill(start(i), i, lines)
        asyncio.run(check())
    survivor, other = start(2), start(3)  # two replicas, one of which dies
    kill(other, 3, 100)
    assert survivor.wait() == 0
    asyncio.run(check())
    settled, lost = noted(notes[:4])
    assert settled + lost > 300.0  # most of the budget could be spent


def test_a_killed_process_loses_no_entry_that_it_flushed(store: Store) -> None:
    async def main() -> None:
        with store.open() as ledger:
            entry = Entry(new_id("req_"), time.time(), cost=1.0)
            ledger.write(entry)
            await ledger.flush()
            with store.open() as other:
                assert await other.entry(entry.id) == entry

    asyncio.run(main())
