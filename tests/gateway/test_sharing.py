"""Pages of listed origins may ask and read the answers; others learn nothing new."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from served_world import World, serving, write_pool

PAGE = "https://page.example"
CHAT = "/v1/chat/completions"
WANTS = {"origin": PAGE, "access-control-request-method": "POST"}


def with_world(path: Path, main: Any) -> None:
    async def inside() -> None:
        async with serving(path) as world:
            await main(world)

    asyncio.run(asyncio.wait_for(inside(), 10))


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    return write_pool(tmp_path, gateway={"origins": [PAGE]})


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/feedback"])
def test_a_page_of_a_listed_origin_may_ask(listed: Path, path: str) -> None:
    async def main(world: World) -> None:
        answer = await world.get(path, "OPTIONS", WANTS)
        told = answer.headers
        assert (answer.status, answer.body, told["vary"]) == (204, b"", "Origin")
        assert told["access-control-allow-origin"] == PAGE
        assert told["access-control-allow-methods"] == "GET, POST"
        assert told["access-control-allow-headers"] == "authorization, content-type, *"
        assert int(told["access-control-max-age"]) > 0

    with_world(listed, main)


def test_it_may_read_answers_and_refusals(listed: Path) -> None:
    async def main(world: World) -> None:
        page = {"origin": PAGE}
        answers = [await world.ask(headers=page), await world.ask(headers=page, stream=True)]
        answers += [await world.ask("nobody", page), await world.get("/v1/models", headers=page)]
        assert [answer.status for answer in answers] == [200, 200, 404, 200]
        for answer in answers:
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert answer.headers["access-control-expose-headers"] == "*"

    with_world(listed, main)


@pytest.mark.parametrize(
    ("path", "origin"), [(CHAT, "https://evil.example"), ("/metrics", PAGE), ("/", PAGE)]
)
def test_nothing_else_is_shared(listed: Path, path: str, origin: str) -> None:
    async def main(world: World) -> None:
        answer = await world.get(path, "OPTIONS", {**WANTS, "origin": origin})
        assert answer.status != 204
        assert not [name for name in answer.headers if name.startswith("access-control")]

    with_world(listed, main)


def test_a_name_that_is_not_ours_gets_no_permission(listed: Path) -> None:
    async def main(world: World) -> None:
        answer = await world.get(CHAT, "OPTIONS", {**WANTS, "host": "evil.example"})
        assert answer.status == 405

    with_world(listed, main)


def test_without_listed_origins_there_is_no_word_of_it(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        answers = [await world.get(CHAT, "OPTIONS", WANTS), await world.ask()]
        answers.append(await world.ask(headers={"origin": "http://localhost"}))
        assert [answer.status for answer in answers] == [405, 200, 200]
        for answer in answers:
            assert not {"vary", "access-control-allow-origin"} & set(answer.headers)

    with_world(write_pool(tmp_path), main)
