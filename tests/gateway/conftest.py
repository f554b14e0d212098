"""Fixtures: what is kept in a store, on SQLite and on Postgres; a gateway that is served."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger_world import Store, store_of
from served import Served, served

from coterie.gateway.ledger import Ledger


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with store_of(request.param, tmp_path) as store:
        yield store


@pytest.fixture
def ledger(store: Store) -> Iterator[Ledger]:
    with store.open() as ledger:
        yield ledger


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served")) as running:
        yield running
