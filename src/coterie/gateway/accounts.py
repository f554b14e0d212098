"""Accounts: who may ask, and how much; reserve before a request, settle after it.

Budgets and limits are taken from the ledger in leases (see ``allowances``), so that a request is
let in from memory alone, however many replicas share them, and a killed process cannot have spent
more than it had leased. Days and months are those of the calendar, in UTC.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from typing import Literal, TypeAlias

from coterie.gateway.allowances import Allowance, Terms, period_at
from coterie.gateway.entries import Key, Team, new_id
from coterie.gateway.keys import find_key
from coterie.gateway.ledger import Ledger
from coterie.gateway.ledger_writer import StoreDown
from coterie.gateway.wire import ApiError, Headers, overloaded

TEND_SECONDS = 1.0  # between two looks at changed keys and idle leases
IDLE_SECONDS = 5.0  # after which unused leases go back
Outage: TypeAlias = Literal["closed", "open"]
Required: TypeAlias = Literal["auto", "required", "off"]
ANONYMOUS = Key(id="", name="", prefix="", digest=b"", created=0.0)
UNITS = (("rpm", "requests"), ("tpm", "tokens"))
RATE_HEADERS = {
    unit: tuple(f"x-ratelimit-{what}-{unit}".encode() for what in ("limit", "remaining", "reset"))
    for _, unit in UNITS
}


class Accounts:
    """Keys, teams, their budgets and limits.

    Parameters
    ----------
    ledger
        Where keys and spending are kept.
    outage
        What happens while the ledger's store is down: "closed" refuses requests with 503, "open"
        lets them in (budgets are not enforced then, but everything spent is recorded later).
    keys
        Whether a key is needed: "required", "off", or "auto", as soon as one exists.
    clock
        Seconds since 1970.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        outage: Outage = "closed",
        keys: Required = "required",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.ledger, self.outage, self.keys = ledger, outage, keys
        self.holder = new_id("hold_")
        self._clock = clock
        self._keys: dict[bytes, Key] = {}
        self._teams: dict[str, Team] = {}
        self._mark: tuple[object, ...] | None = None
        self._allowances: dict[tuple[str, str], Allowance] = {}
        self._plans: dict[str, _Plan] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the keys and begin to look after them and the leases."""
        await self.refresh()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Give the leases back; reservations under way are to be settled before."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with contextlib.suppress(StoreDown):
            for allowance in self._allowances.values():
                await allowance.finish()
                await allowance.give_back()

    def authenticate(self, secret: str | None) -> Key:
        """The key of a secret; raises ApiError 401 where it has none, or not any more."""
        if self.keys == "off" or (self.keys == "auto" and not self._keys):
            return ANONYMOUS
        if not secret:
            raise _unknown("You did not provide an API key; send it as 'Authorization: Bearer KEY'")
        key = find_key(self._keys, secret)
        if key is None or key.revoked is not None:
            raise _unknown("Incorrect API key provided")
        if key.expires is not None and key.expires <= self._clock():
            raise _unknown("The API key has expired; ask for a new one")
        return key

    def budgeted(self, key: Key) -> bool:
        """Whether what the key spends is bounded, by its own budget or its team's."""
        if key.budget is not None:
            return True
        return bool(key.team) and getattr(self._teams.get(key.team), "budget", None) is not None

    async def reserve(self, key: Key, cost: float, tokens: int) -> Reservation:
        """Set aside the most that a request may cost; waits only where a new lease is needed.

        Raises ApiError: 429 where a budget or limit has not that much left, 503 where the store is
        down and ``outage`` or a full spool says so.
        """
        if not self.ledger.accepting or (self.outage == "closed" and not self.ledger.reachable):
            raise overloaded("the gateway's ledger cannot be written now; try again")
        if not (cost >= 0 and cost < math.inf):
            raise ValueError(f"expected a cost of at least 0, got {cost!r}")
        while True:
            now = self._clock()
            plan = self._plans.get(key.id)
            if plan is None or plan.key is not key or now >= plan.until:
                plan = self._plan(key, now)
            amounts = {"cost": cost, "tokens": tokens, "requests": 1, "slots": 1}
            for allowance in plan.allowances:
                need = amounts[allowance.terms.unit]
                if allowance.left < need * (1 - 1e-9) and allowance.terms.cap < math.inf:
                    await self._refill(allowance, need)
                    break
            else:
                return Reservation(plan.allowances, amounts, now)

    async def extend(self, reservation: Reservation, cost: float) -> None:
        """Set aside more money for a request under way, before what it is for is asked.

        Raises ApiError as ``reserve`` does; what was set aside before stays so.
        """
        budgets = reservation.budgets
        while True:
            short = next((one for one in budgets if one.left < cost * (1 - 1e-9)), None)
            if short is None:
                return reservation.add(cost, self._clock())
            await self._refill(short, cost, reservation.cost)

    async def _refill(self, allowance: Allowance, need: float, held: float = 0.0) -> None:
        short = need - allowance.left
        if self.outage == "open" and not self.ledger.reachable:
            return allowance.force(short)
        try:
            ended = self._allowances.get((allowance.terms.account, allowance.before))
            if ended is not None:
                await ended.give_back()  # of the minute before, what was used counts and no more
            now = self._clock()
            if not await allowance.refill(short, now) and allowance.left < need * (1 - 1e-9):
                raise _denied(allowance, held + need, self._clock())
        except StoreDown as error:
            if self.outage == "closed":
                raise overloaded(f"{error}; try again") from None
            allowance.force(short)

    def _plan(self, key: Key, now: float) -> _Plan:
        """The allowances of a key and its team, those of a past minute or day replaced."""
        owners: list[tuple[str, Key | Team]] = [(f"key:{key.id}", key)]
        if team := self._teams.get(key.team):
            owners.append((f"team:{team.name}", team))
        found = [self._allowance(terms, now) for name, one in owners for terms in _terms(name, one)]
        until = min(allowance.until for allowance in found)
        self._plans[key.id] = plan = _Plan(key, found, until)
        return plan

    def _allowance(self, terms: Terms, now: float) -> Allowance:
        place = terms.account, period_at(terms.period, now)[0]
        allowance = self._allowances.get(place)
        if allowance is None:
            allowance = Allowance(terms, self.ledger, self.holder, now)
            self._allowances[place] = allowance
        elif allowance.terms != terms:
            allowance.terms, allowance.used = terms, 0.0  # what is left goes back at once
        return allowance

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(TEND_SECONDS)
            with contextlib.suppress(Exception):  # the next second tries again
                await self.tend()

    async def tend(self) -> None:
        """Read changed keys, give a sign of life, return leases that nobody uses."""
        now, ended = self._clock(), False
        if self._allowances and self.ledger.reachable:
            self.ledger.seen(self.holder, time.time())
        await self.refresh()
        for place, allowance in [*self._allowances.items()]:
            over = allowance.until <= now
            if over or allowance.used < now - IDLE_SECONDS:
                await allowance.give_back()
            if over and not allowance.held:
                del self._allowances[place]
                ended = ended or allowance.terms.period == "minute"
        if ended:
            await self.ledger.forget_leases(now)

    async def refresh(self) -> None:
        """Read keys and teams where any has changed; raises StoreDown."""
        mark = await self.ledger.owners_mark()
        if mark == self._mark:
            return
        keys, teams = await self.ledger.owners()
        self._mark, self._keys = mark, {key.digest: key for key in keys}
        self._teams = {team.name: team for team in teams}
        self._plans.clear()


