"""The journal of a run: decisions and completions in SQLite, so that a killed run resumes exactly.

Every completion is committed as it comes (WAL, ``synchronous=NORMAL``: a killed process loses
nothing, a power cut at most the last moments). Keys are (query, step, index) with the digest of
the call; a header fingerprints everything the answers depend on. Of a failure only the fact is
journaled: the next run asks again, and what was built on the failure is dropped.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from coterie.errors import ArtifactError, CoterieError, ResumeError
from coterie.types import Call, Completion, Decision

VERSION = 1
APPLICATION = 0x636F7465  # "cote": marks the file as ours
SCHEMA = f"""
BEGIN;
PRAGMA application_id={APPLICATION};
PRAGMA user_version={VERSION};
CREATE TABLE header (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE decisions (query TEXT PRIMARY KEY, decision TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE completions (
  query TEXT, step INTEGER, place INTEGER, digest TEXT NOT NULL, completion TEXT NOT NULL,
  PRIMARY KEY (query, step, place)
) WITHOUT ROWID;
CREATE TABLE failures (
  query TEXT, step INTEGER, place INTEGER, PRIMARY KEY (query, step, place)
) WITHOUT ROWID;
"""


class Journal:
    """The journal of one run; ``:memory:`` keeps it for this process alone.

    Parameters
    ----------
    path
        The SQLite file, made where missing.
    header
        Names and fingerprints of what the run depends on (input, router, pool, code ...).

    Raises
    ------
    ResumeError
        The file belongs to a run with another header; the message names what differs.
    ArtifactError
        The file is damaged, no journal, or made by a newer version.
    """

    def __init__(self, path: str | Path, header: Mapping[str, str]) -> None:
        self.path = str(path)
        with self._explained():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, isolation_level=None, timeout=0.5)
        try:
            with self._explained():
                self._open(header)
        except BaseException:
            self._db.close()
            raise

    def _open(self, header: Mapping[str, str]) -> None:
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        new = self._number("SELECT count(*) FROM sqlite_master") == 0
        if not new:
            self._check_format()
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        if new:
            self._create(header)
        else:
            self._compare(header)

    def _check_format(self) -> None:
        """Refuse what is not ours before anything is changed."""
        if self._number("PRAGMA application_id") != APPLICATION:
            message = "a database of something else; choose another journal"
            raise ArtifactError(message, path=self.path)
        version = self._number("PRAGMA user_version")
        if version > VERSION:
            message = f"a journal of format {version}, newer than {VERSION}; upgrade coterie"
            raise ArtifactError(message, path=self.path)

    def _create(self, header: Mapping[str, str]) -> None:
        """Tables and header in one transaction, so that a kill leaves both or none."""
        self._db.executescript(SCHEMA)
        self._db.executemany("INSERT INTO header VALUES (?, ?)", header.items())
        self._db.execute("COMMIT")

    def _number(self, query: str) -> int:
        number: int = self._db.execute(query).fetchone()[0]
        return number

    def _compare(self, header: Mapping[str, str]) -> None:
        stored: dict[str, str] = dict(self._db.execute("SELECT name, value FROM header"))
        names = sorted({*stored, *header})
        changed = [n for n in names if stored.get(n) != header.get(n)]
        if changed:
            shown = [f"{n} was {stored.get(n)!r}, is {header.get(n)!r}" for n in changed]
            raise ResumeError(
                f"{self.path} belongs to another run: {'; '.join(shown)}. "
                "Restore what changed, choose another output, or delete the journal to start over."
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of SQLite and of what it holds into ours."""
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            if "locked" in str(error):
                raise CoterieError(f"{self.path}: another run is using this journal") from None
            hint = "free some space or choose another place; what was journaled is kept"
            raise CoterieError(f"{self.path}: cannot be written ({error}); {hint}") from None
        except (sqlite3.DatabaseError, ValueError, KeyError, TypeError) as error:
            message = f"damaged or no journal ({error}); delete it to start over"
            raise ArtifactError(message, path=self.path) from None

    def decisions(self) -> dict[str, Decision]:
        """Journaled decisions by query id."""
        with self._explained():
            rows = self._db.execute("SELECT query, decision FROM decisions").fetchall()
            return {query: Decision.from_dict(json.loads(text)) for query, text in rows}

    def decide(self, decisions: Mapping[str, Decision]) -> None:
        """Journal decisions, all or none; they are not recomputed on resume."""
        rows = [(query, json.dumps(d.to_dict())) for query, d in decisions.items()]
        with self._explained():
            self._db.execute("BEGIN")
            self._db.executemany("INSERT INTO decisions VALUES (?, ?)", rows)
            self._db.execute("COMMIT")

    def find(self, query: str, step: int, calls: tuple[Call, ...]) -> list[Completion | None]:
        """Journaled completions of one round, None where a call was not completed.

        Raises ResumeError if a call is not the one that was journaled.
        """
        with self._explained():
            found = self._db.execute(
                "SELECT place, digest, completion FROM completions WHERE query=? AND step=?",
                (query, step),
            ).fetchall()
        completions: list[Completion | None] = [None] * len(calls)
        for place, digest, text in found:
            if place >= len(calls) or calls[place].digest() != digest:
                raise ResumeError(
                    f"{self.path}: query {query!r}, step {step}, call {place} is not the call that "
                    "was journaled; the composition changed or is not deterministic"
                )
            with self._explained():
                completions[place] = Completion.from_dict(json.loads(text))
        return completions

    def add(self, query: str, step: int, place: int, call: Call, completion: Completion) -> None:
        """Journal one completion; it is safe from a kill when this returns.

        Later rounds of the query were built on a failure of this call, if there are any: they are
        dropped. (Where it fails again they still stand, and nothing is asked twice.)
        """
        text = json.dumps(completion.to_dict())  # ASCII: half a surrogate pair would not be UTF-8
        with self._explained():
            self._db.execute("BEGIN")
            self._db.execute("DELETE FROM completions WHERE query=? AND step>?", (query, step))
            self._db.execute(
                "INSERT INTO completions VALUES (?, ?, ?, ?, ?)",
                (query, step, place, call.digest(), text),
            )
            self._db.execute("COMMIT")

    def add_failure(self, query: str, step: int, place: int) -> bool:
        """Journal that a call failed; False where it failed in an earlier run already."""
        with self._explained():
            cursor = self._db.execute(
                "INSERT OR IGNORE INTO failures VALUES (?, ?, ?)", (query, step, place)
            )
        return cursor.rowcount == 1

    def count(self) -> int:
        """How many completions are journaled."""
        with self._explained():
            return self._number("SELECT count(*) FROM completions")

    def close(self) -> None:
        """Close the file; the journal can be opened again."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
