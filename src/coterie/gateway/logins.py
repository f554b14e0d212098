"""Logins of administrators in a browser: signed sessions that end, tokens against forged posts."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable

from coterie.gateway.wire import ApiError

COOKIE = "coterie_admin"
LASTS = 12 * 3600.0  # seconds of a session
TRIES, WITHIN = 10, 60.0  # wrong keys accepted in so many seconds
LOCAL = "local"  # the session of this machine where no administrator's key is set


class Logins:
    """Sessions of this process; a restart or another administrator's key ends them all.

    A session is ``expiry.nonce.signature``: the key itself never goes into a cookie, and a stolen
    one cannot be used to guess it.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._secret = clock, secrets.token_bytes(32)
        self._ended: dict[str, float] = {}
        self._failures: deque[float] = deque(maxlen=TRIES)

    def begin(self, given: str, wanted: str) -> str:
        """A new session for whoever has the key; raises ApiError 401, or 429 after many tries."""
        now = self._clock()
        if len(self._failures) == TRIES and self._failures[0] > now - WITHIN:
            after = [(b"retry-after", b"%d" % WITHIN)]
            message = "too many wrong keys; try again in a minute"
            raise ApiError(429, message, code="rate_limit_exceeded", headers=after)
        if not wanted or not same(given, wanted):
            self._failures.append(now)
            raise ApiError(
                401, "that key is wrong", type="authentication_error", code="invalid_admin_key"
            )
        facts = f"{int(now + LASTS)}.{secrets.token_hex(16)}"
        return f"{facts}.{self._sign('session', facts, wanted)}"

    def valid(self, session: str, wanted: str) -> bool:
        """Whether the session was begun here with this key, and neither ended nor ran out."""
        facts, _, signature = session.rpartition(".")
        if not same(signature, self._sign("session", facts, wanted)):
            return False
        return session not in self._ended and float(facts.partition(".")[0]) > self._clock()

    def end(self, session: str, wanted: str) -> None:
        """Make the session worthless, also where its cookie was copied."""
        now = self._clock()
        self._ended = {one: until for one, until in self._ended.items() if until > now}
        if self.valid(session, wanted):
            self._ended[session] = float(session.partition(".")[0])

    def token(self, session: str) -> str:
        """What a page of this session sends along with whatever it changes."""
        return self._sign("token", session)

    def _sign(self, *parts: str) -> str:
        text = "\0".join(parts).encode("utf-8", "surrogateescape")
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()


def same(given: str, wanted: str) -> bool:
    """Whether both are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())
