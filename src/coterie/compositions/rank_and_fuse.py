"""LLM-Blender: experts answer, the answers are ranked, and the best ones are fused into one.

Jiang, Ren and Lin 2023, arXiv 2306.02561. The paper trains PairRanker and GenFuser; here an expert
compares the answers in pairs, in both orders, or a learnt scorer ranks them, and an expert fuses.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coterie.aggregators import ByExpert, nothing_usable
from coterie.answers import Extractor, normalise, whole
from coterie.compositions.base import ask, options_of
from coterie.compositions.prompted import named
from coterie.policies.base import check_count
from coterie.scorers import Scorer, load_scorer
from coterie.types import ONE_OF, Call, Completion, Decision, Final, FloatArray, Flow, Query, Seed

PROMPT = """Question:
{question}

Answer A:
{first}

Answer B:
{second}

Which answer is better? Write A or B and nothing else."""
VERDICTS = ("A", "B")


@dataclass(frozen=True)
class RankAndFuse:
    """Everyone answers, the answers are ranked, the ``top`` ones are fused.

    Parameters
    ----------
    top
        How many answers are fused: 3 in the paper. 1 only ranks, and the best answer stands.
    judge
        Name of the expert that compares; None is the preferred one of the decision.
    scorer
        A learnt scorer, or the folder of a saved one, to rank without further calls.
    fuser
        Name of the expert that fuses; None is the preferred one of the decision.
    extract
        Answers that it reads as equal are compared once.
    """

    top: int = 3
    judge: str | None = None
    scorer: Scorer | str | None = None
    fuser: str | None = None
    extract: Extractor = whole

    def __post_init__(self) -> None:
        check_count(self.top, "top")
        if isinstance(self.scorer, str):
            object.__setattr__(self, "scorer", load_scorer(self.scorer))

    def __call__(self, query: Query, decision: Decision, seed: Seed) -> Flow:
        """The flow of one query; where the fuser fails the best answer stands."""
        completions = yield [ask(query, e, seed, 0, i) for i, e in enumerate(decision.experts)]
        different = self._different(completions)
        if not different:
            return nothing_usable(completions)
        if isinstance(self.scorer, Scorer):
            scores = np.array([self.scorer.score(query, c) for c in different])
        elif len(different) > 1:
            verdicts = yield self._comparisons(query, decision, different, seed)
            scores = wins([named(v.text, VERDICTS) for v in verdicts], len(different))
        else:
            scores = np.zeros(1)
        ranked: list[Completion] = [different[i] for i in np.argsort(-scores, kind="stable")]
        if self.top == 1 or len(ranked) == 1:
            return ranked[0]
        prompt = ByExpert("").prompt(query.text, [c.text for c in ranked[: self.top]])
        messages = ({"role": "user", "content": prompt},)
        fuser = self.fuser or decision.experts[0]
        call = Call(fuser, messages, "aggregate", options_of(query, seed, 2))
        return Final(call, fallbacks=(ranked[0],))

    def _different(self, completions: Sequence[Completion]) -> list[Completion]:
        """The first completion of every different answer."""
        found: dict[str, Completion] = {}
        for completion in completions:
            if not completion.failed:
                found.setdefault(normalise(self.extract(completion.text)), completion)
        return list(found.values())

    def _comparisons(
        self, query: Query, decision: Decision, answers: Sequence[Completion], seed: Seed
    ) -> list[Call]:
        """One call for every ordered pair, so that no answer gains by standing first."""
        judge = self.judge or decision.experts[0]
        said = [c.text.rsplit("</think>", 1)[-1].strip() for c in answers]
        calls = []
        for number, (first, second) in enumerate(itertools.permutations(said, 2)):
            text = PROMPT.format(question=query.text, first=first, second=second)
            own = {"temperature": 0.0, "max_tokens": 8, ONE_OF: list(VERDICTS)}
            options = options_of(query, seed, 1, number) | own
            calls.append(Call(judge, ({"role": "user", "content": text},), "judge", options))
        return calls


def wins(verdicts: Sequence[str | None], count: int) -> FloatArray:
    """Comparisons that each of ``count`` answers won, given for every ordered pair in turn.

    A verdict that is neither A nor B is half a win for both.

    >>> wins(["A", "B"], 2).tolist(), wins(["A", None], 2).tolist()
    ([2.0, 0.0], [1.5, 0.5])
    """
    won = np.zeros(count)
    for (first, second), verdict in zip(
        itertools.permutations(range(count), 2), verdicts, strict=True
    ):
        share = {"A": 1.0, "B": 0.0}.get(verdict or "", 0.5)
        won[first] += share
        won[second] += 1 - share
    return won
