"""Compositions through the gateway answer as they do elsewhere, and every call is on the bill."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from served_world import Answer, World, serving, write_pool

from coterie.compositions import Composition
from coterie.drivers.live import answer as live_answer
from coterie.gateway.entries import Entry
from coterie.gateway.metering import Meters
from coterie.types import Call, Completion, Decision, Final, Flow, Query, Seed

POOL = {
    "ann": {"says": "the answer is yes"},
    "bob": {"says": "it is no"},
    "cid": {"says": "it is no"},
}
Seen = tuple[Answer, Entry, World]


def drafted(query: Query, decision: Decision, seed: Seed) -> Flow:
    """Everybody drafts, the first writes it up after an announcement."""
    asked = [Call(e, query.messages, "answer", query.options) for e in decision.experts]
    drafts = yield asked
    said = "; ".join(one.text for one in drafts if not one.failed)
    messages = (*query.messages, {"role": "user", "content": said})
    first, *others = [Call(e, messages, "aggregate", query.options) for e in decision.experts]
    return Final(first, prefix="Together: ", fallbacks=tuple(others))


def asked(
    folder: Path,
    model: str,
    pool: Any = None,
    composition: Composition | None = None,
    threshold: float | None = None,
    **fields: Any,
) -> Seen:
    """The answer of a composition, its row, and the gateway as it was afterwards."""

    async def main() -> Seen:
        cascades = None if threshold is None else {"name": "utility", "composition": "cascade"}
        path = write_pool(folder, pool or POOL, gateway={"retries": 0}, policy=cascades)
        if threshold is not None:
            path.write_text(f"{path.read_text()}[composition]\nthreshold = {threshold}\n")
        async with serving(path) as world:
            if composition is not None:
                for made in (world.gateway.live.services, world.gateway.live.services.routing):
                    made.compositions = {**made.compositions, "drafted": composition}
            answer = await world.ask(model, **fields)
            (row,) = await world.log()
            return answer, row, world

    return asyncio.run(asyncio.wait_for(main(), 10))


def alone(world: World, row: Entry, names: Sequence[str], seed: int) -> Completion:
    """The same question through the driver that needs no gateway."""
    services = world.gateway.live.services
    query = Query.from_text(row.id, "count", seed=seed)
    decision = Decision("recruit", tuple(names), tuple(0.5 for _ in names))
    composition = services.compositions["recruit"]
    experts = world.gateway.pool.experts
    return asyncio.run(live_answer(query, decision, composition, experts, seed)).completion


def test_recruited_experts_answer_as_they_do_without_a_gateway(tmp_path: Path) -> None:
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        answer, row, world = asked(folder, "recruit:3", seed=seed)
        told = alone(world, row, ["ann", "bob", "cid"], seed)
        assert (answer.text, answer.headers["x-coterie-model"]) == (told.text, told.expert)
        assert answer.text == "it is no"
        assert row.composition == "recruit"


@pytest.mark.parametrize("stream", [False, True])
def test_every_call_is_on_the_bill(tmp_path: Path, stream: bool) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if stream else {}
    answer, row, _ = asked(tmp_path, "recruit:3", stream=stream, **options)
    assert sorted(one.expert for one in row.attempts) == ["ann", "bob", "cid"]
    assert all(one.cost > 0 for one in row.attempts)
    assert row.cost == pytest.approx(sum(one.cost for one in row.attempts))
    meters = Meters()
    meters.add(row)
    assert meters.cost == {one.expert: one.cost for one in row.attempts}
    assert {who for who, _ in meters.tokens} == {"ann", "bob", "cid"}
    usage = answer.events[-2]["usage"] if stream else answer.json["usage"]
    assert usage["completion_tokens"] == row.tokens.completion > 1
    assert usage["prompt_tokens"] == row.tokens.prompt


@pytest.mark.parametrize("stream", [False, True])
def test_the_last_call_streams_after_its_prefix_and_counts_what_went_before(
    tmp_path: Path, stream: bool
) -> None:
    pool = {"ann": {"says": "one two three"}, "bob": {"says": "four"}}
    options: Any = {"stream_options": {"include_usage": True}} if stream else {}
    answer, row, world = asked(tmp_path, "drafted:2", pool, drafted, stream=stream, **options)
    assert answer.text.strip() == "Together: one two three"
    assert len(row.attempts) == 3
    assert len(world.expert("ann").calls) == 2
    if stream:
        roles = [e["choices"][0]["delta"].get("role") for e in answer.events[:-2]]
        assert roles.count("assistant") == 1
        assert len(answer.chunks) > 4
    usage = answer.events[-2]["usage"] if stream else answer.json["usage"]
    assert usage["total_tokens"] == row.tokens.total


@pytest.mark.parametrize("stream", [False, True])
def test_a_recruit_that_fails_leaves_the_others(tmp_path: Path, stream: bool) -> None:
    pool = {"ann": {"breaks": 0}, "bob": {"says": "no"}, "cid": {"says": "no"}}
    answer, row, _ = asked(tmp_path, "recruit:3", pool, stream=stream)
    assert (answer.status, answer.text) == (200, "no")
    assert sorted(one.kind for one in row.attempts) == ["", "", "reset"]


def test_where_the_last_call_fails_before_a_word_the_next_one_is_asked(tmp_path: Path) -> None:
    pool = {"ann": {"breaks": 0}, "bob": {"says": "four"}}
    answer, row, _ = asked(tmp_path, "drafted:2", pool, drafted, stream=True)
    assert answer.text.strip() == "Together: four"
    assert answer.events[-1] == "[DONE]"
    assert [(one.expert, one.kind) for one in row.attempts[-2:]] == [("ann", "reset"), ("bob", "")]


def test_where_everybody_fails_the_client_is_told(tmp_path: Path) -> None:
    pool = {name: {"breaks": 0} for name in ("ann", "bob")}
    for stream in (False, True):
        folder = tmp_path / str(stream)
        folder.mkdir()
        answer, row, _ = asked(folder, "recruit:2", pool, stream=stream)
        assert answer.status == row.status >= 500
        assert "error" in answer.json
        assert len(row.attempts) == 2


def test_calls_of_a_composition_get_the_options_that_experts_know(tmp_path: Path) -> None:
    fields: Any = {
        "max_completion_tokens": 7,
        "temperature": 0.2,
        "user": "u",
        "metadata": {"a": "b"},
    }
    _, _, world = asked(tmp_path, "recruit:2", **fields)
    options = dict(world.expert("ann").calls[0].options)
    assert options.pop("seed")
    assert options == {"max_tokens": 7, "temperature": 0.2}


def test_a_whole_number_with_a_point_is_one_for_local_experts_too(tmp_path: Path) -> None:
    _, _, world = asked(tmp_path, "drafted:2", composition=drafted, seed=5.0, top_k=3.0)
    options = world.expert("ann").calls[0].options
    assert [repr(options[name]) for name in ("seed", "top_k")] == ["5", "3"]


def test_the_time_of_an_expert_is_that_of_its_own_calls(tmp_path: Path) -> None:
    pool = {**POOL, "cid": {"says": "it is no", "pause": 0.1}}
    _, row, world = asked(tmp_path, "recruit:3", pool)
    meters = world.gateway.live.services.meters
    quick, slow = meters.expert_latency("ann"), meters.expert_latency("cid")
    assert quick is not None
    assert slow is not None
    assert quick < 0.1 < 0.3 < slow < row.latency


def test_a_prompt_is_composed_with_its_options_too(tmp_path: Path) -> None:
    answer, _, world = asked(
        tmp_path, "recruit:3", path="/v1/completions", prompt="count", max_tokens=7
    )
    assert answer.json["choices"][0]["text"] == "it is no"
    call = world.expert("ann").calls[0]
    assert [m["content"] for m in call.messages] == ["count"]
    assert call.options["max_tokens"] == 7


@pytest.mark.parametrize(("sure", "who"), [([9, 9], "cid"), ([9, -1], "bob"), ([-1, -1], "ann")])
def test_a_cascade_asks_from_cheap_to_dear_until_one_is_sure(
    tmp_path: Path, sure: list[int], who: str
) -> None:
    pool = {**POOL, "bob": {"sure": float(sure[0])}, "cid": {"sure": float(sure[1])}}
    answer, row, _ = asked(tmp_path, "cascade:3", pool, threshold=0.0)
    order = ["cid", "bob", "ann"]
    assert [one.expert for one in row.attempts] == order[: order.index(who) + 1]
    assert (answer.headers["x-coterie-model"], row.composition) == (who, "cascade")
