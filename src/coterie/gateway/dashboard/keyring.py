"""Keys and teams as tables: prefixes, limits and budgets, never a secret."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coterie.gateway.dashboard.nodes import Node, badge, element, moment, number, percent, table
from coterie.gateway.owners import in_words

STATES = {"active": "good", "revoked": "bad", "expired": "warn"}


def keyring(keys: Sequence[Mapping[str, Any]], teams: Sequence[Mapping[str, Any]]) -> list[Node]:
    """The tables of keys and of teams."""
    head = (
        "key", "prefix", "state", "change", "limits", "team", "experts", "expires", "spent",
        "of budget",
    )  # fmt: skip
    order = sorted(keys, key=lambda key: (key["state"] != "active", -key["created"]))
    made: list[Node] = [table("Keys", head, [_key(key) for key in order], 8, "no key yet")]
    if teams:
        rows: list[list[Node]] = [
            [team["name"], in_words(team), number(team["settled"]), _used(team)] for team in teams
        ]
        made.append(table("Teams", ("team", "limits", "spent", "of budget"), rows, 2))
    return made


def _key(key: Mapping[str, Any]) -> list[Node]:
    revoke = element(
        "button", "revoke", type="button", class_="danger", id=f"revoke-{key['id']}",
        data_revoke=key["id"], data_name=key["name"], aria_label=f"revoke {key['name']}",
    )  # fmt: skip
    return [
        element("strong", key["name"]),
        element("code", f"{key['prefix']}…"),
        badge(key["state"], STATES[key["state"]]),
        revoke if key["state"] == "active" else "",
        in_words(key),
        key["team"],
        ", ".join(key["experts"]) or "all",
        "" if key["expires"] is None else moment(key["expires"], "%Y-%m-%d"),
        number(key["settled"]),
        _used(key),
    ]


def _used(owner: Mapping[str, Any]) -> Node:
    """The share of the budget that is spent, and what is reserved or forfeited beside it."""
    budget = owner["budget"]
    beside = [f"{number(owner[what])} {what}" for what in ("reserved", "forfeited") if owner[what]]
    if budget is None:
        return ", ".join(beside) or "–"
    share = owner["settled"] / budget if budget else 1.0
    kind = "bad" if share >= 1 else "warn" if share >= 0.8 else ""
    note = f" {', '.join(beside)}" if beside else ""
    return element("span", badge(percent(share), kind), note)
