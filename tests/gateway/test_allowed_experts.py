"""No way leads past the experts that key and request allow, nor to addresses that are barred."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from gateway_world import outgoing
from served_world import Answer, World, serving, write_pool

from coterie.experts.openai import OpenAIExpert
from coterie.gateway.failures import UpstreamError
from coterie.gateway.keys import make_key
from coterie.gateway.replies import Timeouts
from coterie.gateway.retries import Deadline
from coterie.gateway.upstream import HttpUpstream
from coterie.types import Call, Decision, Final, Flow, Query, Seed


def judged(query: Query, decision: Decision, seed: Seed) -> Flow:
    """A composition whose settings name an expert, ``cid``, that no decision names."""
    (verdict,) = yield [Call("cid", query.messages, "judge", {})]
    return Final(Call(decision.experts[0], query.messages, "answer", {}), prefix=verdict.text)


async def asked(world: World, experts: tuple[str, ...], **fields: Any) -> Answer:
    key, secret = make_key("tester", experts=experts)
    await world.gateway.ledger.put_key(key)
    await world.gateway.accounts.refresh()
    for made in (world.gateway.live.services, world.gateway.live.services.routing):
        made.compositions = {**made.compositions, "judged": judged}
    return await world.ask("judged:1", {"authorization": f"Bearer {secret}"}, **fields)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("experts", "fields", "status"),
    [(("ann", "cid"), {}, 200), (("ann", "bob"), {}, 403), ((), {}, 200),
     ((), {"coterie": {"exclude": ["cid"]}}, 403)],
)  # fmt: skip
def test_a_composition_asks_nobody_that_is_not_allowed(
    tmp_path: Path, stream: bool, experts: tuple[str, ...], fields: dict[str, Any], status: int
) -> None:
    async def main() -> None:
        async with serving(write_pool(tmp_path)) as world:
            answer = await asked(world, experts, stream=stream, **fields)
            assert answer.status == status
            assert bool(world.expert("cid").calls) == (status == 200)
            (row,) = await world.log()
            assert row.status == status

    asyncio.run(asyncio.wait_for(main(), 10))


@pytest.mark.parametrize(
    ("address", "private", "lets"),
    [("169.254.169.254", True, False), ("127.0.0.1", True, True), ("127.0.0.1", False, False)],
)
def test_a_name_that_leads_elsewhere_by_now_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch, address: str, private: bool, lets: bool
) -> None:
    """What was checked when the pool file was read may have changed: DNS rebinding."""
    asked_for: list[str] = []

    async def main() -> None:
        async def found(host: str, port: int, **options: Any) -> Any:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

        async def connect(self: Any, connection: Any, where: Any) -> None:
            asked_for.append(where[0])
            raise ConnectionRefusedError

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "getaddrinfo", found)
        monkeypatch.setattr(type(loop), "sock_connect", connect)
        expert = OpenAIExpert("far", "http://far.example/v1", "m")
        upstream = HttpUpstream(expert, Timeouts.of(2.0), private=private)
        try:
            with pytest.raises(UpstreamError) as error:
                await upstream.open(outgoing(False), Deadline(5))
            assert error.value.failure.kind == "refused"
        finally:
            await upstream.close()

    asyncio.run(main())
    assert asked_for == ([address] if lets else [])
