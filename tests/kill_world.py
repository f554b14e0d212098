"""A batch run over a journal in a child that is killed at a random moment, again and again.

    python kill_world.py FOLDER KILLS SEED

Writes ``calls.log`` (a digest for every call made), ``whole.json`` and ``resumed.json`` (answers of
an unbroken run and of the run that was killed), and ``facts.json``.
"""

import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
import time
from functools import partial
from pathlib import Path

from coterie.aggregators import ByExpert
from coterie.compositions import recruit
from coterie.drivers.batch import answer_all
from coterie.experts.base import Expert
from coterie.store import Journal
from coterie.types import Answer, Call, Completion, Decision, Query, Usage, derive_seed

COUNT, WINDOW, SLOTS = 400, 16, 4
NAMES = ("a", "b", "c")


class Logging(Expert):
    """Notes every call before it answers."""

    slots = SLOTS

    def __init__(self, name: str, log: Path) -> None:
        self.name, self.log = name, log

    @property
    def size(self) -> int:
        return 1

    async def complete(self, call: Call) -> Completion:
        with self.log.open("a") as log:
            log.write(f"{call.digest()}\n")
        number = derive_seed(call.digest())
        if number % 3:  # some answer at once, some later
            await asyncio.sleep(0.0005)
        return Completion(self.name, f"{self.name} {number % 5}", Usage(1, 1), 0.5)


def run(folder: Path, journal: Path | str, log: str) -> tuple[Answer, ...]:
    experts = {name: Logging(name, folder / log) for name in NAMES}
    queries = [Query.from_text(f"q{i}", f"question {i}") for i in range(COUNT)]
    decisions = [
        Decision("recruit", NAMES[: 2 + i % 2], (1.0,) * (2 + i % 2)) for i in range(COUNT)
    ]
    merge = partial(recruit, aggregator=ByExpert("c"))
    with Journal(journal, {"run": "1"}) as kept:
        job = answer_all(queries, decisions, merge, experts, journal=kept, window=WINDOW)
        return asyncio.run(job).answers


def shown(answers: tuple[Answer, ...]) -> list[list[object]]:
    return [[a.query_id, a.completion.text, [c.text for c in a.trace]] for a in answers]


def attempt(folder: Path, seconds: float) -> bool:
    """One child over the journal; True where it ended before it was killed."""
    pid = os.fork()
    if not pid:
        finish(folder)
        os._exit(0)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WIFEXITED(status)


def journaled(folder: Path) -> set[str]:
    if not (folder / "journal").exists():
        return set()
    with sqlite3.connect(folder / "journal") as database:
        try:
            rows = database.execute("SELECT digest FROM completions").fetchall()
        except sqlite3.OperationalError:  # killed before the tables were made
            rows = []
    database.close()
    return {digest for (digest,) in rows}


def logged(folder: Path) -> list[str]:
    log = folder / "calls.log"
    return log.read_text().split() if log.exists() else []


def main() -> None:
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    start = time.perf_counter()
    whole = run(folder, ":memory:", "whole.log")
    (folder / "whole.json").write_text(json.dumps(shown(whole)))
    draw, usual = random.Random(seed), (time.perf_counter() - start) / kills
    done, asked_again, ended = 0, 0, False
    while done < kills and not ended:
        known, before = journaled(folder), len(logged(folder))
        ended = attempt(folder, draw.uniform(0, 4 * usual) + 0.01)
        done += not ended
        asked_again += len(known & set(logged(folder)[before:]))
    if not ended:
        finish(folder)
    calls = logged(folder)
    facts = {
        "kills": done,
        "journaled_asked_again": asked_again,
        "repeated": len(calls) - len(set(calls)),
        "distinct": len(set(calls)),
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def finish(folder: Path) -> None:
    answers = run(folder, folder / "journal", "calls.log")
    (folder / "resumed.json").write_text(json.dumps(shown(answers)))


if __name__ == "__main__":
    main()
