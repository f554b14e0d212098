"""The ledger: what was asked and spent, who may ask, what replicas share; SQLite or Postgres.

Everything is written by one thread, in groups; ``write`` and its like only put a row into its
queue. While the store cannot be reached, rows wait in a bounded spool on disk; once that is full
``accepting`` is False, and whoever takes requests is to refuse them. Reads have a connection and a
thread of their own.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

import msgspec

from coterie.errors import CoterieError, InputError
from coterie.files import Closing
from coterie.gateway import ledger_sql as sql
from coterie.gateway.entries import Entry, Feedback, Key, Team, new_id
from coterie.gateway.ledger_sql import Row, Scored, Session, Settled, State
from coterie.gateway.spool import Spool, SpoolFull

GROUP_SECONDS = 0.05  # rows of this long are written together
GROUP_ROWS = 500  # rows of a transaction, at most
QUEUE_ROWS = 50_000  # rows that wait in memory before requests are refused
RETRY_SECONDS = 1.0  # between two looks at a store that is down
GRACE = 30.0  # seconds after which a holder that gave no sign of life counts as dead
T = TypeVar("T")


class StoreDown(CoterieError):
    """The store cannot be reached; what is written waits in the spool."""


class Connection(Protocol):
    """What SQLite's and psycopg's connections have in common."""

    def execute(self, statement: Any, values: Any = ...) -> Any:
        """Run one statement; the result iterates over rows."""

    def close(self) -> None:
        """Give the connection back."""


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
    """What a holder got of an account, what all have of it now, and what will not come back."""

    amount: float
    total: float
    spent: float


class Balance(msgspec.Struct, frozen=True):
    """An account in a period: ``forfeited`` was reserved by processes that died."""

    account: str
    period: str
    settled: float
    reserved: float
    forfeited: float


class Ledger(Closing):
    """The store behind the gateway; see ``SqliteLedger`` and ``PostgresLedger``."""

    down: tuple[type[Exception], ...] = ()  # errors that mean: not now

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.rejected = 0  # rows that the store would not have
        self.reachable = True
        self._rows: deque[Row] = deque()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._idle = self._closing = self._full = False
        self._links = {"writer": _Link(self._connect), "reader": _Link(self._connect)}
        self._links["writer"].run(self._migrate, self.down)
        self._reader = ThreadPoolExecutor(1, "ledger-reader")
        self._writer = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._writer.start()

    @abstractmethod
    def _connect(self) -> Connection:
        """A new connection in autocommit mode."""

    @abstractmethod
    def _migrate(self, db: Connection) -> None:
        """Bring the tables up to date."""

    @abstractmethod
    def _begin(self, db: Connection, account: str = "") -> None:
        """Begin to write; where an account is named, alone on it."""

    def _sql(self, statement: str) -> str:
        return statement

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

    def _put(self, row: Row) -> None:
        self._rows.append(row)
        if self._idle:
            self._idle = False
            self._jobs.put(None)

    @property
    def accepting(self) -> bool:
        """Whether what is written now is safe; False once spool or queue are full."""
        return not self._full and len(self._rows) < QUEUE_ROWS

    @property
    def waiting(self) -> int:
        """How many rows the store does not have yet."""
        return len(self._rows) + self.spool.waiting

    # Asked of the writer and waited for.

    async def flush(self) -> None:
        """Wait until the store, or the spool, has everything written so far."""
        await self._ask(None)

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
    ) -> Grant:
        """Take ``need`` of an account, or a share of what is left of its cap if that is more.

        Nothing is granted where less than ``need`` is left. ``whole`` grants are counts; of
        ``living`` accounts what dead holders had is free again. A negative need gives back.
        Raises StoreDown.
        """
        now = time.time()

        def take(db: Connection) -> Grant:
            self._begin(db, account)
            found = list(db.execute(self._sql(sql.LEASES), (account, period)))
            total = spent = 0.0
            for who, amount, settled, seen in found:
                alive = who == holder or (seen or 0.0) > now - GRACE
                total += max(amount, settled) if alive or not living else 0.0
                spent += settled if alive else max(amount, settled)
            granted = need if need < 0 else _granted(need, cap - total, share, whole)
            if granted:
                self._write(db, [sql.Seen(holder, now)])
                db.execute(self._sql(sql.LEASE), (account, period, holder, expires, granted))
            db.execute("COMMIT")
            return Grant(granted, total + granted, spent)

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
        return [sql.decode_entry(row[0]) for row in await self._read(statement, values)]

    async def entries(
        self, since: float = 0.0, until: float = math.inf, size: int = 500
    ) -> AsyncIterator[Entry]:
        """Entries from ``since`` to before ``until``, the oldest first, read in parts."""
        last: tuple[float, str] = (since, "")
        while rows := await self._read(sql.SCAN, (*last, min(until, 1e300), size)):
            for row in rows:
                yield sql.decode_entry(row[2])
            last = rows[-1][0], rows[-1][1]

    async def spend(self, by: str, since: float = 0.0) -> list[Spend]:
        """What was used since a time, by key, team, session, expert, policy or day (UTC)."""
        rows = await self._read(sql.spend_statement(_named(by, sql.SPENT_BY)), (since,))
        shown = _day if by == "day" else str
        return [
            Spend(shown(name), int(n), int(failed), int(read), int(written), spent, baseline)
            for name, n, failed, read, written, spent, baseline in rows
        ]

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

    async def _read(self, statement: str, values: sql.Values, fresh: bool = True) -> list[Any]:
        if fresh and self._rows:
            await self.flush()
        text, link = self._sql(statement), self._links["reader"]
        loop = asyncio.get_running_loop()
        look = lambda db: list(db.execute(text, values))  # noqa: E731
        return await loop.run_in_executor(self._reader, link.run, look, self.down)

    # The writer's thread.

    async def _ask(self, work: Callable[[Connection], T] | None) -> T:
        job = _Job(work, Future())
        self._jobs.put(job)
        return await asyncio.wrap_future(job.answer)

    def _run(self) -> None:
        while not (self._closing and self._jobs.empty()):
            job = self._next()
            self._flush()
            if job is not None:
                self._work(job)
        self._flush()

    def _next(self) -> _Job | None:
        """The next job, None when it is time to write; sleeps while there is nothing to do."""
        if not self._rows and not self.spool.waiting:
            self._idle = True
            if not self._rows:  # looked at after the flag, as _put sets them the other way round
                job = self._jobs.get()
                self._idle = False
                if job is not None or self._closing:
                    return job
        self._idle = False
        seconds = GROUP_SECONDS if self.reachable else RETRY_SECONDS
        with suppress(Empty):
            return self._jobs.get(timeout=seconds)
        return None

    def _work(self, job: _Job) -> None:
        if not job.answer.set_running_or_notify_cancel():
            return
        try:
            done = None if job.work is None else self._links["writer"].run(job.work, self.down)
            self.reachable = self.reachable or job.work is not None
            job.answer.set_result(done)
        except Exception as error:
            self.reachable = self.reachable and not isinstance(error, StoreDown)
            job.answer.set_exception(error)

    def _flush(self) -> None:
        """Write the spool and the queue to the store, or the queue to the spool."""
        rows = [self._rows.popleft() for _ in range(len(self._rows))]
        written = 0
        try:
            if self.spool.waiting:
                self._replay()
            while written < len(rows):
                self._store(rows[written : written + GROUP_ROWS])
                written += GROUP_ROWS
            self.reachable, self._full = True, False
        except StoreDown:
            self.reachable = False
            self._keep(rows[written:])

    def _keep(self, rows: Sequence[Row]) -> None:
        try:
            self.spool.append([_line(row) for row in rows])
        except SpoolFull:
            self._full = True
            self._rows.extendleft(reversed(rows))

    def _replay(self) -> None:
        """Write what waits in the spool; what is there already is left as it is."""
        lines = self.spool.lines()
        while group := [*islice(lines, GROUP_ROWS)]:
            rows = []
            for line in group:
                try:
                    rows.append(_row(line))
                except (msgspec.MsgspecError, KeyError, ValueError):
                    self._reject(line)
            self._store(rows)
        self.spool.clear()

    def _store(self, rows: Sequence[Row]) -> None:
        """Write rows in one transaction; where one is at fault, the others all the same."""
        if not rows:
            return
        link = self._links["writer"]
        try:
            link.run(lambda db: self._group(db, rows), self.down)
        except StoreDown:
            raise
        except Exception:
            for row in rows:
                self._store_alone(row)

    def _store_alone(self, row: Row, whole: bool = True) -> None:
        """Write one row; an entry at fault without its evidence, any other is put aside."""
        try:
            self._links["writer"].run(lambda db: self._group(db, [row]), self.down)
        except StoreDown:
            raise
        except Exception as error:
            if isinstance(row, Entry) and whole:
                self._store_alone(sql.stripped(row, error), whole=False)
            else:
                self._reject(_line(row))

    def _reject(self, line: bytes) -> None:
        self.rejected += 1
        self.spool.reject(line)

    def _group(self, db: Connection, rows: Sequence[Row]) -> None:
        self._begin(db)
        self._write(db, rows)
        db.execute("COMMIT")

    def _write(self, db: Connection, rows: Sequence[Row]) -> None:
        kinds: dict[type, list[Row]] = {}
        for row in rows:
            kinds.setdefault(type(row), []).append(row)
        for kind, alike in kinds.items():
            statement, values = sql.WRITE[kind]
            if kind is Settled:  # only the last of each says something
                alike = list({(r.account, r.period, r.holder): r for r in alike}.values())  # type: ignore[union-attr]
            self._many(db, self._sql(statement), [values(row) for row in alike])

    @abstractmethod
    def _many(self, db: Connection, statement: str, values: list[sql.Values]) -> None:
        """Run one statement for many rows."""

    def close(self) -> None:
        """Write everything and give files and connections back."""
        if not self._closing:
            self._closing = True
            self._jobs.put(None)
            self._writer.join()
            self._reader.shutdown()
            for link in self._links.values():
                link.close()
            self.spool.close()


class _Job(msgspec.Struct):
    work: Callable[[Connection], Any] | None
    answer: Future[Any]


class _Link:
    """A connection of one thread, opened anew after it failed."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._db: Connection | None = None

    def run(self, work: Callable[[Connection], T], down: tuple[type[Exception], ...]) -> T:
        try:
            self._db = self._db or self._connect()
            return work(self._db)
        except down as error:
            self.close()
            raise StoreDown(f"the ledger's store cannot be reached: {error}") from None
        except BaseException:
            self.close()  # and with it the transaction
            raise

    def close(self) -> None:
        if self._db is not None:
            with suppress(Exception):
                self._db.close()
        self._db = None


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


def _line(row: Row) -> bytes:
    try:
        return sql.encode([type(row).__name__, row])
    except Exception as error:
        bare = sql.stripped(row, error) if isinstance(row, Entry) else repr(row)
        return sql.encode([type(row).__name__, bare])


def _row(line: bytes) -> Row:
    kind, content = msgspec.json.decode(line, type=tuple[str, msgspec.Raw])
    row: Row = msgspec.json.decode(content, type=sql.KINDS[kind])
    return row


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
