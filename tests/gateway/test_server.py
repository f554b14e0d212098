"""The gateway as a process: it answers, reads its file again, and ends what it began."""

import asyncio
import contextlib
import gc
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest
from served_world import write_pool

from coterie.errors import CoterieError
from coterie.gateway.ledger import open_ledger
from coterie.gateway.server import bind, seldom_collected


class Server:
    """A child process that serves, and what it says."""

    def __init__(self, path: Path) -> None:
        places = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "coterie.cli", "serve", str(path), "--port", "0"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: Queue[str] = Queue()
        self.said: list[str] = []
        self.connections: list[http.client.HTTPConnection] = []
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def start(self) -> None:
        line = self.hears("serving p: http://127.0.0.1:")
        self.port = int(line.split("/v1")[0].rpartition(":")[2])

    def _listen(self) -> None:
        assert self.process.stderr is not None
        with contextlib.suppress(ValueError):
            for line in self.process.stderr:
                self.lines.put(line)
        self.lines.put("")

    def hears(self, words: str) -> str:
        while True:
            line = self.lines.get(timeout=20)
            self.said.append(line)
            assert line, "".join(self.said)
            if words in line:
                return line

    def ask(self, model: str, stream: bool = False) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        self.connections.append(connection)
        asked = {"model": model, "stream": stream}
        body = {**asked, "messages": [{"role": "user", "content": "count"}]}
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        return connection.getresponse()

    def answers(self, model: str) -> str | None:
        """Who answers."""
        with self.ask(model) as response:
            response.read()
            return response.getheader("x-coterie-model")


@contextlib.contextmanager
def server(path: Path) -> Iterator[Server]:
    made = Server(path)
    try:
        made.start()
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        made.listener.join(5)
        for connection in made.connections:
            connection.close()
        assert made.process.stderr is not None
        made.process.stderr.close()


def test_a_process_answers_reloads_and_ends_what_it_began(tmp_path: Path) -> None:
    slow = {"ann": {"says": "word " * 40, "pause": 0.05}, "bob": {}, "cid": {}}
    with server(write_pool(tmp_path, slow)) as made:
        assert made.answers("bob") == "bob"
        cheap = {"name": "utility", "willingness_to_pay": 1.0}
        write_pool(tmp_path, slow, policy=cheap)
        made.process.send_signal(signal.SIGHUP)
        made.hears("configuration read again")
        assert made.answers("auto") == "cid"
        (tmp_path / "pool.toml").write_text("nonsense")
        made.process.send_signal(signal.SIGHUP)
        assert "not TOML" in made.hears("configuration kept as it was")
        going = made.ask("ann", stream=True)
        going.read(20)
        made.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with made.ask("bob") as late:
            late.read()
            assert (late.status, late.getheader("retry-after")) == (503, "1")
        assert going.read().endswith(b"data: [DONE]\n\n")
        assert made.process.wait(10) == 0
    with open_ledger(str(tmp_path / "gateway.sqlite")) as ledger:
        rows = asyncio.run(ledger.recent(9))
    assert sorted((row.expert, row.status) for row in rows) == [
        ("ann", 200), ("bob", 200), ("cid", 200),
    ]  # fmt: skip


def test_a_client_that_hangs_up_ends_its_request(tmp_path: Path) -> None:
    slow = {"ann": {"says": "word " * 400, "pause": 0.05}}
    with server(write_pool(tmp_path, slow)) as made:
        going = made.ask("ann", stream=True)
        going.read(20)
        made.connections[0].close()
        going.close()
        time.sleep(0.2)
        made.process.send_signal(signal.SIGTERM)
        assert made.process.wait(10) == 0
    with open_ledger(str(tmp_path / "gateway.sqlite")) as ledger:
        (row,) = asyncio.run(ledger.recent(9))
    assert (row.status, row.error) == (499, "client_closed")


def test_the_garbage_collector_is_as_it_was_after_serving() -> None:
    before = gc.get_threshold()
    with seldom_collected():
        assert gc.get_threshold()[0] > before[0]
        assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_a_port_that_is_taken_is_named() -> None:
    first = bind("127.0.0.1", 0)
    port = first.getsockname()[1]
    with pytest.raises(CoterieError, match=f"cannot listen on 127.0.0.1:{port}.*--port"):
        bind("127.0.0.1", port)
    first.close()
