"""Conversations that go on are known to other replicas for as long as they do."""

import asyncio
from pathlib import Path

import pytest

from coterie.gateway.ledger import open_ledger
from coterie.gateway.sessions import Sessions


def test_a_conversation_that_goes_on_is_not_forgotten_by_the_store(tmp_path: Path) -> None:
    now = [0.0]

    async def main() -> list[str]:
        with open_ledger(tmp_path / "log.sqlite") as ledger:
            mine, other = [Sessions(60.0, ledger, lambda: now[0]) for _ in range(2)]
            for _ in range(5):
                mine.put("talk", "ann")
                now[0] += 20.0
            await ledger.flush()
            found = [await other.expert("talk")]
            now[0] += 61.0
            return [*found, await other.expert("talk")]

    assert asyncio.run(main()) == ["ann", ""]


def test_a_conversation_that_stays_is_seldom_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    async def main() -> int:
        with open_ledger(tmp_path / "log.sqlite") as ledger:
            mine = Sessions(60.0, ledger, lambda: now[0])
            monkeypatch.setattr(ledger, "_put", written.append)
            for _ in range(59):
                mine.put("talk", "ann")
                now[0] += 1.0
            return len(written)

    written: list[object] = []
    assert asyncio.run(main()) == 2
