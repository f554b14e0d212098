"""Fixtures for what is kept in a store: every test runs on SQLite and on Postgres."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger_world import Store, store_of

from coterie.gateway.ledger import Ledger


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with store_of(request.param, tmp_path) as store:
        yield store


@pytest.fixture
def ledger(store: Store) -> Iterator[Ledger]:
    with store.open() as ledger:
        yield ledger
