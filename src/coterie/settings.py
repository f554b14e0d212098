"""The tables of a configuration file: names, types and defaults of the keys, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Capability = Literal[
    "tools", "vision", "audio", "json_schema", "logprobs", "prefix", "embeddings", "responses"
]

# It goes into headers of responses and into the gateway's log, so without control characters.
Name = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PriceTable(_Table):
    """Price per million tokens."""

    prompt: float = Field(ge=0, allow_inf_nan=False)
    completion: float = Field(ge=0, allow_inf_nan=False)


class PoolTable(_Table):
    """What the experts share.

    ``memory`` (of the device) and ``host_memory`` are bytes or texts such as ``"14 GB"``;
    ``capacity`` counts experts instead.
    """

    name: str
    extract: Literal["whole", "arrow", "choice", "boxed", "number"] = "whole"
    cost: Literal["price", "parameters"] = "price"
    capacity: int | None = Field(default=None, ge=1)
    memory: Any = None
    host_memory: Any = None
    eviction: Literal["look-ahead", "cost-aware", "lru", "lfu"] = "look-ahead"
    options: dict[str, Any] = {}


class ExpertTable(BaseModel):
    """One expert; keys not named here go to the expert's constructor.

    ``capabilities``, ``context_length`` (tokens of prompt and answer together), ``tags`` and
    ``region`` are what requests to the gateway may ask for. A remote expert that declares no
    capabilities is taken to have them all, a local one to have none.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    name: Name
    kind: str
    parameters: int | None = Field(default=None, gt=0, lt=10**15)
    price: PriceTable | None = None
    sample: int | None = Field(default=None, gt=0)
    optional: bool = False
    capabilities: list[Capability] | None = None
    context_length: int | None = Field(default=None, gt=0)
    tags: list[str] = []
    region: str | None = None


class RouterTable(_Table):
    """Where the fitted router is, relative to the pool file."""

    path: str
    kind: str | None = None


class PolicyTable(BaseModel):
    """A policy and its settings."""

    model_config = ConfigDict(extra="allow", strict=True)
    name: str = "recruit"


class CompositionTable(_Table):
    """A composition (the policy's own by default) and how answers are merged or accepted.

    ``threshold`` is for ``cascade``: the mean token log probability that is good enough.
    ``settings`` go to the composition itself.
    """

    name: str | None = None
    threshold: float | None = None
    settings: dict[str, Any] = {}
    aggregator: str | None = None
    aggregator_settings: dict[str, Any] = {}


class PriceRates(_Table):
    """Price per million tokens where it differs from the pool file's ``price``."""

    prompt: float = Field(ge=0, allow_inf_nan=False)
    completion: float = Field(ge=0, allow_inf_nan=False)
    cached: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    reasoning: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class TimeoutTable(_Table):
    """Seconds: to connect, until the first content, between two events, and over all attempts."""

    connect: float = Field(default=10.0, gt=0)
    first: float = Field(default=60.0, gt=0)
    stall: float = Field(default=30.0, gt=0)
    total: float = Field(default=600.0, gt=0)


class SessionTable(_Table):
    """When a conversation changes its expert.

    It stays with its expert unless the gain in utility exceeds what the lost prompt cache costs,
    and the gain in expected quality exceeds ``margin``.
    """

    sticky: bool = True
    margin: float = Field(default=0.02, ge=0, le=1)
    seconds: float = Field(default=3600.0, gt=0)


class ResidencyTable(_Table):
    """Local experts: what loading one is worth, and how long nobody waits.

    ``margin`` is the expected quality that must be gained for an expert that is not in memory to be
    chosen; ``patience`` the seconds after which a waiting request's expert is loaded next.
    """

    margin: float = Field(default=0.0, ge=0, le=1)
    patience: float = Field(default=10.0, gt=0)
    pin: list[str] = []


class DriftTable(_Table):
    """An alarm where the traffic leaves the records' region.

    Its measure is learnt from the queries of ``records`` (a folder relative to the pool file), or
    from what the router keeps of its own. While it rings, "auto" asks ``fallback``, an expert.
    """

    records: str | None = None
    fallback: str | None = None


class GatewayTable(_Table):
    """How the pool is served by ``coterie serve``.

    ``keys``: a virtual key is required always, never, or as soon as one exists ("auto").
    ``hosts`` are further names under which the gateway may be addressed. ``hedge`` asks the next
    expert as well after so many seconds without content, for a tenth of the requests at most.
    ``shadow`` is the folder of a second router that decides without being heard; ``access_log``
    prints a JSON line a request to standard error.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    hosts: list[str] = []
    origins: list[str] = []
    store: str = "gateway.sqlite"
    store_outage: Literal["closed", "open"] = "closed"
    keys: Literal["auto", "required", "off"] = "auto"
    private_addresses: bool | None = None
    log_content: bool = False
    max_body: Any = "20 MB"
    max_tokens: int = Field(default=4096, ge=1)
    max_choices: int = Field(default=8, ge=1)
    retries: int = Field(default=2, ge=0, le=10)
    mid_stream: Literal["error", "restart"] = "error"
    refusals: Literal["keep", "next"] = "keep"
    heartbeat: float = Field(default=15.0, ge=0)
    drain: float = Field(default=30.0, ge=0)
    unknown_price: Literal["deny", "free"] = "deny"
    explore: float = Field(default=0.0, ge=0, le=1)
    shadow: str | None = None
    drift: DriftTable | None = None
    log_vectors: bool = True
    access_log: bool = False
    tracing: bool = False
    timeouts: TimeoutTable = TimeoutTable()
    sessions: SessionTable = SessionTable()
    residency: ResidencyTable = ResidencyTable()
    hedge: float | None = Field(default=None, gt=0)
    prices: dict[str, PriceRates] = {}
    policies: dict[Name, PolicyTable] = {}


class Settings(_Table):
    """A whole configuration file."""

    pool: PoolTable
    expert: list[ExpertTable] = Field(min_length=1)
    router: RouterTable | None = None
    policy: PolicyTable = PolicyTable()
    composition: CompositionTable = CompositionTable()
    gateway: GatewayTable = GatewayTable()


TABLES: Mapping[str, type[BaseModel]] = {
    "pool": PoolTable,
    "price": PriceTable,
    "router": RouterTable,
    "composition": CompositionTable,
    "gateway": GatewayTable,
    "timeouts": TimeoutTable,
    "sessions": SessionTable,
    "residency": ResidencyTable,
    "drift": DriftTable,
}
