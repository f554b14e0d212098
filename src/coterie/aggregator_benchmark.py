"""Which expert should merge answers: stage E of Symbolic-MoE, on a synthetic benchmark.

For every validation question one right and two wrong recorded answers are put, shuffled, into the
aggregation prompt. The expert that gives the right answer most often becomes the aggregator.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from coterie.aggregators import ByExpert
from coterie.drivers.batch import Progress
from coterie.pool import Pool
from coterie.profiling import profile_pool
from coterie.questions import Questions
from coterie.records import Records
from coterie.types import Query, Seed, derive_seed


def benchmark(records: Records, aggregator: ByExpert, seed: Seed = 0) -> Questions:
    """Aggregation prompts over recorded answers, with the questions' references.

    Without a right answer its place is an empty text; with fewer than two wrong ones both of
    theirs are (released code).
    """
    queries = []
    for row, query in enumerate(records.queries):
        generator = np.random.default_rng(derive_seed(seed, "aggregation", query.id))
        texts, scores = records.texts[row], records.quality[row]
        right = [t for t, s in zip(texts, scores, strict=True) if t and s == 1]
        wrong = [t for t, s in zip(texts, scores, strict=True) if t and s < 1]
        chosen = [str(generator.choice(right)) if right else ""]
        chosen += list(generator.choice(wrong, 2, replace=False)) if len(wrong) > 1 else ["", ""]
        generator.shuffle(chosen)
        queries.append(Query.from_text(query.id, aggregator.prompt(query.text, chosen)))
    return Questions(tuple(queries), records.references)


async def aggregator_accuracy(
    pool: Pool,
    records: Records,
    aggregator: ByExpert,
    *,
    seed: Seed = 0,
    report: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, float]:
    """How often each expert finds the right answer among one right and two wrong ones."""
    questions = benchmark(records, aggregator, seed)
    outcome = await profile_pool(pool, questions, seed=seed, report=report)
    means = np.nanmean(outcome.quality, axis=0)
    return {name: float(mean) for name, mean in zip(outcome.experts, means, strict=True)}
