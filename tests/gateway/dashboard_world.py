"""A gateway over three functions and a router fitted on what they know, to be looked at."""

import atexit
import contextlib
import html
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from log_world import COST, records, texts
from starlette.testclient import TestClient

from coterie.config import Config
from coterie.experts.function import FunctionExpert
from coterie.gateway.building import Gateway, build
from coterie.gateway.entries import Entry
from coterie.gateway.server import application
from coterie.pool import Pool
from coterie.routers.neighbors import KNN
from coterie.types import Call

EXPERTS = ("ann", "bob", "cid")
EVIL = "\"><img src=x onerror=alert(1)><script>alert(2)</script>'"
JSON = {"content-type": "application/json"}
Function = Callable[[Call], str]


@cache
def fitted() -> Path:
    """The folder of a router that knows what ann and bob are good at."""
    folder = tempfile.mkdtemp(prefix="router-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    KNN().fit(records(40)).save(folder)
    return Path(folder)


def write_pool(folder: Path, names: tuple[str, ...] = EXPERTS, more: str = "") -> Path:
    """A pool file whose experts cost what those of the log's world do."""
    path = folder / "pool.toml"
    tables = [
        f"[[expert]]\nname = {json.dumps(name)}\nkind = 'function'\n"
        f"price = {{prompt = {COST.get(name, 1.0)}, completion = {COST.get(name, 1.0)}}}\n"
        for name in names
    ]
    default = "[policy]\nname = 'utility'\nwillingness_to_pay = 10.0\n"
    path.write_text("[pool]\nname = 'three'\n" + default + "\n".join(tables) + more)
    return path


def says(name: str) -> Function:
    return lambda call: f"{name} says so"


@contextlib.contextmanager
def gateway_of(
    folder: Path,
    answers: Mapping[str, Function] | None = None,
    *,
    routed: bool = True,
    more: str = "",
    **changes: Any,
) -> Iterator[Gateway]:
    """The gateway; its experts say their name unless ``answers`` has a function for each."""
    functions = answers or {name: says(name) for name in EXPERTS}
    pool = Pool("three", {name: FunctionExpert(name, one) for name, one in functions.items()})
    path = write_pool(folder, tuple(functions), more)
    router = fitted() if routed else None
    with patch.object(Config, "pool", lambda self: pool):
        gateway = build(str(path), router, None, store=str(folder / "gateway.sqlite"), **changes)
    try:
        yield gateway
    finally:
        gateway.ledger.close()


def client_of(gateway: Gateway, host: str = "127.0.0.1:8000") -> TestClient:
    return TestClient(application(gateway), f"http://{host}", follow_redirects=False)


def token_of(page: str) -> str:
    """What the page sends with changes."""
    found = re.search(r'<meta name="token" content="([0-9a-f]*)">', page)
    assert found
    return found[1]


def change(client: TestClient, path: str, values: Any, **headers: str) -> Any:
    """A change as the page's script asks for it."""
    sent = {"x-coterie-token": token_of(client.get("/").text), **JSON, **headers}
    return client.post(f"/dashboard/api/{path}", content=json.dumps(values), headers=sent)


def ask(client: TestClient, text: str = "What is 1 plus 2?", model: str = "auto") -> Any:
    messages = [{"role": "user", "content": text}]
    return client.post("/v1/chat/completions", json={"model": model, "messages": messages})


def serve_some(client: TestClient, count: int = 24) -> None:
    for text in texts(count):
        assert ask(client, text).status_code == 200


def put(gateway: Gateway, *entries: Entry) -> None:
    for entry in entries:
        gateway.ledger.write(entry)


def words_of(nodes: Any) -> str:
    """The texts among nodes as JSON."""
    if isinstance(nodes, str):
        return nodes
    if len(nodes) == 3 and isinstance(nodes[0], str) and isinstance(nodes[1], dict):
        return words_of(nodes[2])
    return " ".join(map(words_of, nodes))


def plain(page: str) -> str:
    """The texts of a page."""
    return html.unescape(re.sub(r"<[^>]*>", " ", page))