class _Plan:
    """The allowances a key's requests take from, until the first of them ends."""

    __slots__ = ("allowances", "key", "until")

    def __init__(self, key: Key, allowances: list[Allowance], until: float) -> None:
        self.key, self.allowances, self.until = key, allowances, until


class Reservation:
    """What was set aside for one request, until ``settle`` or ``release``; the first one counts.

    ``cost`` is the part in money.
    """

    __slots__ = ("_now", "_open", "_parts", "cost")

    def __init__(self, allowances: list[Allowance], amounts: dict[str, float], now: float) -> None:
        self._parts: list[tuple[Allowance, float]] = []
        self._open, self._now, self.cost = True, now, amounts["cost"]
        for allowance in allowances:
            amount = amounts[allowance.terms.unit] if allowance.terms.cap < math.inf else 0.0
            allowance.take(amount, now)
            self._parts.append((allowance, amount))

    @property
    def budgets(self) -> list[Allowance]:
        """The budgets that bound it."""
        return [
            one for one, _ in self._parts if one.terms.unit == "cost" and one.terms.cap < math.inf
        ]

    def add(self, cost: float, now: float) -> None:
        """Take more of what the budgets have left."""
        self.cost += cost
        budgets = self.budgets if self._open else []
        for allowance in budgets:
            allowance.take(cost, now)
        self._parts = [(one, had + cost * (one in budgets)) for one, had in self._parts]

    def settle(self, cost: float, tokens: int) -> None:
        """Record what was spent, in full even where less was reserved."""
        if not self._open:
            return
        self._open = False
        for allowance, reserved in self._parts:
            unit = allowance.terms.unit
            if unit == "cost":
                # a cost that is no number is taken for the worst case: never hidden
                allowance.settle(reserved, cost if 0 <= cost < math.inf else reserved)
            elif unit == "tokens":
                allowance.settle(reserved, tokens)
            else:
                allowance.settle(reserved, reserved if unit == "requests" else 0.0)

    def release(self) -> None:
        """Nothing was spent; the request still counts for limits of requests per minute."""
        self.settle(0.0, 0)

    @property
    def headers(self) -> Headers:
        """Limit, rest and time to the reset of requests and tokens a minute, the tightest ones."""
        tightest: dict[str, Allowance] = {}
        for allowance, _ in self._parts:
            unit = allowance.terms.unit
            if unit not in ("requests", "tokens"):  # nor has every budget an end
                continue
            known = tightest.get(unit)
            if known is None or _remaining(allowance) < _remaining(known):
                tightest[unit] = allowance
        told: list[tuple[bytes, bytes]] = []
        for _, unit in UNITS:
            if unit in tightest:
                told += _rate_headers(tightest[unit], self._now)
        return told


