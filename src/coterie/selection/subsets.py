"""Which k experts to own for a vote, for an oracle, or for routing by category.

Three objectives over subsets S of the experts, each the mean over queries of

``oracle``
    the best score among S: monotone and submodular, so greedy reaches (1 - 1/e) of the optimum
    (Nemhauser, Wolsey and Fisher 1978). An upper bound, not what any router reaches.
``routing``
    the score of the expert of S that is best in the query's category: submodular on the records it
    was learnt from, with the same guarantee.
``voting``
    the score of the answer with the largest sum of log odds of the experts of S that gave it:
    neither monotone nor submodular; greedy is followed by swaps and promises nothing.

Where nobody of S was observed a query is neither right nor wrong (NaN) and left out of means.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from coterie.answers import Extractor, normalise, whole
from coterie.errors import InputError
from coterie.records import Records
from coterie.routers.base import mean_or
from coterie.types import FloatArray, IntArray

Objective: TypeAlias = Literal["routing", "voting", "oracle"]
EXACT = 20_000  # subsets up to which all are tried
TINY = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """The arrays that objectives read: scores and numbered answers, queries x experts."""

    experts: tuple[str, ...]
    quality: FloatArray
    answers: IntArray  # equal numbers are equal answers to one query; -1 is none
    categories: tuple[str | None, ...]

    @classmethod
    def of(cls, records: Records, extract: Extractor = whole) -> Outcomes:
        """The records' outcomes; answers are equal when what ``extract`` finds in them is.

        An empty text is no answer, unless it scored.
        """
        answers = np.full(records.quality.shape, -1, np.int32)
        for row, texts in enumerate(records.texts):
            seen: dict[str, int] = {}
            for column, text in enumerate(texts):
                if text or (text is not None and records.quality[row, column] > 0):
                    answer = normalise(extract(text))
                    answers[row, column] = seen.setdefault(answer, len(seen))
        return cls(records.experts, records.quality, answers, records.categories)

    @classmethod
    def plain(cls, records: Records) -> Outcomes:
        """The records' outcomes without their answers."""
        nothing = np.full(records.quality.shape, -1, np.int32)
        return cls(records.experts, records.quality, nothing, records.categories)

    def take(self, rows: IntArray) -> Outcomes:
        """The outcomes of these rows."""
        categories = tuple(self.categories[i] for i in rows)
        return Outcomes(self.experts, self.quality[rows], self.answers[rows], categories)


class Learnt(ABC):
    """What an objective learns from outcomes, and what a subset then scores on any."""

    submodular: ClassVar[bool] = True

    @abstractmethod
    def scores(self, outcomes: Outcomes, subset: Sequence[int]) -> FloatArray:
        """Score of every query with these experts, NaN where nothing was observed."""

    def value(self, outcomes: Outcomes, subset: Sequence[int]) -> float:
        """Mean score with these experts."""
        return mean_observed(self.scores(outcomes, subset))


def mean_observed(scores: FloatArray) -> float:
    """The mean of what is not NaN, 0.0 where all is."""
    seen = scores[~np.isnan(scores)]
    return float(seen.mean()) if len(seen) else 0.0


class Oracle(Learnt):
    """The best score of the subset; what was not observed covers nothing."""

    def __init__(self, outcomes: Outcomes) -> None:
        self.experts = outcomes.experts

    def scores(self, outcomes: Outcomes, subset: Sequence[int]) -> FloatArray:
        """The largest score; 0 where none was observed, so that more experts never score less."""
        scores: FloatArray = np.nan_to_num(outcomes.quality[:, list(subset)]).max(axis=1)
        return scores


class Routing(Learnt):
    """The expert of the subset with the largest mean in the query's category."""

    def __init__(self, outcomes: Outcomes) -> None:
        overall = mean_or(outcomes.quality, 0.0)
        self.unknown = overall
        self.means = {}
        for category in dict.fromkeys(outcomes.categories):
            rows = [i for i, c in enumerate(outcomes.categories) if c == category]
            self.means[category] = mean_or(outcomes.quality[rows], overall)

    def scores(self, outcomes: Outcomes, subset: Sequence[int]) -> FloatArray:
        """The recorded score of the expert of each query's category."""
        columns = np.array(subset)
        best = {c: columns[means[columns].argmax()] for c, means in self.means.items()}
        other = columns[self.unknown[columns].argmax()]
        chosen = np.array([best.get(c, other) for c in outcomes.categories], np.intp)
        scores: FloatArray = outcomes.quality[np.arange(len(chosen)), chosen]
        return scores


