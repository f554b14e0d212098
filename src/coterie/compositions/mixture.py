"""Mixture-of-agents: layers of experts, each reading what the layer before answered.

Wang et al. 2024, arXiv 2406.04692: the last layer is one expert that writes the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coterie.aggregators import Majority, nothing_usable
from coterie.answers import Extractor, whole
from coterie.compositions.base import ask, options_of
from coterie.policies.base import check_count
from coterie.types import Call, Completion, Decision, Final, Flow, Message, Query, Seed

PROMPT = """Several models answered the user's latest question. Their answers stand below; some may
be wrong or one-sided. Weigh them critically and write one better answer: accurate, complete and in
good order. Do not repeat them as they are.

{answers}"""


@dataclass(frozen=True, slots=True)
class Mixture:
    """The experts answer, answer again having read each other, and an ``aggregator`` answers last.

    Parameters
    ----------
    layers
        How many, the last one included: 3 in the paper, 2 in its light form.
    writer
        Name of the expert that writes the answer; None is the preferred one of the decision.
    extract
        Reads answers for the majority that stands in where the writer fails.
    """

    layers: int = 3
    writer: str | None = None
    extract: Extractor = whole

    def __post_init__(self) -> None:
        check_count(self.layers, "layers", low=2)

    def __call__(self, query: Query, decision: Decision, seed: Seed) -> Flow:
        """The flow of one query; a layer in which every expert fails is passed over."""
        completions = yield [ask(query, e, seed, 0, i) for i, e in enumerate(decision.experts)]
        if all(c.failed for c in completions):
            return nothing_usable(completions)
        for layer in range(1, self.layers - 1):
            experts = enumerate(decision.experts)
            later = yield [synthesis(query, e, completions, seed, layer, i) for i, e in experts]
            completions = completions if all(c.failed for c in later) else later
        writer = self.writer or decision.experts[0]
        vote = Majority(self.extract)(query, completions, (1.0,) * len(completions), seed)
        last = synthesis(query, writer, completions, seed, self.layers - 1)
        return Final(last, fallbacks=(vote,))


def synthesis(
    query: Query,
    expert: str,
    completions: Sequence[Completion],
    seed: Seed,
    layer: int,
    index: int = 0,
) -> Call:
    """The query put to an expert with these answers, without names, in its system message."""
    said = [c.text.rsplit("</think>", 1)[-1].strip() for c in completions if not c.failed]
    answers = "\n\n".join(f"{number}. {text}" for number, text in enumerate(said, start=1))
    prompt = PROMPT.format(answers=answers)
    options = options_of(query, seed, layer, index)
    return Call(expert, _with_system(query.messages, prompt), "aggregate", options)


def _with_system(messages: Sequence[Message], prompt: str) -> tuple[Message, ...]:
    """The messages with ``prompt`` at the end of their system message."""
    first, *others = messages
    if first.get("role") != "system":
        return ({"role": "system", "content": prompt}, *messages)
    return ({**first, "content": f"{first.get('content', '')}\n\n{prompt}"}, *others)