def _terms(name: str, owner: Key | Team) -> list[Terms]:
    """What an owner limits; spending is counted even where there is no budget yet."""
    cap = math.inf if owner.budget is None else owner.budget
    found = []
    if owner.concurrency is not None:
        found.append(Terms(f"{name}:slots", "slots", owner.concurrency, "now"))
    for field, unit in UNITS:
        if (limit := getattr(owner, field)) is not None:
            found.append(Terms(f"{name}:{unit}", unit, limit, "minute"))
    return [*found, Terms(name, "cost", cap, owner.period)]  # last: what is refused leases no money


def _remaining(allowance: Allowance) -> int:
    return max(0, int(allowance.terms.cap - allowance.total + allowance.left))


def _rate_headers(allowance: Allowance, now: float, wait: float = 0.0) -> list[tuple[bytes, bytes]]:
    limit, remaining, reset = RATE_HEADERS[allowance.terms.unit]
    return [
        (limit, b"%d" % allowance.terms.cap),
        (remaining, b"%d" % _remaining(allowance)),
        (reset, duration(max(allowance.until - now, wait)).encode()),
    ]


def duration(seconds: float) -> str:
    """Seconds as OpenAI's headers have them: ``1s``, ``6m0s``, ``1h0m0s``."""
    whole = max(0, math.ceil(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _unknown(message: str) -> ApiError:
    return ApiError(401, f"{message}.", code="invalid_api_key")


def _denied(allowance: Allowance, need: float, now: float) -> ApiError:
    """What a request is told that a budget or limit keeps out."""
    terms = allowance.terms
    owner = terms.account.partition(":")[0]
    if terms.unit == "cost":
        return _over_budget(allowance, owner, need, now)
    wait = 1.0 if terms.unit == "slots" else max(1.0, allowance.wait(need, now))
    per = "at a time" if terms.unit == "slots" else "per minute"
    what = "requests" if terms.unit == "slots" else terms.unit
    message = f"Rate limit reached for this {owner}: {terms.cap:g} {what} {per}; asked {need:g}."
    headers = [(b"retry-after", b"%d" % math.ceil(wait))]
    if terms.unit != "slots":
        headers += _rate_headers(allowance, now, wait)
    if need > terms.cap:
        headers.append((b"x-should-retry", b"false"))
    kind = "concurrency" if terms.unit == "slots" else terms.unit
    return ApiError(429, message, type=kind, code="rate_limit_exceeded", headers=headers)


def _over_budget(allowance: Allowance, owner: str, need: float, now: float) -> ApiError:
    terms = allowance.terms
    period = "" if terms.period == "total" else f" a {terms.period}"
    fits = allowance.spent + need <= terms.cap  # what others have reserved may come back
    held = ", the rest set aside for requests under way" if fits else ""
    message = (
        f"The budget of this {owner}, {terms.cap:g}{period}, does not cover this request, "
        f"which may cost up to {need:g}; {allowance.spent:g} is spent{held}. "
        "A smaller max_tokens sets less aside."
    )
    headers: list[tuple[bytes, bytes]] = []
    if fits:
        headers.append((b"retry-after", b"1"))
    elif allowance.until < math.inf:
        headers.append((b"retry-after", b"%d" % math.ceil(allowance.until - now)))
    if not headers or not fits:
        headers.append((b"x-should-retry", b"false"))
    kind = "insufficient_quota"
    return ApiError(429, message, type=kind, code=kind, headers=headers)
