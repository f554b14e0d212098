"""What was spent, and what that saved against always asking the best single expert."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from coterie.gateway.dashboard.nodes import Element, Node, element, number, percent, table, tile
from coterie.gateway.ledger import Ledger, Spend
from coterie.metrics.intervals import Interval, interval, resampled_means

DAY = 86400.0
PAIRS = 5000  # latest requests that the interval rests on
LEAST = 10  # requests below which there is no interval
RESAMPLES = 1000
ANSWERED = "Spend by the expert that answered, the request's other calls included"


class Savings(NamedTuple):
    """Share of the always-best cost that was saved, over so many requests."""

    share: Interval | None
    requests: int
    cost: float
    baseline: float


def savings(pairs: Sequence[tuple[float, float]], seed: int = 0) -> Savings:
    """From cost and always-best cost of each request, resampled in pairs.

    There is no share where always-best costs nothing, no interval below ``LEAST`` requests.
    """
    table = np.array(pairs, float).reshape(-1, 2)
    cost, baseline = (float(total) for total in table.sum(axis=0))
    if baseline <= 0 or len(table) < LEAST:
        return Savings(None, len(table), cost, baseline)
    drawn = resampled_means(table, seed, RESAMPLES)
    drawn = drawn[drawn[:, 1] > 0]
    return Savings(
        interval(1 - cost / baseline, 1 - drawn[:, 0] / drawn[:, 1]), len(table), cost, baseline
    )


async def spending(
    ledger: Ledger, days: float, names: Mapping[str, str], savings_of: Savings
) -> list[Node]:
    """Totals with the savings' interval, then tables by day, key and expert."""
    since = time.time() - days * DAY
    by = {what: await ledger.spend(what, since) for what in ("day", "key", "expert")}
    total = sum(one.cost for one in by["day"])
    return [
        element("dl", *_tiles(total, days, savings_of), class_="tiles"),
        element("p", _method(savings_of), class_="note"),
        element(
            "div",
            element(
                "div",
                _by("day", "Spend by day (UTC)", reversed(by["day"]), {}),
                _by("key", "Spend by key", by["key"], {**names, "": "without a key"}),
            ),
            _by("expert", ANSWERED, by["expert"], {"": "nobody answered"}),
            class_="columns",
        ),
    ]


def _tiles(total: float, days: float, saved: Savings) -> list[Element]:
    share = saved.share
    shown = "–" if share is None else percent(share.value)
    bounds = "" if share is None else f"95 %: {percent(share.low)} to {percent(share.high)}"
    kept = saved.baseline - saved.cost
    return [
        tile("spent", number(total), f"in the last {days:.0f} days"),
        tile("saved against always-best", shown, bounds),
        tile("saved, in the pool's unit", number(kept), f"over {saved.requests:,} requests"),
    ]


def _method(saved: Savings) -> str:
    if saved.share is None:
        few = f"An interval needs {LEAST} answered requests whose always-best cost is known"
        return f"{few}; there are {saved.requests}."
    return (
        "Always-best is what the same tokens would have cost at the expert of the highest mean "
        f"expected quality. Paired bootstrap over the latest {saved.requests:,} requests, "
        f"{RESAMPLES:,} resamples."
    )


def _by(what: str, caption: str, rows: Iterable[Spend], names: Mapping[str, str]) -> Element:
    lines = [_line(one, names) for one in rows]
    return table(caption, (what, "requests", "failed", "tokens", "cost", "always-best"), lines, 1)


def _line(one: Spend, names: Mapping[str, str]) -> list[Node]:
    tokens = f"{one.prompt + one.completion:,}"
    return [
        names.get(one.name, one.name),
        f"{one.requests:,}",
        f"{one.errors:,}",
        tokens,
        number(one.cost),
        number(one.baseline),
    ]
