"""Commands that explain: why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.base import JsonOption, app, show
from coterie.cli.keys import PoolOption, StoreOption, aligned, date, plain, with_ledger

if TYPE_CHECKING:
    from coterie.gateway.entries import Entry, Feedback
    from coterie.gateway.ledger import Ledger


@app.command()
def why(
    decision: Annotated[
        str, typer.Argument(help="Its id: x-coterie-decision-id of an answer, or from log tail.")
    ],
    store: StoreOption = None,
    pool: PoolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Why a request of the gateway went where it went, and what came of it.

    Candidates with expected quality, 95 % interval and cost; which constraint barred whom; the
    runner-up and what would have flipped the choice; every attempt, tokens and cost.

    Example: coterie why req_06ez1t5cmr9ge2jr0q1m6q8v3w --store gateway.sqlite
    """
    from coterie.errors import CoterieError
    from coterie.gateway.reasons import reasons

    async def read(ledger: Ledger) -> tuple[Entry | None, list[Feedback]]:
        return await ledger.entry(decision), await ledger.feedback(decision)

    entry, feedback = with_ledger(store, pool, read)
    if entry is None:
        raise CoterieError(f"no request {decision!r} in this log; 'coterie log tail' lists some")
    facts = reasons(entry, feedback)
    show(facts, as_json, "\n".join(plain_lines(facts)))


def plain_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """The facts of ``reasons`` for people, without control characters."""
    yield from (plain(line) for line in _opening(facts))
    if facts["candidates"]:
        yield ""
        yield aligned(("candidate", "quality", "95 %", "cost", ""), [*_rows(facts)])
    yield from (plain(line) for line in _flips(facts))
    for name, value in facts["constraints"].items():
        yield plain(f"constraint {name}: {value}")
    if facts["attempts"]:
        yield ""
        yield aligned(("attempt", "status", "seconds", "tokens", "cost", ""), [*_attempts(facts)])
    yield from (plain(line) for line in _ending(facts))


def _opening(facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"{facts['id']}: {facts['path']} at {date(facts['time'])} UTC, model {facts['asked']!r}"
    who = facts["answered"] or "nobody"
    as_whom = f" as {facts['composition']}" if facts["composition"] else ""
    instead = f" instead of {facts['decided']}" if facts["decided"] not in ("", who) else ""
    chance = f", with chance {facts['propensity']:.3g}" if facts["propensity"] < 1 else ""
    drawn = ", drawn to explore" if facts["explored"] else ""
    yield f"{who} answered{as_whom}{instead} (policy {facts['policy'] or 'none'}{chance}{drawn})"
    if facts["reason"]:
        yield f"why: {facts['reason']}"


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for one in facts["candidates"]:
        remark = f"barred: {one['barred']}" if one["barred"] else "chosen" * one["chosen"]
        interval = "" if one["interval"] is None else "{:.2f} .. {:.2f}".format(*one["interval"])
        yield one["expert"], _number(one["quality"], ".2f"), interval, _number(one["cost"]), remark


def _flips(facts: Mapping[str, Any]) -> Iterator[str]:
    runner_up, flip = facts["runner_up"], facts["flip"]
    if runner_up is not None:
        short = flip["quality"]
        more = f"; an expected quality {short:.3f} higher would have put it first"
        yield f"runner-up: {runner_up['expert']}{'' if short is None or short < 0 else more}"
    if flip["willingness_to_pay"] is not None:
        worth = flip["willingness_to_pay"]
        yield f"at a willingness to pay of {worth:.4g} it would have been {flip['to']}"
    for record in facts["nearest"]:
        if record.get("text"):
            yield f"nearest record: {record['text']}"


def _attempts(facts: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for one in facts["attempts"]:
        tokens, cost = one.get("tokens"), one.get("cost", 0.0)
        used = "" if tokens is None else f"{tokens['prompt']}+{tokens['completion']}"
        status, seconds = str(one.get("status", 200)), f"{one.get('seconds', 0.0):.3f}"
        yield one["expert"], status, seconds, used, _number(cost), one.get("kind", "")


def _ending(facts: Mapping[str, Any]) -> Iterator[str]:
    tokens, expected = facts["tokens"], facts["expected_cost"]
    marked = " (estimated)" if tokens["estimated"] else ""
    against = "" if expected is None else f", expected {expected:.4g}"
    error = f" ({facts['error']})" if facts["error"] else ""
    yield (
        f"status {facts['status']}{error}, "
        f"{tokens['prompt']}+{tokens['completion']} tokens{marked}, cost {facts['cost']:.4g}"
        f"{against}, {facts['latency']:.3f} s, of these {facts['overhead'] * 1000:.2f} ms ours"
    )
    if facts["shadow"]:
        yield f"the shadow router would have asked {facts['shadow']}"
    if facts["drift"] is not None:
        yield f"distance from the records: {facts['drift']:.2f} radii"
    for given in facts["feedback"]:
        note = f": {given['note']}" if given["note"] else ""
        yield f"score {given['score']:g} at {date(given['time'])} UTC{note}"


def _number(value: float | None, form: str = ".4g") -> str:
    return "" if value is None else format(value, form)
