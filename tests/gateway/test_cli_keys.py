import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from commands import coterie
from ledger_world import Store

from coterie.gateway.accounts import Accounts
from coterie.gateway.entries import Entry, Tokens, new_id
from coterie.gateway.ledger import open_ledger
from coterie.gateway.wire import ApiError


def told(*args: str) -> Any:
    code, out, err = coterie(*args, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "gateway.sqlite"


def authenticate(file: Path, secret: str) -> str:
    async def main() -> str:
        with open_ledger(file) as ledger:
            accounts = Accounts(ledger)
            await accounts.refresh()
            return accounts.authenticate(secret).name

    return asyncio.run(main())


def log(file: Path, *entries: Entry) -> None:
    with open_ledger(file) as ledger:
        for entry in entries:
            ledger.write(entry)


def request(**fields: Any) -> Entry:
    return Entry(new_id("req_"), time.time(), **fields)


def test_a_key_is_shown_once_works_and_ends(file: Path) -> None:
    _, out, _ = coterie("keys", "create", "alice", "--budget", "20", "--period", "month")
    secret = out.splitlines()[0]
    assert secret.startswith("sk-co-")
    assert authenticate(file, secret) == "alice"
    for args in (("keys", "list"), ("keys", "list", "--json"), ("keys", "list", "--all")):
        _, out, _ = coterie(*args)
        assert "alice" in out
        assert secret[:10] in out
        assert secret not in out
    assert coterie("keys", "revoke", "alice")[0] == 0
    with pytest.raises(ApiError, match="Incorrect API key"):
        authenticate(file, secret)
    assert told("keys", "list")["keys"] == []
    assert told("keys", "list", "--all")["keys"][0]["state"] == "revoked"


def test_limits_are_listed_as_they_were_given(file: Path) -> None:
    assert coterie("keys", "team", "lab", "--budget", "500", "--rpm", "9")[0] == 0
    made = told(
        *("keys", "create", "bob", "--team", "lab", "--rpm", "60", "--tpm", "1000"),
        *("--concurrency", "4", "--experts", "a, b", "--expires", "30d"),
    )
    (key,) = told("keys", "list")["keys"]
    assert (key["team"], key["rpm"], key["tpm"], key["concurrency"]) == ("lab", 60, 1000, 4)
    assert key["experts"] == ["a", "b"]
    assert abs(key["expires"] - time.time() - 30 * 86400) < 60
    assert "secret" not in key
    assert made["secret"].startswith(key["prefix"])
    _, out, _ = coterie("keys", "list")
    assert "60 requests/min, 1,000 tokens/min, 4 at a time" in out
    assert re.search(r"team +lab .*budget 500 in total, 9 requests/min", out)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("create", "x", "--period", "year"), "expected one of total, day, month, got 'year'"),
        (("create", "x", "--budget", "-1"), "expected a cost of at least 0"),
        (("create", "x", "--expires", "soon"), "expected a time like 30m"),
        (("create", "x", "--team", "nobody"), "make it with: coterie keys team nobody"),
        (("create", "taken"), "there is a key 'taken' already"),
        (("revoke", "nobody"), "there is no key 'nobody' to revoke"),
        (("list", "--store", "other.sqlite"), "there is no ledger other.sqlite"),
    ],
)
def test_mistakes_are_explained(file: Path, args: tuple[str, ...], message: str) -> None:
    coterie("keys", "create", "taken")
    code, out, err = coterie("keys", *args)
    assert (code, out) == (1, "")
    assert message in err
    assert not (file.parent / "other.sqlite").exists()


def test_spending_is_summed_by_the_names_of_keys(file: Path) -> None:
    key = told("keys", "create", "alice")["id"]
    log(file, *(request(key=key, cost=0.5, tokens=Tokens(100, 10), baseline=2.0) for _ in "abc"))
    _, out, _ = coterie("log", "spend", "--by", "key", "--since", "7d")
    assert re.search(r"^alice +3 +0 +300 +30 +1\.5 +6$", out, re.MULTILINE)
    assert told("log", "spend", "--by", "day")["rows"][0]["requests"] == 3
    assert told("log", "spend", "--since", "2999-01-01")["rows"] == []


def test_the_tail_is_the_last_requests_the_newest_last(file: Path) -> None:
    errors = ["", "", "", "", "\x1b[31mred"]
    made = [Entry(f"req_{i}", time.time(), expert=f"e{i}", error=e) for i, e in enumerate(errors)]
    log(file, *made)
    _, out, _ = coterie("log", "tail", "-n", "2")
    assert [line.split()[4] for line in out.splitlines()] == ["e3", "e4"]
    assert "\x1b" not in out
    _, out, _ = coterie("log", "tail", "-n", "1", "--json")
    assert json.loads(out)["id"] == made[4].id


def test_the_store_may_be_that_of_a_pool_or_a_server(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pool = tmp_path / "pool.toml"
    expert = '[[expert]]\nname = "a"\nkind = "function"\n'
    pool.write_text(f'[pool]\nname = "p"\n[gateway]\nstore = "{store.place}"\n{expert}')
    assert coterie("keys", "create", "one", "--pool", str(pool))[0] == 0
    assert [key["name"] for key in told("keys", "list", "--pool", str(pool))["keys"]] == ["one"]
