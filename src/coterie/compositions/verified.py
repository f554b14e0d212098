"""AutoMix: a cheap expert answers and then judges its own answer; doubt goes to the next expert.

Self-verification with thresholds (Aggarwal et al. 2023, arXiv 2310.12963). The verifier is sampled
several times; its confidence is the share of samples that call the answer correct.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from coterie.compositions.base import ask, options_of
from coterie.errors import InputError
from coterie.policies.base import check_count, check_number
from coterie.types import Call, Completion, Decision, Final, Flow, Query, Seed

PROMPT = """Question:
{question}

Proposed answer:
{answer}

Is the proposed answer correct? Check it step by step, then write one last line that says either
"Verdict: correct" or "Verdict: wrong"."""
VERDICT = re.compile(r"\b(in|not\s+)?(correct|wrong|right|true|false|yes|no)\b", re.IGNORECASE)
GOOD = frozenset({"correct", "right", "true", "yes"})


@dataclass(frozen=True, slots=True)
class Verified:
    """Ask expert after expert; each judges its own answer, the first that is confident enough ends.

    Parameters
    ----------
    threshold
        The least share of the verdicts that must call the answer correct.
    samples
        Verdicts an answer, all asked for at once, with seeds of their own.
    temperature
        Of the verdicts: they differ only if it is above 0.
    verifier
        Name of an expert that judges instead of the one that answered.
    """

    threshold: float = 0.75
    samples: int = 4
    temperature: float = 0.7
    verifier: str | None = None

    def __post_init__(self) -> None:
        check_number(self.threshold, "threshold", high=1.0)
        check_count(self.samples, "samples")
        check_number(self.temperature, "temperature")
        if self.verifier == "":
            raise InputError("expected the name of an expert, got ''", field="verifier")

    def __call__(self, query: Query, decision: Decision, seed: Seed) -> Flow:
        """The flow of one query; where the last expert fails, the least doubted answer stands."""
        *early, last = decision.experts
        declined: list[tuple[float, Completion]] = []
        for number, expert in enumerate(early):
            (answer,) = yield [ask(query, expert, seed, 2 * number)]
            if answer.failed:
                continue
            verdicts = yield self._questions(query, answer, seed, 2 * number + 1)
            belief = confidence(verdicts)
            if belief >= self.threshold - 1e-9:
                return answer
            declined.append((belief, answer))
        least = [max(declined, key=lambda pair: pair[0])[1]] if declined else []
        return Final(ask(query, last, seed, 2 * len(early)), fallbacks=tuple(least))

    def _questions(self, query: Query, answer: Completion, seed: Seed, step: int) -> list[Call]:
        asked = PROMPT.format(question=query.text, answer=answer.text)
        messages = ({"role": "user", "content": asked},)
        judge = self.verifier or answer.expert
        return [
            Call(
                judge,
                messages,
                "judge",
                {**options_of(query, seed, step, i), "temperature": self.temperature},
            )
            for i in range(self.samples)
        ]


def confidence(verdicts: Sequence[Completion]) -> float:
    """Share of the verdicts that say correct; one that failed or says nothing counts against."""
    return sum(approves(v.text) for v in verdicts if not v.failed) / len(verdicts)


def approves(text: str) -> bool:
    """Whether the last verdict in a text is that the answer is correct.

    >>> approves("2 + 2 is 4. Verdict: correct"), approves("Verdict: incorrect"), approves("Hm.")
    (True, False, False)
    """
    said = text.rsplit("erdict:", 1)[-1]
    found = VERDICT.findall(said)
    if not found:
        return False
    negated, word = found[0] if "erdict:" in text else found[-1]
    return word.lower() in GOOD and not negated
