"""FrugalGPT: a cascade that stops where a learnt scorer believes the answer.

Chen, Zaharia and Zou 2023, arXiv 2305.05176. ``learn_cascade`` learns the scorer and chooses chain
and thresholds under a budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from coterie.answers import Extractor, whole
from coterie.compositions.base import ask
from coterie.errors import InputError
from coterie.policies.base import check_number
from coterie.records import Records
from coterie.scorers import Scorer, learn_scorer, load_scorer
from coterie.thresholds import LONGEST, Plan, best_plan
from coterie.types import Completion, Decision, Final, FloatArray, Flow, Query, Seed


@dataclass(frozen=True)
class Scored:
    """Ask expert after expert until the scorer's chance that the answer is right is high enough.

    Parameters
    ----------
    scorer
        A scorer, or the folder of a saved one.
    thresholds
        The least chance that is high enough, by the name of the expert that answered.
    threshold
        The same for experts that ``thresholds`` does not name.
    """

    scorer: Scorer | str
    thresholds: Mapping[str, float] = field(default_factory=dict)
    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_number(self.threshold, "threshold")
        if isinstance(self.scorer, str):
            object.__setattr__(self, "scorer", load_scorer(self.scorer))
        if unknown := [name for name in self.thresholds if name not in self._scorer.experts]:
            known = ", ".join(self._scorer.experts)
            message = f"the scorer has seen no answer of {unknown[0]!r}; it knows {known}"
            raise InputError(message, field="thresholds")

    @property
    def _scorer(self) -> Scorer:
        assert isinstance(self.scorer, Scorer)
        return self.scorer

    def __call__(self, query: Query, decision: Decision, seed: Seed) -> Flow:
        """The flow of one query; where the last expert fails the best scored answer stands."""
        *early, last = decision.experts
        declined: list[tuple[float, Completion]] = []
        for step, expert in enumerate(early):
            (completion,) = yield [ask(query, expert, seed, step)]
            if completion.failed:
                continue
            chance = self._scorer.score(query, completion)
            if chance >= self.thresholds.get(expert, self.threshold):
                return completion
            declined.append((chance, completion))
        best = [max(declined, key=lambda pair: pair[0])[1]] if declined else []
        return Final(ask(query, last, seed, len(early)), fallbacks=tuple(best))


class LearnedCascade(NamedTuple):
    """A cascade with the chain it was made for, and what both came to on the records.

    ``plan.quality`` is measured with scores of held-out folds, but at thresholds and with a chain
    that were chosen on it: expect a little less.
    """

    composition: Scored
    experts: tuple[str, ...]
    plan: Plan


def learn_cascade(
    records: Records,
    mean_cost: float,
    extract: Extractor = whole,
    *,
    longest: int = LONGEST,
    seed: Seed = 0,
) -> LearnedCascade:
    """The cascade of the highest quality whose mean cost is at most ``mean_cost`` on the records.

    For several budgets learn the scorer once and call ``plan_cascade`` for each.
    """
    scorer, chances = learn_scorer(records, extract, seed=seed)
    return plan_cascade(scorer, chances, records, mean_cost, longest=longest)


def plan_cascade(
    scorer: Scorer,
    chances: FloatArray,
    records: Records,
    mean_cost: float,
    *,
    longest: int = LONGEST,
) -> LearnedCascade:
    """The best chain and thresholds for a scorer, with the chances that ``learn_scorer`` gave.

    Rows where a score, a cost or an answer is missing are left out of the choice; InputError where
    none is left, or where no expert is within the budget.
    """
    kept = ~(np.isnan(chances) | np.isnan(records.quality) | np.isnan(records.cost)).any(axis=1)
    if not kept.any():
        message = "no query has score, cost and answer of every expert; select fewer experts"
        raise InputError(message, field="records")
    parts = chances[kept], records.quality[kept], records.cost[kept]
    plan = best_plan(*parts, mean_cost, longest)
    names = tuple(records.experts[j] for j in plan.chain)
    # A threshold of infinity means never to stop there; no chance reaches 2.
    thresholds = {
        name: float(np.clip(t, 0.0, 2.0)) for name, t in zip(names, plan.thresholds, strict=False)
    }
    return LearnedCascade(Scored(scorer, thresholds), names, plan)
