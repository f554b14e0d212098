"""Commands on the gateway's keys and teams: create, list, revoke, team."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from coterie.cli.base import JsonOption, app, show

if TYPE_CHECKING:
    from coterie.gateway.ledger import Ledger

T = TypeVar("T")
keys_app = typer.Typer(
    help="Keys of the gateway: who may ask what, and for how much.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(keys_app, name="keys")

StoreOption = Annotated[
    str | None,
    typer.Option(help="SQLite file or postgresql:// address; gateway.sqlite by default."),
]
PoolOption = Annotated[str | None, typer.Option(help="Pool file whose [gateway] names the store.")]
BudgetOption = Annotated[
    float | None, typer.Option(help="The most that may be spent a period, in the pool's unit.")
]
PeriodOption = Annotated[str, typer.Option(help="What the budget is for: total, day or month.")]
RpmOption = Annotated[int | None, typer.Option(help="Requests a minute, at most.")]
TpmOption = Annotated[int | None, typer.Option(help="Tokens a minute, at most.")]
ConcurrencyOption = Annotated[int | None, typer.Option(help="Requests at a time, at most.")]


def with_ledger(
    store: str | None,
    pool: str | None,
    work: Callable[[Ledger], Awaitable[T]],
    make: bool = False,
) -> T:
    """Open the ledger, do the work, close it; a missing file is made only where wanted."""
    from pathlib import Path

    from coterie.errors import CoterieError
    from coterie.gateway.ledger import open_ledger

    place = store or store_of(pool)
    if not make and "://" not in place and not Path(place).exists():
        hint = "name it with --store, or make a key first: coterie keys create NAME"
        raise CoterieError(f"there is no ledger {place}; {hint}")

    async def run() -> T:
        return await work(ledger)

    with open_ledger(place) as ledger:
        return asyncio.run(run())


def store_of(pool: str | None) -> str:
    """The store of a pool file, beside which a relative one lies; the default without one."""
    from coterie.config import read_config

    if pool is None:
        return "gateway.sqlite"
    config = read_config(pool)
    store = config.settings.gateway.store
    beside = "://" not in store and pool != "embedded"
    return str(config.path.parent / store) if beside else store


@keys_app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Name of the key, for people.")],
    team: Annotated[str, typer.Option(help="Team whose budget and limits count as well.")] = "",
    budget: BudgetOption = None,
    period: PeriodOption = "total",
    rpm: RpmOption = None,
    tpm: TpmOption = None,
    concurrency: ConcurrencyOption = None,
    experts: Annotated[
        str | None, typer.Option(help="The only experts it may ask, split by commas.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="When it ends: a time from now like 30d, or a date.")
    ] = None,
    store: StoreOption = None,
    pool: PoolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print its secret, this once; the ledger keeps only a hash of it.

    A running gateway knows the key within two seconds.

    Example: coterie keys create alice --budget 20 --period month --rpm 60 --expires 90d
    """
    from coterie.gateway.keys import make_key
    from coterie.gateway.owners import add_key, key_facts

    asked = tuple(one.strip() for one in (experts or "").split(",") if one.strip())
    limits: dict[str, Any] = {"budget": budget, "period": period, "rpm": rpm, "tpm": tpm}
    limits |= {"concurrency": concurrency, "team": team, "experts": asked}
    end = None if expires is None else moment(expires, 1, "expires")
    key, secret = make_key(name, expires=end, **limits)

    with_ledger(store, pool, lambda ledger: add_key(ledger, key), make=True)
    text = f"{secret}\n\nThis is the only time the secret of {name!r} is shown; keep it safe."
    show({**key_facts(key, {}), "secret": secret}, as_json, text)


@keys_app.command("team")
def set_team(
    name: Annotated[str, typer.Argument(help="Name of the team.")],
    budget: BudgetOption = None,
    period: PeriodOption = "total",
    rpm: RpmOption = None,
    tpm: TpmOption = None,
    concurrency: ConcurrencyOption = None,
    store: StoreOption = None,
    pool: PoolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a team, or give it other limits: they hold for all of its keys together.

    What is not named is not limited. What was spent stays counted.

    Example: coterie keys team research --budget 500 --period month
    """
    from coterie.gateway.entries import Team
    from coterie.gateway.keys import check_limits
    from coterie.gateway.owners import in_words, limits_of

    team = check_limits(Team(name, budget, period, rpm, tpm, concurrency))
    with_ledger(store, pool, lambda ledger: ledger.put_team(team), make=True)
    shown = limits_of(team)
    show(shown, as_json, f"team {name}: {in_words(shown) or 'no limits'}")


@keys_app.command("list")
def list_keys(
    all_keys: Annotated[bool, typer.Option("--all", help="Revoked and expired ones too.")] = False,
    store: StoreOption = None,
    pool: PoolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show keys and teams with their limits and what they have spent; never a secret.

    Example: coterie keys list --store gateway.sqlite
    """
    from coterie.gateway.owners import owned

    keys, teams = with_ledger(store, pool, owned)
    facts = {
        "keys": [one for one in keys if all_keys or one["state"] == "active"],
        "teams": teams,
    }
    show(facts, as_json, _table(facts["keys"], facts["teams"]) if not as_json else "")


@keys_app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="Name, id or prefix of the key.")],
    store: StoreOption = None,
    pool: PoolOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a key; a running gateway refuses it within two seconds.

    Example: coterie keys revoke alice
    """
    from coterie.gateway.owners import key_facts, revoke_key

    key = with_ledger(store, pool, lambda ledger: revoke_key(ledger, name))
    show(key_facts(key, {}), as_json, f"revoked {key.name} ({key.prefix})")


def moment(text: str, sign: int, field: str) -> float:
    """Seconds since 1970 of a date, or of a time like 30m, 12h, 7d from now (ago for -1)."""
    import re
    import time
    from datetime import UTC, datetime

    from coterie.errors import InputError

    if found := re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text):
        seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[found[2]]
        return time.time() + sign * float(found[1]) * seconds
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        message = f"expected a time like 30m, 12h, 7d or a date like 2026-12-31, got {text!r}"
        raise InputError(message, field=field) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def date(seconds: float | None) -> str:
    """A moment as people read it, in UTC."""
    import time

    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def _table(keys: Sequence[Mapping[str, Any]], teams: Sequence[Mapping[str, Any]]) -> str:
    from coterie.gateway.owners import in_words

    head = ("", "name", "prefix", "team", "spent", "limits", "experts", "expires", "state")
    rows = [
        (
            *("key", key["name"], key["prefix"] + "…", key["team"]),
            *(f"{key['settled']:.6g}", in_words(key), ",".join(key["experts"]) or "all"),
            *(date(key["expires"]), key["state"]),
        )
        for key in keys
    ]
    rows += [
        ("team", team["name"], "", "", f"{team['settled']:.6g}", in_words(team), "", "", "")
        for team in teams
    ]
    return aligned(head, rows) if rows else "no keys yet; make one with: coterie keys create NAME"


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their longest cell, without control characters."""
    lines = [[plain(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def plain(text: str) -> str:
    """The text without what would control the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
