"""Profiling: put labelled questions to every expert of a pool and score the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from coterie.answers import Extractor, score
from coterie.compositions import Composition, annotate, recruit
from coterie.drivers.batch import Progress, answer_all
from coterie.drivers.rooms import residency_of
from coterie.errors import ExpertError, InputError
from coterie.pool import Pool
from coterie.questions import Questions
from coterie.records import NUMBERS, Records
from coterie.store import Journal
from coterie.types import Answer, Completion, Decision, Query, Seed, derive_seed


async def profile_pool(
    pool: Pool,
    questions: Questions,
    *,
    experts: Sequence[str] | None = None,
    seed: Seed = 0,
    journal: Journal | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Records:
    """Records of every expert (or of ``experts``) on every question.

    Experts with a sample limit answer a random part of the questions. An empty answer is a wrong
    one; calls that failed leave their cells unobserved. What the pool knows of its experts goes
    with the records (``facts_of``). Raises InputError for a question without a
    reference answer.
    """
    for query, reference in zip(questions.queries, questions.references, strict=True):
        if reference is None:
            message = f"question {query.id!r} has none; a profile needs the right answers"
            raise InputError(message, field="answer")
    names = list(experts or pool.experts)
    decisions = profile_decisions(pool, questions, names, seed)
    answers = await _answers(pool, questions.queries, decisions, recruit, seed, journal, report)
    records = records_of(questions, answers, names, pool.extractor)
    return replace(records, facts=facts_of(pool))


async def _answers(
    pool: Pool,
    queries: Sequence[Query],
    decisions: Sequence[Decision],
    composition: Composition,
    seed: Seed,
    journal: Journal | None,
    report: Callable[[Progress], None],
) -> tuple[Answer, ...]:
    """The pool's answers, with its own options and within its own room."""
    result = await answer_all(
        pool.prepare(queries),
        decisions,
        composition,
        pool.experts,
        seed=seed,
        capacity=pool.capacity,
        residency=residency_of(pool),
        journal=journal,
        report=report,
    )
    return result.answers


def facts_of(pool: Pool) -> dict[str, dict[str, float]]:
    """Size and prices of every expert as records keep them, where the pool knows them.

    ``parameters`` in billions; ``input_price`` and ``output_price`` in USD per million tokens.
    """
    facts: dict[str, dict[str, float]] = {name: {} for name in pool.experts}
    for name, expert in pool.experts.items():
        if name in pool.parameters:
            facts[name]["parameters"] = pool.parameters[name] / 1e9
        if pool.unit == "USD" and (expert.price.prompt or expert.price.completion):
            facts[name]["input_price"] = _per_million(expert.price.prompt)
            facts[name]["output_price"] = _per_million(expert.price.completion)
    return facts


def _per_million(price: float) -> float:
    """The price of a million tokens, without what binary fractions add to it."""
    return float(f"{price * 1e6:.12g}")


def profile_decisions(
    pool: Pool, questions: Questions, names: Sequence[str], seed: Seed
) -> list[Decision]:
    """For each question the experts that are to answer it, all with equal weight."""
    asked = np.ones((len(questions), len(names)), bool)
    for column, name in enumerate(names):
        limit = pool.samples.get(name)
        if limit is not None and limit < len(questions):
            generator = np.random.default_rng(derive_seed(seed, "sample", name))
            asked[:, column] = False
            asked[generator.choice(len(questions), limit, replace=False), column] = True
    rows = [tuple(n for n, a in zip(names, row, strict=True) if a) for row in asked]
    return [Decision("recruit", row, (1.0,) * len(row)) for row in rows]


def records_of(
    questions: Questions, answers: Sequence[Answer], experts: Sequence[str], extract: Extractor
) -> Records:
    """Records from the traces of answers: the first completion of each expert on each question.

    An empty answer has a score of 0. Where the expert itself failed it has no score.
    """
    shape = (len(questions), len(experts))
    arrays: dict[str, Any] = {name: np.full(shape, np.nan) for name in NUMBERS}
    texts = np.full(shape, None, object)
    column = {name: j for j, name in enumerate(experts)}
    for row, (answer, reference) in enumerate(zip(answers, questions.references, strict=True)):
        for completion in reversed(answer.trace):
            j = column[completion.expert]
            texts[row, j] = "" if completion.failed else completion.text
            if completion.broke:
                continue
            for name, value in _numbers(completion, reference, extract).items():
                arrays[name][row, j] = value
    return Records(
        queries=questions.queries,
        experts=tuple(experts),
        texts=texts,
        references=questions.references,
        **arrays,
    )


def _numbers(completion: Completion, reference: str | None, extract: Extractor) -> dict[str, float]:
    right = np.nan if reference is None else score(completion.text, reference, extract)
    return {
        "quality": 0.0 if completion.failed else right,
        "cost": completion.cost,
        "latency": completion.latency,
        "prompt_tokens": completion.usage.prompt_tokens,
        "completion_tokens": completion.usage.completion_tokens,
        "logprob": np.nan if completion.logprob is None else completion.logprob,
    }


async def annotate_queries(
    pool: Pool,
    queries: Sequence[Query],
    annotator: str,
    *,
    seed: Seed = 0,
    journal: Journal | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> tuple[Query, ...]:
    """The queries with skill keywords from the expert ``annotator`` as their tags."""
    if annotator not in pool.experts:
        raise InputError(f"no expert {annotator!r} in the pool", field="annotator")
    decisions = [Decision("annotate", (annotator,), (1.0,))] * len(queries)
    answers = await _answers(pool, queries, decisions, annotate, seed, journal, report)
    if failed := [a for a in answers if a.completion.failed]:
        first = failed[0]
        raise ExpertError(
            f"{len(failed)} of {len(queries)} questions could not be annotated, the first "
            f"({first.query_id}): {first.completion.error}; run again to ask only these"
        )
    words = [a.completion.text.split(", ") if a.completion.text else [] for a in answers]
    return tuple(replace(q, tags=tuple(w)) for q, w in zip(queries, words, strict=True))
