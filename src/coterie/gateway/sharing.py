"""Answers that pages of other origins may read, as far as the operator lists them (CORS)."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from coterie.gateway.app import Asgi, Live, Receive, Scope, Send
from coterie.gateway.wire import ApiError, Headers

PREFLIGHT = b"access-control-request-method"
ALLOWED = (
    (b"access-control-allow-methods", b"GET, POST"),
    # "*" is every other name: x-coterie-..., and what SDKs send of their own
    (b"access-control-allow-headers", b"authorization, content-type, *"),
    (b"access-control-max-age", b"600"),
)


class Sharing:
    """The cold endpoints of ``inner`` under /v1, and permission to ask all of them, before it.

    The hot endpoints mark their answers themselves. Dashboard and administration stay closed.
    """

    def __init__(self, live: Live, inner: Asgi) -> None:
        self._live, self._inner = live, inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        headers = dict(scope.get("headers") or ())
        shared = self._live.doors.shared(headers)
        if not shared or not scope["path"].startswith("/v1/"):
            await self._inner(scope, receive, send)
        elif scope["method"] == "OPTIONS" and PREFLIGHT in headers and self._welcome(headers):
            start = {"type": "http.response.start", "status": 204}
            await send({**start, "headers": [*shared, *ALLOWED]})
            await send({"type": "http.response.body", "body": b""})
        else:
            await self._inner(scope, receive, _adding(send, shared))

    def _welcome(self, headers: dict[bytes, bytes]) -> bool:
        try:
            self._live.doors.check(headers)
        except ApiError:
            return False
        return True


def _adding(send: Send, shared: Headers) -> Send:
    async def added(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *shared]}
        await send(message)

    return added
