"""What the gateway remembers of requests, keys and feedback: plain values, stored as they are."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32
_PAIRS = [one + other for one in _ALPHABET for other in _ALPHABET]


def new_id(prefix: str, clock: float | None = None) -> str:
    """A fresh identifier that sorts by time: 10 characters of milliseconds, 16 of chance."""
    milliseconds = int((time.time() if clock is None else clock) * 1000)
    number = (milliseconds << 80) | int.from_bytes(os.urandom(10), "big")
    digits = [_PAIRS[(number >> shift) & 1023] for shift in range(120, -1, -10)]
    return prefix + "".join(digits)


class Tokens(msgspec.Struct, frozen=True):
    """Token counts of one request.

    ``cached`` is a part of ``prompt``, ``reasoning`` one of ``completion``. ``estimated`` marks
    counts that no expert reported.
    """

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0
    estimated: bool = False

    @property
    def total(self) -> int:
        """Prompt and completion together."""
        return self.prompt + self.completion

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            self.prompt + other.prompt,
            self.completion + other.completion,
            self.cached + other.cached,
            self.reasoning + other.reasoning,
            self.estimated or other.estimated,
        )


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call to one expert: ``kind`` says how it failed, "" that it did not."""

    expert: str
    kind: str = ""
    status: int = 200
    seconds: float = 0.0
    tokens: Tokens | None = None
    cost: float = 0.0


class Candidate(msgspec.Struct, frozen=True, omit_defaults=True):
    """An expert as the router saw it for one query; ``barred`` names what took it out."""

    expert: str
    quality: float | None = None
    error: float | None = None
    cost: float | None = None
    barred: str = ""


class Entry(msgspec.Struct):
    """One request as it was served: a row of the log, and what ``coterie why`` shows.

    Times are seconds (``time`` since 1970, at arrival), costs in the pool's unit. ``propensity`` is
    the probability with which ``decided`` was chosen first; ``baseline`` the expected cost of the
    best single expert on the same query, for savings. ``evidence`` is the decision's own.
    ``vector`` is the query's embedding in float16, ``digest`` a hash of its text; ``content`` the
    messages and the answer, only where content logging is on.
    """

    id: str
    time: float
    key: str = ""
    team: str = ""
    session: str = ""
    path: str = "/chat/completions"
    asked: str = ""
    policy: str = ""
    composition: str = ""
    decided: str = ""
    expert: str = ""
    propensity: float = 1.0
    explored: bool = False
    quality: float | None = None
    expected_cost: float | None = None
    baseline: float | None = None
    reason: str = ""
    candidates: list[Candidate] = []
    constraints: dict[str, Any] = {}
    evidence: dict[str, Any] = {}
    attempts: list[Attempt] = []
    status: int = 200
    error: str = ""
    stream: bool = False
    tokens: Tokens = Tokens()
    cost: float = 0.0
    latency: float = 0.0
    first_token: float = 0.0
    overhead: float = 0.0
    digest: str = ""
    vector: bytes = b""
    content: dict[str, Any] | None = None
    shadow: str = ""
    drift: float | None = None


class Feedback(msgspec.Struct, frozen=True):
    """A score in [0, 1] that somebody gave to a request."""

    id: str
    score: float
    time: float
    key: str = ""
    note: str = ""


class Key(msgspec.Struct, frozen=True):
    """A virtual key: what it may do. The secret itself is never kept, only its SHA-256.

    ``prefix`` is shown in lists (``sk-co-ab12``). Budgets are in the pool's unit per ``period``
    ("total", "day" or "month", UTC); limits per minute; None is no limit. ``experts`` lists what it
    may ask, none meaning all. ``expires`` is in seconds since 1970.
    """

    id: str
    name: str
    prefix: str
    digest: bytes
    created: float
    team: str = ""
    budget: float | None = None
    period: str = "total"
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    experts: tuple[str, ...] = ()
    expires: float | None = None
    revoked: float | None = None


class Team(msgspec.Struct, frozen=True):
    """Keys that share a budget and limits; fields as in ``Key``."""

    name: str
    budget: float | None = None
    period: str = "total"
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
