"""From several completions to one: votes, and prompts for an expert that merges them.

An aggregator is a pure function of the query, the completions in the order of their calls and the
weights of their experts. It returns one of the completions, or the call to make for the answer.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from coterie import plugins
from coterie.agreement import FEWEST, pair_distances, truth_distances
from coterie.answers import Extractor, normalise, whole
from coterie.errors import InputError
from coterie.types import Call, Completion, Query, Seed


class Aggregator(Protocol):
    """Merges the completions of one query."""

    def __call__(
        self, query: Query, completions: Sequence[Completion], weights: Sequence[float], seed: Seed
    ) -> Completion | Call:
        """One of ``completions``, or a call whose completion is the answer."""


def nothing_usable(completions: Sequence[Completion]) -> Completion:
    """The failure that stands for a query whose every expert failed."""
    errors = "; ".join(f"{c.expert}: {c.error}" for c in completions) or "no expert was asked"
    expert = completions[0].expert if completions else ""
    return Completion(expert, finish_reason="error", error=f"every expert failed ({errors})")


def tally(
    completions: Sequence[Completion], weights: Sequence[float], extract: Extractor
) -> Completion:
    """The completion behind the answer with the largest sum of weights.

    Ties go to the answer seen first; among equal answers the heaviest completion speaks.
    """
    votes: defaultdict[str, float] = defaultdict(float)
    speaker: dict[str, tuple[float, Completion]] = {}
    for completion, weight in zip(completions, weights, strict=True):
        if completion.failed:
            continue
        answer = normalise(extract(completion.text))
        votes[answer] += weight
        if answer not in speaker or weight > speaker[answer][0]:
            speaker[answer] = weight, completion
    if not votes:
        return nothing_usable(completions)
    return speaker[max(votes, key=lambda answer: votes[answer])][1]


@dataclass(frozen=True, slots=True)
class Majority:
    """Every completion counts alike; ties go to the answer of the expert recruited first."""

    extract: Extractor = whole

    def __call__(
        self, query: Query, completions: Sequence[Completion], weights: Sequence[float], seed: Seed
    ) -> Completion:
        """The most frequent answer."""
        return tally(completions, [1.0] * len(completions), self.extract)


@dataclass(frozen=True, slots=True)
class Weighted:
    """Each completion counts by the log odds that its expert is right.

    ``weights`` are expected qualities q in [0, 1]. With ``choices`` = m answers to choose from, of
    which a wrong expert picks any alike, the likeliest answer maximises the sum of
    log(q (m - 1) / (1 - q)) (Nitzan and Paroush 1982 for m = 2).
    """

    extract: Extractor = whole
    choices: int = 10

    def __post_init__(self) -> None:
        if self.choices < 2:
            raise InputError(f"expected at least 2, got {self.choices!r}", field="choices")

    def __call__(
        self, query: Query, completions: Sequence[Completion], weights: Sequence[float], seed: Seed
    ) -> Completion:
        """The answer with the largest total log odds."""
        return tally(completions, [self.log_odds(q) for q in weights], self.extract)

    def log_odds(self, quality: float) -> float:
        """Weight of one vote; qualities are kept within [0.01, 0.99]."""
        q = min(max(quality, 0.01), 0.99)
        return math.log(q * (self.choices - 1) / (1 - q))


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Each completion counts by its own log odds of being right, its confidence included.

    The log odds are ``intercept + quality * logit(q) + surprise * log(-l)`` with q the expected
    quality of its expert and l its mean token log probability; ``evaluation.calibrate`` fits the
    three numbers by logistic regression. ``choices`` as in ``Weighted``, which also weighs
    completions without a log probability.
    """

    intercept: float
    quality: float
    surprise: float
    extract: Extractor = whole
    choices: int = 10

    def __post_init__(self) -> None:
        for name in ("intercept", "quality", "surprise"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"expected a number, got {value!r}", field=name)
            if not -1e9 < value < 1e9:  # NaN included
                raise InputError(f"expected a finite number, got {value!r}", field=name)
        if self.choices < 2:
            raise InputError(f"expected at least 2, got {self.choices!r}", field="choices")

    def __call__(
        self, query: Query, completions: Sequence[Completion], weights: Sequence[float], seed: Seed
    ) -> Completion:
        """The answer with the largest total log odds."""
        odds = [self.log_odds(c, q) for c, q in zip(completions, weights, strict=True)]
        return tally(completions, odds, self.extract)

    def log_odds(self, completion: Completion, quality: float) -> float:
        """Weight of one vote."""
        if completion.logprob is None:
            return Weighted(self.extract, self.choices).log_odds(quality)
        prior, doubt = calibration_features(quality, completion.logprob)
        own = self.intercept + self.quality * prior + self.surprise * doubt
        return own + math.log(self.choices - 1)


