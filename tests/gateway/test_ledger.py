import asyncio
import sqlite3
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from ledger_world import Store

from coterie.errors import ArtifactError, InputError
from coterie.gateway import ledger_sql
from coterie.gateway.entries import Attempt, Candidate, Entry, Key, Team, Tokens, new_id
from coterie.gateway.keys import make_key
from coterie.gateway.ledger import Ledger, open_ledger
from coterie.gateway.ledger_sql import Settled

NOON = 1_700_000_000.0


def request(clock: float = NOON, **fields: object) -> Entry:
    return Entry(new_id("req_", clock), clock, **fields)  # type: ignore[arg-type]


def whole() -> Entry:
    """An entry with something in every sort of field."""
    return request(
        key="k",
        team="t",
        session="s\0é",
        candidates=[Candidate("a", 0.5, 0.1, 1e-6), Candidate("b", barred="tools")],
        constraints={"max_cost": 0.5, "tags": ["x"]},
        evidence={"neighbours": [1, 2, {"deep": None}]},
        attempts=[Attempt("a", "stall", 504, 1.5), Attempt("b", tokens=Tokens(3, 4, 1, 2))],
        tokens=Tokens(3, 4, 1, 2, True),
        cost=0.1 + 0.2,
        vector=bytes(range(256)),
        content={"messages": [{"role": "user", "content": "\u2028 <b>"}]},
        drift=0.25,
    )


def test_an_entry_comes_back_equal(ledger: Ledger) -> None:
    async def main() -> None:
        entry = whole()
        ledger.write(entry)
        assert await ledger.entry(entry.id) == entry
        assert await ledger.entry("req_other") is None

    asyncio.run(main())


def test_an_entry_written_twice_is_there_once(ledger: Ledger) -> None:
    async def main() -> None:
        entry = request(key="k", cost=1.0)
        for _ in range(3):
            ledger.write(entry)
        assert [(row.requests, row.cost) for row in await ledger.spend("key")] == [(1, 1.0)]

    asyncio.run(main())


def test_the_last_entries_come_first_and_page_by_page(ledger: Ledger) -> None:
    async def main() -> None:
        made = [request(NOON + i, key="ab"[i % 2], status=[200, 503][i % 2]) for i in range(9)]
        for entry in made:
            ledger.write(entry)
        first = await ledger.recent(4)
        assert first == made[:4:-1]
        assert await ledger.recent(99, before=first[-1].id) == made[4::-1]
        assert await ledger.recent(2, key="b", status=503) == [made[7], made[5]]
        with pytest.raises(InputError, match="expected one of key, failed, team"):
            await ledger.recent(1, colour="red")

    asyncio.run(main())


