"""The dashboard's routes: pages for people without script, small JSON for those with."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from calendar import timegm
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from coterie.gateway.building import Gateway
from coterie.gateway.dashboard import chart, layout, plane
from coterie.gateway.dashboard.access import (
    check_change,
    log_in,
    log_out,
    read_object,
    sealed,
)
from coterie.gateway.dashboard.decision import decision
from coterie.gateway.dashboard.health import health
from coterie.gateway.dashboard.keyring import keyring
from coterie.gateway.dashboard.nodes import Node, element, moment, number
from coterie.gateway.dashboard.spending import PAIRS, Savings, savings, spending
from coterie.gateway.dashboard.traffic import SHOWN, drift_limit, filters_of, tiles, traffic_table
from coterie.gateway.logins import LOCAL
from coterie.gateway.owners import create_key, owned, revoke_key
from coterie.gateway.pages import check_admin, respond
from coterie.gateway.routing import Named, Routing
from coterie.gateway.wire import ApiError, bad_request

T = TypeVar("T")
FRESH = 10.0  # seconds that costly figures are kept
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
        self._kept: dict[str, tuple[float, Any]] = {}

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
            layout.section("trade-off", *await self._trade_off()),
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
            return await spending(self.ledger, DAYS, await self._key_names(), await self._savings())
        if name == "keys":
            return keyring(*await owned(self.ledger))
        return health(self.gateway)

    def _status(self) -> list[Node]:
        """Figures since the start, what runs, what was changed by hand, what was refused."""
        gateway, made = self.gateway, [tiles(self.gateway)]
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
        lines = [element("li", moment(at), f" {text}") for at, text in reversed(self.changes)]
        if lines:
            summary = element("summary", f"{len(lines)} changes made here")
            made.append(element("details", summary, element("ul", *lines), id="changes"))
        return [*made]

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

    async def _savings(self) -> Savings:
        async def compute() -> Savings:
            since = time.time() - DAYS * 86400
            pairs = await self.ledger.pairs(since, PAIRS)
            return await asyncio.to_thread(savings, pairs)

        return await self._fresh("savings", compute)

    async def _fresh(self, name: str, compute: Callable[[], Awaitable[T]]) -> T:
        """A figure that was computed at most ``FRESH`` seconds ago."""
        at, known = self._kept.get(name, (-math.inf, None))
        if time.monotonic() - at > FRESH:
            known = await compute()
            self._kept[name] = time.monotonic(), known
        found: T = known
        return found

    # -- the trade-off

    async def _sample(self, routing: Routing) -> plane.Sample | None:
        """Recent requests, or the router's own questions while those are too few."""
        router = routing.router
        if router is None:
            return None

        async def compute() -> plane.Sample | None:
            entries = await self.ledger.recent(plane.MOST)
            found = plane.sample_of_traffic(entries, routing.experts)
            if found is None:
                texts = plane.training_texts(router)
                found = await asyncio.to_thread(plane.sample_of_texts, router, texts)
            return found

        return await self._fresh(f"sample {id(routing)}", compute)

    async def _trade_off(self) -> list[Node]:
        routing = self.live.services.routing
        found = await self._drawn(routing, None)
        if found is None:
            return [element("p", _why_no_plane(routing), class_="note")]
        plot = element("div", found["drawing"], id="plane")
        side = element(
            "div",
            layout.slider(found["last"], found["position"], found["shown"]),
            element("div", id="change", role="status"),
        )
        told = element("p", f"As the router expects over {found['source']}.", class_="note")
        return [told, element("div", plot, side, class_="columns wide-left")]

    async def plane(self, request: Request) -> Response:
        """The plane, with what the setting at ``position`` would change."""
        check_admin(self.live, request)
        given = request.query_params.get("position")
        if given is not None and not (given.isdecimal() and len(given) <= 4):
            raise bad_request("position must be a whole number", "position")
        routing = self.live.services.routing
        found = await self._drawn(routing, None if given is None else int(given))
        if found is None:
            raise ApiError(404, _why_no_plane(routing), code="no_plane")
        return respond(found)

    async def _drawn(self, routing: Routing, position: int | None) -> dict[str, Any] | None:
        sample = await self._sample(routing)
        if sample is None or routing.default is None:
            return None
        return await asyncio.to_thread(_draw, sample, routing.default, position)

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
        key, secret = await create_key(self.ledger, **_key_fields(given))
        await self.gateway.accounts.refresh()
        self._log(f"key {key.name!r} ({key.prefix}…) created")
        return respond({"id": key.id, "prefix": key.prefix, "secret": secret})

    async def revoke(self, request: Request, given: dict[str, Any]) -> Response:
        """End a key, named by its id."""
        key = await revoke_key(self.ledger, _text(given, "id", ""))
        await self.gateway.accounts.refresh()
        self._log(f"key {key.name!r} ({key.prefix}…) revoked")
        return respond({"id": key.id})

    async def reset(self, request: Request, given: dict[str, Any]) -> Response:
        """Let the next request try an expert that was left alone."""
        name = _text(given, "expert", "")
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


