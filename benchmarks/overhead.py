"""What the batch driver itself costs: experts that answer at once, a million questions, a journal.

Fifty experts with room for two; every call goes through flow, queue, journal on disk and residency.
Wall and CPU seconds of the whole run over its calls, the start of Python left out. Memory is the
peak of the process, so each run has one of its own. ``profile`` names where the time goes: it is
spread over twice as long a run and says shares, not seconds.

    python benchmarks/overhead.py --questions 100000 --recruits 3 --profile
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import multiprocessing
import pstats
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, overload

from coterie.compositions import Composition, recruit, single
from coterie.drivers.batch import Progress, answer_each
from coterie.experts.base import Expert
from coterie.store import Journal
from coterie.types import Answer, Call, Completion, Decision, Query, Usage

EXPERTS, ROOM, SMALL = 50, 2, 10_000
GOAL_US, GOAL_MB = 50, 300


class Instant(Expert):
    """Answers at once; its weights take no time and one unit of room."""

    slots = 8

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def size(self) -> int:
        """One unit."""
        return 1

    async def complete(self, call: Call) -> Completion:
        """The same for every call."""
        return Completion(self.name, "yes", Usage(10, 1), 0.001, 0.0)


class Made(Sequence[Any]):
    """A sequence whose values are made when they are asked for, as if read from disk."""

    def __init__(self, length: int, make: Callable[[int], Any]) -> None:
        self.length, self.make = length, make

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, position: int) -> Any: ...
    @overload
    def __getitem__(self, position: slice) -> list[Any]: ...
    def __getitem__(self, position: int | slice) -> Any:
        if isinstance(position, slice):
            return [self.make(each) for each in range(*position.indices(self.length))]
        return self.make(position)


def question(number: int) -> Query:
    messages = ({"role": "user", "content": f"question {number}"},)
    return Query(f"q{number}", messages, {"max_tokens": 5})


def decider(recruits: int) -> Callable[[int], Decision]:
    names = [f"expert-{number}" for number in range(EXPERTS)]
    recruited = [
        tuple(names[(first + 7 * i) % EXPERTS] for i in range(recruits)) for first in range(EXPERTS)
    ]
    made = [Decision("made", experts, (1.0,) * recruits) for experts in recruited]
    return lambda number: made[number % EXPERTS]


async def answer(questions: int, recruits: int, journal: Journal) -> Progress:
    experts = {f"expert-{number}": Instant(f"expert-{number}") for number in range(EXPERTS)}
    composition: Composition = single if recruits == 1 else recruit
    answered = bytearray(questions)

    def take(position: int, answer: Answer) -> None:
        answered[position] = not answer.completion.failed

    progress = await answer_each(
        Made(questions, question),
        Made(questions, decider(recruits)),
        composition,
        experts,
        take,
        capacity=ROOM,
        journal=journal,
    )
    if not all(answered):
        raise SystemExit(f"{answered.count(0)} of {questions} questions without an answer")
    return progress


def run(questions: int, recruits: int, profile: bool = False) -> dict[str, Any]:
    """One run in this process."""
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "run", {}) as journal:
        profiler = cProfile.Profile()
        if profile:
            profiler.enable()
        wall, cpu = time.perf_counter(), time.process_time()
        progress = asyncio.run(answer(questions, recruits, journal))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        profiler.disable()
    if profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(30)
    return {
        "questions": questions,
        "calls": progress.calls,
        "loads": progress.loads,
        "wall_s": wall,
        "us_per_call": wall / progress.calls * 1e6,
        "cpu_us_per_call": cpu / progress.calls * 1e6,
        "peak_mb": peak_mb(),
    }


def peak_mb() -> float:
    """Peak resident memory of this process.

    Linux: not what ``getrusage`` says, which is at least that of the process that started it.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1e6 if sys.platform == "darwin" else 1e3)
    (peak_kb,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak_kb) * 1024 / 1e6


def apart(questions: int, recruits: int) -> dict[str, Any]:
    """One run in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, questions, recruits).result()


def measure(questions: int = 1_000_000, recruited: int = 300_000) -> dict[str, Any]:
    small = apart(min(SMALL, questions), 1)
    single_, several = apart(questions, 1), apart(recruited, 3)
    return {
        "overhead_us_per_call": single_["us_per_call"],
        "rss_growth_mb": single_["peak_mb"] - small["peak_mb"],
        "runs": {"small": small, "single": single_, "recruit 3": several},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=int, default=1_000_000)
    parser.add_argument("--recruits", type=int, default=1)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    print(json.dumps(run(args.questions, args.recruits, args.profile), indent=1))


if __name__ == "__main__":
    main()
