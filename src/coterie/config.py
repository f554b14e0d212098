"""TOML to pool, router, policy and composition: the only reader of configuration.

::

    [pool]
    name = "mine"
    extract = "number"                 # whole | arrow | choice | boxed | number
    cost = "price"                     # or "parameters": active parameters x tokens
    options = { max_tokens = 256, temperature = 0.0 }
    memory = "24 GB"                   # of the device; or capacity = 2: experts at a time (1)
    host_memory = "64 GB"              # where weights wait for their next use (none)
    eviction = "look-ahead"            # or "cost-aware", "lru", "lfu": who leaves first

    [[expert]]
    name = "small"
    kind = "openai"                    # local | openai | vllm | mode | module:Attr
    parameters = 7_000_000_000
    price = { prompt = 0.10, completion = 0.40 }   # per million tokens
    base_url = "http://127.0.0.1:8000/v1"          # this and what follows goes to the expert
    model = "small-7b"

    [[expert]]
    name = "small-thinking"
    kind = "mode"                      # the same weights in another way
    backend = "small"
    options = { reasoning_effort = "high", max_tokens = 4096 }

    [router]
    path = "router"                    # a folder written by `coterie fit`

    [policy]
    name = "recruit"
    k = 3

    [composition]                      # the policy's own composition
    aggregator = "weighted"            # recruit: majority | weighted | expert; cascade: threshold
    settings = {}                      # what other compositions take
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import inspect
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from coterie import plugins
from coterie.answers import extractor
from coterie.compositions import Composition, bound, cascade, confident
from coterie.errors import ConfigError, CoterieError, InputError
from coterie.experts.base import Expert, Price
from coterie.experts.modes import ModeExpert
from coterie.experts.sizes import parse_bytes
from coterie.policies import Policy
from coterie.pool import Pool
from coterie.settings import TABLES, ExpertTable, PoolTable, Settings
from coterie.types import Seed

EMBEDDED = Path(__file__).parent / "embedded" / "pool.toml"
PER_MILLION = 1e-6
FOLDERS = ("scorer", "gate")  # settings of compositions that name an artifact


@dataclass(frozen=True)
class Config:
    """A read configuration: objects are made from it on demand."""

    path: Path
    settings: Settings

    def pool(self) -> Pool:
        """Make the pool; raises ConfigError naming the expert and key that is wrong.

        Optional experts whose weights are not installed are left out, and modes of them.
        """
        table = self.settings.pool
        entries = [e for e in self.settings.expert if self._installed(e)]
        if not entries:
            message = "every expert is optional and none is installed"
            raise ConfigError(message, path=self.path, field="expert")
        experts = self._experts(entries)
        whole = {e.name: self._with_backend(e) for e in entries}
        return Pool(
            name=table.name,
            experts={entry.name: experts[entry.name] for entry in entries},
            parameters={name: e.parameters for name, e in whole.items() if e.parameters},
            samples={name: e.sample for name, e in whole.items() if e.sample},
            options=table.options,
            extract=table.extract,
            capacity=table.capacity or 1,
            memory=None if table.memory is None else parse_bytes(table.memory),
            host_memory=0 if table.host_memory is None else parse_bytes(table.host_memory),
            eviction=table.eviction,
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
        return self._policy(table.name, table.model_extra or {}, seed)

    def _policy(self, name: str, given: Mapping[str, Any], seed: Seed) -> Policy:
        settings = dict(given)
        factory = _load("policies", name, self.path, "policy")
        if "seed" in inspect.signature(factory).parameters:
            settings.setdefault("seed", seed)
        if "traits" in inspect.signature(factory).parameters:
            settings["traits"] = self._traits(settings.get("traits", {}))
        if isinstance(inner := settings.get("policy"), Mapping):  # one policy inside another
            rest = {key: value for key, value in inner.items() if key != "name"}
            settings["policy"] = self._policy(str(inner.get("name", "utility")), rest, seed)
        made: Policy = self._make("policies", name, settings, "policy")
        return made

    def _traits(self, given: Any) -> Any:
        """What the file says of every expert: ``size`` in billions, ``price``; and ``given``."""
        if not isinstance(given, Mapping):
            return given
        known: dict[str, dict[str, Any]] = {e.name: {} for e in self.settings.expert}
        for entry in map(self._with_backend, self.settings.expert):
            if entry.parameters:
                known[entry.name]["size"] = entry.parameters * 1e-9
            if entry.price:
                known[entry.name]["price"] = entry.price.completion
        return known | {name: known.get(name, {}) | dict(own) for name, own in given.items()}

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
            pool,
            decided,
            table.aggregator,
            table.aggregator_settings,
            path=self.path,
            own=table.settings,
        )

    def _cascade(self) -> Composition:
        threshold = self.settings.composition.threshold
        if threshold is None:
            message = "cascade needs one: the mean token log probability that is good enough"
            raise ConfigError(message, path=self.path, field="composition.threshold")
        return functools.partial(cascade, accept=confident(threshold))

    def _installed(self, entry: ExpertTable) -> bool:
        backend = self._backend_of(entry)
        if backend is not None and not self._installed(backend):
            return False
        if not entry.optional or backend is not None:
            return True
        path = (entry.model_extra or {}).get("path", "")
        located = self._locate(str(path))
        return located is not None and located.exists()

    def _backend_of(self, entry: ExpertTable) -> ExpertTable | None:
        """The entry that a mode is a mode of; None for others, and where there is no such entry."""
        name = (entry.model_extra or {}).get("backend")
        if name is None or not self._is_mode(entry):
            return None
        others = (e for e in self.settings.expert if e.name == name and not self._is_mode(e))
        return next(others, None)

    def _with_backend(self, entry: ExpertTable) -> ExpertTable:
        """The entry, for a mode with its backend's parameters and sample where it has none."""
        backend = self._backend_of(entry)
        if backend is None:
            return entry
        parameters, sample = entry.parameters or backend.parameters, entry.sample or backend.sample
        return entry.model_copy(update={"parameters": parameters, "sample": sample})

    def _is_mode(self, entry: ExpertTable) -> bool:
        factory = _load("experts", entry.kind, self.path, f"expert {entry.name}")
        return isinstance(factory, type) and issubclass(factory, ModeExpert)

    def _experts(self, entries: Sequence[ExpertTable]) -> dict[str, Expert]:
        """Experts by name; modes are made when all others are there to be their backends."""
        made: dict[str, Expert] = {}
        for entry in sorted(entries, key=self._is_mode):
            made[entry.name] = self._expert(entry, made)
        return made

    def _expert(self, entry: ExpertTable, others: Mapping[str, Expert]) -> Expert:
        settings = dict(entry.model_extra or {})
        where = f"expert {entry.name}"
        if self._is_mode(entry):
            settings = self._mode(settings, others, where)
        elif "path" in settings:
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
        if (price := self._price(self._with_backend(entry))) is not None:
            made.price = price
        return made

    def _mode(
        self, settings: Mapping[str, Any], others: Mapping[str, Expert], where: str
    ) -> dict[str, Any]:
        """The settings of a mode with its backend and extractor, which the file only names."""
        given = {"extract": self.settings.pool.extract, **settings}
        given["extract"] = _call(extractor, {"name": given["extract"]}, self.path, where)
        if "backend" not in given:
            return given
        candidates = [name for name, other in others.items() if not isinstance(other, ModeExpert)]
        if (name := given["backend"]) not in candidates:
            message = f"expected another expert that is no mode itself, got {name!r}"
            message = f"{message}; {_hint(str(name), candidates)}"
            raise ConfigError(message, path=self.path, field=f"{where}: backend")
        given["backend"] = others[name]
        return given

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
    _check_memory(settings.pool, file)
    _check_gateway(settings, file)
    return Config(file, settings)


