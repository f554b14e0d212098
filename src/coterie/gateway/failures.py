"""Why an expert did not answer: classified once, so that everybody after acts upon the kind."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from coterie.errors import ExpertError
from coterie.experts.retries import retry_after
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
    "quota": Kind(429, "insufficient_quota", breaker=False),
    "auth": Kind(502, "server_error"),
    "missing": Kind(502, "server_error"),
    "bad_request": Kind(400, "invalid_request_error", retryable=False, breaker=False),
    "context_length": Kind(400, "invalid_request_error", breaker=False),
    "content_filter": Kind(400, "invalid_request_error", retryable=False, breaker=False),
    "deadline": Kind(504, "timeout_error", retryable=False, breaker=False),
    "busy": Kind(503, "server_error", breaker=False),
}
READ: Final = frozenset({"timeout_first", "deadline", "stall", "cut", "reset"})
NAMES: Final[Mapping[str, str]] = {  # OpenAI's codes of kinds that it knows
    "rate_limited": "rate_limit_exceeded",
    "quota": "insufficient_quota",
    "context_length": "context_length_exceeded",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed call: ``message`` holds no secret and may be shown to the client.

    ``type`` and ``code`` are the provider's own where it gave them; ``retry_after`` is in seconds.
    ``reported`` says that the expert itself ended the call with an error.
    """

    kind: str
    message: str
    status: int
    type: str
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None
    reported: bool = False

    @property
    def retryable(self) -> bool:
        """Another expert may do better."""
        return KINDS[self.kind].retryable

    @property
    def same_route(self) -> bool:
        """The same expert may do better when it is asked again."""
        return KINDS[self.kind].same_route

    @property
    def read(self) -> bool:
        """The prompt was sent, and nobody says what came of it: it may be billed."""
        silent = self.kind in READ and not self.reported
        return silent or (self.kind == "http_5xx" and self.status == 504)

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
            code=self.code,
            param=self.param,
            headers=told,
        )


