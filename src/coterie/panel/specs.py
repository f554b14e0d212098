"""Entrants from what a user types: ``knn``, ``knn(k=50)``, ``my_module:MyRouter``."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coterie.aggregators import Aggregator
from coterie.answers import Extractor, extractor
from coterie.compositions import Composition, bound
from coterie.errors import InputError
from coterie.panel.battles import BASE
from coterie.panel.contest import DEFAULT
from coterie.panel.trials import Entrant
from coterie.plugins import load, names
from coterie.policies import Policy
from coterie.records import Records
from coterie.routers.base import Router, mean_or
from coterie.routers.preference import Preference

YARDSTICKS = ("always", "best-single", "oracle", "random")  # routers that are rows anyway
SEEDS = (1 << 32) - 1  # the largest that every library takes
HUGE = 1 << 63  # whole numbers from here on fit in no array
PLAIN: dict[str, tuple[str, Callable[[Any], bool]]] = {  # annotation: words, test
    "int": ("a whole number", lambda v: type(v) is int and abs(v) < HUGE),
    "float": ("a number", lambda v: (type(v) is float and v == v) or PLAIN["int"][1](v)),
    "str": ("a word", lambda v: _is_word(v)),
    "bool": ("True or False", lambda v: isinstance(v, bool)),
    "Sequence[str]": ("a list of words", lambda v: isinstance(v, list) and all(map(_is_word, v))),
    "None": ("None", lambda v: v is None),
}
_SPEC = re.compile(r"([\w.:+-]+)\s*(?:\((.*)\))?", re.DOTALL)


@dataclass(frozen=True)
class Spec:
    """A plug-in's name (or ``module:Attr``) and settings; ``text`` is what was typed."""

    text: str
    name: str
    settings: dict[str, Any]


def _is_word(value: Any) -> bool:
    return isinstance(value, str)


def parse_specs(text: str) -> list[Spec]:
    """Specs separated by commas, settings in parentheses: ``knn(k=50), linear``.

    Values are Python literals or bare words. Raises InputError for anything else.
    """
    parts = [part.strip() for part in re.split(r",(?![^()]*\))", text)]
    return [_parse(part) for part in parts if part]


def parse_spec(text: str) -> Spec:
    """The one spec in the text; raises InputError where there are more or none."""
    specs = parse_specs(text)
    if len(specs) != 1:
        raise InputError(f"expected one, NAME or NAME(setting=value, ...), got {text!r}")
    return specs[0]


