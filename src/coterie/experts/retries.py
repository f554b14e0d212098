"""When to ask a server again: full jitter, and what ``Retry-After`` says."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_DELAY = 0.25  # seconds before the first repetition, at most; doubles with each
LAST_DELAY = 30.0  # seconds before any later one, at most


def delay(
    attempt: int, after: float | None = None, draw: Callable[[], float] = random.random
) -> float:
    """Seconds until repetition ``attempt`` (from 0).

    Full jitter: anything up to a bound that doubles with each, so that clients who failed together
    do not come back together. ``after``, what the server asked for, is waited for and spread too.

    >>> delay(3, draw=lambda: 0.5), delay(0, after=20.0, draw=lambda: 0.5)
    (1.0, 21.0)
    """
    if after is not None:
        return after * (1 + draw() / 10)
    return draw() * float(min(FIRST_DELAY * 2**attempt, LAST_DELAY))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to be left alone for; None where it does not say.

    ``headers`` has names in lower case, or takes any. ``retry-after-ms`` goes before
    ``Retry-After``, which is a number of seconds or a date.
    """
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    said = headers.get("retry-after")
    if said is None or (seconds := _number(said)) is not None:
        return None if said is None else seconds
    try:
        wait = parsedate_to_datetime(said) - datetime.now(UTC)
    except (ValueError, TypeError):
        return None
    return max(0.0, wait.total_seconds())


def _number(text: str | None) -> float | None:
    """A finite number of at least 0 (below it, 0); None for anything else."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return max(0.0, number) if math.isfinite(number) else None
