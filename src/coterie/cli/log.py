"""Commands on the gateway's log: spend, tail, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.base import JsonOption, app, check_records, show
from coterie.cli.keys import (
    PoolOption,
    StoreOption,
    aligned,
    moment,
    plain,
    store_of,
    with_ledger,
)

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
    first = "answered by" if by == "expert" else by  # all calls of a request are in one row
    head = (first, "requests", "errors", "prompt tokens", "completion", "cost", "best single")
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


@log_app.command("export")
def export_log(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the records.")],
    since: Annotated[
        str | None, typer.Option(help="A time ago like 12h or 7d, or a date; all by default.")
    ] = None,
    key: Annotated[str, typer.Option(help="Only requests of this key: its name or id.")] = "",
    team: Annotated[str, typer.Option(help="Only requests of this team.")] = "",
    store: StoreOption = None,
    pool: PoolOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the records that --output holds.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn requests with feedback into records to learn from, and decisions to judge routers by.

    OUTPUT is a folder of records; beside it OUTPUT.vectors.npz has the queries' embeddings and
    OUTPUT.log.jsonl every decision with its propensity, without keys and sessions, for evaluate
    --off-policy. Texts go along only where the gateway logs content.

    Example: coterie log export -o records --since 7d --team red
    """
    from coterie.gateway.exporting import read_log, write_log

    check_records(output, replace)
    start = 0.0 if since is None else moment(since, -1, "since")
    log = read_log(store or store_of(pool), since=start, key=key, team=team)
    facts = write_log(log, output)
    show({**facts, "path": str(output)}, as_json, "\n".join(_exported(facts, output)))


def _exported(facts: dict[str, Any], output: Path) -> list[str]:
    """What was written, and what is missing of it."""
    records, texts = facts["records"], facts["texts"]
    lines = [
        f"{facts['requests']:,} requests, {facts['scored']:,} with a score: {records:,} records of "
        f"{len(facts['experts'])} experts in {output}"
    ]
    if unfit := facts["scored"] - records:
        lines.append(f"{unfit:,} scored requests have no one expert that answered: no records")
    if missing := records - texts:
        lines.append(
            f"{missing:,} records have no text, as the gateway did not log content: 'coterie fit' "
            "learns means from them and nothing about their queries"
        )
    made = facts["encoder"][:12] or "an encoder the log does not name"
    lines.append(f"{facts['vectors']:,} vectors by {made} in {output}.vectors.npz")
    return [*lines, f"decisions for 'coterie evaluate --off-policy' in {output}.log.jsonl"]
