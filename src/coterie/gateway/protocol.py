"""HTTP as uvicorn speaks it, with bounds on size and time of requests and refusals in JSON."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from coterie.gateway.wire import ApiError

MOST_HEADERS = 256
WATCH = "coterie.watch"  # of a scope's extensions: calls back when the client leaves
MOST_HEAD = 1 << 16  # bytes that may come, beyond one read, without a request getting on


class HeadTooLong(ValueError):
    """More headers than a request may have."""


class Protocol(HttpToolsProtocol):
    """One connection; see uvicorn, whose own one holds a head of any length for any time."""

    slowest = 60.0  # seconds that a request may take to arrive
    refused: ClassVar[Counter[str]] = Counter()  # requests that were none, by code
    _moved = _heading = False
    _whole = True
    _waiting = 0
    _timer: asyncio.TimerHandle | None = None
    _lost = False
    _gone: Callable[[], object] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        self.logger = _logger
        self._timer = self.loop.call_later(self.slowest, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._in_time()
        super().connection_lost(exc)
        self._lost = True
        if self._gone is not None:
            self._gone()

    def watch(self, gone: Callable[[], object] | None) -> None:
        """Have ``gone`` called once the client has left; None for nobody any more.

        The same as to wait for ``http.disconnect`` in a task, which costs far more.
        """
        self._gone = gone
        if gone is not None:
            self.flow.resume_reading()  # else a client that leaves is not noticed
            if self._lost:
                self.loop.call_soon(gone)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._moved = False
        super().data_received(data)
        self._waiting = 0 if self._moved else self._waiting + len(data)
        if self._waiting > MOST_HEAD:
            self._refuse(431, _TOO_LONG, "headers_too_long")
        elif not self._whole and self._timer is None:
            self._timer = self.loop.call_later(self.slowest, self._too_slow)

    def on_message_begin(self) -> None:
        """See httptools."""
        self._moved, self._heading, self._whole = True, True, False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """See httptools; what is raised here is answered with ``send_400_response``."""
        self._moved = True
        if len(self.headers) > MOST_HEADERS:
            self._refuse(431, _TOO_LONG, "headers_too_long")
            raise HeadTooLong
        self.scope["extensions"] = {WATCH: self.watch}  # type: ignore[dict-item]
        super().on_headers_complete()
        self._heading = False

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See httptools."""
        self._whole = True
        self._in_time()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, and close."""
        self._refuse(400, msg, "invalid_http")

    def _in_time(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        message = f"the request did not arrive within {self.slowest:g} s"
        self._refuse(408, message, "request_timeout")

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Close, with an error unless that would fall into another answer."""
        if self.transport.is_closing():
            return
        self.refused[code] += 1
        if self._unanswered():
            body = ApiError(status, message, code=code).body()
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: "
            self.transport.write(b"%b%b%d\r\n\r\n%b" % (STATUS_LINE[status], head, len(body), body))
        self.transport.close()

    def _unanswered(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn's None has the wrong type
        if cycle is None:
            return True
        between = self._heading or self._whole
        return cycle.response_complete if between else not cycle.response_started


# Errors only, as anybody may cause warnings; uvicorn sets the levels of its own loggers anew.
_logger = logging.getLogger("coterie.gateway.http")
_logger.setLevel(logging.ERROR)
_TOO_LONG = f"the head is longer than {MOST_HEADERS} headers or {MOST_HEAD} bytes"
