"""What a client of the gateway sees, and what the log says of it afterwards."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from served_world import World, serving, write_pool


def run(path: Path, main: Callable[[World], Awaitable[None]], **changes: Any) -> None:
    async def inside() -> None:
        async with serving(path, **changes) as world:
            await main(world)

    asyncio.run(asyncio.wait_for(inside(), 10))


def test_an_answer_says_who_gave_it_why_and_what_it_cost(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        answer = await world.ask(headers={"x-request-id": "mine"})
        assert (answer.status, answer.text) == (200, "ann says so")
        assert answer.json["model"] == answer.headers["x-coterie-model"] == "ann"
        assert answer.headers["x-request-id"] == "mine"
        assert answer.headers["x-coterie-policy"] == "utility"
        assert answer.headers["x-coterie-attempts"] == "1"
        (row,) = await world.log()
        assert row.id == answer.headers["x-coterie-decision-id"]
        assert float(answer.headers["x-coterie-cost"]) == row.cost > 0
        assert (row.status, row.expert, row.asked) == (200, "ann", "auto")
        assert row.tokens.completion == answer.json["usage"]["completion_tokens"]

    run(write_pool(tmp_path), main)
