"""Faults of our own: who runs the gateway gets the traceback, the client what to ask for."""

from __future__ import annotations

import logging
import re
import traceback

from coterie.gateway.failures import redact
from coterie.gateway.wire import ApiError

logger = logging.getLogger("coterie.gateway")
_QUOTED = re.compile(r"""(["'])(.*?)\1""", re.DOTALL)
_NAME = re.compile(r"[\w.<>\[\]-]*")


def fault(id: str, path: str, error: Exception) -> ApiError:
    """500 for the client of request ``id``, without a word of what is logged here."""
    logger.error("internal server error in %s of %r\n%s", id, path, told(error))
    message = f"internal server error (request {id})"
    return ApiError(500, message, type="server_error", code="internal_error")


def told(error: BaseException) -> str:
    r"""The traceback of an error and its causes, without what clients sent.

    Messages are on one line and bounded; what looks like a secret, and what is quoted in them
    unless it is a name, is left out.

    >>> told(ValueError("no 'float' in 'my\nprompt' of sk-1234567"))
    "ValueError: no 'float' in '...' of sk-***"
    """
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = "" if earlier is None else f"{told(earlier)}\nwhich led to\n"
    calls = "".join(traceback.format_tb(error.__traceback__))
    message = redact(_QUOTED.sub(_shown, str(error)))
    parts = [told(one) for one in getattr(error, "exceptions", ())]
    return "\n".join([f"{before}{calls}{type(error).__name__}: {message}", *parts])


def _shown(quoted: re.Match[str]) -> str:
    return quoted[0] if _NAME.fullmatch(quoted[2]) else "'...'"
