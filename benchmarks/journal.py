"""SQLite (WAL) against append-only segments as the journal, both with group commit.

    python benchmarks/journal.py --completions 100000

``Segments`` appends a line of JSON a completion to a file, hands a group of them to the system with
one ``os.write``, and finds them by their offset, which an index in memory knows; on opening the
index is made from the lines. Both sides get the same calls and completions, commit in groups of the
same size and survive a kill after the commit (neither waits for the disk). The whole call of the
journal is timed, digest of the call and making of the completion included. ``group`` 256 is the
journal's own limit, 8 what an expert with eight slots gives at most at a time, 1 no group at all.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from coterie.store import Journal
from coterie.types import Call, Completion, Usage

GROUPS = (1, 8, 256)
TEXT = "The answer follows from the two conditions; they leave => 42"


class Kept(Protocol):
    """What both journals do."""

    def add(self, query: int, step: int, place: int, call: Call, completion: Completion) -> None:
        """Keep one completion, safe after ``commit``."""

    def commit(self) -> None:
        """Hand everything so far to the system."""

    def find(self, query: int, step: int, calls: tuple[Call, ...]) -> list[Completion | None]:
        """The completions of a round, None for what is missing."""
        ...

    def close(self) -> None:
        """Commit and close."""


class Segments:
    """An append-only file of lines with an index of offsets: one call a round, for the timing.

    A line that a kill cut short is the last one, and is cut off on opening.
    """

    def __init__(self, path: Path, queries: int) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._places = array("q", [-1]) * queries
        self._lengths = array("i", [0]) * queries
        self._lines: list[bytes] = []
        self._end = 0
        self._index(path)

    def _index(self, path: Path) -> None:
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._note(json.loads(line)[0], len(line))
        os.ftruncate(self._file, self._end)

    def _note(self, query: int, length: int) -> None:
        self._places[query], self._lengths[query] = self._end, length
        self._end += length

    def add(self, query: int, step: int, place: int, call: Call, completion: Completion) -> None:
        """See Kept."""
        c, usage = completion, completion.usage
        tokens = usage.prompt_tokens, usage.completion_tokens
        ending = c.finish_reason, c.error, c.estimated, c.logprob
        row = [query, step, place, call.digest(), c.expert, c.text, *tokens, c.cost, c.latency]
        self._lines.append(json.dumps([*row, *ending]).encode() + b"\n")
        self._note(query, len(self._lines[-1]))

    def commit(self) -> None:
        """See Kept."""
        if self._lines:
            os.write(self._file, b"".join(self._lines))
            self._lines.clear()

    def find(self, query: int, step: int, calls: tuple[Call, ...]) -> list[Completion | None]:
        """See Kept."""
        self.commit()
        if self._places[query] < 0:
            return [None] * len(calls)
        line = os.pread(self._file, self._lengths[query], self._places[query])
        _, _, _, digest, expert, text, prompt, made, cost, latency, *ending = json.loads(line)
        if calls[0].digest() != digest:
            raise ValueError("not the call that was kept")
        finish, error, estimated, logprob = ending
        usage = Usage(prompt, made)
        return [Completion(expert, text, usage, cost, latency, finish, error, estimated, logprob)]

    def close(self) -> None:
        """See Kept."""
        self.commit()
        os.close(self._file)


def call(number: int) -> Call:
    messages = ({"role": "user", "content": f"question {number}"},)
    return Call("expert", messages, "answer", {"max_tokens": 48, "seed": number})


def completion(number: int) -> Completion:
    return Completion("expert", f"{TEXT} {number}", Usage(30, 15), 0.001 * number, 0.01)


def timed(open_: Callable[[], Kept], path: Path, count: int, group: int) -> dict[str, float]:
    """Microseconds a completion to add and to find (in random order), and seconds to open again."""
    rows = [(number, call(number), completion(number)) for number in range(count)]
    kept = open_()
    start = time.perf_counter()
    for number, asked, found in rows:
        kept.add(number, 0, 0, asked, found)
        if number % group == group - 1:
            kept.commit()
    kept.commit()
    added = time.perf_counter() - start
    random.Random(0).shuffle(rows)
    start = time.perf_counter()
    same = [kept.find(number, 0, (asked,)) == [found] for number, asked, found in rows]
    sought = time.perf_counter() - start
    kept.close()
    if not all(same):
        raise SystemExit("a completion was not found as it was added")
    size = sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))
    start = time.perf_counter()
    open_().close()
    opened = time.perf_counter() - start
    return {
        "add_us": added / count * 1e6,
        "find_us": sought / count * 1e6,
        "open_s": opened,
        "bytes_per_completion": size / count,
    }


def measure(completions: int = 100_000) -> dict[str, Any]:
    found: dict[str, Any] = {"completions": completions}
    with tempfile.TemporaryDirectory() as folder:
        for group in GROUPS:
            sql, lines = Path(folder) / f"{group}.sqlite", Path(folder) / f"{group}.lines"
            found[f"group {group}"] = {
                "sqlite": timed(partial(Journal, sql, {}), sql, completions, group),
                "segments": timed(partial(Segments, lines, completions), lines, completions, group),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--completions", type=int, default=100_000)
    args = parser.parse_args()
    print(json.dumps(measure(args.completions), indent=1))


if __name__ == "__main__":
    main()
