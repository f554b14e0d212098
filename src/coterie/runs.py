"""A resumable run: questions through router, policy and composition, with everything journaled."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coterie import __version__
from coterie.answers import Extractor
from coterie.compositions import Composition
from coterie.drivers.batch import Progress, Result, answer_all
from coterie.errors import CoterieError
from coterie.policies import Policy
from coterie.pool import Pool
from coterie.profiling import profile_pool
from coterie.questions import Questions
from coterie.records import Records
from coterie.routers.base import Router
from coterie.store import Journal
from coterie.types import Answer, Decision, Query, Seed


async def answer_questions(
    pool: Pool,
    questions: Questions,
    router: Router,
    policy: Policy,
    composition: Composition,
    *,
    journal: Path | str = ":memory:",
    seed: Seed = 0,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Result:
    """Answer the questions; a run over the same journal goes on where the last one stopped.

    Raises ResumeError where the journal belongs to other questions, experts, router or settings.
    """
    queries = pool.prepare(questions.queries)
    header = run_header(pool, queries, router, policy, composition, seed)
    with Journal(journal, header) as kept:
        return await answer_all(
            queries,
            decide(queries, pool, router, policy, kept),
            composition,
            pool.experts,
            seed=seed,
            capacity=pool.capacity,
            journal=kept,
            report=report,
        )


async def profile_questions(
    pool: Pool,
    questions: Questions,
    *,
    journal: Path | str = ":memory:",
    seed: Seed = 0,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Records:
    """Profile the pool; a run over the same journal asks only what is missing.

    How answers are read (``Pool.extract``) may change between runs: texts are journaled.
    """
    header = {
        "coterie": __version__,
        "profile": fingerprint(pool.prepare(questions.queries)),
        "pool": pool.fingerprint(),
        "samples": json.dumps(dict(pool.samples), sort_keys=True),
        "seed": str(seed),
    }
    with Journal(journal, header) as kept:
        return await profile_pool(pool, questions, seed=seed, journal=kept, report=report)


def decide(
    queries: Sequence[Query], pool: Pool, router: Router, policy: Policy, journal: Journal
) -> list[Decision]:
    """Journaled decisions where there are some, else the policy's, journaled before any call.

    Experts that the router knows and the pool lacks are named in a CoterieError.
    """
    known = journal.decisions()
    open_queries = [q for q in queries if q.id not in known]
    if open_queries:
        estimates = router.predict(open_queries)
        if missing := [e for e in estimates.experts if e not in pool.experts]:
            raise CoterieError(
                f"the router was fitted on experts this pool lacks: {', '.join(missing)}; "
                "profile this pool and fit again"
            )
        made = policy.decide(open_queries, estimates)
        new = {q.id: d for q, d in zip(open_queries, made, strict=True)}
        journal.decide(new)
        known |= new
    return [known[q.id] for q in queries]


def run_header(
    pool: Pool,
    queries: Sequence[Query],
    router: Router,
    policy: Policy,
    composition: Composition,
    seed: Seed,
) -> dict[str, str]:
    """Fingerprints of everything that the answers depend on."""
    return {
        "coterie": __version__,
        "questions": fingerprint(queries),
        "pool": pool.fingerprint(),
        "extract": pool.extract,
        "router": router.fingerprint(),
        "policy": _plain(policy),
        "composition": describe(composition),
        "seed": str(seed),
    }


def fingerprint(queries: Sequence[Query]) -> str:
    """Equal where ids, messages and options are equal.

    Tags are left out: they only steer decisions, which are journaled before any call.
    """
    asked = [[q.id, [dict(m) for m in q.messages], dict(q.params)] for q in queries]
    text = json.dumps(asked, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def describe(composition: Composition) -> str:
    """A composition with its settings as text, equal in every process."""
    inner = getattr(composition, "func", composition)
    return f"{inner.__module__}:{_plain(composition)}"


def _plain(value: Any) -> str:
    """Text without memory addresses: functions go by their name and what they enclose."""
    if isinstance(value, functools.partial):
        settings = [*map(_plain, value.args)]
        settings += [f"{k}={_plain(v)}" for k, v in sorted(value.keywords.items())]
        return f"{_plain(value.func)}({', '.join(settings)})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k}: {_plain(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if hasattr(value, "__qualname__"):
        cells = getattr(value, "__closure__", None) or ()
        enclosed = ", ".join(_plain(cell.cell_contents) for cell in cells)
        return f"{value.__qualname__}({enclosed})" if enclosed else str(value.__qualname__)
    fields = getattr(value, "__dataclass_fields__", None)
    if fields is None and not repr(value).startswith("<"):
        return repr(value)
    names = fields if fields is not None else vars(value)
    inside = ", ".join(f"{name}={_plain(getattr(value, name))}" for name in names)
    return f"{type(value).__name__}({inside})"


def answer_row(answer: Answer, extract: Extractor) -> dict[str, Any]:
    """One answer as JSON values: who gave it, what it cost, decision and trace."""
    completion = answer.completion
    return {
        "id": answer.query_id,
        "answer": None if completion.failed else extract(completion.text),
        "text": completion.text,
        "expert": completion.expert,
        "error": completion.error,
        "cost": answer.cost,
        "latency": answer.latency,
        "decision": answer.decision.to_dict(),
        "trace": [c.to_dict() for c in answer.trace],
    }


def answer_lines(answers: Sequence[Answer], extract: Extractor) -> str:
    """Answers as JSONL, in order."""
    rows = (json.dumps(answer_row(a, extract), ensure_ascii=False) for a in answers)
    return "".join(f"{row}\n" for row in rows)
