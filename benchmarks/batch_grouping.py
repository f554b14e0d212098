"""Batch grouping against question-by-question loading, side by side on the embedded pool.

    python benchmarks/batch_grouping.py --output benchmarks/results/grouping.json

Both sides run the same decisions (three experts a question by per-category skill) through the same
driver with room for one expert. The naive side hands it one question at a time, so every question
loads its experts again; the grouped side hands it all. Answers must agree.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import time
from pathlib import Path

from coterie import Recruit, Skills, Weighted, answer_all, profile_pool, read_config, recruit
from coterie.files import replace_file
from coterie.questions import embedded_questions
from coterie.types import Answer


async def measure(count: int) -> dict[str, float]:
    config = read_config("embedded")
    pool = config.pool()
    known, asked = embedded_questions("validation"), embedded_questions("test")
    asked = asked.take(range(min(count, len(asked))))
    composition = functools.partial(recruit, aggregator=Weighted(pool.extractor))
    try:
        router = Skills().fit(await profile_pool(pool, known))
        queries = pool.prepare(asked.queries)
        decisions = Recruit(3).decide(queries, router.predict(queries))
        # One warm pass so that both sides find worker processes and files ready.
        await answer_all(queries[:8], decisions[:8], composition, pool.experts)

        start = time.perf_counter()
        grouped = await answer_all(queries, decisions, composition, pool.experts)
        grouped_seconds = time.perf_counter() - start

        naive: list[Answer] = []
        loads = 0
        start = time.perf_counter()
        for query, decision in zip(queries, decisions, strict=True):
            one = await answer_all([query], [decision], composition, pool.experts)
            naive += one.answers
            loads += one.progress.loads
        naive_seconds = time.perf_counter() - start
    finally:
        await pool.close()
    texts = [[a.completion.text for a in side] for side in (grouped.answers, naive)]
    agree = sum(g == n for g, n in zip(*texts, strict=True))
    return {
        "questions": len(queries),
        "same_answers": agree,
        "naive_s": round(naive_seconds, 3),
        "grouped_s": round(grouped_seconds, 3),
        "speedup": round(naive_seconds / grouped_seconds, 2),
        "naive_loads": loads,
        "grouped_loads": grouped.progress.loads,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=int, default=160)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    result = asyncio.run(measure(args.questions))
    print(json.dumps(result, indent=1))
    if args.output:
        replace_file(args.output, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
