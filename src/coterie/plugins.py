"""Names to objects: entry points for everyone, ourselves included, and ``module:Attr`` for users.

A plug-in is declared in its distribution's ``pyproject.toml``, for example::

    [project.entry-points."coterie.routers"]
    mine = "my_package.my_module:MyRouter"

``module:Attr`` runs code, so it is accepted only where a local user typed it (``allow_import``).
"""

from __future__ import annotations

import difflib
import importlib
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from coterie.errors import PluginError

KINDS = ("routers", "policies", "compositions", "aggregators", "encoders", "experts", "engines")


def names(kind: str) -> list[str]:
    """The registered names of one kind, sorted."""
    return sorted(_registered(kind))


def load(kind: str, name: str, *, allow_import: bool = False) -> Any:
    """The object called ``name``; raises PluginError with the nearest names if there is none."""
    registered = _registered(kind)
    if name in registered:
        return registered[name].load()
    if ":" in name and allow_import:
        return _import(name)
    if ":" in name:
        raise PluginError(
            f"{name!r}: module:Attr is accepted only from a local user, not from here"
        )
    near = difflib.get_close_matches(name, registered, n=1)
    hint = (
        f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(registered))}"
    )
    one = kind.removesuffix("ies") + "y" if kind.endswith("ies") else kind.removesuffix("s")
    raise PluginError(f"no {one} called {name!r}{hint}")


def _registered(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"coterie.{kind}")}


def _import(name: str) -> Any:
    """``module:Attr`` with the working directory importable, as users expect of a command."""
    module_name, _, attribute = name.partition(":")
    if not module_name or module_name.startswith("."):
        raise PluginError(f"{name!r}: expected module:Attr, for example my_module:Mine")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise PluginError(f"{name!r}: there is no module {error.name!r}") from None
        raise
    except Exception as error:
        why = f"importing it failed: {type(error).__name__}: {error}"
        raise PluginError(f"{name!r}: {why}") from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise PluginError(f"{name!r}: module {module_name!r} has no {attribute!r}") from None
