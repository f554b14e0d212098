"""The ledger's tables and statements, in the SQL that SQLite and Postgres share.

``?`` is a parameter everywhere; ``{blob}``, ``{real}``, ``{whole}`` and ``{id}`` (text in the order
of its bytes) are the dialect's types.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from coterie.gateway.entries import Entry, Feedback, Key, Team

Values: TypeAlias = tuple[Any, ...]

# Append only: a database remembers the numbers of those it has seen, counted from 1.
MIGRATIONS = (
    """
    CREATE TABLE entries (
      id {id} PRIMARY KEY, time {real} NOT NULL, day {whole} NOT NULL, key_id TEXT NOT NULL,
      team TEXT NOT NULL, session TEXT NOT NULL, expert TEXT NOT NULL, policy TEXT NOT NULL,
      status INTEGER NOT NULL, prompt {whole} NOT NULL, completion {whole} NOT NULL,
      cost {real} NOT NULL, baseline {real}, latency {real} NOT NULL, content {blob} NOT NULL
    );
    CREATE INDEX entries_time ON entries (time);
    CREATE TABLE feedback (
      id {id} PRIMARY KEY, entry TEXT NOT NULL, time {real} NOT NULL, content {blob} NOT NULL
    );
    CREATE INDEX feedback_entry ON feedback (entry);
    CREATE TABLE owners (
      id {id} PRIMARY KEY, time {real} NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
      content {blob} NOT NULL
    );
    CREATE TABLE holders (holder TEXT PRIMARY KEY, seen {real} NOT NULL);
    CREATE TABLE leases (
      account TEXT NOT NULL, period TEXT NOT NULL, holder TEXT NOT NULL, expires {real},
      amount {real} NOT NULL, forced {real} NOT NULL, settled {real} NOT NULL,
      PRIMARY KEY (account, period, holder)
    );
    CREATE INDEX leases_expires ON leases (expires);
    CREATE TABLE sessions (session TEXT PRIMARY KEY, expert TEXT NOT NULL, time {real} NOT NULL);
    CREATE TABLE states (name TEXT PRIMARY KEY, content {blob} NOT NULL);
    """,
    "CREATE INDEX sessions_time ON sessions (time)",
)


class Settled(msgspec.Struct, frozen=True):
    """What a holder has spent of an account in a period so far, and took without asking.

    Both only grow, so that writing one twice or late changes nothing. ``expires`` is when a row
    that is not there any more is to be forgotten again.
    """

    account: str
    period: str
    holder: str
    settled: float
    forced: float = 0.0
    expires: float | None = None


class Session(msgspec.Struct, frozen=True):
    """Who answered a session last."""

    session: str
    expert: str
    time: float


class State(msgspec.Struct, frozen=True):
    """Bytes of ours under a name."""

    name: str
    content: bytes


class Seen(msgspec.Struct, frozen=True):
    """A holder of leases lived then."""

    holder: str
    time: float


class Scored(msgspec.Struct, frozen=True):
    """Feedback with an identifier of its own, so that it is written once."""

    id: str
    feedback: Feedback


Row: TypeAlias = Entry | Settled | Session | State | Seen | Scored


def _native(value: Any) -> Any:
    """Numbers and arrays of numpy, which evidence of a decision may hold, as Python's own."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise NotImplementedError(f"cannot be written: {type(value).__name__}")


encode = msgspec.json.Encoder(enc_hook=_native).encode
_decode_entry = msgspec.json.Decoder(Entry).decode
decode_feedback = msgspec.json.Decoder(Feedback).decode
decode_key = msgspec.json.Decoder(Key).decode
decode_team = msgspec.json.Decoder(Team).decode


def decode_entry(content: bytes) -> Entry:
    """The entry of a row; numbers that were none (JSON has no NaN) have their defaults."""
    try:
        return _decode_entry(content)
    except msgspec.ValidationError:
        return msgspec.convert(_without_nulls(msgspec.json.decode(content)), Entry)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def stripped(entry: Entry, error: Exception) -> Entry:
    """The entry without what is free in form, which could not be written for this error."""
    said = f"{entry.error} (evidence left out: {error})".strip()
    return msgspec.structs.replace(
        entry, constraints={}, evidence={}, content=None, candidates=[], error=said
    )


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _text(value: str) -> str:
    return value.replace("\0", "") if "\0" in value else value  # Postgres has no such character


