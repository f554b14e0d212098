"""Fifty experts on disk, room for two, and the memory of all processes while they are worked off.

The fifty are the embedded specialists under six or seven names each, every name with a file and a
load of its own. Memory is the resident set of this process and its children, looked at 20 times a
second (shared pages count in each, so it is an upper bound).
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from coterie.compositions import single
from coterie.drivers.batch import answer_all, distinct_loads, naive_loads
from coterie.experts.base import Expert
from coterie.experts.local import LocalExpert
from coterie.questions import embedded_questions
from coterie.types import Decision

EMBEDDED = Path(__file__).parents[1] / "src" / "coterie" / "embedded" / "experts"
EXPERTS, ROOM, PAUSE = 50, 2, 0.05
OPTIONS = {"max_tokens": 48}


def copies(folder: Path, count: int) -> dict[str, Expert]:
    """Experts of the embedded weights, each with a file of its own."""
    originals = sorted(EMBEDDED.glob("*-expert.gguf"))
    experts: dict[str, Expert] = {}
    for number in range(count):
        name = f"expert-{number:02d}"
        path = folder / f"{name}.gguf"
        shutil.copyfile(originals[number % len(originals)], path)
        experts[name] = LocalExpert(name, path, context=384, options=OPTIONS)
    return experts


async def watch(seen: list[float]) -> None:
    """Megabytes of this process and its children, until cancelled."""
    own = psutil.Process()
    while True:
        total = 0
        for process in (own, *own.children()):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        seen.append(total / 1e6)
        await asyncio.sleep(PAUSE)


async def measure(questions: int = 2000, count: int = EXPERTS) -> dict[str, Any]:
    asked = embedded_questions("test").queries
    queries = [asked[number % len(asked)] for number in range(questions)]
    names = [f"expert-{(number * 7) % count:02d}" for number in range(questions)]
    decisions = [Decision("single", (name,), (1.0,)) for name in names]
    seen: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        experts = copies(Path(folder), count)
        watching = asyncio.create_task(watch(seen))
        try:
            start = time.perf_counter()
            result = await answer_all(queries, decisions, single, experts, capacity=ROOM)
            seconds = time.perf_counter() - start
            distinct = distinct_loads(result.answers, experts)  # while the files are there
            naive = naive_loads(result.answers, experts, ROOM)
        finally:
            watching.cancel()
            for expert in experts.values():
                await expert.close()
    return {
        "experts": count,
        "room": ROOM,
        "questions": questions,
        "loads": result.progress.loads,
        "distinct_experts": distinct,
        "naive_loads": naive,
        "seconds": seconds,
        **memory(seen),
    }


def memory(seen: Sequence[float]) -> dict[str, Any]:
    """The peak, and the means of the second and the last fifth of the run."""
    fifth = max(len(seen) // 5, 1)
    early, late = seen[fifth : 2 * fifth], seen[-fifth:]
    means = (sum(part) / max(len(part), 1) for part in (early, late))
    return dict(zip(("early_mb", "late_mb"), means, strict=True)) | {"peak_mb": max(seen)}
