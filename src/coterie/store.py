"""The journal of a run: decisions and completions in SQLite, so that a killed run resumes exactly.

Keys are (query, step, index), where a query is its place in the input, with the digest of the call;
a header fingerprints everything the answers depend on. Completions are committed in groups, in the
order in which they came: a killed process loses at most those that came since the last ``commit``
(``GROUP`` at most), and nothing that is kept was built on something lost. A power cut may cost a
few moments more (WAL, ``synchronous=NORMAL``).

Of a failure the text is kept for this run alone: the next run asks again, and what was built on the
failure is dropped.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from coterie.errors import ArtifactError, CoterieError, ResumeError
from coterie.files import Closing
from coterie.types import Call, Completion, Decision, Usage

VERSION = 3
APPLICATION = 0x636F7465  # "cote": marks the file as ours
GROUP = 256  # completions that are committed together at most
COMPLETION = """
  expert TEXT NOT NULL, text TEXT NOT NULL, prompt_tokens INTEGER, completion_tokens INTEGER,
  cost REAL, latency REAL, finish_reason TEXT, error TEXT, estimated INTEGER, logprob REAL,
  tokens TEXT
"""
# Rows lie as they come, the keys in an index: calls come expert by expert and their texts are long,
# so that rows in the order of the keys (WITHOUT ROWID) touch a page each and leave it half empty.
SCHEMA = f"""
BEGIN;
PRAGMA application_id={APPLICATION};
PRAGMA user_version={VERSION};
CREATE TABLE header (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE decisions (
  query INTEGER PRIMARY KEY, id TEXT NOT NULL, decision TEXT NOT NULL
);
CREATE TABLE completions (
  query INTEGER, step INTEGER, place INTEGER, digest TEXT NOT NULL, {COMPLETION},
  PRIMARY KEY (query, step, place)
);
CREATE TABLE failures (
  query INTEGER, step INTEGER, place INTEGER, run INTEGER NOT NULL, {COMPLETION},
  PRIMARY KEY (query, step, place)
);
"""
FIELDS = (
    "expert, text, prompt_tokens, completion_tokens, cost, latency, finish_reason, error, "
    "estimated, logprob, tokens"
)
ADD = f"INSERT INTO completions VALUES ({', '.join('?' * 15)})"
ADD_FAILURE = f"INSERT OR REPLACE INTO failures VALUES ({', '.join('?' * 15)})"
FIND = f"SELECT place, digest, {FIELDS} FROM completions WHERE query=? AND step=?"
FIND_FAILED = f"SELECT place, {FIELDS} FROM failures WHERE query=? AND step=? AND run=?"
Found: TypeAlias = list[Completion | None]


class Journal(Closing):
    """The journal of one run; ``:memory:`` keeps it for this process, ``""`` in scratch space.

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
        The file is damaged, no journal, or made by another version.
    """

    def __init__(self, path: str | Path, header: Mapping[str, str]) -> None:
        self.path = str(path)
        with self._explained():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, isolation_level=None, timeout=0.5)
        try:
            with self._explained():
                self._open(header)
            self._waiting: list[tuple[int, int, int, Call, Completion]] = []
            self._in_transaction = False
            self.begin()
        except BaseException:
            self._db.close()
            raise

    def begin(self) -> None:
        """A new run over this journal: failures of earlier ones are to be asked again."""
        with self._explained():
            self.run = 1 + self._number("SELECT coalesce(max(run), 0) FROM failures")
            self._failed = self.run > 1  # whether there are failures, of earlier runs or of this
            self.resumed = self._failed or self.count() > 0

    def _open(self, header: Mapping[str, str]) -> None:
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        new = self._number("SELECT count(*) FROM sqlite_master") == 0
        if not new:
            self._check_format()
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA cache_size=-32768")  # KiB
        self._db.execute("PRAGMA wal_autocheckpoint=8192")  # pages: 32 MB between checkpoints
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
        if version < VERSION:
            message = f"a journal of the old format {version}; finish the run with the version of "
            raise ArtifactError(f"{message}coterie that began it, or delete it", path=self.path)

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
        except (sqlite3.Error, OSError, ValueError, KeyError, TypeError) as error:
            raise self._ours(error) from None

    def _ours(self, error: Exception) -> CoterieError:
        if "locked" in str(error):
            return CoterieError(f"{self.path}: another run is using this journal")
        if isinstance(error, sqlite3.OperationalError | OSError):
            hint = "free some space or choose another place; what was journaled is kept"
            return CoterieError(f"{self.path}: cannot be written ({error}); {hint}")
        message = f"damaged or no journal ({error}); delete it to start over"
        return ArtifactError(message, path=self.path)

    def decisions(self, first: int = 0, stop: int = 2**62) -> dict[int, Decision]:
        """Journaled decisions of the queries from ``first`` to before ``stop``."""
        with self._explained():
            rows = self._db.execute(
                "SELECT query, decision FROM decisions WHERE query>=? AND query<?", (first, stop)
            )
            return {query: Decision.from_dict(json.loads(text)) for query, text in rows}

    def decide(self, decisions: Iterable[tuple[int, str, Decision]]) -> None:
        """Journal (query, its id, decision), all or none; they are not recomputed on resume."""
        rows = ((query, id, json.dumps(d.to_dict())) for query, id, d in decisions)
        self.commit()
        with self._explained():
            self._db.execute("BEGIN")
            self._db.executemany("INSERT INTO decisions VALUES (?, ?, ?)", rows)
            self._db.execute("COMMIT")

    def find(self, query: int, step: int, calls: tuple[Call, ...], check: bool = True) -> Found:
        """Journaled completions of one round and failures of this run, None for what is missing.

        Raises ResumeError if a call is not the one that was journaled; ``check=False`` spares the
        look where this run has looked before.
        """
        found: Found = [None] * len(calls)
        try:
            self._write()
            for place, digest, *values in self._db.execute(FIND, (query, step)):
                if place >= len(calls) or (check and calls[place].digest() != digest):
                    raise ResumeError(
                        f"{self.path}: query {query + 1}, step {step}, call {place} is not the "
                        "call that was journaled; the composition changed or is not deterministic"
                    )
                found[place] = _completion(*values)
            if self._failed:
                for place, *values in self._db.execute(FIND_FAILED, (query, step, self.run)):
                    found[place] = _completion(*values)
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise self._ours(error) from None
        return found

    def add(self, query: int, step: int, place: int, call: Call, completion: Completion) -> None:
        """Journal one completion; it is safe from a kill after the next ``commit``.

        Later rounds of the query were built on a failure of this call, if there are any: they are
        dropped. (Where it fails again they still stand, and nothing is asked twice.)
        """
        self._waiting.append((query, step, place, call, completion))
        if len(self._waiting) >= GROUP:
            self.commit()

    def add_failure(self, query: int, step: int, place: int, completion: Completion) -> bool:
        """Journal that a call failed; False where it failed in an earlier run already."""
        with self._explained():
            self._write()
            self._begin()
            key = (query, step, place)
            known = self._db.execute(
                "SELECT 1 FROM failures WHERE query=? AND step=? AND place=?", key
            ).fetchone()
            self._insert(ADD_FAILURE, (*key, self.run, *_values(completion)))
        self._failed = True
        return known is None

    def _begin(self) -> None:
        if not self._in_transaction:
            self._db.execute("BEGIN")
            self._in_transaction = True

    def _write(self) -> None:
        """Put what was added into the transaction: together, since one by one takes longer."""
        if not self._waiting:
            return
        self._begin()
        if self._failed:
            keys = [each[:2] for each in self._waiting]
            self._db.executemany("DELETE FROM completions WHERE query=? AND step>?", keys)
        rows = [
            (query, step, place, call.digest(), *_values(made))
            for query, step, place, call, made in self._waiting
        ]
        try:
            self._db.executemany(ADD, rows)
        except UnicodeEncodeError:  # half a surrogate pair is not UTF-8
            for row in rows:
                self._insert(ADD.replace("INSERT", "INSERT OR REPLACE"), row)
        self._waiting.clear()

    def _insert(self, statement: str, row: tuple[Any, ...]) -> None:
        try:
            self._db.execute(statement, row)
        except UnicodeEncodeError:
            self._db.execute(statement, (*row[:4], *map(_as_bytes, row[4:])))

    def commit(self) -> None:
        """Make everything so far safe from a kill."""
        with self._explained():
            self._write()
            if self._in_transaction:
                self._db.execute("COMMIT")
                self._in_transaction = False

    @property
    def uncommitted(self) -> int:
        """How many completions a kill would lose now."""
        return len(self._waiting)

    def count(self) -> int:
        """How many completions are journaled."""
        with self._explained():
            self._write()
            return self._number("SELECT count(*) FROM completions")

    def totals(self) -> tuple[int, float]:
        """How many completions are journaled, and what they cost together."""
        with self._explained():
            self._write()
            row = self._db.execute("SELECT count(*), total(cost) FROM completions").fetchone()
        return int(row[0]), float(row[1])

    def close(self) -> None:
        """Commit and close the file; the journal can be opened again."""
        try:
            self.commit()
        finally:
            self._db.close()


def _values(completion: Completion) -> tuple[Any, ...]:
    c, usage = completion, completion.usage
    each = json.dumps([c.margin, *c.logprobs]) if c.logprobs else None
    return (
        c.expert, c.text, usage.prompt_tokens, usage.completion_tokens, c.cost, c.latency,
        c.finish_reason, c.error, int(c.estimated), c.logprob, each,
    )  # fmt: skip


def _completion(
    expert: Any, text: Any, prompt: int, made: int, cost: float, latency: float, *ending: Any
) -> Completion:
    finish_reason, error, estimated, logprob, each = ending
    if not isinstance(text, str):
        expert, text, finish_reason, error = map(_as_text, (expert, text, finish_reason, error))
    usage, marked = Usage(int(prompt), int(made)), bool(estimated)
    margin, *logprobs = (None,) if each is None else json.loads(each)
    numbers = usage, float(cost), float(latency)
    surprise = logprob, tuple(logprobs), margin
    return Completion(expert, text, *numbers, finish_reason, error, marked, *surprise)


def _as_bytes(value: Any) -> Any:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value


def _as_text(value: bytes | None) -> Any:
    return None if value is None else str(value, "utf-8", "surrogatepass")