class UpstreamError(ExpertError):
    """An expert did not answer, or stopped in the middle."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.message)


def failure(kind: str, message: str, **given: Any) -> Failure:
    """A failure of ``kind`` with what is usual for it where nothing is ``given``."""
    usual = KINDS[kind]
    code = NAMES.get(kind, kind)
    return Failure(
        kind, message, **{"status": usual.status, "type": usual.type, "code": code, **given}
    )


CODES: Final[Mapping[str, str]] = {
    code: kind
    for kind, codes in {
        "quota": "insufficient_quota billing_hard_limit_reached insufficient_credits",
        "rate_limited": "rate_limit_exceeded rate_limit_error too_many_requests",
        "context_length": "context_length_exceeded exceed_context_size_error",
        "content_filter": "content_filter content_policy_violation moderation_blocked "
        "responsibleaipolicyviolation",
        "auth": "invalid_api_key authentication_error permission_error permission_denied",
        "missing": "model_not_found not_found_error",
        "overloaded": "overloaded_error overloaded engine_overloaded service_unavailable",
        "http_5xx": "server_error internal_error internal_server_error",
        "bad_request": "invalid_request_error",
    }.items()
    for code in codes.split()
}
STATUSES: Final[Mapping[int, str]] = {
    401: "auth",
    402: "quota",
    403: "auth",
    404: "missing",
    408: "http_5xx",
    409: "conflict",
    429: "rate_limited",
    503: "overloaded",
    529: "overloaded",
}
_TOO_LONG = re.compile(
    r"maximum context length|context (?:window|length|size)|prompt is too long|too many tokens",
    re.I,
)
_FLAGGED = re.compile(r"flagged|moderation|content (?:filter|policy|management policy)", re.I)
THEIRS = frozenset({"bad_request", "context_length", "content_filter", "conflict"})
LONGEST = 500  # characters of a provider's message that are passed on


def kind_of(status: int | None, codes: Sequence[str], message: str) -> str:
    """The kind of an error by HTTP status (None inside a 200), code and type, and message."""
    named = next((CODES[code] for code in codes if code in CODES), None)
    if status is None:
        kind = named or "http_5xx"
    elif status == 429 or (named == "quota" and status < 500):
        kind = "quota" if named == "quota" else "rate_limited"
    elif status in STATUSES:
        kind = STATUSES[status]
    else:
        kind = "http_5xx" if status >= 500 else named or "bad_request"
    if kind == "bad_request" and _TOO_LONG.search(message):
        return "context_length"
    if kind in ("bad_request", "auth") and (named == "content_filter" or _FLAGGED.search(message)):
        return "content_filter"
    return kind


def from_error(
    name: str,
    told: Any,
    secrets: Sequence[str] = (),
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Failure:
    """The failure that an error body of expert ``name`` tells of; there are many shapes of it."""
    error = told.get("error") or told if isinstance(told, dict) else told
    fields = error if isinstance(error, dict) else {"message": error}
    code, type_ = fields.get("code"), fields.get("type")
    if status is None and isinstance(number := code or fields.get("status"), int):
        status = number if 400 <= number < 600 else None
    message = redact(str(fields.get("message") or fields.get("detail") or error), secrets)
    inner = fields.get("innererror")
    also = inner.get("code") if isinstance(inner, dict) else None
    kind = kind_of(status, [str(word).lower() for word in (code, also, type_)], message)
    theirs = kind in THEIRS
    given: dict[str, Any] = {"code": None if code is None else redact(str(code), secrets)}
    if isinstance(type_, str) and kind not in ("auth", "missing"):
        given["type"] = redact(type_, secrets)
    if theirs and status is not None and status < 500:
        given["status"] = status
    if status in (408, 504):
        given["status"] = 504
    if theirs and isinstance(fields.get("param"), str):
        given["param"] = redact(fields["param"], secrets)
    if kind in ("rate_limited", "overloaded", "http_5xx", "quota", "conflict"):
        given["retry_after"] = retry_after(headers or {})
    return failure(kind, message if theirs else f"{name}: {message}", **given)


def from_response(
    name: str, status: int, headers: Mapping[str, str], body: bytes, secrets: Sequence[str] = ()
) -> Failure:
    """The failure that an HTTP response of another status than 200 is."""
    if 300 <= status < 400:
        return failure("redirect", f"{name}: redirects (status {status}), which is not followed")
    if status < 300:
        return failure("wrong_shape", f"{name}: status {status} instead of 200")
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told = _as_text(status, body)
    if isinstance(told, list):
        told = told[0] if told else ""
    return from_error(name, told or f"status {status}", secrets, status, headers)


def _as_text(status: int, body: bytes) -> str:
    """A body that is no JSON, as far as it may be shown: pages never are."""
    text = body[:LONGEST].decode(errors="replace").strip()
    return f"status {status}" if not text or "<" in text else f"status {status}: {text}"


_SECRETS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=*-]{4,}"), r"\1 ***"),
    (re.compile(r"\b((?:sk|pk|rk|gsk|xai|hf|nvapi|r8)[-_])[\w*-]{4,}"), r"\1***"),
    (re.compile(r"\bAIza[\w-]{10,}"), "***"),
    (
        re.compile(
            r"(?i)(\b(?:api[-_ ]?key|token|secret|password)\b[\"' ]*[:=][\"' ]*)[^\s\"',&]{4,}"
        ),
        r"\1***",
    ),
    (re.compile(r"(https?://)[^\s/@]+@"), r"\1***@"),
    (re.compile(r"(https?://[^\s?\"']+)\?[^\s\"']+"), r"\1?***"),
)


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")  # a terminal would do what they say


def redact(text: str, secrets: Sequence[str] = ()) -> str:
    """``text`` on one line, bounded, without ``secrets`` and what looks like one.

    >>> redact("Incorrect API key provided: sk-proj-1234. See https://a:b@host/x?key=1")
    'Incorrect API key provided: sk-***. See https://***@host/x?***'
    """
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return " ".join(_CONTROL.sub(" ", text[: 4 * LONGEST]).split())[:LONGEST]
