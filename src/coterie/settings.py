"""The tables of a configuration file: names, types and defaults of the keys, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


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
    """One expert; keys not named here go to the expert's constructor."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: str = Field(min_length=1)
    kind: str
    parameters: int | None = Field(default=None, gt=0, lt=10**15)
    price: PriceTable | None = None
    sample: int | None = Field(default=None, gt=0)
    optional: bool = False


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
    """

    name: str | None = None
    threshold: float | None = None
    aggregator: str | None = None
    aggregator_settings: dict[str, Any] = {}


class Settings(_Table):
    """A whole configuration file."""

    pool: PoolTable
    expert: list[ExpertTable] = Field(min_length=1)
    router: RouterTable | None = None
    policy: PolicyTable = PolicyTable()
    composition: CompositionTable = CompositionTable()


TABLES: Mapping[str, type[BaseModel]] = {
    "pool": PoolTable,
    "price": PriceTable,
    "router": RouterTable,
    "composition": CompositionTable,
}
