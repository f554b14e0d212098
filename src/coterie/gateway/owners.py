"""Keys and teams as people handle them: made, ended, listed with what they have spent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from coterie.errors import CoterieError
from coterie.gateway.allowances import period_at
from coterie.gateway.entries import Key, Team
from coterie.gateway.ledger import Balance, Ledger

LIMITS = ("name", "budget", "period", "rpm", "tpm", "concurrency")


async def add_key(ledger: Ledger, key: Key) -> None:
    """Keep a new key; raises CoterieError where its name is taken or there is no such team."""
    kept, teams = await ledger.owners()
    if any(one.name == key.name and one.revoked is None for one in kept):
        raise CoterieError(f"there is a key {key.name!r} already; revoke it or choose another name")
    if key.team and key.team not in {one.name for one in teams}:
        hint = f"make it with: coterie keys team {key.team}"
        raise CoterieError(f"there is no team {key.team!r}; {hint}")
    await ledger.put_key(key)


async def revoke_key(ledger: Ledger, name: str) -> Key:
    """End the one key of this name, id or prefix; raises CoterieError where it is not one."""
    keys, _ = await ledger.owners()
    found = [k for k in keys if k.revoked is None and name in (k.name, k.id, k.prefix)]
    if len(found) != 1:
        count = "no key" if not found else f"{len(found)} keys"
        raise CoterieError(f"there is {count} {name!r} to revoke; see: coterie keys list")
    key = msgspec.structs.replace(found[0], revoked=time.time())
    await ledger.put_key(key)
    return key


async def owned(ledger: Ledger) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Facts of all keys and of all teams, as JSON values; never a secret or its hash."""
    keys, teams = await ledger.owners()
    balances = {(one.account, one.period): one for one in await ledger.balances()}
    return (
        [key_facts(key, balances) for key in keys],
        [team_facts(team, balances) for team in teams],
    )


def key_facts(key: Key, balances: Mapping[tuple[str, str], Balance]) -> dict[str, Any]:
    """What a list shows of a key."""
    expired = key.expires is not None and key.expires <= time.time()
    state = "revoked" if key.revoked is not None else "expired" if expired else "active"
    who = {"id": key.id, "prefix": key.prefix, "team": key.team, "state": state}
    ends = {"created": key.created, "expires": key.expires, "revoked": key.revoked}
    spent = _spent(f"key:{key.id}", key.period, balances)
    return {**limits_of(key), **who, "experts": list(key.experts), **ends, **spent}


def team_facts(team: Team, balances: Mapping[tuple[str, str], Balance]) -> dict[str, Any]:
    """What a list shows of a team."""
    return {**limits_of(team), **_spent(f"team:{team.name}", team.period, balances)}


def limits_of(owner: Key | Team) -> dict[str, Any]:
    """Its name and limits."""
    return {field: getattr(owner, field) for field in LIMITS}


def in_words(owner: Mapping[str, Any]) -> str:
    """The limits among facts."""
    parts = []
    if owner["budget"] is not None:
        period = owner["period"]
        parts.append(f"budget {owner['budget']:g} {'in total' if period == 'total' else period}")
    words = (("rpm", "requests/min"), ("tpm", "tokens/min"), ("concurrency", "at a time"))
    parts += [f"{owner[field]:,} {word}" for field, word in words if owner[field] is not None]
    return ", ".join(parts)


def _spent(
    account: str, period: str, balances: Mapping[tuple[str, str], Balance]
) -> dict[str, float]:
    """Spent, reserved and forfeited in the period that is now."""
    now = balances.get((account, period_at(period, time.time())[0]))
    fields = ("settled", "reserved", "forfeited")
    return {field: 0.0 if now is None else getattr(now, field) for field in fields}
