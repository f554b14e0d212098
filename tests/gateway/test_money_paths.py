"""What is reserved comes back, and what is used is paid, on the ways that are seldom taken."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fault_upstream import FAULTS, Exchange
from served import upstream
from served_world import Scripted, World, serving, write_pool

from coterie.gateway.attempts import Delivery
from coterie.gateway.eligibility import UNPRICED
from coterie.gateway.entries import Team
from coterie.gateway.keys import make_key
from coterie.types import Call, Completion, Decision, Final, Flow, Query, Seed


def run(path: Path, main: Callable[[World], Awaitable[None]]) -> None:
    async def inside() -> None:
        async with serving(path) as world:
            await main(world)

    asyncio.run(asyncio.wait_for(inside(), 10))


async def bearer(world: World, **limits: Any) -> dict[str, str]:
    key, secret = make_key("tester", **limits)
    await world.gateway.ledger.put_key(key)
    await world.gateway.accounts.refresh()
    return {"authorization": f"Bearer {secret}"}


def test_a_reservation_comes_back_where_an_answer_cannot_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def torn(delivery: Delivery) -> None:
        raise RuntimeError("cannot be closed")

    async def main(world: World) -> None:
        key = await bearer(world, budget=1000.0, concurrency=1)
        with monkeypatch.context() as patch:
            patch.setattr(Delivery, "aclose", torn)
            assert (await world.ask("ann", key, max_tokens=10)).status == 500
        assert (await world.ask("ann", key, max_tokens=10)).status == 200
        assert len(await world.log()) == 2

    run(write_pool(tmp_path, quality=None), main)


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [("/v1/completions", {"prompt": "a", "max_tokens": 10}, 200),
     ("/v1/completions", {"prompt": "a", "max_tokens": 10, "best_of": 20}, 429),
     ("/v1/completions", {"prompt": ["a"] * 20, "max_tokens": 10}, 429)],
)  # fmt: skip
def test_every_answer_that_is_made_is_reserved(
    tmp_path: Path, path: str, fields: dict[str, Any], status: int
) -> None:
    async def main(world: World) -> None:
        key = await bearer(world, budget=0.3)  # a token costs 0.001
        assert (await world.post(path, key, model="ann", **fields)).status == status

    run(write_pool(tmp_path, quality=None), main)


def test_vectors_are_reserved_by_their_input_alone(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        key = await bearer(world, budget=0.3)
        answer = await world.post("/v1/embeddings", key, model="ann", input="some words")
        assert answer.error["code"] == "bad_request"  # not insufficient_quota: it was asked

    run(write_pool(tmp_path, {"ann": {"capabilities": ["embeddings"]}}, quality=None), main)


def test_an_answer_of_no_tokens_reserves_none(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        key = await bearer(world, budget=0.3)
        fields = {"prompt": "a", "echo": True, "max_tokens": 0}
        answer = await world.post("/v1/completions", key, model="ann", **fields)
        assert "at least 1 for this expert" in answer.error["message"]  # it was asked

    run(write_pool(tmp_path, quality=None), main)


def test_calls_of_a_composition_end_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one of them fails in a way that nobody foresaw, the others are not left running."""

    async def fails(expert: Scripted, call: Call) -> Completion:
        if expert.name == "ann":
            raise RuntimeError("unforeseen")
        try:
            await asyncio.sleep(5)
        finally:
            expert.ended.append("left")
        return Completion(expert.name, "late")

    async def main(world: World) -> None:
        monkeypatch.setattr(Scripted, "complete", fails)
        assert (await world.ask("recruit:3")).status == 500
        assert world.expert("bob").ended == world.expert("cid").ended == ["left"]

    run(write_pool(tmp_path), main)


def test_an_answer_of_another_shape_is_one_failed_call_of_a_composition(tmp_path: Path) -> None:
    async def odd(x: Exchange) -> None:
        message = {"role": "assistant", "content": [{"type": "text", "text": "hi"}]}
        await x.json({"choices": [{"message": message, "finish_reason": "stop"}]})

    async def main(world: World) -> None:
        answer = await world.ask("recruit:3")
        assert (answer.status, answer.text) == (200, "bob says so")

    FAULTS["odd"] = odd
    with upstream() as server:
        far = {"kind": "openai", "base_url": server.url, "model": "odd"}
        run(write_pool(tmp_path, {"ann": far, "bob": {}, "cid": {"says": "bob says so"}}), main)


