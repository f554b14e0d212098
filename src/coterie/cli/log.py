"""Commands on the gateway's log: spend, tail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.base import JsonOption, app, show
from coterie.cli.keys import PoolOption, StoreOption, aligned, moment, plain, with_ledger

if TYPE_CHECKING:
    from coterie.gateway.entries import Entry
    from coterie.gateway.ledger import Ledger, Spend

POLL = 0.5  # seconds between two looks of tail --follow
WINDOW = 1000  # last requests among which new ones are looked for, as they end out of order
log_app = typer.Typer(
    help="The gateway's log: what was asked, by whom, and what it cost.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(log_app, name="log")


@log_app.command("spend")
def show_spend(
    by: Annotated[
        str, typer.Option(help="Sum by key, team, session, expert, policy or day (UTC).")
    ] = "key",
    since: Annotated[str, typer.Option(help="A time ago like 12h or 7d, or a date.")] = "7d",
    store: StoreOption = None,
    pool: PoolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Requests, errors, tokens and cost, and what the best single expert would have cost.

    Example: coterie log spend --by team --since 30d
    """
    import msgspec

    start = moment(since, -1, "since")

    async def read(ledger: Ledger) -> tuple[list[Spend], dict[str, str]]:
        names = {key.id: key.name for key in (await ledger.owners())[0]} if by == "key" else {}
        return await ledger.spend(by, start), names

    rows, names = with_ledger(store, pool, read)
    facts = [
        {**msgspec.structs.asdict(row), "shown": names.get(row.name, row.name)} for row in rows
    ]
    text = _spend_table(by, facts) if rows else f"no requests since {since}"
    show({"by": by, "since": start, "rows": facts}, as_json, text)


def _spend_table(by: str, rows: list[dict[str, Any]]) -> str:
    head = (by, "requests", "errors", "prompt tokens", "completion", "cost", "best single")
    cells = [
        (
            *(row["shown"] or "-", f"{row['requests']:,}", f"{row['errors']:,}"),
            *(f"{row['prompt']:,}", f"{row['completion']:,}"),
            *(f"{row['cost']:.6g}", f"{row['baseline']:.6g}"),
        )
        for row in rows
    ]
    return aligned(head, cells)


@log_app.command("tail")
def tail_log(
    count: Annotated[int, typer.Option("-n", min=0, help="How many of the last requests.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    store: StoreOption = None,
    pool: PoolOption = None,
    as_json: JsonOption = False,
) -> None:
    """The last requests, the newest last: when, who answered, status, tokens, cost, seconds.

    With --json one object a line.

    Example: coterie log tail -n 50 --follow
    """
    import asyncio

    async def read(ledger: Ledger) -> None:
        entries = await ledger.recent(max(count, WINDOW))
        _print(entries[:count], as_json)
        while follow:
            known = {entry.id for entry in entries}
            await asyncio.sleep(POLL)
            entries = await ledger.recent(WINDOW)
            _print([entry for entry in entries if entry.id not in known], as_json)

    with_ledger(store, pool, read)


def _print(entries: list[Entry], as_json: bool) -> None:
    """Print entries, the oldest first."""
    import msgspec

    for entry in reversed(entries):
        shown = msgspec.json.encode(entry).decode() if as_json else _line(entry)
        print(shown, flush=True)


def _line(entry: Entry) -> str:
    import time

    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(entry.time))
    tokens = f"{entry.tokens.prompt}+{entry.tokens.completion}"
    text = (
        f"{at} {entry.id} {entry.status} {entry.expert or '-'} {entry.policy or '-'} "
        f"{tokens} tokens {entry.cost:.6g} {entry.latency:.3f}s {entry.error}"
    )
    return plain(text).rstrip()
