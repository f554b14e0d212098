"""Everything but the hot endpoints: models, dry runs, feedback, health, metrics, administration."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from coterie.gateway.app import (
    ASKED,
    MOST_TOKENS,
    Asgi,
    Live,
    Receive,
    Scope,
    Send,
    read_body,
    secret_of,
)
from coterie.gateway.asked import read_asked
from coterie.gateway.entries import Key, new_id
from coterie.gateway.faults import fault
from coterie.gateway.ledger_writer import StoreDown
from coterie.gateway.logins import COOKIE, LOCAL, same
from coterie.gateway.metering import exposition
from coterie.gateway.openapi import document
from coterie.gateway.wire import ApiError, bad_request, not_found, overloaded
from coterie.types import Query

if TYPE_CHECKING:
    from coterie.gateway.ledger import Ledger

ADMIN_VARIABLE = "COTERIE_ADMIN_KEY"
WEAKEST = 16  # characters of an administrator's key


def respond(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response."""
    body = msgspec.json.encode(value)
    return Response(body, status, headers, media_type="application/json")


def refuse(error: ApiError) -> Response:
    """An error in OpenAI's shape."""
    headers = {name.decode(): value.decode() for name, value in error.headers}
    return Response(error.body(), error.status, headers, media_type="application/json")