def make_composition(
    pool: Pool,
    name: str,
    aggregator: str | None = None,
    settings: Mapping[str, Any] | None = None,
    path: Path | None = None,
    own: Mapping[str, Any] | None = None,
) -> Composition:
    """The composition called ``name`` over ``pool``, merging with ``aggregator``.

    Without one, a composition that merges lets the majority of the extracted answers decide.
    ``settings`` are the aggregator's, ``own`` the composition's. Raises ConfigError for settings
    that do not fit.
    """
    found = _load("compositions", name, path, "composition")
    # Of a function the first three arguments are the drivers', the others settings.
    factory = found if isinstance(found, type) else functools.partial(found, None, None, None)
    given = _with_extractor(pool, factory, own or {}, path, "composition.settings")
    given = {key: _beside(path, value) if key in FOLDERS else value for key, value in given.items()}
    if "aggregator" in _parameters(factory, path, "composition"):
        given["aggregator"] = _aggregator(pool, aggregator or "majority", settings or {}, path)
    elif aggregator is not None:
        message = f"the composition {name!r} merges nothing; leave the key out"
        raise ConfigError(message, path=path, field="composition: aggregator")
    check_keys(factory, given, path, "composition.settings")
    made = {"found": found, "settings": given}
    composition: Composition = _call(bound, made, path, "composition.settings")
    return composition