def test_entries_are_read_in_parts_in_the_order_of_time(ledger: Ledger) -> None:
    async def main() -> None:
        made = [request(NOON + i // 3) for i in range(20)]
        for entry in reversed(made):
            ledger.write(entry)
        assert [e async for e in ledger.entries(NOON + 1, NOON + 5, size=4)] == sorted(
            made[3:15], key=lambda e: (e.time, e.id)
        )

    asyncio.run(main())


def test_spending_is_summed_by_key_expert_and_day(ledger: Ledger) -> None:
    async def main() -> None:
        for i in range(6):
            entry = request(NOON + 43200 * i, key="k", expert="ab"[i % 2], cost=float(i))
            entry.status, entry.tokens, entry.baseline = [200, 502][i == 5], Tokens(10, 1), 7.0
            ledger.write(entry)
        assert [(s.name, s.cost) for s in await ledger.spend("expert")] == [("a", 6.0), ("b", 9.0)]
        assert [s.name for s in await ledger.spend("day")] == [
            *("2023-11-14", "2023-11-15", "2023-11-16", "2023-11-17")
        ]
        (row,) = await ledger.spend("key", since=NOON + 43200)
        assert (row.requests, row.errors, row.prompt, row.completion) == (5, 1, 50, 5)
        assert row.baseline == 35.0

    asyncio.run(main())


def test_feedback_is_kept_beside_the_entry(ledger: Ledger) -> None:
    async def main() -> None:
        ledger.add_feedback("req_1", 1.0, "key", "good")
        ledger.add_feedback("req_1", 0.0)
        assert [(f.score, f.key, f.note) for f in await ledger.feedback("req_1")] == [
            (1.0, "key", "good"),
            (0.0, "", ""),
        ]
        assert len(await ledger.feedback_since(time.time() - 60)) == 2
        with pytest.raises(InputError, match="from 0 to 1"):
            ledger.add_feedback("req_1", 2.0)

    asyncio.run(main())


def test_sessions_and_states_remember_the_last(ledger: Ledger) -> None:
    async def main() -> None:
        for expert, clock in (("a", 1.0), ("b", 3.0), ("late", 2.0)):
            ledger.put_session("s", expert, clock)
        ledger.put_state("drift", b"\0old")
        await ledger.flush()
        ledger.put_state("drift", b"\0new")
        found = await ledger.get_session("s")
        assert found is not None
        assert (found.expert, found.time) == ("b", 3.0)
        assert await ledger.get_session("t") is None
        assert await ledger.get_state("drift") == b"\0new"
        assert await ledger.get_state("other") is None

    asyncio.run(main())


def test_a_request_does_not_wait_for_sums_over_the_whole_log(ledger: Ledger) -> None:
    done = threading.Event()

    async def main() -> None:
        ledger.put_session("talk", "ann", 1.0)
        loop = asyncio.get_running_loop()
        slow = loop.run_in_executor(ledger._readers["reports"], done.wait, 20)
        sums = asyncio.ensure_future(ledger.spend("day"))
        found = await asyncio.wait_for(ledger.get_session("talk"), 10)
        assert found is not None
        assert not sums.done()
        done.set()
        await slow
        await sums

    asyncio.run(main())


def test_keys_and_teams_are_versions_of_which_the_last_counts(ledger: Ledger) -> None:
    async def main() -> None:
        key, _ = make_key("one", budget=5.0, experts=("a", "b"))
        before = await ledger.owners_mark()
        await ledger.put_key(key)
        await ledger.put_team(Team("t", budget=1.0))
        await ledger.put_team(Team("t", budget=2.0))
        assert await ledger.owners_mark() != before
        assert await ledger.owners() == ([key], [Team("t", budget=2.0)])

    asyncio.run(main())


def test_a_lease_is_a_share_of_what_is_left_but_covers_the_need(ledger: Ledger) -> None:
    async def main() -> None:
        assert (await ledger.lease("a", "total", "h", 1.0, 1000.0)).amount == 10.0
        assert (await ledger.lease("a", "total", "h", 100.0, 1000.0)).amount == 100.0
        assert (await ledger.lease("a", "total", "i", 891.0, 1000.0)).amount == 0.0
        grant = await ledger.lease("a", "total", "i", 890.0, 1000.0)
        assert (grant.amount, grant.total) == (890.0, 1000.0)
        assert (await ledger.lease("a", "total", "h", -60.0, 1000.0)).total == 940.0
        assert (await ledger.lease("a", "day", "h", 1.0, 1.0)).amount == 1.0

    asyncio.run(main())


def test_what_was_settled_counts_and_late_news_change_nothing(ledger: Ledger) -> None:
    async def main() -> None:
        await ledger.lease("a", "total", "h", 5.0, 10.0)
        for settled in (3.0, 8.0, 4.0):  # the last comes out of order; 8 is beyond the lease
            ledger.settle(Settled("a", "total", "h", settled))
            await ledger.flush()
        (row,) = await ledger.balances()
        assert (row.settled, row.reserved, row.forfeited) == (8.0, 0.0, 0.0)
        assert (await ledger.lease("a", "total", "i", 3.0, 10.0)).amount == 0.0
        assert (await ledger.lease("a", "total", "i", 2.0, 10.0)).amount == 2.0

    asyncio.run(main())


def test_what_dead_holders_reserved_is_forfeited_or_free_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        await ledger.lease("budget", "total", "dead", 5.0, 10.0)
        await ledger.lease("slots", "now", "dead", 2.0, 2.0, whole=True, living=True)
        assert not (await ledger.lease("slots", "now", "h", 1, 2, whole=True, living=True)).amount
        monkeypatch.setattr("coterie.gateway.ledger.GRACE", -1.0)
        assert (await ledger.lease("slots", "now", "h", 2, 2, whole=True, living=True)).amount == 2
        assert (await ledger.lease("budget", "total", "h", 6.0, 10.0)).amount == 0.0
        assert [b.forfeited for b in await ledger.balances() if b.account == "budget"] == [5.0]

    asyncio.run(main())


def test_two_ledgers_on_one_store_see_each_other(store: Store) -> None:
    async def main() -> None:
        with store.open() as one, store.open() as other:
            entry = whole()
            one.write(entry)
            await one.flush()
            one.put_session("s", "a", 1.0)
            one.add_feedback(entry.id, 0.5)
            await one.flush()
            assert await other.entry(entry.id) == entry
            assert await other.get_session("s") == await one.get_session("s")
            assert len(await other.feedback(entry.id)) == 1

    asyncio.run(main())


def test_what_was_written_is_there_after_closing(store: Store) -> None:
    made = [request(NOON + i) for i in range(1200)]
    with store.open() as ledger:
        for entry in made:
            ledger.write(entry)
    with store.open() as ledger:
        assert asyncio.run(ledger.recent(2000)) == made[::-1]


def test_a_file_of_something_else_is_refused_and_unchanged(tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE t (x)")
    db.close()
    before = other.read_bytes()
    with pytest.raises(ArtifactError, match="something else; choose another file"):
        open_ledger(other)
    assert other.read_bytes() == before


def test_a_damaged_file_and_a_newer_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(ArtifactError, match="text: damaged or no ledger"):
        open_ledger(tmp_path / "text")
    open_ledger(tmp_path / "new").close()
    with sqlite3.connect(tmp_path / "new") as db:
        db.execute(f"PRAGMA user_version={len(ledger_sql.MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(ArtifactError, match=f"newer than {len(ledger_sql.MIGRATIONS)}; upgrade"):
        open_ledger(tmp_path / "new")


def test_a_file_of_the_first_format_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ledger_sql, "MIGRATIONS", ledger_sql.MIGRATIONS[:1])
        open_ledger(tmp_path / "old").close()
    open_ledger(tmp_path / "old").close()
    with sqlite3.connect(tmp_path / "old") as db:
        assert db.execute("SELECT 1 FROM sqlite_master WHERE name = 'sessions_time'").fetchone()
    db.close()


def test_conversations_that_are_over_are_forgotten_a_few_at_a_time(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coterie.gateway.ledger_writer.TIDY_ROWS", 20)
    now = time.time()

    async def main() -> list[str]:
        for place in range(50):
            ledger.put_session(f"old {place}", "ann", now - 61.0)
        for place in range(3):
            ledger.put_session(f"new {place}", "ann", now - 50.0)
        await ledger.flush()
        ledger.session_seconds = 60.0
        ledger.put_state("anything", b"")  # whoever sleeps wakes up
        left = [""] * 99
        while len(left) > 3:
            counts.append(len(left))
            await asyncio.sleep(0.01)
            found = await ledger._read("SELECT session FROM sessions ORDER BY session", ())
            left = [name for (name,) in found]
        return left

    counts: list[int] = []
    assert asyncio.run(asyncio.wait_for(main(), 10)) == ["new 0", "new 1", "new 2"]
    assert {53, 33, 13} >= set(counts[1:])


def test_a_row_that_the_store_refuses_costs_nobody_else_theirs(ledger: Ledger) -> None:
    async def main() -> None:
        good, bad = request(), request(status=10**30)
        ledger.write(bad)
        ledger.write(good)
        assert await ledger.recent() == [good]
        assert ledger.rejected == 1

    asyncio.run(main())


def test_an_entry_that_cannot_be_encoded_is_logged_without_its_evidence(ledger: Ledger) -> None:
    async def main() -> None:
        odd = request(key="k", cost=2.0, evidence={"odd": object()})
        ledger.write(odd)
        found = await ledger.entry(odd.id)
        assert found is not None
        assert (found.cost, found.evidence) == (2.0, {})
        assert "evidence left out" in found.error

    asyncio.run(main())


def test_evidence_may_hold_arrays(ledger: Ledger) -> None:
    async def main() -> None:
        entry = request(evidence={"scores": np.arange(3), "best": np.float32(0.5)})
        ledger.write(entry)
        found = await ledger.entry(entry.id)
        assert found is not None
        assert found.evidence == {"scores": [0, 1, 2], "best": 0.5}

    asyncio.run(main())


def test_numbers_that_are_none_cost_nothing_but_themselves(ledger: Ledger) -> None:
    async def main() -> None:
        nan = float("nan")
        odd = request(
            key="k", cost=nan, latency=nan, quality=nan, attempts=[Attempt("a", cost=nan)]
        )
        ledger.write(odd)
        found = await ledger.entry(odd.id)
        assert found is not None
        assert (found.cost, found.quality, found.attempts) == (0.0, None, [Attempt("a")])
        assert [row.cost for row in await ledger.spend("key")] == [0.0]

    asyncio.run(main())


def test_what_the_store_refuses_is_put_aside(store: Store) -> None:
    with store.open() as ledger:
        ledger.write(request(status=10**30, key="odd"))
    assert b"odd" in (store.folder / "spool.rejected").read_bytes()


def test_only_its_owner_reads_the_file(tmp_path: Path) -> None:
    open_ledger(tmp_path / "ledger").close()
    assert (tmp_path / "ledger").stat().st_mode & 0o077 == 0


def test_a_key_is_stored_without_its_secret(store: Store) -> None:
    async def main() -> None:
        key, secret = make_key("one")
        with store.open() as ledger:
            await ledger.put_key(key)
            ((kept,), _) = await ledger.owners()
        assert isinstance(kept, Key)
        for path in store.folder.iterdir():
            assert secret.encode() not in path.read_bytes()

    asyncio.run(main())
