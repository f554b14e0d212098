"""From a pool file to a gateway, and what may change while it runs."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from served_world import QUALITY, World, router, serving, write_pool
from test_app import new_key, run

from coterie.errors import ConfigError, CoterieError
from coterie.gateway.building import build
from coterie.gateway.guard import barred, check_address, is_loopback
from coterie.gateway.keys import make_key
from coterie.gateway.server import check_binding

Main = Callable[[World], Awaitable[None]]
REMOTE = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}


def test_a_pool_file_is_a_gateway(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        names = [one["id"] for one in (await world.get("/v1/models")).json["data"]]
        assert names[:2] == ["auto", "auto:cheap"]
        assert {"recruit", "ann", "bob", "cid"} <= set(names)
        assert "cascade" not in names  # it has no threshold
        for model, who in (("auto", "ann"), ("auto:cheap", "cid"), ("bob", "bob")):
            assert (await world.ask(model)).headers["x-coterie-model"] == who
        assert (tmp_path / "gateway.sqlite").exists()

    cheap = {"name": "utility", "willingness_to_pay": 1.0}
    run(write_pool(tmp_path, gateway={"policies": {"cheap": cheap}}), main)


def test_a_reload_applies_the_router_policies_and_settings(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        key = await new_key(world)
        bearer = {"authorization": f"Bearer {key}"}
        assert (await world.ask(headers=bearer)).headers["x-coterie-model"] == "ann"
        cheap = {"name": "utility", "willingness_to_pay": 1.0}
        given = {"policies": {"cheap": cheap}, "max_body": "2 kB", "hosts": ["our.host"]}
        write_pool(tmp_path, gateway=given, quality={**QUALITY, "bob": 0.95})
        await world.gateway.reload()
        assert (await world.ask(headers=bearer)).headers["x-coterie-model"] == "bob"
        named = await world.ask("auto:cheap", {**bearer, "host": "our.host"})
        assert named.headers["x-coterie-model"] == "cid"
        assert (await world.ask(headers=bearer, user="u" * 3000)).status == 413
        found = world.gateway.live.services.meters.requests
        assert found["ann", "2xx"] == 1  # counts go on

    run(write_pool(tmp_path), main)


BROKEN: list[tuple[Mapping[str, Any], str]] = [
    ({"gateway": {"port": 9999}}, "needs a restart"),
    ({"gateway": {"store": "other.sqlite"}}, "needs a restart"),
    ({"gateway": {"drain": 1.0}}, "needs a restart"),
    ({"gateway": {"heartbeats": 1}}, "heartbeats"),
    ({"gateway": {"max_body": "big"}}, "big"),
    ({"experts": {"ann": {"says": "other"}, "bob": {}, "cid": {}}}, "needs a restart"),
    ({"experts": {"ann": {}, "bob": {}}}, "cid"),
    ({"policy": {"name": "nobody"}}, "nobody"),
    ({"pool": {"capacity": 3}}, "needs a restart"),
]


@pytest.mark.parametrize(("change", "why"), BROKEN)
def test_a_reload_that_cannot_be_leaves_all_as_it_was(
    tmp_path: Path, change: Mapping[str, Any], why: str
) -> None:
    async def main(world: World) -> None:
        before = world.gateway.live.services
        write_pool(tmp_path, **change)
        with pytest.raises(CoterieError, match=why):
            await world.gateway.reload()
        assert why in world.gateway.trouble
        assert world.gateway.live.services is before
        assert (await world.ask()).headers["x-coterie-model"] == "ann"
        write_pool(tmp_path)
        await world.gateway.reload()
        assert world.gateway.trouble == ""

    run(write_pool(tmp_path), main)


def test_what_the_command_line_said_holds_through_a_reload(tmp_path: Path) -> None:
    async def main(world: World) -> None:
        await world.gateway.reload()
        assert world.gateway.settings.port == 0
        assert world.gateway.store == str(tmp_path / "mine.sqlite")
        assert (await world.ask()).status == 200

    run(write_pool(tmp_path), main, port=0, store=str(tmp_path / "mine.sqlite"))


def test_connections_outlive_a_reload_unless_their_settings_change(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(write_pool(tmp_path, {"ann": REMOTE}, quality=None)) as world:
            before = world.gateway.live.services.upstreams
            await world.gateway.reload()
            assert world.gateway.live.services.upstreams is before
            quick = {"timeouts": {"first": 1.0}}
            write_pool(tmp_path, {"ann": REMOTE}, quality=None, gateway=quick)
            await world.gateway.reload()
            after = world.gateway.live.services.upstreams
            assert after["ann"] is not before["ann"]

    asyncio.run(main())


@pytest.mark.parametrize(
    "policy",
    [
        {"name": "budget", "mean_cost": 1.0},
        {"name": "explore", "policy": {"name": "budget", "mean_cost": 1.0}},
    ],
)
def test_policies_that_need_a_batch_are_refused(tmp_path: Path, policy: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="looks at whole batches"):
        build(str(write_pool(tmp_path, policy=policy)), None, None)
    path = write_pool(tmp_path, gateway={"policies": {"b": policy}})
    with pytest.raises(ConfigError, match="policy b"):
        build(str(path), None, None)


@pytest.mark.parametrize(
    ("table", "field", "why"),
    [
        ({"max_body": "20 bananas"}, "gateway.max_body", "bytes above 0"),
        ({"prices": {"anne": {"prompt": 1.0, "completion": 1.0}}}, "gateway.prices", "'ann'"),
        ({"origins": ["chat.example"]}, "gateway.origins", "'https://"),
        ({"origins": ["*"]}, "gateway.origins", "'https://"),
        ({"hosts": ["http://llm.example/"]}, "gateway.hosts", "'llm.example'"),
        ({"hosts": ["llm.example:8000"]}, "gateway.hosts", "without a port"),
    ],
)
def test_what_would_never_come_into_effect_is_refused(
    tmp_path: Path, table: dict[str, Any], field: str, why: str
) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        build(str(write_pool(tmp_path, gateway=table)), None, None)
    assert field in str(caught.value)


def test_a_router_of_another_pool_is_refused_at_the_start(tmp_path: Path) -> None:
    path = write_pool(tmp_path)
    other = tmp_path / "other"
    router({"ann": 0.5, "zoe": 0.5}, {"ann": 1.0, "zoe": 1.0}).save(other)
    with pytest.raises(CoterieError, match="this pool lacks: zoe"):
        build(str(path), other, None)


def test_the_network_is_not_served_without_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COTERIE_ADMIN_KEY", raising=False)

    async def main(world: World) -> None:
        with pytest.raises(CoterieError, match=r"no key yet.*--store .*gateway\.sqlite"):
            await check_binding(world.gateway)
        key, _ = make_key("first")
        await world.gateway.ledger.put_key(key)
        await check_binding(world.gateway)
        monkeypatch.setenv("COTERIE_ADMIN_KEY", "letmein")
        with pytest.raises(CoterieError, match="7 characters; use 16 or more"):
            await check_binding(world.gateway)

    run(write_pool(tmp_path), main, host="0.0.0.0")
    off = write_pool(tmp_path, gateway={"keys": "off"})

    async def open_(world: World) -> None:
        with pytest.raises(CoterieError, match="allow keys"):
            await check_binding(world.gateway)

    monkeypatch.delenv("COTERIE_ADMIN_KEY")
    run(off, open_, host="0.0.0.0")


def test_administration_from_afar_needs_its_own_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(world: World) -> None:
        secret = await new_key(world)
        for sent, status in ((secret, 401), ("", 401), ("a" * 20, 200)):
            headers = {"authorization": f"Bearer {sent}"}
            assert (await world.get("/metrics", headers=headers)).status == status
        monkeypatch.delenv("COTERIE_ADMIN_KEY")
        assert (await world.get("/metrics")).error["code"] == "admin_disabled"

    monkeypatch.setenv("COTERIE_ADMIN_KEY", "a" * 20)
    run(write_pool(tmp_path), main, host="0.0.0.0")


def test_an_unknown_price_matters_to_budgets_alone(tmp_path: Path) -> None:
    async def main() -> None:
        remote = {**REMOTE, "model": "a-model-nobody-sells"}
        path = write_pool(tmp_path, {"ann": remote}, quality=None, gateway={"retries": 0})
        text = path.read_text().replace('"price"', "#")
        path.write_text(text)
        async with serving(path) as world:
            rich, free = await new_key(world, budget=5.0), await new_key(world)
            answer = await world.ask("ann", {"authorization": f"Bearer {rich}"})
            assert (answer.status, answer.error["code"]) == (400, "unknown_price")
            answer = await world.ask("ann", {"authorization": f"Bearer {free}"})
            assert answer.status == 502  # asked, though nobody listens there

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "private", "why"),
    [
        ("http://169.254.169.254/v1", True, "link-local"),
        ("http://metadata.google.internal/v1", True, "metadata"),
        ("http://[::ffff:169.254.169.254]/", True, "link-local"),
        ("http://[fe80::1]/", True, "link-local"),
        ("http://127.0.0.1:8000/v1", False, "private_addresses = true"),
        ("http://10.0.0.8/v1", False, "private"),
        ("http://0.0.0.0/", True, "no address of a server"),
        ("http://[64:ff9b::a9fe:a9fe]/", True, "link-local"),
    ],
)
def test_addresses_that_lead_inside_are_refused(url: str, private: bool, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        check_address(url, private, "base_url", "pool.toml")


def test_private_experts_are_for_gateways_of_this_machine(tmp_path: Path) -> None:
    path = write_pool(tmp_path, {"ann": REMOTE}, quality=None)
    with pytest.raises(ConfigError, match="private_addresses"):
        build(str(path), None, None, host="0.0.0.0")
    build(str(path), None, None).ledger.close()
    build(str(path), None, None, host="0.0.0.0", private_addresses=True).ledger.close()
    assert barred("93.184.216.34", private=False) == ""
    assert barred("::1", private=True) == ""
    assert barred("::1", private=False)
    assert is_loopback("127.0.0.9")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("host.example")
