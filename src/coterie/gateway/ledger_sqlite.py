"""The ledger in one SQLite file."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from coterie.errors import ArtifactError
from coterie.gateway import ledger_sql as sql
from coterie.gateway.ledger import Ledger
from coterie.gateway.ledger_writer import Connection
from coterie.gateway.spool import Spool

APPLICATION = 0x636F6C67  # "colg": marks the file as ours
WAIT = 2.0  # seconds for another process's transaction
TYPES = {"blob": "BLOB", "real": "REAL", "whole": "INTEGER", "id": "TEXT"}


class SqliteLedger(Ledger):
    """A ledger in the file ``path``, made where missing; several processes may share it.

    A killed process loses at most what came in the last 50 ms; a power cut a few moments more
    (WAL, ``synchronous=NORMAL``). Raises ArtifactError where the file is damaged, another
    program's or of a newer version.
    """

    down = (sqlite3.OperationalError,)

    def __init__(self, path: str | Path, spool: Spool | None = None) -> None:
        self.path = str(path)
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).touch(mode=0o600)  # what was asked is nobody else's business
            super().__init__(spool or Spool(f"{path}.spool"))
        except (sqlite3.DatabaseError, OSError) as error:
            message = f"damaged or no ledger ({error}); choose another file"
            raise ArtifactError(message, path=self.path) from None

    def _connect(self) -> Connection:
        db = sqlite3.connect(self.path, isolation_level=None, timeout=WAIT, check_same_thread=False)
        try:
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("PRAGMA wal_autocheckpoint=4096")  # pages: 16 MB between checkpoints
        except BaseException:
            db.close()
            raise
        return db

    def _migrate(self, db: Connection) -> None:
        if self._number(db, "SELECT count(*) FROM sqlite_master"):
            self._check_ours(db)
            if self._number(db, "PRAGMA user_version") == len(sql.MIGRATIONS):
                return
        db.execute("PRAGMA journal_mode=WAL")
        self._begin(db)
        done = self._number(db, "PRAGMA user_version")
        for script in sql.MIGRATIONS[done:]:
            for statement in script.format(**TYPES).split(";"):
                db.execute(statement)
        db.execute(f"PRAGMA application_id={APPLICATION}")
        db.execute(f"PRAGMA user_version={len(sql.MIGRATIONS)}")
        db.execute("COMMIT")

    def _check_ours(self, db: Connection) -> None:
        """Refuse what is not ours before anything is changed."""
        if self._number(db, "PRAGMA application_id") != APPLICATION:
            message = "a database of something else; choose another file for the ledger"
            raise ArtifactError(message, path=self.path)
        version, ours = self._number(db, "PRAGMA user_version"), len(sql.MIGRATIONS)
        if version > ours:
            message = f"a ledger of format {version}, newer than {ours}; upgrade coterie"
            raise ArtifactError(message, path=self.path)

    def _number(self, db: Connection, statement: str) -> int:
        number: int = db.execute(statement).fetchone()[0]
        return number

    def _begin(self, db: Connection, account: str = "") -> None:
        db.execute("BEGIN IMMEDIATE")

    def _many(self, db: Connection, statement: str, values: list[sql.Values]) -> None:
        assert isinstance(db, sqlite3.Connection)
        db.executemany(statement, values)
