"""Why an expert did not answer: classified once, so that everybody after acts upon the kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from coterie.errors import ExpertError
from coterie.gateway.wire import ApiError, Headers


@dataclass(frozen=True, slots=True)
class Kind:
    """What a kind of failure means: the client's status, and what may be done about it.

    ``retryable``: another expert may do better. ``same_route``: so may the same one, asked again.
    ``breaker``: it says that the expert is ill, not the request.
    """

    status: int
    type: str
    retryable: bool = True
    same_route: bool = False
    breaker: bool = True


KINDS: Final[Mapping[str, Kind]] = {
    "refused": Kind(502, "server_error", same_route=True),
    "reset": Kind(502, "server_error", same_route=True),
    "timeout_connect": Kind(504, "timeout_error"),
    "timeout_first": Kind(504, "timeout_error"),
    "stall": Kind(504, "timeout_error"),
    "cut": Kind(502, "server_error", same_route=True),
    "malformed": Kind(502, "server_error", same_route=True),
    "wrong_shape": Kind(502, "server_error"),
    "redirect": Kind(502, "server_error"),
    "http_5xx": Kind(502, "server_error", same_route=True),
    "overloaded": Kind(503, "server_error", same_route=True),
    "conflict": Kind(409, "server_error", same_route=True, breaker=False),
    "rate_limited": Kind(429, "rate_limit_error", same_route=True, breaker=False),
    "quota": Kind(429, "insufficient_quota"),
    "auth": Kind(502, "server_error"),
    "missing": Kind(502, "server_error"),
    "bad_request": Kind(400, "invalid_request_error", retryable=False, breaker=False),
    "context_length": Kind(400, "invalid_request_error", breaker=False),
    "content_filter": Kind(400, "invalid_request_error", retryable=False, breaker=False),
    "deadline": Kind(504, "timeout_error", retryable=False, breaker=False),
    "busy": Kind(503, "server_error", breaker=False),
}


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed call: ``message`` holds no secret and may be shown to the client.

    ``type`` and ``code`` are the provider's own where it gave them; ``retry_after`` is in seconds.
    """

    kind: str
    message: str
    status: int
    type: str
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None

    @property
    def retryable(self) -> bool:
        """Another expert may do better."""
        return KINDS[self.kind].retryable

    @property
    def same_route(self) -> bool:
        """The same expert may do better when it is asked again."""
        return KINDS[self.kind].same_route

    @property
    def breaker(self) -> bool:
        """The expert is ill, not the request."""
        return KINDS[self.kind].breaker

    def to_api_error(self, headers: Headers = ()) -> ApiError:
        """What the client is told."""
        told = list(headers)
        if self.retry_after is not None:
            told.append((b"retry-after", str(max(1, round(self.retry_after))).encode()))
        return ApiError(
            self.status,
            self.message,
            type=self.type,
            code=self.code or self.kind,
            param=self.param,
            headers=told,
        )


class UpstreamError(ExpertError):
    """An expert did not answer, or stopped in the middle."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.message)


def failure(kind: str, message: str, **given: Any) -> Failure:
    """A failure of ``kind`` with what is usual for it."""
    usual = KINDS[kind]
    return Failure(
        kind, message, **{"status": usual.status, "type": usual.type, "code": None, **given}
    )
