"""The ledger: what was asked and spent, who may ask, what replicas share; SQLite or Postgres.

Everything is written by one thread, in groups; ``write`` and its like only put a row into its
queue. While the store cannot be reached, rows wait in a bounded spool on disk; once that is full
``accepting`` is False, and whoever takes requests is to refuse them. Reads have a connection and a
thread of their own.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from coterie.errors import InputError
from coterie.gateway import ledger_sql as sql
from coterie.gateway.entries import Entry, Feedback, Key, Team, new_id
from coterie.gateway.ledger_sql import Scored, Session, Settled, State
from coterie.gateway.ledger_writer import Connection, Writing
from coterie.gateway.spool import Spool

GRACE = 30.0  # seconds after which a holder that gave no sign of life counts as dead


class Spend(msgspec.Struct, frozen=True):
    """What one key, team, expert or day has used; ``baseline`` is what the best single would."""

    name: str
    requests: int
    errors: int
    prompt: int
    completion: int
    cost: float
    baseline: float


class Grant(msgspec.Struct, frozen=True):
    """What a holder got of an account, what all have of it now, and what will not come back.

    ``carried`` is the part of ``total`` that is an earlier period's.
    """

    amount: float
    total: float
    spent: float
    carried: float = 0.0


class Balance(msgspec.Struct, frozen=True):
    """An account in a period: ``forfeited`` was reserved by processes that died."""

    account: str
    period: str
    settled: float
    reserved: float
    forfeited: float


class Ledger(Writing):
    """The store behind the gateway; see ``SqliteLedger`` and ``PostgresLedger``."""

    # Written through the queue: never blocks, never loses.

    def write(self, entry: Entry) -> None:
        """Log a request; the entry is not to be changed any more."""
        self._put(entry)

    def settle(self, settled: Settled) -> None:
        """What a holder has spent of an account so far."""
        self._put(settled)

    def add_feedback(self, id: str, score: float, by: str = "", note: str = "") -> None:
        """Score a request; raises InputError for a score outside [0, 1]."""
        if not 0 <= score <= 1:
            raise InputError(f"expected a number from 0 to 1, got {score!r}", field="score")
        now = time.time()
        self._put(Scored(new_id("fb_", now), Feedback(id, score, now, by, note)))

    def put_session(self, session: str, expert: str, time: float) -> None:
        """Remember who answers a session; the latest wins."""
        self._put(Session(session, expert, time))

    def put_state(self, name: str, content: bytes) -> None:
        """Keep bytes under a name."""
        self._put(State(name, content))

    def seen(self, holder: str, time: float) -> None:
        """A sign of life of a holder of leases."""
        self._put(sql.Seen(holder, time))

    # Asked of the writer and waited for.

    async def lease(
        self,
        account: str,
        period: str,
        holder: str,
        need: float,
        cap: float,
        *,
        share: float = 0.01,
        whole: bool = False,
        living: bool = False,
        expires: float | None = None,
        carry: tuple[str, float] = ("", 0.0),
    ) -> Grant:
        """Take ``need`` of an account, or a share of what is left of its cap if that is more.

        Nothing is granted where less than ``need`` is left. ``whole`` grants are counts; of
        ``living`` accounts what dead holders had is free again. A negative need gives back.
        ``carry`` is a period before, and the share of its use that still counts. Raises StoreDown.
        """
        now = time.time()
        earlier, part = carry

        def take(db: Connection) -> Grant:
            self._begin(db, account)
            found = list(db.execute(self._sql(sql.LEASES), (account, period)))
            before = db.execute(self._sql(sql.LEASES), (account, earlier)) if part else ()
            total = carried = part * sum([max(amount, settled) for _, amount, settled, _ in before])
            spent = 0.0
            for who, amount, settled, seen in found:
                alive = who == holder or (seen or 0.0) > now - GRACE
                total += max(amount, settled) if alive or not living else 0.0
                spent += settled if alive else max(amount, settled)
            granted = need if need < 0 else _granted(need, cap - total, share, whole)
            if granted:
                self._write(db, [sql.Seen(holder, now)])
                db.execute(self._sql(sql.LEASE), (account, period, holder, expires, granted))
            db.execute("COMMIT")
            return Grant(granted, total + granted, spent, carried)

        return await self._ask(take)

    async def forget_leases(self, before: float) -> None:
        """Drop leases of windows that ended before."""
        await self._ask(lambda db: db.execute(self._sql(sql.FORGET_LEASES), (before,)) and None)

    async def put_key(self, key: Key) -> None:
        """Keep a key, or a new version of it; raises StoreDown."""
        await self._put_owner("key", key.id, key)

    async def put_team(self, team: Team) -> None:
        """Keep a team, or a new version of it; raises StoreDown."""
        await self._put_owner("team", team.name, team)

    async def _put_owner(self, kind: str, name: str, owner: Key | Team) -> None:
        now = time.time()
        values = (new_id("own_", now), now, kind, name, sql.encode(owner))
        await self._ask(lambda db: db.execute(self._sql(sql.ADD_OWNER), values) and None)

    # Read.

    async def entry(self, id: str) -> Entry | None:
        """The entry of a request, None if there is none."""
        found = await self._read(sql.ENTRY, (id,))
        return sql.decode_entry(found[0][0]) if found else None

    async def recent(self, limit: int = 50, before: str | None = None, **equal: Any) -> list[Entry]:
        """The last entries, the newest first; ``before`` an id, ``equal`` by FILTERS."""
        columns = [_named(name, sql.FILTERS) for name in equal]
        statement = sql.recent_statement(columns, before is not None)
        values = (*equal.values(), *(() if before is None else (before,)), limit)
        rows = await self._read(statement, values, by="reports" if equal else "reader")
        return [sql.decode_entry(row[0]) for row in rows]

    async def entries(
        self, since: float = 0.0, until: float = math.inf, size: int = 500
    ) -> AsyncIterator[Entry]:
        """Entries from ``since`` to before ``until``, the oldest first, read in parts."""
        last: tuple[float, str] = (since, "")
        while rows := await self._read(sql.SCAN, (*last, min(until, 1e300), size), by="reports"):
            for row in rows:
                yield sql.decode_entry(row[2])
            last = rows[-1][0], rows[-1][1]

    async def spend(self, by: str, since: float = 0.0) -> list[Spend]:
        """What was used since a time, by key, team, session, expert, policy or day (UTC)."""
        statement = sql.spend_statement(_named(by, sql.SPENT_BY))
        rows = await self._read(statement, (since,), by="reports")
        shown = _day if by == "day" else str
        return [
            Spend(shown(name), int(n), int(failed), int(read), int(written), spent, baseline)
            for name, n, failed, read, written, spent, baseline in rows
        ]

    async def pairs(self, since: float, limit: int) -> list[tuple[float, float]]:
        """Cost and always-best cost of the last requests since a time where both are known."""
        found = await self._read(sql.PAIRS, (since, limit), by="reports")
        return [(float(cost), float(baseline)) for cost, baseline in found]

    async def balances(self) -> list[Balance]:
        """Every account with a budget or spending, in every period."""
        now, found = time.time(), await self._read(sql.ACCOUNTS, ())
        sums: dict[tuple[str, str], list[float]] = {}
        for account, period, amount, settled, seen in found:
            row = sums.setdefault((account, period), [0.0, 0.0, 0.0])
            row[0] += settled
            row[1 if (seen or 0.0) > now - GRACE else 2] += max(amount - settled, 0.0)
        return [Balance(*key, *row) for key, row in sorted(sums.items())]

    async def feedback(self, id: str) -> list[Feedback]:
        """The scores of a request, the oldest first."""
        return [sql.decode_feedback(row[0]) for row in await self._read(sql.FEEDBACK, (id,))]

    async def feedback_since(self, since: float = 0.0) -> list[Feedback]:
        """Every score given since a time, the oldest first."""
        rows = await self._read(sql.FEEDBACK_SINCE, (since,))
        return [sql.decode_feedback(row[0]) for row in rows]

    async def get_session(self, session: str) -> Session | None:
        """Who answered a session last, None if nobody."""
        found = await self._read(sql.SESSION, (session,))
        return Session(*found[0]) if found else None

    async def get_state(self, name: str) -> bytes | None:
        """The bytes kept under a name."""
        found = await self._read(sql.STATE, (name,))
        return bytes(found[0][0]) if found else None

    async def states(self, prefix: str) -> list[bytes]:
        """What is kept under names that begin so."""
        rows = await self._read(sql.STATES, (f"{prefix}%",), fresh=False)
        return [bytes(row[0]) for row in rows]

    async def owners_mark(self) -> tuple[Any, ...]:
        """What changes with every change of a key or team."""
        return tuple((await self._read(sql.OWNERS_MARK, (), fresh=False))[0])

    async def owners(self) -> tuple[list[Key], list[Team]]:
        """All keys, revoked ones too, and all teams."""
        keys: dict[str, Key] = {}
        teams: dict[str, Team] = {}
        for kind, content in await self._read(sql.OWNERS, (), fresh=False):
            if kind == "key":
                key = sql.decode_key(content)
                keys[key.id] = key
            else:
                team = sql.decode_team(content)
                teams[team.name] = team
        return [*keys.values()], [*teams.values()]

    async def _read(
        self, statement: str, values: sql.Values, fresh: bool = True, by: str = "reader"
    ) -> list[Any]:
        if fresh and self._rows:
            await self.flush()
        text, link = self._sql(statement), self._links[by]
        loop = asyncio.get_running_loop()
        look = lambda db: list(db.execute(text, values))  # noqa: E731
        return await loop.run_in_executor(self._readers[by], link.run, look, self.down)


def _granted(need: float, left: float, share: float, whole: bool) -> float:
    if left < need * (1 - 1e-9) or left <= 0:
        return 0.0
    wanted = max(need, share * left)
    return min(float(int(wanted)) if whole else wanted, left)


def _named(name: str, names: dict[str, str]) -> str:
    if name not in names:
        raise InputError(f"expected one of {', '.join(names)}, got {name!r}")
    return names[name]


def _day(number: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(int(number) * 86400))


def open_ledger(store: str | Path, spool: str | Path | None = None) -> Ledger:
    """The ledger in a SQLite file, or behind a ``postgresql://`` address.

    ``spool`` is the file in which entries wait for a store that is down; beside the SQLite file,
    or ``gateway.spool``. Raises ArtifactError for a file of something else, CoterieError for a
    server that cannot be reached.
    """
    text = str(store)
    if text.startswith(("postgres://", "postgresql://")):
        from coterie.gateway.ledger_postgres import PostgresLedger

        return PostgresLedger(text, Spool(spool or "gateway.spool"))
    from coterie.gateway.ledger_sqlite import SqliteLedger

    return SqliteLedger(text, Spool(spool or f"{text}.spool"))