def _beside(path: Path | None, value: Any) -> Any:
    """A folder relative to the configuration file."""
    return str(path.parent / value) if path is not None and isinstance(value, str) else value


def _with_extractor(
    pool: Pool, factory: Any, settings: Mapping[str, Any], path: Path | None, where: str
) -> dict[str, Any]:
    """The settings, with the pool's extractor for what reads answers."""
    given = dict(settings)
    if "extract" in _parameters(factory, path, where):
        given["extract"] = given.get("extract", pool.extract)
        if isinstance(given["extract"], str):
            given["extract"] = _call(extractor, {"name": given["extract"]}, path, where)
    return given


def _aggregator(pool: Pool, name: str, settings: Mapping[str, Any], path: Path | None) -> Any:
    where = f"aggregator {name}"
    factory = _load("aggregators", name, path, where)
    given = _aggregator_settings(pool, factory, settings, path, where)
    return _call(factory, given, path, where)


def _aggregator_settings(
    pool: Pool, factory: Any, settings: Mapping[str, Any], path: Path | None, where: str
) -> dict[str, Any]:
    """The settings with the pool's extractor for one that reads answers."""
    given = _with_extractor(pool, factory, settings, path, where)
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


def _check_memory(table: PoolTable, path: Path) -> None:
    """Raise ConfigError where sizes cannot be read, or count experts and bytes at once."""
    for key in ("memory", "host_memory"):
        if (value := getattr(table, key)) is not None:
            _check_bytes(value, path, f"pool.{key}")
    if table.memory is None and table.host_memory is not None:
        message = "needs memory, the bytes of the device, beside it"
        raise ConfigError(message, path=path, field="pool.host_memory")
    if table.memory is not None and table.capacity is not None:
        message = "both capacity (a number of experts) and memory (bytes) are given; keep one"
        raise ConfigError(message, path=path, field="pool.capacity")


def _check_bytes(value: object, path: Path, field: str) -> None:
    try:
        parse_bytes(value)
    except InputError as error:
        message = str(error).partition(": ")[2]
        raise ConfigError(message, path=path, field=field) from None


def _check_gateway(settings: Settings, path: Path) -> None:
    """Raise ConfigError for what would be read and never come into effect."""
    table, names = settings.gateway, [entry.name for entry in settings.expert]
    _check_bytes(table.max_body, path, "gateway.max_body")
    for name in table.prices:
        if name not in names:
            message = f"no expert is called {name!r}; {_hint(name, names)}"
            raise ConfigError(message, path=path, field="gateway.prices")
    for origin in table.origins:
        if not _ORIGIN.fullmatch(origin):
            message = f"expected pages' origins such as 'https://chat.example', got {origin!r}"
            raise ConfigError(message, path=path, field="gateway.origins")
    for host in table.hosts:
        if not _HOST.fullmatch(host):
            message = f"expected names such as 'llm.example', without a port, got {host!r}"
            raise ConfigError(message, path=path, field="gateway.hosts")


_ORIGIN = re.compile(r"null|[A-Za-z][\w+.-]*://[^/\s*]+/?")
_HOST = re.compile(r"[^\s/:@*]+|\[[0-9A-Fa-f:.]+\]")
