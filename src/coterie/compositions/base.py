"""The compositions that every other builds on, and the call that puts a question."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from coterie.aggregators import Aggregator, Majority, nothing_usable
from coterie.answers import whole
from coterie.skills import PROMPT, SAMPLES, consensus, parse_keywords
from coterie.types import Call, Completion, Decision, Final, Flow, Query, Seed, derive_seed

Composition: TypeAlias = Callable[[Query, Decision, Seed], Flow]


def bound(found: Any, settings: Mapping[str, Any]) -> Composition:
    """The composition behind a registered object.

    A class is made with the settings; a function is a composition itself, and they are its keyword
    arguments.
    """
    if isinstance(found, type):
        made: Composition = found(**settings)
        return made
    return functools.partial(found, **settings) if settings else found


def ask(query: Query, expert: str, seed: Seed, step: int = 0, index: int = 0) -> Call:
    """The call that puts ``query`` to ``expert``, with a seed of its own."""
    return Call(expert, query.messages, "answer", options_of(query, seed, step, index))


def options_of(query: Query, seed: Seed, step: int = 0, index: int = 0) -> dict[str, Any]:
    """The request's options for an expert, with the seed of one call."""
    return {**passed(query), "seed": derive_seed(seed, step, index)}


def passed(query: Query) -> dict[str, Any]:
    """The request's options that are meant for experts."""
    return query.options


def single(query: Query, decision: Decision, seed: Seed) -> Flow:
    """The preferred expert answers; the others stand in, in order, if it fails."""
    first, *others = [ask(query, e, seed, 0, i) for i, e in enumerate(decision.experts)]
    yield from ()
    return Final(first, fallbacks=tuple(others))


def answered(completion: Completion) -> bool:
    """Accept whatever is not a failure."""
    return not completion.failed


def confident(threshold: float) -> Callable[[Completion], bool]:
    """Accept a completion whose mean token log probability is at least ``threshold``."""

    def accept(completion: Completion) -> bool:
        return completion.logprob is not None and completion.logprob >= threshold

    return accept


def cascade(
    query: Query,
    decision: Decision,
    seed: Seed,
    *,
    accept: Callable[[Completion], bool] = answered,
) -> Flow:
    """Ask expert after expert until ``accept`` is content; the last one's word is final.

    Where the last one fails, the latest answer that was not accepted stands.
    """
    *early, last = decision.experts
    declined: list[Completion] = []
    for step, expert in enumerate(early):
        (completion,) = yield [ask(query, expert, seed, step)]
        if accept(completion):
            return completion
        if not completion.failed:
            declined.append(completion)
    return Final(ask(query, last, seed, len(early)), fallbacks=tuple(declined[-1:]))


def recruit(
    query: Query, decision: Decision, seed: Seed, *, aggregator: Aggregator | None = None
) -> Flow:
    """Ask every recruited expert at once, then aggregate (Symbolic-MoE, stages D and E).

    Without an aggregator the majority decides on whole texts. The majority also stands in where
    the aggregating expert fails, on what the aggregator's ``extract`` finds if it has one.
    """
    calls = [ask(query, expert, seed, 0, i) for i, expert in enumerate(decision.experts)]
    completions = yield calls
    merge = aggregator or Majority()
    outcome = merge(query, completions, decision.weights, derive_seed(seed, 1, 0))
    if isinstance(outcome, Completion):
        return outcome
    majority = Majority(getattr(merge, "extract", whole))
    vote = majority(query, completions, decision.weights, seed)
    return Final(outcome, fallbacks=(vote,))


def annotate(query: Query, decision: Decision, seed: Seed, *, samples: int = SAMPLES) -> Flow:
    """Skill keywords from an annotating expert: sampled five times, kept if seen more than once.

    The answer's text is the keywords, separated by commas; it may be empty (Symbolic-MoE, stage A:
    temperature 0.7).
    """
    (expert, *_) = decision.experts
    messages = ({"role": "user", "content": PROMPT.format(question=query.text)},)
    calls = [
        Call(expert, messages, "annotate", {**query.options, "temperature": 0.7, "seed": number})
        for number in (derive_seed(seed, "annotate", i) for i in range(samples))
    ]
    completions = yield calls
    usable = [c for c in completions if not c.failed]
    if not usable:
        return nothing_usable(completions)
    keywords = consensus([parse_keywords(c.text) for c in usable])
    return replace(usable[0], text=", ".join(keywords))
