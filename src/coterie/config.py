"""TOML to pool, router, policy and composition: the only reader of configuration.

::

    [pool]
    name = "mine"
    extract = "number"                 # whole | arrow | choice | boxed | number
    cost = "price"                     # or "parameters": active parameters x tokens
    options = { max_tokens = 256, temperature = 0.0 }

    [[expert]]
    name = "small"
    kind = "openai"                    # local | openai | module:Attr
    parameters = 7_000_000_000
    price = { prompt = 0.10, completion = 0.40 }   # per million tokens
    base_url = "http://127.0.0.1:8000/v1"          # this and what follows goes to the expert
    model = "small-7b"

    [router]
    path = "router"                    # a folder written by `coterie fit`

    [policy]
    name = "recruit"
    k = 3

    [composition]                      # the policy's own composition
    aggregator = "weighted"            # recruit: majority | weighted | expert; cascade: threshold
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import inspect
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coterie import plugins
from coterie.answers import extractor
from coterie.compositions import Composition, cascade, confident
from coterie.errors import ConfigError, CoterieError
from coterie.experts.base import Expert, Price
from coterie.policies import Policy
from coterie.pool import Pool
from coterie.types import Seed

EMBEDDED = Path(__file__).parent / "embedded" / "pool.toml"
PER_MILLION = 1e-6


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PriceTable(_Table):
    """Price per million tokens."""

    prompt: float = Field(ge=0, allow_inf_nan=False)
    completion: float = Field(ge=0, allow_inf_nan=False)


class PoolTable(_Table):
    """What the experts share."""

    name: str
    extract: Literal["whole", "arrow", "choice", "boxed", "number"] = "whole"
    cost: Literal["price", "parameters"] = "price"
    capacity: int = Field(default=1, ge=1)
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


@dataclass(frozen=True)
class Config:
    """A read configuration: objects are made from it on demand."""

    path: Path
    settings: Settings

    def pool(self) -> Pool:
        """Make the pool; raises ConfigError naming the expert and key that is wrong.

        Optional experts whose weights are not installed are left out.
        """
        table = self.settings.pool
        entries = [e for e in self.settings.expert if self._installed(e)]
        if not entries:
            message = "every expert is optional and none is installed"
            raise ConfigError(message, path=self.path, field="expert")
        return Pool(
            name=table.name,
            experts={entry.name: self._expert(entry) for entry in entries},
            parameters={e.name: e.parameters for e in entries if e.parameters},
            samples={e.name: e.sample for e in entries if e.sample},
            options=table.options,
            extract=table.extract,
            capacity=table.capacity,
            unit="USD" if table.cost == "price" else "G parameter-tokens",
        )

    def left_out(self) -> list[str]:
        """Names of optional experts that are not installed."""
        return [e.name for e in self.settings.expert if not self._installed(e)]

    def router_path(self) -> Path | None:
        """The folder of the fitted router, if the file names one."""
        router = self.settings.router
        return None if router is None else self.path.parent / router.path

    def router_kind(self) -> str | None:
        """``module:Attr`` of the user's own router, if the file names one."""
        router = self.settings.router
        return None if router is None else router.kind

    def policy(self, seed: Seed = 0) -> Policy:
        """Make the policy; ``seed`` is its seed where it takes one and the file gives none."""
        table = self.settings.policy
        settings = dict(table.model_extra or {})
        factory = _load("policies", table.name, self.path, "policy")
        if "seed" in inspect.signature(factory).parameters:
            settings.setdefault("seed", seed)
        made: Policy = self._make("policies", table.name, settings, "policy")
        return made

    def composition(self, pool: Pool) -> Composition:
        """Make the composition that the policy decides for, with its aggregator or threshold."""
        table = self.settings.composition
        decided = getattr(self.policy(), "composition", table.name or "recruit")
        if table.name not in (None, decided):
            message = f"policy {self.settings.policy.name!r} decides for {decided!r}"
            hint = f"leave the key out, or set [policy] composition = {table.name!r}"
            raise ConfigError(f"{message}; {hint}", path=self.path, field="composition.name")
        if decided == "cascade":
            return self._cascade()
        return make_composition(
            pool, decided, table.aggregator, table.aggregator_settings, path=self.path
        )

    def _cascade(self) -> Composition:
        threshold = self.settings.composition.threshold
        if threshold is None:
            message = "cascade needs one: the mean token log probability that is good enough"
            raise ConfigError(message, path=self.path, field="composition.threshold")
        return functools.partial(cascade, accept=confident(threshold))

    def _installed(self, entry: ExpertTable) -> bool:
        if not entry.optional:
            return True
        path = (entry.model_extra or {}).get("path", "")
        located = self._locate(str(path))
        return located is not None and located.exists()

    def _expert(self, entry: ExpertTable) -> Expert:
        settings = dict(entry.model_extra or {})
        where = f"expert {entry.name}"
        if "path" in settings:
            located = self._locate(str(settings["path"]))
            if located is None:
                message = f"{settings['path']!r} is in a package that is not installed"
                raise ConfigError(message, path=self.path, field=f"{where}: path")
            settings["path"] = located
        known = tuple(ExpertTable.model_fields)
        made = self._make("experts", entry.kind, {"name": entry.name, **settings}, where, known)
        if not isinstance(made, Expert):
            message = f"{entry.kind!r} makes {type(made).__name__}, expected an Expert"
            raise ConfigError(message, path=self.path, field=f"{where}: kind")
        if (price := self._price(entry)) is not None:
            made.price = price
        return made

    def _price(self, entry: ExpertTable) -> Price | None:
        """The price that the file gives, None where it leaves it to the expert."""
        if self.settings.pool.cost == "parameters":
            if entry.parameters is None:
                message = 'required because [pool] cost = "parameters"'
                raise ConfigError(message, path=self.path, field=f"expert {entry.name}: parameters")
            per_token = entry.parameters * 1e-9
            return Price(per_token, per_token)
        if entry.price is None:
            return None
        return Price(entry.price.prompt * PER_MILLION, entry.price.completion * PER_MILLION)

    def _locate(self, path: str) -> Path | None:
        """A path relative to this file; ``package:`` leads into a package. None if missing."""
        if not path.startswith("package:"):
            return self.path.parent / path
        package, _, inside = path.removeprefix("package:").partition("/")
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):  # the parent of a dotted name is missing, or no name
            return None
        if spec is None or not spec.submodule_search_locations:
            return None
        return Path(spec.submodule_search_locations[0]) / inside

    def _make(
        self,
        kind: str,
        name: str,
        settings: Mapping[str, Any],
        where: str,
        known: Sequence[str] = (),
    ) -> Any:
        factory = _load(kind, name, self.path, where)
        check_keys(factory, settings, self.path, where, known)
        return _call(factory, settings, self.path, where)


