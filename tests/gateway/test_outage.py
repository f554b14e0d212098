"""The store goes away and comes back: nothing is lost, nothing is there twice."""

import asyncio
import shutil
import time
from pathlib import Path

import pytest
from ledger_world import Store

from coterie.gateway.accounts import Accounts
from coterie.gateway.entries import Entry, new_id
from coterie.gateway.keys import make_key
from coterie.gateway.ledger import Ledger, open_ledger
from coterie.gateway.ledger_writer import StoreDown
from coterie.gateway.wire import ApiError


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coterie.gateway.ledger_sqlite.WAIT", 0.05)


def requests(count: int) -> list[Entry]:
    return [Entry(new_id("req_", 1e9 + i), 1e9 + i, key="k", cost=1.0) for i in range(count)]


async def recovery(ledger: Ledger) -> None:
    """Wait until nothing waits."""
    end = time.monotonic() + 10
    while ledger.waiting or not ledger.reachable:
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


def test_what_is_written_meanwhile_waits_on_disk(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        made = requests(20)
        with store.open() as ledger:
            ledger.write(made[0])
            await ledger.flush()
            with store.outage(monkeypatch):
                for entry in made[1:]:
                    ledger.write(entry)
                await ledger.flush()
                assert (ledger.reachable, ledger.waiting, ledger.accepting) == (False, 19, True)
                assert (store.folder / "spool").read_bytes().count(b"\n") == 19
                with pytest.raises(StoreDown, match="cannot be reached"):
                    await ledger.lease("a", "total", "h", 1.0, 2.0)
            await recovery(ledger)
            assert await ledger.recent(99) == made[::-1]
            assert (await ledger.spend("key"))[0].cost == 20.0

    asyncio.run(main())


def test_the_next_process_finds_what_a_killed_one_left_and_writes_it_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = requests(20)
    with store.open() as ledger, store.outage(monkeypatch):
        for entry in made:
            ledger.write(entry)
        asyncio.run(ledger.flush())
        shutil.copy(store.folder / "spool", store.folder / "copy")
    shutil.copy(store.folder / "copy", store.folder / "spool")  # killed after the transaction
    with store.open() as ledger:
        asyncio.run(recovery(ledger))
        assert asyncio.run(ledger.recent(99)) == made[::-1]
    assert (store.folder / "spool").read_bytes() == b""


def test_a_full_spool_refuses_requests_and_loses_none(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        made, (key, _) = requests(30), make_key("one")
        with store.open(limit=5000) as ledger:
            with store.outage(monkeypatch):
                for entry in made:
                    ledger.write(entry)
                    await ledger.flush()
                assert (ledger.accepting, ledger.waiting) == (False, 30)
                for accounts in (Accounts(ledger, outage="open"), Accounts(ledger)):
                    with pytest.raises(ApiError, match="cannot be written now") as error:
                        await accounts.reserve(key, 0.0, 1)
                    assert error.value.status == 503
                    assert b"retry-after" in dict(error.value.headers)
            await recovery(ledger)
            assert await ledger.recent(99) == made[::-1]
            (await Accounts(ledger).reserve(key, 0.0, 1)).release()

    asyncio.run(main())


def test_closed_refuses_while_the_store_is_down(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        key, _ = make_key("one", budget=10.0)
        with store.open() as ledger:
            accounts = Accounts(ledger, outage="closed")
            held = await accounts.reserve(key, 1.0, 1)
            with store.outage(monkeypatch):
                for _ in "ab":  # the first finds out that the store is down
                    with pytest.raises(ApiError) as error:
                        await accounts.reserve(key, 1.0, 1)
                    assert error.value.status == 503
                with pytest.raises(ApiError):  # not even where a lease has enough left
                    await accounts.reserve(key, 0.0, 1)
                held.settle(0.5, 1)  # what was under way is recorded
            await recovery(ledger)
            assert [b.settled for b in await ledger.balances()] == [0.5]
            (await accounts.reserve(key, 1.0, 1)).release()

    asyncio.run(main())


def test_many_who_ask_a_store_that_is_down_do_not_wait_for_each_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        with store.open() as ledger, store.outage(monkeypatch):
            monkeypatch.setattr("coterie.gateway.ledger_writer.RETRY_SECONDS", 60.0)
            start = time.monotonic()
            asked = [ledger.lease("a", "total", "h", 1.0, 9.0) for _ in range(200)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(answer) for answer in answers} == {StoreDown}
            assert time.monotonic() - start < 5  # one by one it would be 200 x 50 ms, or more

    asyncio.run(main())


def test_open_lets_requests_in_and_records_later_what_they_spent(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        key, _ = make_key("one", budget=10.0, rpm=100)
        with store.open() as ledger:
            accounts = Accounts(ledger, outage="open")
            (await accounts.reserve(key, 1.0, 1)).settle(1.0, 1)
            with store.outage(monkeypatch):
                for _ in range(5):
                    (await accounts.reserve(key, 3.0, 1)).settle(2.0, 1)
                await ledger.flush()
            await recovery(ledger)
            (found,) = [b for b in await ledger.balances() if b.account == f"key:{key.id}"]
            assert found.settled == 11.0
            with pytest.raises(ApiError, match="11 is spent"):
                await accounts.reserve(key, 3.0, 1)

    asyncio.run(main())


def test_a_server_that_is_not_there_is_an_error_that_hides_the_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    place = f"postgresql://me:secret@/x?host={tmp_path}"
    with pytest.raises(StoreDown, match="cannot be reached") as error:
        open_ledger(place, tmp_path / "spool")
    assert "secret" not in str(error.value)
