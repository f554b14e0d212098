"""A cascade that stops where an answer's token probabilities say that the expert was sure.

Sequence probability deferral by the mean or a quantile of the log probabilities (Gupta et al. 2024,
arXiv 2404.10136), token probability deferral by the margin of the first token (Ramirez et al. 2024,
arXiv 2405.02134).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from coterie.compositions.base import ask
from coterie.errors import InputError
from coterie.policies.base import check_number
from coterie.types import Call, Completion, Decision, Final, Flow, Query, Seed

MEASURES = ("mean", "quantile", "margin")


@dataclass(frozen=True, slots=True)
class Unsure:
    """Ask expert after expert until one is sure enough; the last one's word is final.

    Parameters
    ----------
    threshold
        The least ``measure`` that is sure enough: a log probability (at most 0), for ``margin`` a
        difference of probabilities.
    measure
        ``mean`` of the tokens' log probabilities; their ``quantile``, which long answers do not
        dilute; ``margin``, the probability of the first token's likeliest reading less that of the
        second. The last two ask the expert for two readings of each token; an expert that gives
        none is never sure, and records hold the mean alone.
    quantile
        Of the log probabilities, 0 is the least likely token.
    """

    threshold: float = -0.5
    measure: str = "mean"
    quantile: float = 0.1

    def __post_init__(self) -> None:
        check_number(self.threshold, "threshold", low=-float("inf"))
        check_number(self.quantile, "quantile", high=1.0)
        if self.measure not in MEASURES:
            message = f"expected one of {', '.join(MEASURES)}, got {self.measure!r}"
            raise InputError(message, field="measure")

    def __call__(self, query: Query, decision: Decision, seed: Seed) -> Flow:
        """The flow of one query; where the last expert fails the surest answer stands."""
        *early, last = decision.experts
        declined: list[tuple[float, Completion]] = []
        for step, expert in enumerate(early):
            (completion,) = yield [self._asked(query, expert, seed, step)]
            sure = self.confidence(completion)
            if not completion.failed and sure >= self.threshold:
                return completion
            if not completion.failed:
                declined.append((sure, completion))
        surest = [max(declined, key=lambda pair: pair[0])[1]] if declined else []
        return Final(ask(query, last, seed, len(early)), fallbacks=tuple(surest))

    def _asked(self, query: Query, expert: str, seed: Seed, step: int) -> Call:
        call = ask(query, expert, seed, step)
        readings = {"logprobs": True, "top_logprobs": 2} if self.measure != "mean" else {}
        return replace(call, options={**call.options, **readings})

    def confidence(self, completion: Completion) -> float:
        """The measure of one completion; minus infinity where the expert gave no probabilities."""
        known: float | None = completion.logprob
        if self.measure == "margin":
            known = completion.margin
        elif self.measure == "quantile":
            values = completion.logprobs
            known = float(np.quantile(values, self.quantile)) if values else None
        return -float("inf") if known is None else known