class Voting(Learnt):
    """The answer with the largest sum of its experts' log odds, learnt as mean scores.

    With m different answers to a question on average the weight is log(q (m - 1) / (1 - q)), at
    least that of a guess: a vote never counts against its answer.
    """

    submodular = False

    def __init__(self, outcomes: Outcomes) -> None:
        if (outcomes.answers < 0).all():
            message = "the records hold no answers to vote with; record them, or choose for oracle"
            raise InputError(message, field="answer")
        voted = outcomes.answers.max(axis=1)
        choices = max(2.0, float((voted[voted >= 0] + 1).mean()))
        right = np.clip(mean_or(outcomes.quality, 0.0), 0.01, 0.99)
        self.weights = np.maximum(np.log(right * (choices - 1) / (1 - right)), 1e-3)

    def scores(self, outcomes: Outcomes, subset: Sequence[int]) -> FloatArray:
        """The score of the winning answer; ties go to the answer of the heaviest expert.

        Where nobody has an answer the heaviest expert observed speaks.
        """
        order = sorted(subset, key=lambda j: -self.weights[j])
        answers = [outcomes.answers[:, j] for j in order]
        support = np.zeros((len(order), len(outcomes.quality)))
        for a, answer in enumerate(answers):
            for b, other in enumerate(answers):
                support[a] += self.weights[order[b]] * (answer == other)
            support[a, answer < 0] = -1.0
            support[a, np.isnan(outcomes.quality[:, order[a]])] = -2.0
        winner = np.array(order)[support.argmax(axis=0)]
        scores: FloatArray = outcomes.quality[np.arange(len(winner)), winner]
        return scores


KINDS: dict[str, type[Learnt]] = {"routing": Routing, "voting": Voting, "oracle": Oracle}


def learn(outcomes: Outcomes, objective: Objective) -> Learnt:
    """The objective fitted to these outcomes; raises InputError for an unknown one."""
    if objective not in KINDS:
        message = f"expected one of {', '.join(KINDS)}, got {objective!r}"
        raise InputError(message, field="objective")
    if objective == "routing" and not any(outcomes.categories):
        message = "the records name no categories; choose for voting or oracle instead"
        raise InputError(message, field="category")
    made: Learnt = KINDS[objective](outcomes)  # type: ignore[call-arg]
    return made


@dataclass(frozen=True, slots=True)
class Subset:
    """Chosen experts in the records' order, their mean score in sample, and how they were found.

    ``method`` is ``exact`` or ``greedy``.
    """

    experts: tuple[str, ...]
    value: float
    method: str


def choose_subset(
    records: Records | Outcomes,
    size: int,
    objective: Objective = "routing",
    method: Literal["auto", "exact", "greedy"] = "auto",
) -> Subset:
    """The ``size`` experts with the largest value of the objective on these records.

    Exact while there are at most 20,000 subsets of the size, else greedy. The value is in sample
    and therefore flattering: ``cross_validate`` says what the choice is worth.
    """
    if isinstance(records, Outcomes):
        outcomes = records
    else:
        outcomes = Outcomes.of(records) if objective == "voting" else Outcomes.plain(records)
    count = len(outcomes.experts)
    if not 1 <= size <= count:
        raise InputError(f"expected between 1 and {count} experts, got {size}", field="size")
    learnt = learn(outcomes, objective)
    exact = method == "exact" or (method == "auto" and math.comb(count, size) <= EXACT)
    find = _exact if exact else _greedy
    chosen = sorted(find(learnt, outcomes, size))
    names = tuple(outcomes.experts[j] for j in chosen)
    return Subset(names, learnt.value(outcomes, chosen), "exact" if exact else "greedy")


def _exact(learnt: Learnt, outcomes: Outcomes, size: int) -> list[int]:
    """The best of all subsets; the first in the order of the experts among equals."""
    subsets = map(list, itertools.combinations(range(len(outcomes.experts)), size))
    return max(subsets, key=lambda subset: learnt.value(outcomes, subset))


def _greedy(learnt: Learnt, outcomes: Outcomes, size: int) -> list[int]:
    """One expert after another, whoever adds most; then swaps unless greedy has a guarantee."""
    chosen: list[int] = []
    for _ in range(size):
        left = [j for j in range(len(outcomes.experts)) if j not in chosen]
        chosen.append(max(left, key=lambda j: learnt.value(outcomes, [*chosen, j])))
    return chosen if learnt.submodular else _swapped(learnt, outcomes, chosen)


def _swapped(learnt: Learnt, outcomes: Outcomes, chosen: list[int]) -> list[int]:
    """Exchange one expert for another as long as that gains."""
    reached = learnt.value(outcomes, chosen)
    while True:
        outside = [j for j in range(len(outcomes.experts)) if j not in chosen]
        swaps = [[*(c for c in chosen if c != a), b] for a in chosen for b in outside]
        if not swaps:
            return chosen
        best = max(swaps, key=lambda swap: learnt.value(outcomes, swap))
        value = learnt.value(outcomes, best)
        if value <= reached + TINY:
            return chosen
        chosen, reached = best, value