def read_config(path: str | Path) -> Config:
    """Read a configuration file; ``embedded`` names the pool that ships with Coterie."""
    file = EMBEDDED if str(path) == "embedded" else Path(path)
    try:
        data = tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", path=file) from None
    except UnicodeDecodeError:
        raise ConfigError("not UTF-8; save the file as UTF-8", path=file) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not TOML: {error}", path=file) from None
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(_explained(first), path=file, field=field) from None
    _check_names(settings, file)
    return Config(file, settings)


def make_composition(
    pool: Pool,
    name: str,
    aggregator: str | None = None,
    settings: Mapping[str, Any] | None = None,
    path: Path | None = None,
) -> Composition:
    """The composition called ``name`` over ``pool``, merging with ``aggregator``.

    Without one, a composition that merges lets the majority of the extracted answers decide.
    Raises ConfigError for settings that do not fit.
    """
    found = _load("compositions", name, path, "composition")
    if "aggregator" not in _parameters(found, path, "composition"):
        if aggregator is not None:
            message = f"the composition {name!r} merges nothing; leave the key out"
            raise ConfigError(message, path=path, field="composition: aggregator")
        composition: Composition = found
        return composition
    where = f"aggregator {aggregator or 'majority'}"
    factory = _load("aggregators", aggregator or "majority", path, where)
    given = _aggregator_settings(pool, factory, settings or {}, path, where)
    return functools.partial(found, aggregator=_call(factory, given, path, where))


def _aggregator_settings(
    pool: Pool, factory: Any, settings: Mapping[str, Any], path: Path | None, where: str
) -> dict[str, Any]:
    """The settings with the pool's extractor for one that reads answers."""
    given = dict(settings)
    if "extract" in _parameters(factory, path, where):
        given["extract"] = given.get("extract", pool.extract)
        if isinstance(given["extract"], str):
            given["extract"] = _call(extractor, {"name": given["extract"]}, path, where)
    check_keys(factory, given, path, where)
    if "expert" in given and given["expert"] not in pool.experts:
        message = f"no expert {given['expert']!r} in the pool; there are {', '.join(pool.experts)}"
        raise ConfigError(message, path=path, field=f"{where}: expert")
    return given


def check_keys(
    factory: Any,
    settings: Mapping[str, Any],
    path: Path | None,
    where: str,
    known: Sequence[str] = (),
) -> None:
    """Raise ConfigError where ``factory`` has no parameter of a key's name or misses one.

    ``known`` are further keys to suggest, which others than ``factory`` read.
    """
    parameters = _parameters(factory, path, where)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {k: p for k, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    for key in settings:
        if key not in named and not open_ended:
            hint = _hint(key, list(dict.fromkeys([*named, *known])))
            raise ConfigError(f"unknown key; {hint}", path=path, field=f"{where}: {key}")
    for key, parameter in named.items():
        if parameter.default is inspect.Parameter.empty and key not in settings:
            raise ConfigError("the key is missing", path=path, field=f"{where}: {key}")


def _parameters(factory: Any, path: Path | None, where: str) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):
        message = f"{factory!r} cannot be called with settings"
        raise ConfigError(message, path=path, field=where) from None


def _load(kind: str, name: str, path: Path | None, where: str) -> Any:
    """A plug-in that a local user named; raises ConfigError where there is none."""
    try:
        return plugins.load(kind, name, allow_import=True)
    except CoterieError as error:
        raise ConfigError(str(error), path=path, field=where) from None


def _call(factory: Any, settings: Mapping[str, Any], path: Path | None, where: str) -> Any:
    """``factory(**settings)``; raises ConfigError where it refuses them."""
    try:
        return factory(**settings)
    except (TypeError, ValueError, AttributeError, OverflowError, CoterieError) as error:
        raise ConfigError(str(error), path=path, field=where) from None


def _hint(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def _explained(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors in our words."""
    if error["type"] == "missing":
        return "the key is missing"
    if error["type"] != "extra_forbidden":
        return f"{error['msg']}, got {str(error['input'])[:60]!r}"
    *tables, key = (part for part in error["loc"] if isinstance(part, str))
    table = TABLES.get(tables[-1] if tables else "", Settings)
    return f"unknown key; {_hint(key, list(table.model_fields))}"


def _check_names(settings: Settings, path: Path) -> None:
    seen: set[str] = set()
    for entry in settings.expert:
        if entry.name in seen:
            message = f"two experts are called {entry.name!r}; names must differ"
            raise ConfigError(message, path=path, field="expert.name")
        seen.add(entry.name)
