"""Who gets in: every answer sealed by headers, every change backed by the page's own token."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias
from urllib.parse import parse_qs

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from coterie.errors import CoterieError
from coterie.gateway.app import Live, read_body
from coterie.gateway.failures import redact
from coterie.gateway.logins import COOKIE, LASTS, same
from coterie.gateway.pages import ADMIN_VARIABLE, check_admin, headers_of, refuse
from coterie.gateway.wire import ApiError, bad_request

View: TypeAlias = Callable[[Request], Awaitable[Response]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
TOKEN = "x-coterie-token"
MOST = 65536  # bytes of what a page sends


def sealed(view: View) -> View:
    """The view with the headers of all answers; its refusals become answers too."""

    async def answer(request: Request) -> Response:
        try:
            response = await view(request)
        except ApiError as error:
            response = refuse(error)
        except CoterieError as error:
            response = refuse(ApiError(409, redact(str(error)), code="refused"))
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return answer


def check_change(live: Live, request: Request) -> None:
    """Raise ApiError unless an administrator's page, or a program with the key, asks for it.

    A foreign page can neither read the token nor send JSON without being asked first.
    """
    session = check_admin(live, request)
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise ApiError(415, "expected JSON", code="unsupported_media_type")
    if session and not same(request.headers.get(TOKEN, ""), live.logins.token(session)):
        message = "the page is out of date; load it again"
        raise ApiError(403, message, type="permission_error", code="invalid_token")


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object that a page sent; raises ApiError 400."""
    body = await read_body(request.receive, headers_of(request), MOST)
    try:
        return msgspec.json.decode(body or b"{}", type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"expected a JSON object: {error}") from None


async def log_in(live: Live, request: Request) -> Response:
    """A session for whoever sent the right key; raises ApiError."""
    headers = headers_of(request)
    live.doors.check(headers, admin=True)
    body = await read_body(request.receive, headers, MOST)
    given = parse_qs(body.decode("utf-8", "replace")).get("key", [""])[0]
    session = live.logins.begin(given, os.environ.get(ADMIN_VARIABLE, ""))
    response = RedirectResponse("/", 303)
    response.set_cookie(
        COOKIE,
        session,
        max_age=int(LASTS),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


def log_out(live: Live, cookies: Mapping[str, str]) -> Response:
    """End the session, in the browser and here."""
    live.logins.end(cookies.get(COOKIE, ""), os.environ.get(ADMIN_VARIABLE, ""))
    response = Response(b"{}", media_type="application/json")
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response
