"""What is looked at beside the answers: drift of the traffic, and a shadow router's choices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.gateway.dashboard.nodes import Node, badge, element, facts, number, percent


def watch(state: Mapping[str, Any]) -> list[Node]:
    """From ``Observing.state``; nothing of what is switched off."""
    made: list[Node] = []
    if (drift := state["drift"]) is not None:
        mark = badge("drift alarm", "bad") if drift["alarm"] else badge("no drift", "good")
        made.append(element("p", mark, f" {drift['reason']}."))
    if (shadow := state["shadow"]) is not None:
        made.append(
            element(
                "details",
                element("summary", _summary(shadow)),
                facts(_facts(shadow)),
                id="shadow",
            )
        )
    return made


def _summary(shadow: Mapping[str, Any]) -> str:
    agreed = percent(shadow["agreement"])
    return f"The shadow router agrees on {agreed} of {shadow['judged']:,} requests"


def _facts(shadow: Mapping[str, Any]) -> dict[str, Node | None]:
    choices = ", ".join(f"{name} {count:,}" for name, count in shadow["choices"].items())
    return {
        "would have asked": choices,
        "quality, as it expects itself": _interval(shadow["quality"]),
        "cost, as it expects itself": _interval(shadow["cost"]),
        "dropped": f"{shadow['dropped']:,}",
        "failed": f"{shadow['failed']:,} {shadow['error']}".strip(),
    }


def _interval(mean: Mapping[str, float | None]) -> str | None:
    """A difference to what was served, with its 95 % interval."""
    if mean["mean"] is None:
        return None
    bounds = "" if mean["low"] is None else f", {number(mean['low'])} to {number(mean['high'])}"
    return f"{mean['mean']:+.3g}{bounds}"