def described(named: Named) -> str:
    """A policy in a few words."""
    worth = getattr(named.policy, "willingness_to_pay", None)
    price = f" at {number(worth)}" if worth is not None and plane.takes_price(named.policy) else ""
    several = f" ({named.composition})" if named.composition not in ("single", named.name) else ""
    return f"{named.name}{several}{price}"


def _draw(sample: plane.Sample, now: Named, position: int | None) -> dict[str, Any]:
    """The drawing, and what a position of the slider would change."""
    found = plane.plane_of(sample)
    worth = getattr(now.policy, "willingness_to_pay", math.inf)
    present = plane.position(found.prices, worth) if plane.takes_price(now.policy) else None
    last = len(found.prices) - 1
    at = min(position, last) if position is not None else last if present is None else present
    price = found.prices[at] if position is not None or present is None else worth
    if position is None:
        point = plane.point_of(sample, plane.decided(sample, now.policy))
        drawn, words = chart.drawing(found, point), []
    else:
        then = plane.priced(now, price)
        change = plane.change(sample, now.policy, then.policy)
        drawn = chart.drawing(found, change.before, change.after)
        words = chart.words(change, described(now), described(then))
    return {
        "drawing": drawn,
        "words": words,
        "position": at,
        "last": last,
        "price": None if math.isinf(price) else price,
        "shown": number(price),
        "source": f"{found.count} queries: {found.source}",
    }


def _why_no_plane(routing: Routing) -> str:
    if routing.router is None:
        return "No router is fitted, so there is nothing to trade; see coterie fit --help."
    least = plane.LEAST
    return f"There is too little traffic yet: {least} requests for auto are needed."


def _key_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a key among what the form sent; raises ApiError 400."""
    known = {"name", "team", "budget", "period", "rpm", "tpm", "concurrency", "experts", "expires"}
    if unknown := given.keys() - known:
        raise bad_request(f"no such field: {', '.join(sorted(unknown))}")
    found: dict[str, Any] = {
        "name": _text(given, "name", ""),
        "team": _text(given, "team", ""),
        "period": _text(given, "period", "total"),
    }
    found["budget"] = _quantity(given, "budget", (int, float))
    for name in ("rpm", "tpm", "concurrency"):
        found[name] = _quantity(given, name, (int,))
    names = given.get("experts") or []
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise bad_request("experts must be a list of names", "experts")
    found["experts"] = tuple(names)
    found["expires"] = _date(_text(given, "expires", ""))
    return found


def _text(given: Mapping[str, Any], name: str, default: str) -> str:
    value = given.get(name)
    if value is None:
        return default
    if not isinstance(value, str) or len(value) > 200:
        raise bad_request(f"{name} must be a text of at most 200 characters", name)
    return value.strip()


def _quantity(given: Mapping[str, Any], name: str, kinds: tuple[type, ...]) -> Any:
    value = given.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
        raise bad_request(f"{name} must be a number, got {value!r}", name)
    return value


def _date(text: str) -> float | None:
    """The end of a day in UTC."""
    if not text:
        return None
    try:
        return float(timegm(time.strptime(text, "%Y-%m-%d"))) + 86400.0
    except (ValueError, OverflowError):
        raise bad_request(
            f"expires must be a date like 2026-12-31, got {text!r}", "expires"
        ) from None
