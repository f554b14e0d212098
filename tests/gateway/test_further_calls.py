"""A call beyond the first is reserved before it is made, or not made: retries, hedges, rounds."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fault_upstream import BUSY, FAULTS, Exchange, refuses, whole
from served import upstream
from served_world import World, write_pool
from test_money_paths import bearer, run

from coterie.compositions.mixture import Mixture
from coterie.gateway.entries import Entry
from coterie.gateway.usage import bound_prompt

BOUND = 10  # of an answer, whose tokens cost 0.001 each, like those of the prompt
PROMPT = "count " * 700  # 4.2 is reserved for it, a token a byte, and 1.05 estimated afterwards
LONG = " ".join(["word"] * 40)  # 50 tokens


async def _late(x: Exchange) -> None:
    await asyncio.sleep(0.3)
    await x.ok()


async def _declined(x: Exchange) -> None:
    answer = whole()
    answer["choices"][0]["finish_reason"] = "content_filter"
    await x.json(answer)


FAULTS.update({"late": _late, "declined": _declined, "504": refuses(504, BUSY)})


def further(
    folder: Path,
    experts: Mapping[str, str],
    spare: float,
    model: str = "",
    calls: int = 1,
    **gateway: Any,
) -> tuple[int, Entry, list[str]]:
    """The status of a request to experts that behave like this, its row, and who was asked.

    The budget holds so many calls, and ``spare``.
    """
    found: list[Any] = []

    async def main(world: World) -> None:
        world.gateway.live.services.attempts.draw = lambda: 0.0
        first, *others = experts
        stream = experts[first] in ("hang", "truncated-stream")
        more: Any = {"max_tokens": BOUND, "messages": [{"role": "user", "content": PROMPT}]}
        more |= {} if model else {"models": others}
        more |= {"stream": True, "coterie": {"mid_stream": "restart"}} if stream else {}
        (body,) = world.visit(model or first, **more).parts
        budget = calls * (bound_prompt(len(body), {}) + BOUND) * 0.001 + spare
        answer = await world.ask(model or first, await bearer(world, budget=budget), **more)
        if answer.status == 429:
            assert answer.error["code"] == "insufficient_quota"
        await world.gateway.ledger.flush()
        (balance,) = await world.gateway.ledger.balances()
        (row,) = await world.log()
        assert balance.settled == pytest.approx(row.cost)
        assert row.cost <= budget
        found.extend([answer.status, row, [seen.model for seen in running.log]])

    with upstream() as running:
        far = {"kind": "openai", "base_url": running.url}
        pool = {name: {**far, "model": model} for name, model in experts.items()}
        run(write_pool(folder, pool, gateway=gateway), main)
    status, row, asked = found
    return status, row, asked


@pytest.mark.parametrize(("spare", "asked"), [(0.01, 1), (1.2, 2)])
@pytest.mark.parametrize("first", ["declined", "hang", "reset-before-headers", "504"])
def test_after_an_attempt_that_is_billed_the_next_one_is_reserved(
    tmp_path: Path, first: str, spare: float, asked: int
) -> None:
    options: Any = {"refusals": "next", "timeouts": {"first": 0.2}, "retries": 0}
    status, row, who = further(tmp_path, {"ann": first, "bob": "ok"}, spare, **options)
    assert (status, who) == ((429, [first]) if asked == 1 else (200, [first, "ok"]))
    assert ("budget" in row.constraints) == (asked == 1)
    tokens = row.attempts[0].tokens
    assert tokens is not None
    assert tokens.estimated == (first != "declined")


@pytest.mark.parametrize(("spare", "asked", "status"), [(0.9, 1, 429), (2.2, 3, 502)])
def test_the_same_expert_is_asked_again_where_the_budget_holds_it(
    tmp_path: Path, spare: float, asked: int, status: int
) -> None:
    got, row, who = further(tmp_path, {"ann": "long-length"}, spare)
    assert (got, who) == (status, ["long-length"] * asked)
    assert [one.kind for one in row.attempts] == ["cut"] * asked


@pytest.mark.parametrize(("spare", "asked"), [(0.5, 1), (1.2, 2)])
def test_so_is_an_expert_of_a_composition(tmp_path: Path, spare: float, asked: int) -> None:
    status, row, who = further(
        tmp_path, {"ann": "long-length", "bob": "late"}, spare, "recruit:2", calls=2, retries=1
    )
    assert (status, sorted(who)) == (200, ["late"] + ["long-length"] * asked)
    assert ("budget" in row.constraints) == (asked == 1)


@pytest.mark.parametrize(("spare", "asked"), [(0.9, 1), (1.2, 2)])
def test_a_stream_begins_again_elsewhere_where_the_budget_holds_it(
    tmp_path: Path, spare: float, asked: int
) -> None:
    experts = {"ann": "truncated-stream", "bob": "ok"}
    status, row, who = further(tmp_path, experts, spare)
    assert who == ["truncated-stream", "ok"][:asked]
    assert (status, row.attempts[0].kind) == (200, "cut")
    assert row.error == ("cut" if asked == 1 else "")


def test_an_attempt_that_costs_nothing_needs_no_more(tmp_path: Path) -> None:
    status, _, who = further(tmp_path, {"ann": "500", "bob": "ok"}, 0.001, retries=0)
    assert (status, who) == (200, ["500", "ok"])


@pytest.mark.parametrize(("calls", "spare", "asked"), [(1, 4.0, ["late"]), (2, 0, ["late", "ok"])])
def test_a_hedge_is_sent_only_where_the_budget_holds_both(
    tmp_path: Path, calls: int, spare: float, asked: list[str]
) -> None:
    experts = {"ann": "late", "bob": "ok"}
    status, _, who = further(tmp_path, experts, spare, calls=calls, hedge=0.05)
    assert (status, who) == (200, asked)


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
    [("recruit:2", 0.5, 0, 429), ("recruit:2", 0.65, 2, 200),
     ("mixture:2", 0.65, 2, 200), ("mixture:2", 1.2, 3, 200), ("mixture:2", 2.2, 5, 200)],
)  # fmt: skip
def test_rounds_that_the_budget_does_not_hold_are_not_made(
    tmp_path: Path, stream: bool, model: str, budget: float, calls: int, status: int
) -> None:
    row = composed(tmp_path, model, budget, stream)
    assert (len(row.attempts), row.status) == (calls, status)
    stopped = model == "mixture:2" and calls < 5
    assert ("budget" in row.constraints) == stopped
