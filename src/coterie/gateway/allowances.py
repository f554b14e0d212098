"""An allowance: what this process may hand out of one account in one period without asking.

An account is a budget or limit of a key or team. Its allowance is a lease, durable in the ledger,
from which requests reserve in memory. What they leave over goes back to the lease; what they spend
beyond it is recorded as taken by force. Of what was used in the minute before, a limit a minute
still counts the share that this minute has left, so that two bursts at its turn are not let in.
"""

from __future__ import annotations

import asyncio
import math
import time
from calendar import timegm
from dataclasses import dataclass

from coterie.gateway.ledger import Ledger
from coterie.gateway.ledger_sql import Settled
from coterie.gateway.ledger_writer import StoreDown

LEASE_SECONDS = 3.0  # that a lease may take before the store counts as down
REFUSED_SECONDS = 0.25  # for which a refusal is not asked for again
PLENTY = 10  # requests that must be left before a lease is taken ahead of need
SHARES = {"cost": 0.01, "requests": 0.1, "tokens": 0.1, "slots": 0.1}  # leased of what is left
MINUTE = 60.0
KEPT = 300.0  # seconds after which the leases of a minute are forgotten


@dataclass(frozen=True, slots=True)
class Terms:
    """What an account limits: ``unit`` is cost, requests, tokens or slots."""

    account: str
    unit: str
    cap: float
    period: str  # total, day, month, minute or now


def period_at(period: str, now: float) -> tuple[str, float]:
    """The name of the period that ``now`` is in, in UTC, and when it ends."""
    if period == "minute":
        minute = int(now // 60)
        return f"minute {minute}", (minute + 1) * 60.0
    if period == "day":
        day = int(now // 86400)
        return time.strftime("%Y-%m-%d", time.gmtime(now)), (day + 1) * 86400.0
    if period == "month":
        at = time.gmtime(now)
        year, month = (at.tm_year, at.tm_mon + 1) if at.tm_mon < 12 else (at.tm_year + 1, 1)
        return time.strftime("%Y-%m", at), float(timegm((year, month, 1, 0, 0, 0)))
    return period, math.inf


class Allowance:
    """One account in one period, as this process sees it.

    Attributes
    ----------
    left
        Leased, and neither reserved nor spent.
    held
        Reserved by requests under way.
    settled, forced
        Spent by this process, and what of it was taken beyond the leases.
    total, spent
        What all processes had leased, and spent or forfeited, when the store was last asked.
    carried, asked
        What of ``total`` was the minute's before, and when that was.
    """

    __slots__ = (
        *("terms", "period", "until", "left", "held", "settled", "forced", "total", "spent"),
        *("used", "carried", "asked", "_ledger", "_holder", "_asking", "_refused"),
    )

    def __init__(self, terms: Terms, ledger: Ledger, holder: str, now: float) -> None:
        self.terms, self._ledger, self._holder = terms, ledger, holder
        self.period, self.until = period_at(terms.period, now)
        self.left = self.held = self.settled = self.forced = self.total = self.spent = 0.0
        self.used = self.asked = now
        self.carried = 0.0
        self._asking: asyncio.Task[bool] | None = None
        self._refused = (0.0, 0.0)  # until when, and what was left

    def take(self, amount: float, now: float) -> None:
        """Reserve what ``left`` holds."""
        self.left -= amount
        self.held += amount
        self.used = now
        if self.left < amount and self.terms.unit != "slots" and not self._busy():
            rest = self.terms.cap - self.total
            if amount * PLENTY < rest < math.inf and self._ledger.reachable:
                self._ask(amount)

    def settle(self, reserved: float, used: float) -> None:
        """End a reservation: the rest is free again, what was spent is on its way to the store."""
        self.held -= reserved
        self.left += reserved - used
        unit = self.terms.unit
        if unit not in ("cost", "tokens") or (self.left >= 0 and (unit == "tokens" or not used)):
            return
        if self.left < 0:
            self.forced -= self.left
            self.total -= self.left
            self.left = 0.0
        self.settled += used
        self._write()

    def force(self, amount: float) -> None:
        """Take without asking, while the store is down and requests go on all the same."""
        self.left += amount
        if self.terms.unit == "cost":
            self.forced += amount
            self._write()

    def _write(self) -> None:
        account = self.terms.account
        expires = self.until + KEPT if self.before else None
        row = Settled(account, self.period, self._holder, self.settled, self.forced, expires)
        self._ledger.settle(row)

    @property
    def before(self) -> str:
        """The name of the minute before; "" where the limit is of another period."""
        if self.terms.period != "minute":
            return ""
        return f"minute {int(self.until // MINUTE) - 2}"

    def wait(self, need: float, now: float) -> float:
        """Seconds until ``need`` fits into a limit a minute, as what was used fades."""
        own = self.total - self.carried - max(self.left, 0.0)
        room = self.terms.cap - own - need
        if room >= 0 and self.carried > 0:
            return self.until - now - (self.until - self.asked) * min(room / self.carried, 1.0)
        late = 1.0 - (self.terms.cap - need) / own if own > 0 else 0.0
        return self.until - now + MINUTE * min(max(late, 0.0), 1.0)

    async def refill(self, need: float, now: float) -> bool:
        """Lease more, at least ``need``; False where the account has not that much left.

        One asks the store at a time: the others wait for that and look again. Raises StoreDown.
        """
        self.used = now
        until, rest = self._refused
        if need > rest and asyncio.get_running_loop().time() < until:
            return False
        own = not self._busy()
        task = self._ask(need) if own else self._asking
        assert task is not None
        done, _ = await asyncio.wait({task}, timeout=LEASE_SECONDS)
        if not done:
            raise StoreDown(f"the ledger's store did not answer in {LEASE_SECONDS:g} s")
        return task.result() or not own

    async def give_back(self) -> None:
        """Return to the store what nobody has reserved; raises StoreDown."""
        amount, self.left = self.left, 0.0
        if self.terms.unit == "slots":
            amount = max(amount, 0.0)
        if amount <= 0:
            self.left = amount
            return
        try:
            await self._lease(-amount)
        except StoreDown:
            self.left += amount
            raise

    async def finish(self) -> None:
        """Wait for a lease that is being asked for."""
        if self._asking is not None:
            await asyncio.wait({self._asking})

    def _busy(self) -> bool:
        return self._asking is not None and not self._asking.done()

    def _ask(self, need: float) -> asyncio.Task[bool]:
        """A task of its own, so that a client that leaves does not lose the lease."""
        self._asking = asyncio.get_running_loop().create_task(self._lease(need))
        self._asking.add_done_callback(_look)
        return self._asking

    async def _lease(self, need: float) -> bool:
        terms, before, asked = self.terms, self.before, self.used
        left = max(0.0, self.until - asked) / MINUTE if before else 0.0
        grant = await self._ledger.lease(
            *(terms.account, self.period, self._holder, need, terms.cap),
            share=SHARES[terms.unit],
            whole=terms.unit != "cost",
            living=terms.unit == "slots",
            expires=self.until + KEPT if before else None,
            carry=(before, left),
        )
        self.left += max(grant.amount, 0.0)
        self.total, self.spent = grant.total, grant.spent
        self.carried, self.asked = grant.carried, asked
        if not grant.amount:
            until = asyncio.get_running_loop().time() + REFUSED_SECONDS
            self._refused = (until, terms.cap - grant.total)
        return grant.amount > 0


def _look(task: asyncio.Task[bool]) -> None:
    """Take note of a failure: whoever needs the lease asks again and hears of it then."""
    if not task.cancelled():
        task.exception()