class Pages:
    """The cold endpoints over what is live."""

    def __init__(self, live: Live, ledger: Ledger, facts: Callable[[], dict[str, Any]]) -> None:
        self.live, self.ledger, self._facts = live, ledger, facts
        self.started = time.time()

    def application(self, more: list[BaseRoute]) -> Starlette:
        """The application; ``more`` are the dashboard's routes."""
        routes: list[BaseRoute] = [
            Route("/v1/models", self.models),
            Route("/v1/models/{model:path}", self.model),
            Route("/v1/route", self.route, methods=["POST"]),
            Route("/v1/feedback", self.feedback, methods=["POST"]),
            Route("/v1/openapi.json", self.openapi),
            Route("/health/live", self.alive),
            Route("/health/ready", self.ready),
            Route("/metrics", self.metrics),
            *more,
        ]
        handlers: Any = {
            ApiError: lambda request, error: refuse(error),
            HTTPException: _http_error,
            StoreDown: lambda request, error: refuse(overloaded(str(error))),
            Exception: _unexpected,
        }
        return Starlette(routes=routes, exception_handlers=handlers)

    def _key(self, request: Request) -> Key:
        """The client's key; raises ApiError 401, or 403 for a foreign host or origin."""
        headers = headers_of(request)
        self.live.doors.check(headers)
        return self.live.services.accounts.authenticate(secret_of(headers))

    async def models(self, request: Request) -> Response:
        """All that ``model`` may be."""
        key = self._key(request)
        return respond({"object": "list", "data": [self._model(n) for n in self._names(key)]})

    async def model(self, request: Request) -> Response:
        """One of them."""
        key, name = self._key(request), request.path_params["model"]
        if name not in self._names(key):
            raise not_found(name)
        return respond(self._model(name))

    def _names(self, key: Key) -> list[str]:
        routing = self.live.services.routing
        names = routing.models()
        if not key.experts:
            return names
        return [n for n in names if n not in routing.profiles or n in key.experts]

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": int(self.started), "owned_by": "coterie"}

    async def openapi(self, request: Request) -> Response:
        """What may be asked, as an OpenAPI document."""
        names = self._names(self._key(request))
        return respond(document(names, MOST_TOKENS, self.live.most_choices))

    async def route(self, request: Request) -> Response:
        """The decision that a chat request would get, and its evidence; nobody is asked."""
        live, headers = self.live, headers_of(request)
        key = self._key(request)
        body = await read_body(request.receive, headers, live.max_body)
        path = "/chat/completions"
        asked = read_asked(path, body, headers, MOST_TOKENS, live.most_choices)
        services = live.services
        unpriced = services.prices.barred(services.accounts.budgeted(key))
        plan = services.routing.plan(
            asked, new_id("req_"), key.experts, explain=True, unpriced=unpriced
        )
        decision = plan.decision
        return respond(
            {
                "object": "coterie.route",
                "model": asked.model,
                "policy": plan.policy,
                "composition": plan.composition or "single",
                "experts": plan.experts,
                "quality": plan.quality,
                "cost": plan.cost,
                "reason": "" if decision is None else decision.reason,
                "evidence": {} if decision is None else dict(decision.evidence),
                "candidates": plan.candidates,
                "constraints": plan.constraints,
            }
        )

    async def feedback(self, request: Request) -> Response:
        """A score in [0, 1] for a request of one's own; it becomes a record."""
        key = self._key(request)
        given = await _object(request, self.live.max_body)
        id, score = given.get("id"), given.get("score")
        if not isinstance(id, str):
            raise bad_request("id must be the x-coterie-decision-id of a request", "id")
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise bad_request(f"score must be a number from 0 to 1, got {score!r}", "score")
        entry = await self.ledger.entry(id)
        if entry is None or entry.key != key.id:
            raise ApiError(404, f"no request {id!r} of this key", code="not_found", param="id")
        self.ledger.add_feedback(id, float(score), key.id, str(given.get("note", ""))[:1000])
        return respond({"object": "coterie.feedback", "id": id, "score": score})

    async def alive(self, request: Request) -> Response:
        """The process runs."""
        return respond({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        """Whether requests would be answered, shown by a decision made now; fails closed."""
        facts: dict[str, Any] = {}
        try:
            facts |= self._facts()
            why = self._why_not(facts)
        except Exception as error:
            why = f"the router fails its self-test: {error}"
        status = {"status": "ready" if not why else "not ready", **({"why": why} if why else {})}
        return respond({**status, **facts}, 503 if why else 200)

    def _why_not(self, facts: dict[str, Any]) -> str:
        live = self.live
        if live.draining:
            return "shutting down"
        if not live.accepting():
            return "the store is down"
        if (router := live.services.routing.router) is not None:
            estimates = router.predict([Query.from_text("self-test", "What is 2 plus 3?")])
            best = int(estimates.quality[0].argmax())
            quality = float(estimates.quality[0, best])
            facts["self_test"] = {"expert": estimates.experts[best], "quality": quality}
        return ""

    async def metrics(self, request: Request) -> Response:
        """Prometheus' text format; on the network only with the administrator's key."""
        check_admin(self.live, request)
        text = exposition(self.live.services.meters)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def headers_of(request: Request) -> dict[bytes, bytes]:
    """The raw headers of a request."""
    return dict(request.scope["headers"])


def check_admin(live: Live, request: Request) -> str:
    """The session that may administrate, "" where the key itself came along; raises ApiError.

    An inference key never may. Where no administrator's key is set, only this machine may.
    """
    headers = headers_of(request)
    live.doors.check(headers, admin=True)
    wanted = os.environ.get(ADMIN_VARIABLE, "")
    if not wanted:
        if live.loopback:
            return LOCAL
        message = f"set {ADMIN_VARIABLE} (at least {WEAKEST} characters) to administrate from afar"
        raise ApiError(403, message, type="permission_error", code="admin_disabled")
    given, session = secret_of(headers), request.cookies.get(COOKIE, "")
    if given and same(given, wanted):
        return ""
    if session and live.logins.valid(session, wanted):
        return session
    message = "the administrator's key is wrong or missing"
    raise ApiError(401, message, type="authentication_error", code="invalid_admin_key")


async def _object(request: Request, most: int) -> dict[str, Any]:
    body = await read_body(request.receive, headers_of(request), most)
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"expected a JSON object: {error}") from None


def _http_error(request: Request, error: Any) -> Response:
    path = request.scope["path"]
    if error.status_code == 405 or path in ASKED:
        allowed = (error.headers or {}).get("Allow", "POST").encode()
        message = f"{request.method} is not allowed for {path}"
        headers = [(b"allow", allowed)]
        return refuse(ApiError(405, message, code="method_not_allowed", headers=headers))
    message = f"Unknown request URL: {request.method} {path}."
    return refuse(ApiError(404, message, code="unknown_url"))


def once(inner: Asgi) -> Asgi:
    """``inner``, a Starlette, which raises faults again that were answered and logged already."""

    async def quiet(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(Exception):
            await inner(scope, receive, send)

    return quiet


def _unexpected(request: Request, error: Exception) -> Response:
    return refuse(fault(new_id("req_"), request.url.path, error))