def _parse(text: str) -> Spec:
    match = _SPEC.fullmatch(text)
    if match is None:
        raise InputError(f"expected NAME or NAME(setting=value, ...), got {text!r}")
    name, inside = match.groups()
    try:
        call = ast.parse(f"spec({inside or ''})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(not k.arg for k in call.keywords):
            raise ValueError("a setting without a name")
        settings = {str(k.arg): _value(k.value) for k in call.keywords}
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise InputError(f"expected setting=value, got {inside!r} ({error})", field=name) from None
    return Spec(text, name, settings)


def _value(node: ast.expr) -> Any:
    """A literal; a bare word is a text, ``inf`` a number."""
    if isinstance(node, ast.Name):
        return float("inf") if node.id == "inf" else node.id
    return ast.literal_eval(node)


def all_routers() -> str:
    """Every registered router but the yardsticks, as a spec."""
    return ",".join(name for name in names("routers") if name not in YARDSTICKS)


def router_factory(spec: Spec, encoder: str) -> Callable[[], Router]:
    """Makes the router, with this encoder where it takes one and the spec names none."""
    kind = load("routers", spec.name, allow_import=True)
    settings = dict(spec.settings)
    if "encoder" in _parameters(kind):
        settings.setdefault("encoder", encoder)
    return checked(kind, settings, spec)


def policy_factory(spec: Spec) -> Callable[[Records], Policy]:
    """Makes the policy from training records: their best single is the fallback.

    Traits of experts are the records' facts unless the spec gives some.
    """
    kind = load("policies", spec.name, allow_import=True)
    if "traits" in _parameters(kind) and "traits" not in spec.settings:
        checked(kind, spec.settings, spec)
        return lambda training: checked(kind, {**spec.settings, "traits": training.facts}, spec)()
    if "fallback" not in _parameters(kind) or "fallback" in spec.settings:
        make = checked(kind, spec.settings, spec)
        return lambda training: make()
    checked(kind, {**spec.settings, "fallback": ""}, spec)  # a mistake shows at once
    return lambda training: checked(kind, {**spec.settings, "fallback": best(training)}, spec)()


def best(training: Records) -> str:
    """The expert with the highest mean score."""
    return training.experts[int(mean_or(training.quality, 0.0).argmax())]


def _parameters(kind: Any) -> Sequence[str]:
    return tuple(inspect.signature(kind).parameters)


def checked(kind: Any, settings: dict[str, Any], spec: Spec) -> Callable[[], Any]:
    """A maker of ``kind``; raises InputError for settings that it does not have, misses or bars."""
    known = inspect.signature(kind).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    if unknown := [key for key in settings if key not in known and not open_ended]:
        there = ", ".join(known) or "none"
        raise InputError(f"no setting {unknown[0]!r}; there are {there}", field=spec.name)
    named = (p for p in known.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
    required = [p.name for p in named if p.default is p.empty]
    if missing := [key for key in required if key not in settings]:
        message = f"needs the setting {missing[0]!r}: {spec.name}({missing[0]}=...)"
        raise InputError(message, field=spec.name)
    for key in known.keys() & settings.keys():
        _check_value(settings[key], known[key].annotation, spec.name, key)
    return functools.partial(kind, **settings)


def _check_value(value: Any, annotation: Any, name: str, key: str) -> None:
    """Raise InputError where a plain annotation (``int``, ``float | None``) forbids the value."""
    field = f"{name}: {key}"
    if key == "seed" and type(value) is int and not 0 <= value <= SEEDS:
        raise InputError(f"expected 0 to {SEEDS}, got {value!r}", field=field)
    if annotation is inspect.Parameter.empty:
        return
    kinds = inspect.formatannotation(annotation).strip("'").split(" | ")
    if any(kind not in PLAIN for kind in kinds) or any(PLAIN[kind][1](value) for kind in kinds):
        return
    expected = " or ".join(PLAIN[kind][0] for kind in kinds)
    raise InputError(f"expected {expected}, got {value!r}", field=field)


def ranking_entrants(routers: str, encoder: str) -> list[Entrant]:
    """Every registered router that ranks experts but ``bradley-terry``, and those named, once."""
    known = (name for name in names("routers") if issubclass(load("routers", name), Preference))
    asked = "" if routers.strip() == "all" else routers
    specs = {spec.text: spec for spec in parse_specs(",".join([*known, asked]))}
    specs.pop(BASE, None)
    return [Entrant(spec.text, router_factory(spec, encoder)) for spec in specs.values()]


def make_entrants(
    routers: str, policies: str, encoder: str, extract: Extractor
) -> tuple[list[Entrant], str]:
    """Every router by itself and with every policy, the default included; the default's name.

    Votes of several experts weigh each answer by the log odds that its expert is right.
    """
    wanted = parse_specs(all_routers() if routers.strip() == "all" else routers)
    if DEFAULT not in [spec.text for spec in wanted]:
        wanted.append(Spec(DEFAULT, DEFAULT, {}))
    rules = [
        (spec, policy_factory(spec), flow(_followed(spec), extract))
        for spec in parse_specs(policies)
    ]
    entrants = []
    for spec in wanted:
        make = router_factory(spec, encoder)
        entrants.append(Entrant(spec.text, make))
        entrants += [Entrant(f"{spec.text}, {r.text}", make, p, f) for r, p, f in rules]
    return entrants, DEFAULT


def _followed(policy: Spec) -> Spec:
    """The composition that a policy's setting names, else the vote."""
    name = str(policy.settings.get("composition", "recruit"))
    name = "recruit" if name == "single" else name
    return Spec(name, name, {})


def flow(spec: Spec, extract: Extractor) -> Composition:
    """The composition with its settings; answers are read and merged with ``extract``."""
    found = load("compositions", spec.name, allow_import=True)
    known, settings = settings_of(spec), dict(spec.settings)
    if "extract" in known:
        given = settings.get("extract", extract)
        settings["extract"] = extractor(given) if isinstance(given, str) else given
    if "aggregator" in known:
        settings["aggregator"] = _aggregator(settings.get("aggregator"), extract, spec)
    checked(_factory(found), settings, spec)
    return bound(found, settings)


def settings_of(spec: Spec) -> Mapping[str, inspect.Parameter]:
    """The settings that a composition takes."""
    found = load("compositions", spec.name, allow_import=True)
    return inspect.signature(_factory(found)).parameters


def _factory(found: Any) -> Any:
    """Of a function the first three arguments are the drivers', the others settings."""
    return found if isinstance(found, type) else functools.partial(found, None, None, None)


def _aggregator(name: Any, extract: Extractor, spec: Spec) -> Aggregator:
    """Votes weigh each answer by the log odds that its expert is right, unless another is named."""
    factory = load("aggregators", "weighted" if name is None else str(name))
    parameters = inspect.signature(factory).parameters
    required = {p.name for p in parameters.values() if p.default is p.empty}
    if "extract" not in parameters or required - {"extract"}:
        message = f"expected an aggregator that votes, got {name!r}"
        raise InputError(message, field=f"{spec.name}: aggregator")
    made: Aggregator = factory(extract=extract)
    return made