def entry_values(e: Entry) -> Values:
    """The row of an entry."""
    baseline = None if e.baseline is None else _finite(e.baseline)
    where = (_text(e.id), e.time, int(e.time // 86400), _text(e.key), _text(e.team))
    who = (_text(e.session), _text(e.expert), _text(e.policy), e.status)
    sums = (e.tokens.prompt, e.tokens.completion, _finite(e.cost), baseline, _finite(e.latency))
    return (*where, *who, *sums, encode(e))


def _scored_values(row: Scored) -> Values:
    return row.id, _text(row.feedback.id), row.feedback.time, encode(row.feedback)


_GREATER = "{0} = CASE WHEN excluded.{0} > {1}.{0} THEN excluded.{0} ELSE {1}.{0} END"
WRITE: dict[type, tuple[str, Callable[[Any], Values]]] = {
    Entry: (
        f"INSERT INTO entries VALUES ({', '.join('?' * 15)}) ON CONFLICT DO NOTHING",
        entry_values,
    ),
    Scored: ("INSERT INTO feedback VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", _scored_values),
    Settled: (
        "INSERT INTO leases (account, period, holder, amount, settled, forced, expires) "
        "VALUES (?, ?, ?, 0, ?, ?, ?) ON CONFLICT (account, period, holder) DO UPDATE SET "
        f"{_GREATER.format('settled', 'leases')}, {_GREATER.format('forced', 'leases')}",
        lambda row: (row.account, row.period, row.holder, row.settled, row.forced, row.expires),
    ),
    Session: (
        "INSERT INTO sessions VALUES (?, ?, ?) ON CONFLICT (session) DO UPDATE SET "
        "expert = excluded.expert, time = excluded.time WHERE excluded.time >= sessions.time",
        lambda row: (_text(row.session), _text(row.expert), row.time),
    ),
    State: (
        "INSERT INTO states VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET "
        "content = excluded.content",
        lambda row: (row.name, row.content),
    ),
    Seen: (
        "INSERT INTO holders VALUES (?, ?) ON CONFLICT (holder) DO UPDATE SET "
        f"{_GREATER.format('seen', 'holders')}",
        lambda row: (row.holder, row.time),
    ),
}
KINDS = {kind.__name__: kind for kind in WRITE}

ENTRY = "SELECT content FROM entries WHERE id = ?"
FEEDBACK = "SELECT content FROM feedback WHERE entry = ? ORDER BY time"
FEEDBACK_SINCE = "SELECT content FROM feedback WHERE time >= ? ORDER BY time"
OWNERS = "SELECT kind, content FROM owners ORDER BY time, id"
OWNERS_MARK = "SELECT count(*), max(id) FROM owners"
ADD_OWNER = "INSERT INTO owners VALUES (?, ?, ?, ?, ?)"
SESSION = "SELECT session, expert, time FROM sessions WHERE session = ?"
FORGET_SESSIONS = (  # {skip}: without a wait for rows that another replica is about to write
    "DELETE FROM sessions WHERE session IN "
    "(SELECT session FROM sessions WHERE time < ? LIMIT ?{skip})"
)
STATE = "SELECT content FROM states WHERE name = ?"
STATES = "SELECT content FROM states WHERE name LIKE ? ORDER BY name"
LEASES = (
    "SELECT l.holder, l.amount + l.forced, l.settled, h.seen "
    "FROM leases l LEFT JOIN holders h ON h.holder = l.holder WHERE l.account = ? AND l.period = ?"
)
LEASE = (
    "INSERT INTO leases VALUES (?, ?, ?, ?, ?, 0, 0) ON CONFLICT (account, period, holder) "
    "DO UPDATE SET amount = leases.amount + excluded.amount"
)
FORGET_LEASES = "DELETE FROM leases WHERE expires < ?"
ACCOUNTS = (
    "SELECT l.account, l.period, l.amount + l.forced, l.settled, h.seen "
    "FROM leases l LEFT JOIN holders h ON h.holder = l.holder WHERE l.expires IS NULL"
)

PAIRS = (
    "SELECT cost, baseline FROM entries WHERE time >= ? AND baseline IS NOT NULL "
    "ORDER BY time DESC LIMIT ?"
)
FILTERS = {
    "key": "key_id",
    "failed": "(status >= 400)",
    **{n: n for n in ("team", "session", "expert", "policy", "status")},
}
SPENT_BY = {"key": "key_id", **{n: n for n in ("team", "session", "expert", "policy", "day")}}


def spend_statement(column: str) -> str:
    """Sums of entries since a time, by one of SPENT_BY."""
    return (
        f"SELECT {column}, count(*), sum(CASE WHEN status >= 400 THEN 1 ELSE 0 END), sum(prompt), "
        f"sum(completion), sum(cost), sum(coalesce(baseline, cost)) FROM entries WHERE time >= ? "
        f"GROUP BY {column} ORDER BY {column}"
    )


def recent_statement(columns: list[str], before: bool) -> str:
    """The last entries where columns equal parameters, then before an identifier."""
    tests = [*(f"{column} = ?" for column in columns), *(["id < ?"] if before else [])]
    where = f"WHERE {' AND '.join(tests)} " if tests else ""
    return f"SELECT content FROM entries {where}ORDER BY id DESC LIMIT ?"


SCAN = (
    "SELECT time, id, content FROM entries WHERE (time, id) > (?, ?) AND time < ? "
    "ORDER BY time, id LIMIT ?"
)