def calibration_features(quality: float, logprob: float) -> tuple[float, float]:
    """logit(q), q within [0.01, 0.99], and log(-l), -l at least 1e-6."""
    q = min(max(quality, 0.01), 0.99)
    return math.log(q / (1 - q)), math.log(max(-logprob, 1e-6))


TEMPLATE = """{question}

Several models answered this question. Their answers may be wrong.
{answers}
Weigh them critically and give one accurate answer of your own."""


@dataclass(frozen=True, slots=True)
class ByExpert:
    """An expert reads the question and the answers (without names) and writes its own.

    ``template`` has the fields ``{question}`` and ``{answers}``; other braces in it are doubled.
    Shown is the text after a closing ``</think>`` (Symbolic-MoE, stage E), with ``brief`` only the
    answer extracted from it.
    """

    expert: str
    extract: Extractor = whole
    template: str = TEMPLATE
    brief: bool = False

    def __post_init__(self) -> None:
        try:
            self.template.format(question="", answers="")
        except (LookupError, ValueError, AttributeError) as error:
            message = f"expected {{question}} and {{answers}}, other braces doubled ({error!r})"
            raise InputError(message, field="template") from None

    def __call__(
        self, query: Query, completions: Sequence[Completion], weights: Sequence[float], seed: Seed
    ) -> Completion | Call:
        """The call to the aggregating expert, or a failure where nothing can be merged."""
        usable = [c for c in completions if not c.failed]
        if not usable:
            return nothing_usable(completions)
        prompt = self.prompt(query.text, [c.text for c in usable])
        messages = ({"role": "user", "content": prompt},)
        return Call(self.expert, messages, "aggregate", {**query.options, "seed": seed})

    def prompt(self, question: str, texts: Sequence[str]) -> str:
        """The aggregation prompt for these candidate texts."""
        said = [text.rsplit("</think>", 1)[-1] for text in texts]
        shown = [self.extract(text) if self.brief else text for text in said]
        answers = "\n".join(f"Model {i}: {text.strip()}" for i, text in enumerate(shown, start=1))
        return self.template.format(question=question, answers=answers)


@functools.cache
def _encoder(name: str) -> Any:
    return plugins.load("encoders", name)()


@dataclass(frozen=True)
class Agreeing:
    """The completion nearest to the right answer as their agreement has it (Smoothie).

    No label and no weight is read: the squared distances between the vectors of the extracted
    answers give that of each to the right one. With fewer than three answers the first stands.
    ``encoder`` is a plug-in name.
    """

    extract: Extractor = whole
    encoder: str = "static"

    def __call__(
        self, query: Query, completions: Sequence[Completion], weights: Sequence[float], seed: Seed
    ) -> Completion:
        """The answer of the least distance, the first among equals."""
        usable = [c for c in completions if not c.failed]
        if not usable:
            return nothing_usable(completions)
        if len(usable) < FEWEST:
            return usable[0]
        vectors = _encoder(self.encoder).encode([self.extract(c.text) for c in usable])
        apart = truth_distances(pair_distances(np.asarray(vectors, float)))
        return usable[int(np.argmin(np.round(apart, 6)))]


@dataclass(frozen=True, slots=True)
class Fusion:
    """Answers weigh the softmax of their experts' expected qualities (AgentRouter).

    With ``temperature`` t an expert of expected quality q weighs exp(q / t), and equal answers add
    up. Towards 0 the expert of the highest quality decides alone, towards infinity every answer
    counts alike. For the router ``soft-labels`` these weights are its distribution over experts if
    both have the same temperature.
    """

    extract: Extractor = whole
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            message = f"expected a number above 0, got {self.temperature!r}"
            raise InputError(message, field="temperature")

    def __call__(
        self, query: Query, completions: Sequence[Completion], weights: Sequence[float], seed: Seed
    ) -> Completion:
        """The answer with the largest total weight."""
        best = max(weights, default=0.0)
        shares = [math.exp((w - best) / self.temperature) for w in weights]
        return tally(completions, shares, self.extract)
