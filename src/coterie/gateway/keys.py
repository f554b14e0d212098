"""Virtual keys: made, recognised, and compared without telling how much of a guess was right."""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Mapping
from typing import Any, TypeVar

from coterie.errors import InputError
from coterie.gateway.entries import Key, Team, new_id

START = "sk-co-"
SHOWN = 4  # characters of the secret that lists show
PERIODS = ("total", "day", "month")
Limited = TypeVar("Limited", Key, Team)


def make_key(name: str, *, clock: float | None = None, **limits: Any) -> tuple[Key, str]:
    """A key and its secret, 256 random bits that are kept nowhere: show it once.

    ``limits`` are fields of ``Key``. Raises InputError for a limit that is none.
    """
    secret = START + secrets.token_urlsafe(32)
    now = time.time() if clock is None else clock
    prefix = secret[: len(START) + SHOWN]
    key = Key(new_id("key_", now), name, prefix, digest_of(secret), now, **limits)
    return check_limits(key), secret


def digest_of(secret: str) -> bytes:
    """SHA-256 of a secret; enough, since nobody guesses 256 random bits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def find_key(keys: Mapping[bytes, Key], secret: str) -> Key | None:
    """The key of this secret among keys by digest; compares in constant time."""
    digest = digest_of(secret)
    key = keys.get(digest)
    return key if key is not None and hmac.compare_digest(key.digest, digest) else None


def allows(key: Key, expert: str) -> bool:
    """Whether the key may ask this expert."""
    return not key.experts or expert in key.experts


def check_limits(limited: Limited) -> Limited:
    """The same key or team; raises InputError where a name or limit makes no sense."""
    if not limited.name.strip():
        raise InputError(f"expected a name, got {limited.name!r}", field="name")
    if limited.period not in PERIODS:
        message = f"expected one of {', '.join(PERIODS)}, got {limited.period!r}"
        raise InputError(message, field="period")
    if limited.budget is not None and not (limited.budget >= 0 and math.isfinite(limited.budget)):
        raise InputError(f"expected a cost of at least 0, got {limited.budget!r}", field="budget")
    for field in ("rpm", "tpm", "concurrency"):
        limit = getattr(limited, field)
        if limit is not None and limit < 0:
            raise InputError(f"expected at least 0, got {limit!r}", field=field)
    return limited
