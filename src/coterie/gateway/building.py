"""From a pool file to a gateway: the parts put together, and put together again on reload."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from coterie import plugins
from coterie.compositions import cascade, confident
from coterie.config import PER_MILLION, Config, make_composition, read_config
from coterie.errors import ConfigError, CoterieError
from coterie.experts.openai import OpenAIExpert
from coterie.experts.sizes import parse_bytes
from coterie.gateway.app import Live
from coterie.gateway.asked import Asked
from coterie.gateway.attempts import AttemptOptions, Attempts
from coterie.gateway.conversations import compositions_of
from coterie.gateway.drift import DriftMonitor, training_vectors
from coterie.gateway.eligibility import ALL, Profile
from coterie.gateway.entries import Entry, Tokens
from coterie.gateway.exporting import note_encoder
from coterie.gateway.guard import Doors, check_address, is_loopback
from coterie.gateway.ledger import Ledger, open_ledger
from coterie.gateway.locals import LocalUpstream, StagedUpstream
from coterie.gateway.metering import Meters
from coterie.gateway.observing import Memory, Observing
from coterie.gateway.outages import Outages
from coterie.gateway.prices import FREE, Prices, Rates
from coterie.gateway.replies import Timeouts, Upstream
from coterie.gateway.routing import Named, Routing
from coterie.gateway.services import Limits, Services
from coterie.gateway.sessions import Sessions
from coterie.gateway.shadow import Shadow
from coterie.gateway.staging import Staging
from coterie.gateway.tariffs import Tariffs
from coterie.gateway.upstream import HttpUpstream
from coterie.gateway.usage import answers_made
from coterie.policies import Budget
from coterie.pool import Pool
from coterie.records import Records
from coterie.routers.base import Router, load_router
from coterie.settings import ExpertTable, GatewayTable

if TYPE_CHECKING:
    from coterie.gateway.accounts import Accounts
    from coterie.gateway.tracing import Tracing

ACCESS = (  # fields of an entry that the access log prints
    "id", "time", "key", "path", "asked", "policy", "composition", "expert", "status", "error",
    "stream", "tokens", "cost", "latency", "first_token", "overhead",
)  # fmt: skip


@dataclass
class Gateway:
    """A gateway that can serve: ``live`` is what requests see, the rest starts and stops it."""

    path: str
    config: Config
    pool: Pool
    live: Live
    ledger: Ledger
    accounts: Accounts
    staging: Staging
    router_folder: Path | None = None
    router_kind: str | None = None
    loaded: float = field(default_factory=time.time)
    changes: Mapping[str, Any] = field(default_factory=dict)  # of [gateway], by the command
    store: str = ""  # where keys and log are
    trouble: str = ""  # why the last reload was refused
    _reloading: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def settings(self) -> GatewayTable:
        """[gateway] of the pool file."""
        return self.config.settings.gateway

    def facts(self) -> dict[str, Any]:
        """What readiness and the dashboard say of the router and the pool."""
        router = self.live.services.routing.router
        facts: dict[str, Any] = {"pool": self.pool.name, "experts": len(self.pool.experts)}
        if router is not None:
            facts["router"] = {"kind": router.name, "fingerprint": router.fingerprint()}
            folder = self.router_folder or self.config.router_path()
            if folder is not None:
                facts["router"]["fitted"] = _date(folder.stat().st_mtime)
        return facts

    async def reload(self) -> None:
        """Read the pool file and the router again; raises CoterieError and keeps what runs.

        Requests under way end as they began. Local experts stay in memory unless the pool changed.
        """
        async with self._reloading:
            await self._reload()

    async def _reload(self) -> None:
        before = self.live.services
        try:
            config, after = await asyncio.to_thread(self._read_again, before)
            doors = Doors(config.settings.gateway.host, *_names(config))
            most = parse_bytes(config.settings.gateway.max_body)
        except Exception as error:
            self.trouble = str(error)
            raise
        before.routing.observing.close()
        if after.upstreams is not before.upstreams:
            self.live.retiring.retire(before.upstreams, before.meters.in_flight)
        self.config, self.live.services = config, after
        self.live.doors, self.live.max_body = doors, most
        self.live.heartbeat = config.settings.gateway.heartbeat
        self.live.most_choices = config.settings.gateway.max_choices
        self.loaded, self.trouble = time.time(), ""
        await self.start()

    def _read_again(self, before: Services) -> tuple[Config, Services]:
        """What the file says now; reads files and looks up names, so not in the event loop."""
        config = changed(read_config(self.path), self.changes)
        _check_same(self.config, config)
        router = load_router_of(config, self.router_folder, self.router_kind)
        return config, services_of(config, self.pool, router, self.staging, before)

    async def start(self) -> None:
        """Tell the store who makes the vectors from now on, and how long conversations last."""
        self.ledger.session_seconds = self.settings.sessions.seconds
        fingerprint = self.live.services.routing.observing.memory.fingerprint
        await note_encoder(self.ledger, fingerprint, time.time())

    async def close(self) -> None:
        """Give everything back: leases, connections, local experts, the store."""
        self.live.services.routing.observing.close()
        if (tracing := self.live.services.tracing) is not None:
            tracing.close()
        await self.accounts.close()
        await self.live.retiring.close()
        for upstream in self.live.services.upstreams.values():
            await upstream.close()
        await self.staging.close()
        await self.pool.close()
        self.ledger.close()


def build(path: str, router: Path | None, kind: str | None, **changes: Any) -> Gateway:
    """The gateway that a pool file describes; ``changes`` replace keys of [gateway].

    Raises CoterieError where anything in it cannot be served: nothing runs half.
    """
    from coterie.gateway.accounts import Accounts

    config = changed(read_config(path), changes)
    settings, pool = config.settings.gateway, config.pool()
    fitted = load_router_of(config, router, kind)
    staging = Staging(pool, settings.residency.patience, settings.residency.pin)
    store = settings.store
    if "://" not in store and path != "embedded" and "store" not in changes:
        store = str(config.path.parent / store)
    ledger = open_ledger(store)
    accounts = Accounts(ledger, outage=settings.store_outage, keys=settings.keys)
    try:
        services = services_of(config, pool, fitted, staging, None, accounts, ledger)
    except BaseException:
        ledger.close()
        raise
    doors = Doors(settings.host, *_names(config))
    live = Live(
        services,
        doors,
        loopback=is_loopback(settings.host),
        max_body=parse_bytes(settings.max_body),
        heartbeat=settings.heartbeat,
        most_choices=settings.max_choices,
        accepting=lambda: ledger.accepting,
    )
    gateway = Gateway(path, config, pool, live, ledger, accounts, staging, router, kind)
    gateway.changes, gateway.store = changes, store
    _add_gauges(services.meters, gateway)
    return gateway


def _names(config: Config) -> tuple[list[str], list[str]]:
    settings = config.settings.gateway
    return settings.hosts, settings.origins


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """The configuration with other values of [gateway]."""
    table = config.settings.gateway.model_copy(update=dict(changes))
    return Config(config.path, config.settings.model_copy(update={"gateway": table}))


def services_of(
    config: Config,
    pool: Pool,
    router: Router | None,
    staging: Staging,
    before: Services | None,
    accounts: Accounts | None = None,
    ledger: Ledger | None = None,
) -> Services:
    """The parts that requests share; counts, breakers and conversations are those of ``before``."""
    settings = config.settings.gateway
    meters = Meters() if before is None else before.meters
    sessions = Sessions(settings.sessions.seconds, ledger)
    compositions = _compositions(config, pool)
    tariffs = _tariffs(config)
    services = Services(
        routing=_routing(config, pool, router, staging, compositions, meters, tariffs),
        upstreams=_upstreams(config, pool, staging, before),
        attempts=Attempts() if before is None else before.attempts,
        accounts=accounts if before is None else before.accounts,  # type: ignore[arg-type]
        prices=tariffs,
        log=ledger if before is None else before.log,  # type: ignore[arg-type]
        meters=meters,
        sessions=None if not settings.sessions.sticky else sessions,
        limits=Limits(settings.timeouts.total, settings.max_tokens, settings.log_content),
        options=AttemptOptions(
            retries=settings.retries,
            midstream=settings.mid_stream,
            hedge=settings.hedge,
            refusals=settings.refusals == "next",
        ),
        tracing=_tracing(settings, before),
        access=_printed if settings.access_log else None,
        compositions=compositions,
        upstreams_of=(settings.timeouts, settings.private_addresses),
    )
    if before is not None and before.sessions is not None and services.sessions is not None:
        services.sessions = before.sessions
        services.sessions.seconds = settings.sessions.seconds
    return services


def load_router_of(config: Config, folder: Path | None, kind: str | None) -> Router | None:
    """The fitted router, None where neither the pool file nor the command names one."""
    path = folder or config.router_path()
    if path is None:
        return None
    kind = kind or config.router_kind()
    if kind is None:
        return load_router(path)
    loaded: Router = plugins.load("routers", kind, allow_import=True).load(path)
    return loaded


def _routing(
    config: Config,
    pool: Pool,
    router: Router | None,
    staging: Staging,
    compositions: Mapping[str, Any],
    meters: Meters,
    tariffs: Tariffs,
) -> Routing:
    settings = config.settings.gateway
    profiles = {e.name: _profile(config, e, tariffs) for e in _entries(config, pool)}
    default = None
    if router is not None:
        default = _named(config, config.settings.policy.name, config)
    policies = {name: _named(config, name, _with(config, name)) for name in settings.policies}
    backends = {name: expert.backend for name, expert in pool.experts.items() if expert.size}

    def loads() -> frozenset[str]:
        missing = staging.missing()
        return frozenset(name for name, backend in backends.items() if backend in missing)

    def price(name: str, asked: Asked) -> float:
        bound = settings.max_tokens if asked.answer_tokens is None else asked.answer_tokens
        answer = 0 if "embeddings" in asked.needs else bound * answers_made(asked.fields)
        return tariffs.expected(name, Tokens(asked.prompt_tokens, answer))

    return Routing(
        profiles,
        router,
        default,
        price=price,
        policies=policies,
        compositions=compositions,
        explore=settings.explore,
        stay_margin=settings.sessions.margin,
        load_margin=settings.residency.margin,
        latency=meters.expert_latency,
        loads=loads,
        observing=_observing(config, router),
        refuge=None if settings.drift is None else settings.drift.fallback,
    )


def routing_alone(config: Config, router: Router | None) -> Routing:
    """How a pool file routes, without a server around it."""
    pool = config.pool()
    compositions, tariffs = _compositions(config, pool), _tariffs(config)
    return _routing(config, pool, router, Staging(pool), compositions, Meters(), tariffs)


def _with(config: Config, name: str) -> Config:
    table = config.settings.gateway.policies[name]
    return Config(config.path, config.settings.model_copy(update={"policy": table}))


def _named(config: Config, name: str, source: Config) -> Named:
    """A policy that can decide one query at a time."""
    policy = source.policy()
    if _batched(policy):
        message = "looks at whole batches; take 'utility' with the willingness to pay it prints"
        raise ConfigError(message, path=config.path, field=f"policy {name}")
    return Named(name, policy, str(getattr(policy, "composition", "single")))


def _batched(policy: Any) -> bool:
    """Whether the policy, or one inside it, looks at whole batches."""
    while policy is not None and not isinstance(policy, Budget):
        policy = getattr(policy, "policy", None)
    return policy is not None


def _profile(config: Config, entry: ExpertTable, tariffs: Tariffs) -> Profile:
    remote = entry.kind in ("openai", "vllm")
    given = entry.capabilities
    able = (ALL if remote else frozenset()) if given is None else frozenset(map(str, given))
    return Profile(
        entry.name,
        able,
        entry.context_length or (entry.model_extra or {}).get("context"),
        frozenset(entry.tags),
        entry.region,
        tariffs.prefix_saving(entry.name),
    )


def _entries(config: Config, pool: Pool) -> list[ExpertTable]:
    return [entry for entry in config.settings.expert if entry.name in pool.experts]


def _upstreams(
    config: Config, pool: Pool, staging: Staging, before: Services | None = None
) -> Mapping[str, Upstream]:
    """The experts as the gateway asks them; those of ``before`` where nothing changed."""
    settings = config.settings.gateway
    given = settings.timeouts, settings.private_addresses
    if before is not None and before.upstreams_of == given:
        return before.upstreams
    private = settings.private_addresses
    if private is None:
        private = is_loopback(settings.host)
    lengths = {entry.name: entry.context_length for entry in config.settings.expert}
    made: dict[str, Upstream] = {}
    for name, expert in pool.experts.items():
        if isinstance(expert, OpenAIExpert):
            where = f"expert {name}: base_url"
            check_address(expert.base_url, private, where, str(config.path))
            made[name] = _remote(expert, settings, staging, private, lengths.get(name))
        else:
            made[name] = LocalUpstream(expert, staging, pool.options, lengths.get(name))
    return made


def _remote(
    expert: OpenAIExpert,
    settings: GatewayTable,
    staging: Staging,
    private: bool,
    length: int | None,
) -> Upstream:
    seconds = settings.timeouts
    timeouts = Timeouts(seconds.connect, seconds.first, seconds.stall, seconds.total)
    upstream = HttpUpstream(expert, timeouts, length, private=private)
    return StagedUpstream(upstream, expert, staging) if expert.size else upstream


def _tariffs(config: Config) -> Tariffs:
    """Prices of the pool file, then overrides of [gateway.prices], then published ones."""
    settings, fixed = config.settings.gateway, {}
    models: dict[str, tuple[str, str]] = {}
    for entry in config.settings.expert:
        extra = entry.model_extra or {}
        if config.settings.pool.cost == "parameters":
            per_token = (entry.parameters or 0) * 1e-9
            fixed[entry.name] = Rates(per_token, per_token)
        elif entry.price is not None:
            price = entry.price
            fixed[entry.name] = _rates(price.prompt, price.completion, None, None)
        elif "base_url" in extra:
            models[entry.name] = str(extra.get("model", "")), str(extra["base_url"])
        else:
            fixed[entry.name] = FREE
    for name, rates in settings.prices.items():
        fixed[name] = _rates(rates.prompt, rates.completion, rates.cached, rates.reasoning)
    return Tariffs(Prices(fixed, settings.unknown_price), models)


def _rates(
    prompt: float, completion: float, cached: float | None, reasoning: float | None
) -> Rates:
    """Rates a token from prices a million."""
    return Rates(
        prompt * PER_MILLION,
        completion * PER_MILLION,
        None if cached is None else cached * PER_MILLION,
        None if reasoning is None else reasoning * PER_MILLION,
    )


def _compositions(config: Config, pool: Pool) -> dict[str, Any]:
    """Every registered composition that can be made without settings, and the pool file's own."""
    made: dict[str, Any] = {}
    if (threshold := config.settings.composition.threshold) is not None:
        made["cascade"] = partial(cascade, accept=confident(threshold))
    for name in plugins.names("compositions"):
        if name == "cascade":
            continue  # without a threshold it is the cheapest expert alone
        try:
            made[name] = make_composition(pool, name)
        except CoterieError:
            continue  # it needs settings, so it has to be the pool file's own
    own = str(getattr(config.policy(), "composition", "single"))
    if own != "single":
        made[own] = config.composition(pool)
    return compositions_of(made)


