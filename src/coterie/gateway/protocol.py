"""HTTP as uvicorn speaks it, with a bound on what comes before a body and refusals in JSON."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from coterie.gateway.wire import ApiError

MOST_HEADERS = 256
MOST_HEAD = 1 << 16  # bytes that may come, beyond one read, without a request getting on


class HeadTooLong(ValueError):
    """More headers than a request may have."""


class Protocol(HttpToolsProtocol):
    """One connection; see uvicorn, whose own one holds a head of any length."""

    _moved = False
    _waiting = 0
    _flooded = False

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._moved = False
        super().data_received(data)
        self._waiting = 0 if self._moved else self._waiting + len(data)
        if self._waiting > MOST_HEAD:
            self._flooded = True
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """See httptools."""
        self._moved = True
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._moved = True
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """See httptools; what is raised here is answered with ``send_400_response``."""
        self._moved = True
        if len(self.headers) > MOST_HEADERS:
            self._flooded = True
            raise HeadTooLong(len(self.headers))
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, and close; inside an answer under way only close."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(self._refusal(msg))
        self.transport.close()

    def _refusal(self, message: str) -> bytes:
        told = ApiError(400, message, code="invalid_http")
        if self._flooded:
            bound = f"{MOST_HEADERS} headers and {MOST_HEAD} bytes"
            told = ApiError(431, f"the head is longer than {bound}", code="headers_too_long")
        body = told.body()
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: "
        return b"%b%b%d\r\n\r\n%b" % (STATUS_LINE[told.status], head, len(body), body)
