"""Completions kept across runs, by (expert fingerprint, messages, options with the seed)."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from dataclasses import replace
from pathlib import Path

from coterie.errors import ArtifactError
from coterie.experts.base import Expert
from coterie.files import Closing
from coterie.types import Call, Completion

APPLICATION = 0x636F7463  # "cotc": marks the file as ours
SCHEMA = f"""
BEGIN;
PRAGMA application_id={APPLICATION};
CREATE TABLE completions (key BLOB PRIMARY KEY, completion TEXT NOT NULL) WITHOUT ROWID;
COMMIT;
"""


class Cache(Closing):
    """A file of completions; several runs may use it at a time.

    A completion from the cache costs nothing and takes no time. Failures are not kept.

    Raises
    ------
    ArtifactError
        The file is damaged or no cache.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._fingerprints: dict[str, str] = {}
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, isolation_level=None, timeout=10)
            self._open()
        except (sqlite3.Error, OSError) as error:
            message = f"cannot be opened as a cache ({error}); choose another file"
            raise ArtifactError(message, path=self.path) from None

    def _open(self) -> None:
        if self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.executescript(SCHEMA)
        elif self._db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
            raise ArtifactError("a database of something else", path=self.path)
        self._db.execute("PRAGMA synchronous=OFF")  # what a power cut takes is asked again

    def get(self, expert: Expert, call: Call) -> Completion | None:
        """The completion of an equal call to an equal expert, at no cost; None if there is none."""
        row = self._db.execute(
            "SELECT completion FROM completions WHERE key=?", (self._key(expert, call),)
        ).fetchone()
        if row is None:
            return None
        try:
            kept = Completion.from_dict(json.loads(row[0]))
        except (ValueError, TypeError, KeyError) as error:
            raise ArtifactError(f"a damaged entry ({error}); delete it", path=self.path) from None
        return replace(kept, expert=expert.name, cost=0.0, latency=0.0)

    def put(self, expert: Expert, call: Call, completion: Completion) -> None:
        """Keep a completion, unless there is one."""
        row = self._key(expert, call), json.dumps(completion.to_dict())
        self._db.execute("INSERT OR IGNORE INTO completions VALUES (?, ?)", row)

    def _key(self, expert: Expert, call: Call) -> bytes:
        fingerprint = self._fingerprints.get(expert.name)
        if fingerprint is None:
            self._fingerprints[expert.name] = fingerprint = expert.fingerprint()
        content = [fingerprint, [dict(m) for m in call.messages], dict(call.options)]
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).digest()

    def close(self) -> None:
        """Close the file."""
        self._db.close()