def _observing(config: Config, router: Router | None) -> Observing:
    """What watches the traffic, as far as the pool file asks for it."""
    settings, memory = config.settings.gateway, Memory(router)
    monitor = None if router is None else _monitor(config, router, memory)
    shadow = None
    if settings.shadow is not None:
        other = load_router(config.path.parent / settings.shadow)
        shadow = Shadow(other, config.policy())
    return Observing(memory, monitor, shadow, settings.log_vectors)


def _monitor(config: Config, router: Router, memory: Memory) -> DriftMonitor | None:
    table = config.settings.gateway.drift
    if table is None:
        return None
    if table.records is not None:
        queries = Records.read(config.path.parent / table.records).queries
        known = [memory.vector(query.text) for query in queries]
        found = [vector for vector in known if vector is not None]
        vectors = np.array(found) if found else None
    else:
        vectors = training_vectors(router)
    if table.fallback is not None and table.fallback not in config.pool().experts:
        message = f"no expert {table.fallback!r}; there are {', '.join(config.pool().experts)}"
        raise ConfigError(message, path=config.path, field="gateway.drift.fallback")
    if vectors is None or memory.fingerprint == "":
        message = f"the {router.name} router keeps no vectors of its records; name their folder"
        raise ConfigError(message, path=config.path, field="gateway.drift.records")
    return DriftMonitor.fit(vectors, encoder=memory.fingerprint, fallback=table.fallback or "")


