"""What the dashboard's forms send, checked field by field."""

from __future__ import annotations

import time
from calendar import timegm
from collections.abc import Mapping
from typing import Any

from coterie.gateway.wire import bad_request


def key_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a key among what the form sent; raises ApiError 400."""
    known = {"name", "team", "budget", "period", "rpm", "tpm", "concurrency", "experts", "expires"}
    if unknown := given.keys() - known:
        raise bad_request(f"no such field: {', '.join(sorted(unknown))}")
    found: dict[str, Any] = {
        "name": text_of(given, "name", ""),
        "team": text_of(given, "team", ""),
        "period": text_of(given, "period", "total"),
    }
    found["budget"] = _quantity(given, "budget", (int, float))
    for name in ("rpm", "tpm", "concurrency"):
        found[name] = _quantity(given, name, (int,))
    names = given.get("experts") or []
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise bad_request("experts must be a list of names", "experts")
    found["experts"] = tuple(names)
    found["expires"] = _date(text_of(given, "expires", ""))
    return found


def text_of(given: Mapping[str, Any], name: str, default: str) -> str:
    """A short text among what was sent."""
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