def test_a_request_that_a_local_expert_cannot_read_costs_nothing(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        assert (await world.ask("ann", temperature="hot")).status == 400
        (row,) = await world.log()
        assert ([one.kind for one in row.attempts], row.cost) == (["bad_request"], 0.0)

    run(write_pool(tmp_path, quality=None), main)


def test_the_name_of_a_model_fills_no_log(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        answer = await world.ask("x" * 1_000_000)
        assert (answer.status, answer.error["param"], len(answer.body) < 500) == (
            404,
            "model",
            True,
        )
        assert not await world.log()

    run(write_pool(tmp_path, quality=None), main)


@pytest.mark.parametrize(
    ("given", "sent"),
    [({}, 4096), ({"max_tokens": 7}, 7), ({"max_tokens": None}, 4096)],
)
def test_a_budget_bounds_the_answer_where_the_client_does_not(
    tmp_path: Path, given: dict[str, int | None], sent: int
) -> None:
    async def main(world: World) -> None:
        key = await bearer(world, budget=45.0)  # 4.1 is reserved without a bound
        assert (await world.ask("ann", key, **given)).status == 200
        assert running.log[-1].body["max_tokens"] == sent
        assert (await world.ask("bob", key, **given)).status == 200
        assert [call.options["max_tokens"] for call in world.expert("bob").calls] == [sent]

    with upstream() as running:
        far = {"kind": "openai", "base_url": running.url, "model": "ok"}
        run(write_pool(tmp_path, {"ann": far, "bob": {}}, quality=None), main)


def test_a_key_without_a_budget_sends_what_the_client_sent(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        assert (await world.ask("ann", await bearer(world, rpm=100))).status == 200
        assert "max_tokens" not in running.log[-1].body

    with upstream() as running:
        far = {"kind": "openai", "base_url": running.url, "model": "ok"}
        run(write_pool(tmp_path, {"ann": far}, quality=None), main)


NOWHERE = "http://127.0.0.1:9/v1"
UNKNOWN: dict[str, Any] = {"kind": "openai", "base_url": NOWHERE, "model": "none", "price": None}


@pytest.mark.parametrize(("budget", "code"), [(None, "refused"), (5.0, "unknown_price")])
def test_a_team_without_a_budget_may_ask_at_an_unknown_price(
    tmp_path: Path, budget: float | None, code: str
) -> None:
    async def main(world: World) -> None:
        await world.gateway.ledger.put_team(Team("lab", budget))
        answer = await world.ask("far", await bearer(world, team="lab"))
        assert answer.error["code"] == code  # refused: it was asked, and nobody is there

    run(write_pool(tmp_path, {"far": UNKNOWN}, quality=None), main)


@pytest.mark.parametrize("model", ["auto", "ann", "recruit:3"])
def test_a_stand_in_of_unknown_price_is_left_out_under_a_budget(tmp_path: Path, model: str) -> None:
    async def main(world: World) -> None:
        key = await bearer(world, budget=50.0)
        assert (await world.ask(model, key, models=["far", "bob"])).text == "bob says so"
        (row,) = await world.log()
        assert {one.expert: one.barred for one in row.candidates}["far"] == UNPRICED
        assert {one.expert for one in row.attempts} == {"ann", "bob"}

    pool = {"ann": {"breaks": 0}, "bob": {}, "far": UNKNOWN}
    run(write_pool(tmp_path, pool, gateway={"retries": 0}), main)


def test_a_composition_asks_no_judge_of_unknown_price_under_a_budget(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        for made in (world.gateway.live.services, world.gateway.live.services.routing):
            made.compositions = {**made.compositions, "judged": judged}
        answer = await world.ask("judged:1", await bearer(world, budget=50.0), max_tokens=10)
        assert (answer.status, answer.error["code"]) == (403, "no_eligible_expert")

    run(write_pool(tmp_path, {"ann": {}, "far": UNKNOWN}), main)


def test_a_call_that_a_composition_leaves_unbounded_has_a_bound_under_a_budget(
    tmp_path: Path,
) -> None:
    async def main(world: World) -> None:
        for made in (world.gateway.live.services, world.gateway.live.services.routing):
            made.compositions = {**made.compositions, "bare": bare}
        for key in (await bearer(world, budget=50.0), await bearer(world)):
            assert (await world.ask("bare:1", key, max_tokens=10)).status == 200
        options = [dict(call.options) for call in world.expert("ann").calls]
        assert options == [{"max_tokens": 4096}, {}]

    run(write_pool(tmp_path), main)


def bare(query: Query, decision: Decision, seed: Seed) -> Flow:
    """Asked without any option."""
    yield from ()
    return Final(Call(decision.experts[0], query.messages, "answer", {}))


def judged(query: Query, decision: Decision, seed: Seed) -> Flow:
    """Written by the first expert, after ``far`` was heard."""
    yield [Call("far", query.messages, "judge", query.options)]
    return Final(Call(decision.experts[0], query.messages, "answer", query.options))