def _tracing(settings: GatewayTable, before: Services | None) -> Tracing | None:
    if not settings.tracing:
        return None
    from coterie.gateway.tracing import Tracing

    return before.tracing if before is not None and before.tracing is not None else Tracing()


def _printed(entry: Entry) -> None:
    """One line a request on standard error: what the log has, without texts and vectors."""
    facts = {name: getattr(entry, name) for name in ACCESS}
    print(msgspec.json.encode(facts).decode(), file=sys.stderr)


def _check_same(before: Config, after: Config) -> None:
    """Raise ConfigError where the change needs a restart."""
    kept = ("host", "port", "store", "keys", "store_outage", "drain", "residency")
    for name in kept:
        if getattr(before.settings.gateway, name) != getattr(after.settings.gateway, name):
            raise ConfigError("a change here needs a restart", path=after.path, field=name)
    if before.settings.pool != after.settings.pool:
        raise ConfigError("a change here needs a restart", path=after.path, field="pool")
    old = {entry.name: entry for entry in before.settings.expert}
    for entry in after.settings.expert:
        if entry != old.pop(entry.name, entry) or entry.name not in {
            one.name for one in before.settings.expert
        }:
            raise ConfigError("a change here needs a restart", path=after.path, field=entry.name)
    if old:
        raise ConfigError(f"{', '.join(old)} cannot leave without a restart", path=after.path)


def _add_gauges(meters: Meters, gateway: Gateway) -> None:
    def resident() -> dict[tuple[str, ...], float]:
        held = set(gateway.staging.state().resident)
        local = [e for e in gateway.pool.experts.values() if e.size]
        return {(e.name,): float(e.backend in held) for e in local}

    def waiting() -> dict[tuple[str, ...], float]:
        return {(name,): float(n) for name, n in gateway.staging.state().waiting.items()}

    def breakers() -> dict[tuple[str, ...], float]:
        known = gateway.live.services.attempts.deployments.items()
        return {(name,): float(one.breaker.state != "closed") for name, one in known}

    meters.gauges |= {
        "expert_resident": resident,
        "expert_waiting": waiting,
        "loads": lambda: {(): float(gateway.staging.loads)},
        "breaker_open": breakers,
        "log_waiting": lambda: {(): float(gateway.ledger.waiting)},
    }


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def outages_of(gateway: Gateway) -> Outages:
    """What this gateway and the others on its store tell each other."""
    return Outages(
        gateway.live.services.attempts,
        gateway.ledger,
        gateway.accounts.holder,
        lambda: gateway.live.services.upstreams.values(),
    )
