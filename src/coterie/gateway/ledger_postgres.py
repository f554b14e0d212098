"""The ledger in a Postgres database, for gateways that share keys, budgets and sessions."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from coterie.errors import ArtifactError, CoterieError
from coterie.gateway import ledger_sql as sql
from coterie.gateway.ledger import Ledger
from coterie.gateway.ledger_writer import Connection
from coterie.gateway.spool import Spool

TYPES = {"blob": "BYTEA", "real": "DOUBLE PRECISION", "whole": "BIGINT", "id": 'TEXT COLLATE "C"'}
TIMEOUT = 3  # seconds to connect; statements have as long
MIGRATING = 0x636F6C67  # the lock under which one replica brings the tables up to date


class PostgresLedger(Ledger):
    """A ledger in a schema of the database at ``address``; replicas share it.

    The schema is ``coterie``, or what ``?schema=NAME`` in the address says.

    Raises CoterieError where the server cannot be reached, ArtifactError where the tables are of a
    newer version.
    """

    skip = " FOR UPDATE SKIP LOCKED"

    def __init__(self, address: str, spool: Spool) -> None:
        driver = _driver()
        self.address, self.schema = _split(address)
        self.down = (driver.OperationalError, driver.InterfaceError)
        super().__init__(spool)

    def _connect(self) -> Connection:
        from psycopg import sql as names

        options = f"-c statement_timeout={TIMEOUT}s"
        db: Connection = _driver().connect(
            self.address,
            autocommit=True,
            options=options,
            client_encoding="utf8",
            connect_timeout=TIMEOUT,
            tcp_user_timeout=TIMEOUT * 1000,
        )
        path = names.SQL("SET search_path TO {}").format(names.Identifier(self.schema))
        db.execute(path)
        return db

    def _migrate(self, db: Connection) -> None:
        from psycopg import sql as names

        make = names.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(names.Identifier(self.schema))
        db.execute("BEGIN")
        db.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATING,))
        db.execute(make)
        db.execute("CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY)")
        done = db.execute("SELECT coalesce(max(number), 0) FROM migrations").fetchone()[0]
        if done > len(sql.MIGRATIONS):
            message = (
                f"a ledger of format {done}, newer than {len(sql.MIGRATIONS)}; upgrade coterie"
            )
            raise ArtifactError(message, path=_shown(self.address), field=self.schema)
        for number, script in enumerate(sql.MIGRATIONS[done:], done + 1):
            for statement in filter(str.strip, script.format(**TYPES).split(";")):
                db.execute(statement)
            db.execute("INSERT INTO migrations VALUES (%s)", (number,))
        db.execute("COMMIT")

    def _begin(self, db: Connection, account: str = "") -> None:
        db.execute("BEGIN")
        if account:
            lock = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
            db.execute(lock, (f"{self.schema} {account}",))

    def _sql(self, statement: str) -> str:
        return statement.replace("?", "%s")

    def _many(self, db: Connection, statement: str, values: list[sql.Values]) -> None:
        db.cursor().executemany(statement, values)  # type: ignore[attr-defined]


def _driver() -> Any:
    try:
        import psycopg
    except ImportError:
        message = "a ledger in Postgres needs psycopg; run: pip install 'coterie[postgres]'"
        raise CoterieError(message) from None
    return psycopg


def _split(address: str) -> tuple[str, str]:
    """The address without our own parameter, and the schema."""
    parts = urlsplit(address)
    settings = dict(parse_qsl(parts.query))
    schema = settings.pop("schema", "coterie")
    return parts._replace(query=urlencode(settings)).geturl(), schema


def _shown(address: str) -> str:
    """The address without its password."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
