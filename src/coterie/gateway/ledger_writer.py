"""The one thread that writes a ledger: rows in groups, other work in turn, a spool for outages."""

from __future__ import annotations

import asyncio
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

import msgspec

from coterie.errors import CoterieError
from coterie.files import Closing
from coterie.gateway import ledger_sql as sql
from coterie.gateway.entries import Entry
from coterie.gateway.ledger_sql import Row, Settled
from coterie.gateway.spool import Spool, SpoolFull

GROUP_SECONDS = 0.05  # rows of this long are written together
GROUP_ROWS = 500  # rows of a transaction, at most
QUEUE_ROWS = 50_000  # rows that wait in memory before requests are refused
RETRY_SECONDS = 1.0  # between two looks at a store that is down
TIDY_SECONDS = 60.0  # between two looks for conversations that are over
TIDY_ROWS = 500  # of them that are deleted at once
T = TypeVar("T")


class StoreDown(CoterieError):
    """The store cannot be reached; what is written waits in the spool."""


class Connection(Protocol):
    """What SQLite's and psycopg's connections have in common."""

    def execute(self, statement: Any, values: Any = ...) -> Any:
        """Run one statement; the result iterates over rows."""

    def close(self) -> None:
        """Give the connection back."""


class Writing(Closing):
    """A store that is written by one thread and read by two others.

    Conversations older than ``session_seconds`` are deleted, a few at a time, when everything is
    written; None keeps them.
    """

    down: tuple[type[Exception], ...] = ()  # errors that mean: not now
    skip = ""  # how the dialect passes over rows that are locked
    session_seconds: float | None = None

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.rejected = 0  # rows that the store would not have
        self.reachable = True
        self._rows: deque[Row] = deque()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._retry = 0.0  # when a store that is down is tried again
        self._tidied = -TIDY_SECONDS  # when there was nothing more to delete
        self._idle = self._closing = self._full = self._untidy = False
        self._links = {name: _Link(self._connect) for name in ("writer", "reader", "reports")}
        self._links["writer"].run(self._migrate, self.down)
        self._readers = {  # requests wait for rows, and must not for sums over the whole log
            name: ThreadPoolExecutor(1, f"ledger-{name}") for name in ("reader", "reports")
        }
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

    async def flush(self) -> None:
        """Wait until the store, or the spool, has everything written so far."""
        await self._ask(None)

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
            if self.reachable and self._jobs.empty() and not self._closing:
                self._tidy()
        self._flush()

    def _tidy(self) -> None:
        """Delete a few conversations that are over, if it is time to."""
        seconds, due = self.session_seconds, self._tidied + TIDY_SECONDS
        if seconds is None or (not self._untidy and time.monotonic() < due):
            return
        statement = self._sql(sql.FORGET_SESSIONS.format(skip=self.skip))
        values, gone = (time.time() - seconds, TIDY_ROWS), 0
        with suppress(Exception):  # there is a next time; a store that is down shows elsewhere
            link = self._links["writer"]
            gone = link.run(lambda db: db.execute(statement, values).rowcount, self.down)
        self._untidy, self._tidied = gone >= TIDY_ROWS, time.monotonic()

    def _next(self) -> _Job | None:
        """The next job, None when it is time to write; sleeps while there is nothing to do."""
        busy = self._rows or self.spool.waiting or self._untidy
        if self.reachable and not busy:
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
            if job.work is not None and self._resting():  # or a queue of jobs would wait in turn
                raise StoreDown("the ledger's store cannot be reached")
            done = None if job.work is None else self._links["writer"].run(job.work, self.down)
            job.answer.set_result(done)
        except Exception as error:
            if isinstance(error, StoreDown) and not self._resting():
                self._note_down()
            job.answer.set_exception(error)

    def _flush(self) -> None:
        """Write the spool and the queue to the store, or the queue to the spool.

        A store that is down is tried again once a while; whatever else goes wrong counts as that.
        """
        rows = [self._rows.popleft() for _ in range(len(self._rows))]
        written = 0
        if self._resting():
            return self._keep(rows)
        try:
            if not self.reachable:
                self._links["writer"].run(lambda db: self._group(db, []), self.down)
            if self.spool.waiting:
                self._replay()
            while written < len(rows):
                self._store(rows[written : written + GROUP_ROWS])
                written += GROUP_ROWS
            self.reachable, self._full = True, False
        except Exception:  # this thread must not end: rows would wait in memory for ever
            self._note_down()
            self._keep(rows[written:])

    def _resting(self) -> bool:
        """Whether the store is down and was tried a moment ago."""
        return not self.reachable and time.monotonic() < self._retry

    def _note_down(self) -> None:
        self.reachable, self._retry = False, time.monotonic() + RETRY_SECONDS

    def _keep(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        try:
            self.spool.append([_line(row) for row in rows])
        except (SpoolFull, OSError):
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
            for reader in self._readers.values():
                reader.shutdown()
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
