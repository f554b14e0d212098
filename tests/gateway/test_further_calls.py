"""A call beyond the first is reserved before it is made, or not made: retries, hedges, rounds."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fault_upstream import FAULTS, Exchange, whole
from served import upstream
from served_world import World, write_pool
from test_money_paths import bearer, run

from coterie.compositions.mixture import Mixture
from coterie.gateway.entries import Entry

BOUND = 10  # with the prompt a call costs 0.02 at most, and 0.017 where the expert counts
LONG = " ".join(["word"] * 40)  # 50 tokens


async def _late(x: Exchange) -> None:
    await asyncio.sleep(0.3)
    await x.ok()


async def _declined(x: Exchange) -> None:
    answer = whole()
    answer["choices"][0]["finish_reason"] = "content_filter"
    await x.json(answer)


FAULTS.update(late=_late, declined=_declined)


def further(
    folder: Path, experts: Mapping[str, str], budget: float, model: str = "", **gateway: Any
) -> tuple[int, Entry, list[str]]:
    """The status of a request to experts that behave like this, its row, and who was asked."""
    found: list[Any] = []

    async def main(world: World) -> None:
        key = await bearer(world, budget=budget)
        first, *others = experts
        stream = experts[first] in ("hang", "truncated-stream")
        more = {"max_tokens": BOUND, "stream": stream, **({} if model else {"models": others})}
        wish = {"coterie": {"mid_stream": "restart"}} if stream else {}
        answer = await world.ask(model or first, key, **more, **wish)
        if answer.status == 429:
            assert answer.error["code"] == "insufficient_quota"
        await world.gateway.ledger.flush()
        (balance,) = await world.gateway.ledger.balances()
        (row,) = await world.log()
        assert balance.settled == pytest.approx(row.cost)
        found.extend([answer.status, row, [seen.model for seen in running.log]])

    with upstream() as running:
        far = {"kind": "openai", "base_url": running.url}
        pool = {name: {**far, "model": model} for name, model in experts.items()}
        run(write_pool(folder, pool, gateway=gateway), main)
    status, row, asked = found
    return status, row, asked


@pytest.mark.parametrize(("budget", "asked"), [(0.03, 1), (0.045, 2)])
@pytest.mark.parametrize("first", ["declined", "hang"])
def test_after_an_attempt_that_is_billed_the_next_one_is_reserved(
    tmp_path: Path, first: str, budget: float, asked: int
) -> None:
    budget -= 0.007 * (first == "hang")  # of which the prompt alone is billed
    options: Any = {"refusals": "next", "timeouts": {"first": 0.2}}
    status, row, who = further(tmp_path, {"ann": first, "bob": "ok"}, budget, **options)
    assert (status, who) == ((429, [first]) if asked == 1 else (200, [first, "ok"]))
    assert ("budget" in row.constraints) == (asked == 1)
    assert row.cost <= budget


@pytest.mark.parametrize(("budget", "asked", "status"), [(0.025, 1, 429), (0.06, 3, 502)])
def test_the_same_expert_is_asked_again_where_the_budget_holds_it(
    tmp_path: Path, budget: float, asked: int, status: int
) -> None:
    got, row, who = further(tmp_path, {"ann": "long-length"}, budget)
    assert (got, who) == (status, ["long-length"] * asked)
    assert [one.kind for one in row.attempts] == ["cut"] * asked


@pytest.mark.parametrize(("budget", "asked"), [(0.042, 1), (0.05, 2)])
def test_so_is_an_expert_of_a_composition(tmp_path: Path, budget: float, asked: int) -> None:
    status, row, who = further(
        tmp_path, {"ann": "long-length", "bob": "ok"}, budget, "recruit:2", retries=1
    )
    assert (status, sorted(who)) == (200, ["long-length"] * asked + ["ok"])
    assert ("budget" in row.constraints, row.cost <= budget) == (asked == 1, True)


@pytest.mark.parametrize(("budget", "asked"), [(0.03, 1), (0.06, 2)])
def test_a_stream_begins_again_elsewhere_where_the_budget_holds_it(
    tmp_path: Path, budget: float, asked: int
) -> None:
    experts = {"ann": "truncated-stream", "bob": "ok"}
    status, row, who = further(tmp_path, experts, budget)
    assert who == ["truncated-stream", "ok"][:asked]
    assert (status, row.attempts[0].kind) == (200, "cut")
    assert row.error == ("cut" if asked == 1 else "")


@pytest.mark.parametrize("budget", [0.021, 0.1])
def test_an_attempt_that_costs_nothing_needs_no_more(tmp_path: Path, budget: float) -> None:
    status, _, who = further(tmp_path, {"ann": "500", "bob": "ok"}, budget, retries=0)
    assert (status, who) == (200, ["500", "ok"])


@pytest.mark.parametrize(("budget", "asked"), [(0.03, ["late"]), (0.045, ["late", "ok"])])
def test_a_hedge_is_sent_only_where_the_budget_holds_both(
    tmp_path: Path, budget: float, asked: list[str]
) -> None:
    status, row, who = further(tmp_path, {"ann": "late", "bob": "ok"}, budget, hedge=0.05)
    assert (status, who) == (200, asked)
    assert row.cost <= budget


def composed(folder: Path, model: str, budget: float, stream: bool = False) -> Entry:
    """The row of a composition of experts that use all that they may, under a budget."""
    found: list[Entry] = []

    async def main(world: World) -> None:
        key = await bearer(world, budget=budget)
        for made in (world.gateway.live.services, world.gateway.live.services.routing):
            made.compositions = {**made.compositions, "mixture": Mixture()}
        answer = await world.ask(model, key, max_tokens=50, stream=stream)
        (row,) = await world.log()
        assert (answer.status, row.cost <= budget) == (row.status, True)
        found.append(row)

    run(write_pool(folder, {name: {"says": LONG} for name in ("ann", "bob", "cid")}), main)
    return found[0]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "budget", "calls", "status"),
    [("recruit:2", 0.11, 0, 429), ("recruit:2", 0.13, 2, 200),
     ("mixture:2", 0.13, 2, 200), ("mixture:2", 0.6, 4, 200), ("mixture:2", 0.9, 5, 200)],
)  # fmt: skip
def test_rounds_that_the_budget_does_not_hold_are_not_made(
    tmp_path: Path, stream: bool, model: str, budget: float, calls: int, status: int
) -> None:
    row = composed(tmp_path, model, budget, stream)
    assert (len(row.attempts), row.status) == (calls, status)
    stopped = model == "mixture:2" and calls < 5
    assert ("budget" in row.constraints) == stopped
