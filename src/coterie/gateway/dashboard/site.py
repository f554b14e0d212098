"""The dashboard's routes: pages for people without script, small JSON for those with."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from coterie.gateway.building import Gateway
from coterie.gateway.dashboard import layout, plane
from coterie.gateway.dashboard.access import (
    check_change,
    log_in,
    log_out,
    read_object,
    sealed,
)
from coterie.gateway.dashboard.decision import decision
from coterie.gateway.dashboard.forms import key_fields, text_of
from coterie.gateway.dashboard.health import health
from coterie.gateway.dashboard.keyring import keyring
from coterie.gateway.dashboard.nodes import Node, element, moment
from coterie.gateway.dashboard.spending import PAIRS, savings, spending
from coterie.gateway.dashboard.tradeoff import TradeOff, described, why_no_plane
from coterie.gateway.dashboard.traffic import SHOWN, drift_limit, filters_of, tiles, traffic_table
from coterie.gateway.dashboard.watch import watch
from coterie.gateway.keys import make_key
from coterie.gateway.logins import LOCAL
from coterie.gateway.owners import add_key, owned, revoke_key
from coterie.gateway.pages import check_admin, respond
from coterie.gateway.wire import ApiError, bad_request

REST = 10  # times what they took to make, costly figures are kept
DAYS = 30.0  # of spending shown
UNITS = {"price": "the unit of the prices", "parameters": "1e9 parameters x tokens"}
logger = logging.getLogger("coterie.gateway")


def routes(gateway: Gateway) -> list[BaseRoute]:
    """All of them."""
    return Dashboard(gateway).routes()


class Dashboard:
    """Pages and JSON about one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway, self.live, self.ledger = gateway, gateway.live, gateway.ledger
        self.changes: deque[tuple[float, str]] = deque(maxlen=20)
        self.trade_off = TradeOff(gateway.ledger)
        self._spending: list[Node] = []
        self._counting, self._count_again = asyncio.Lock(), 0.0

    def routes(self) -> list[BaseRoute]:
        """All of them, sealed."""
        api = "/dashboard/api"
        regions = {name: self._region(name) for name in ("status", "traffic", "spending",
                                                         "experts", "keys")}  # fmt: skip
        read = {f"{api}/{name}": view for name, view in regions.items()}
        read |= {
            "/": self.page,
            "/dashboard": self.home,
            "/dashboard/decisions/{id}": self.decision_page,
            f"{api}/decisions/{{id}}": self.decision,
            f"{api}/plane": self.plane,
            "/dashboard/dashboard.css": self._file("dashboard.css", "text/css"),
            "/dashboard/dashboard.js": self._file("dashboard.js", "text/javascript"),
        }
        write = {
            "/dashboard/login": self.log_in,
            f"{api}/logout": self._change(self.log_out),
            f"{api}/policy": self._change(self.apply),
            f"{api}/keys/create": self._change(self.create),
            f"{api}/keys/revoke": self._change(self.revoke),
            f"{api}/experts/reset": self._change(self.reset),
            f"{api}/reload": self._change(self.reload),
        }
        return [
            *(Route(path, sealed(view)) for path, view in read.items()),
            *(Route(path, sealed(view), methods=["POST"]) for path, view in write.items()),
        ]

    # -- pages

    async def page(self, request: Request) -> Response:
        """Everything, or the form to log in."""
        try:
            session = check_admin(self.live, request)
        except ApiError as error:
            return self._outside(error)
        title = f"Coterie · {self.gateway.pool.name}"
        main = await self._main(request.query_params)
        token = self.live.logins.token(session)
        return HTMLResponse(layout.page(title, main, self._aside(session), token))

    async def home(self, request: Request) -> Response:
        """To the page."""
        return RedirectResponse("/", 307)

    async def decision_page(self, request: Request) -> Response:
        """One decision, for links and for browsers without script."""
        try:
            check_admin(self.live, request)
        except ApiError as error:
            return self._outside(error)
        back = element("p", element("a", "all traffic", href="/#traffic"))
        heading = element("h2", "Decision", id="decision-heading")
        nodes = await self._decision(request.path_params["id"])
        main = element("section", heading, back, *nodes, aria_labelledby="decision-heading")
        return HTMLResponse(layout.page("Coterie · decision", [main]))

    def _outside(self, error: ApiError) -> Response:
        """What whoever may not in is shown."""
        if error.code == "forbidden":
            raise error
        missing = error.code == "invalid_admin_key"
        main = (
            layout.login_form()
            if missing
            else [element("section", element("h2", "Closed"), element("p", error.message))]
        )
        response = HTMLResponse(layout.page("Coterie · log in", main), error.status)
        # A form posts "Origin: null" under no-referrer, which is nobody's page.
        response.headers["Referrer-Policy"] = "same-origin"
        return response

    async def log_in(self, request: Request) -> Response:
        """From the form to a session."""
        try:
            return await log_in(self.live, request)
        except ApiError as error:
            if error.status not in (401, 429):
                raise
            page = layout.page("Coterie · log in", layout.login_form(error.message))
            response = HTMLResponse(page, error.status, headers={"Referrer-Policy": "same-origin"})
            return response

    def _aside(self, session: str) -> list[Node]:
        made: list[Node] = [
            layout.navigation(),
            element("button", "reload configuration", type="button", id="reload",
                    class_="needs-script"),
        ]  # fmt: skip
        if session not in ("", LOCAL):
            made.append(element("button", "log out", type="button", id="logout"))
        return made

    async def _main(self, chosen: Mapping[str, str]) -> list[Node]:
        experts, models = [*self.gateway.pool.experts], self._models()
        shown = {name: await self._nodes(name, chosen) for name in (
            "status", "traffic", "spending", "experts", "keys")}  # fmt: skip
        return [
            layout.region("status", shown["status"], 2),
            layout.section("traffic", layout.filters(experts, chosen),
                           layout.region("traffic", shown["traffic"], 2)),
            layout.section("trade-off", *await self.trade_off.panel(self.live.services.routing)),
            layout.section("spending", layout.region("spending", shown["spending"], 15)),
            layout.section("experts", layout.region("experts", shown["experts"], 2)),
            layout.section("keys", layout.key_form(), layout.secret_box(),
                           layout.region("keys", shown["keys"], 10),
                           note="As soon as there is a key, requests without one are refused, "
                           "unless the pool file says otherwise."),
            layout.section("playground", layout.playground(models)),
            layout.dialog(),
        ]  # fmt: skip

    def _models(self) -> list[str]:
        routing = self.live.services.routing
        return [f"{m}:3" if m == "recruit" else m for m in routing.models()]

    # -- regions

    def _region(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            check_admin(self.live, request)
            return respond(await self._nodes(name, request.query_params))

        return answer

    async def _nodes(self, name: str, chosen: Mapping[str, str]) -> Sequence[Node]:
        if name == "status":
            return self._status()
        if name == "traffic":
            entries = await self.ledger.recent(SHOWN, **filters_of(chosen))
            return [traffic_table(entries, await self._key_names(), drift_limit(self.gateway))]
        if name == "spending":
            return await self._spent()
        if name == "keys":
            return keyring(*await owned(self.ledger))
        return health(self.gateway)

    def _status(self) -> list[Node]:
        """Figures since the start, what runs, what was changed by hand, what was refused."""
        gateway = self.gateway
        made: list[Node] = [tiles(gateway)]
        routing = self.live.services.routing
        router = routing.router
        fitted = "no router" if router is None else f"router {router.name}"
        auto = "" if routing.default is None else f"; auto: {described(routing.default)}"
        read = element("span", "; configuration read ", moment(gateway.loaded))
        unit = UNITS[gateway.config.settings.pool.cost]
        text = f"{gateway.pool.name}: {fitted}{auto}; costs in {unit}"
        made.append(element("p", text, read, class_="note"))
        if gateway.trouble:
            text = f"The last reload was refused: {gateway.trouble}"
            made.append(element("p", text, class_="refusal"))
        made += watch(routing.observing.state())
        lines = [element("li", moment(at), f" {text}") for at, text in reversed(self.changes)]
        if lines:
            summary = element("summary", f"{len(lines)} changes made here")
            made.append(element("details", summary, element("ul", *lines), id="changes"))
        return made

    async def _key_names(self) -> dict[str, str]:
        keys, _ = await self.ledger.owners()
        return {key.id: key.name for key in keys}

    async def decision(self, request: Request) -> Response:
        """One decision with its evidence."""
        check_admin(self.live, request)
        return respond(await self._decision(request.path_params["id"]))

    async def _decision(self, id: str) -> list[Node]:
        entry = await self.ledger.entry(id)
        if entry is None:
            raise ApiError(404, f"there is no decision {id!r} in the log", code="not_found")
        return decision(entry, await self.ledger.feedback(id))

    async def _spent(self) -> list[Node]:
        """Spending as it was a moment ago: all pages share one look at the whole log.

        Its sums take a second for a million requests, so they are made for a tenth of the time.
        """
        async with self._counting:
            start = time.monotonic()
            if start >= self._count_again:
                pairs = await self.ledger.pairs(time.time() - DAYS * 86400, PAIRS)
                saved = await asyncio.to_thread(savings, pairs)
                names = await self._key_names()
                self._spending = await spending(self.ledger, DAYS, names, saved)
                self._count_again = start + (1 + REST) * (time.monotonic() - start)
            return self._spending

    async def plane(self, request: Request) -> Response:
        """The plane, with what the setting at ``position`` would change."""
        check_admin(self.live, request)
        given = request.query_params.get("position")
        if given is not None and not (given.isdecimal() and len(given) <= 4):
            raise bad_request("position must be a whole number", "position")
        routing = self.live.services.routing
        found = await self.trade_off.drawn(routing, None if given is None else int(given))
        if found is None:
            raise ApiError(404, why_no_plane(routing), code="no_plane")
        return respond(found)

    # -- changes

    def _change(
        self, view: Callable[[Request, dict[str, Any]], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """A view that only an administrator's own page may call."""

        async def answer(request: Request) -> Response:
            check_change(self.live, request)
            return await view(request, await read_object(request))

        return answer

    def _log(self, text: str) -> None:
        self.changes.append((time.time(), text))
        logger.warning("changed from the dashboard: %s", text)

    async def apply(self, request: Request, given: dict[str, Any]) -> Response:
        """Let ``auto`` decide with another willingness to pay; null is an infinite one."""
        value = given.get("willingness_to_pay", "")
        price = math.inf if value is None else value
        if isinstance(price, bool) or not isinstance(price, int | float) or not price >= 0:
            message = f"willingness_to_pay must be at least 0 or null, got {value!r}"
            raise bad_request(message, "willingness_to_pay")
        routing = self.live.services.routing
        if routing.default is None:
            raise ApiError(409, "there is no router, so auto is no model", code="no_router")
        before = described(routing.default)
        routing.default = plane.priced(routing.default, float(price))
        self._log(f"auto: {before} → {described(routing.default)}")
        return respond({"auto": described(routing.default)})

    async def create(self, request: Request, given: dict[str, Any]) -> Response:
        """A new key; its secret is in this answer and nowhere else."""
        key, secret = make_key(**key_fields(given))
        await add_key(self.ledger, key)
        await self.gateway.accounts.refresh()
        self._log(f"key {key.name!r} ({key.prefix}…) created")
        return respond({"id": key.id, "prefix": key.prefix, "secret": secret})

    async def revoke(self, request: Request, given: dict[str, Any]) -> Response:
        """End a key, named by its id."""
        key = await revoke_key(self.ledger, text_of(given, "id", ""))
        await self.gateway.accounts.refresh()
        self._log(f"key {key.name!r} ({key.prefix}…) revoked")
        return respond({"id": key.id})

    async def reset(self, request: Request, given: dict[str, Any]) -> Response:
        """Let the next request try an expert that was left alone."""
        name = text_of(given, "expert", "")
        known = self.live.services.attempts.deployments.get(name)
        if known is None:
            raise ApiError(404, f"no expert {name!r} was asked yet", code="not_found")
        known.breaker.reset()
        self._log(f"breaker of {name} closed")
        return respond({"expert": name})

    async def reload(self, request: Request, given: dict[str, Any]) -> Response:
        """Read the configuration again; a refusal says why and everything stays as it was."""
        await self.gateway.reload()
        self._log("configuration read again")
        return respond({"loaded": self.gateway.loaded})

    async def log_out(self, request: Request, given: dict[str, Any]) -> Response:
        """End this session."""
        return log_out(self.live, request.cookies)

    def _file(self, name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            self.live.doors.check(dict(request.scope["headers"]))
            return Response(layout.asset(name), media_type=kind)

        return answer
