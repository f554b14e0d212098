"""A process that spends from a key's budget until it is killed, and writes down what it did.

usage: spender.py STORE SPOOL KEY NOTES SEED: NOTES gets a line ``+ number cost`` as soon as a
request may cost that much, and ``- number cost`` once it is known what it did cost.
"""

import asyncio
import os
import random
import sys

import msgspec

from coterie.gateway.accounts import Accounts
from coterie.gateway.entries import Entry, Key, new_id
from coterie.gateway.ledger import open_ledger
from coterie.gateway.wire import ApiError


async def spend(accounts: Accounts, key: Key, notes: int, chance: random.Random) -> None:
    """Ask until the budget has not covered a request a few times."""
    refused = 0
    while refused < 3:
        most = chance.uniform(0.1, 2.0)
        try:
            reservation = await accounts.reserve(key, most / 2, 10)
        except ApiError:
            refused += 1
            await asyncio.sleep(0.02)
            continue
        try:
            await accounts.extend(reservation, most / 2)
        except ApiError:
            most /= 2
        number = new_id("")
        os.write(notes, f"+ {number} {most}\n".encode())
        await asyncio.sleep(chance.uniform(0, 0.005))
        cost = chance.choice([0.0, most, most * chance.random()])
        os.write(notes, f"- {number} {cost}\n".encode())
        if cost or chance.random() < 0.5:
            reservation.settle(cost, 10)
            accounts.ledger.write(Entry(number, 0.0, key=key.id, cost=cost))
        else:
            reservation.release()


async def main(store: str, spool: str, key: Key, notes: int, seed: int) -> None:
    with open_ledger(store, spool) as ledger:
        accounts = Accounts(ledger)
        await accounts.start()
        chance = random.Random(seed)
        async with asyncio.timeout(30):
            await asyncio.gather(*(spend(accounts, key, notes, chance) for _ in range(64)))
        await accounts.close()


if __name__ == "__main__":
    _, store, spool, key, notes, seed = sys.argv
    file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    asyncio.run(main(store, spool, msgspec.json.decode(key, type=Key), file, int(seed)))
