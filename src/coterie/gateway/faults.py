"""Faults of our own: who runs the gateway gets the traceback, the client what to ask for."""

from __future__ import annotations

import logging

from coterie.gateway.wire import ApiError

logger = logging.getLogger("coterie.gateway")


def fault(id: str, path: str, error: Exception) -> ApiError:
    """500 for the client of request ``id``, without a word of what is logged here."""
    logger.error("internal server error in %s of %s", id, path, exc_info=error)
    message = f"internal server error (request {id})"
    return ApiError(500, message, type="server_error", code="internal_error")
