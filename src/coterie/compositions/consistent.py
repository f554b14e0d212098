"""A cascade that stops where the answers of cheap experts agree (consistency-gated).

ModelSwitch and mixture-of-thought cascades (Yue et al. 2024, arXiv 2310.03094) do so with samples;
here the voters are the experts of the decision, an expert named twice has two samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from coterie.aggregators import Majority
from coterie.answers import Extractor, normalise, whole
from coterie.compositions.base import ask
from coterie.policies.base import check_number
from coterie.types import Completion, Decision, Final, Flow, Query, Seed


@dataclass(frozen=True, slots=True)
class Consistent:
    """Ask all but the last expert at once; only where too few agree does the last one answer.

    ``agreement`` is the least share of the experts asked whose extracted answers must be equal (a
    failed one agrees with nobody); 1 wants all, and no more than 1 / experts never escalates. Where
    the last expert fails the majority stands.
    """

    agreement: float = 1.0
    extract: Extractor = whole

    def __post_init__(self) -> None:
        check_number(self.agreement, "agreement", high=1.0)

    def __call__(self, query: Query, decision: Decision, seed: Seed) -> Flow:
        """The flow of one query."""
        *early, last = decision.experts
        if not early:
            return Final(ask(query, last, seed))
        completions = yield [ask(query, expert, seed, 0, i) for i, expert in enumerate(early)]
        vote = Majority(self.extract)(query, completions, (1.0,) * len(early), seed)
        if not vote.failed and self.share(completions) >= self.agreement - 1e-9:
            return vote
        standing = () if vote.failed else (vote,)
        return Final(ask(query, last, seed, 1), fallbacks=standing)

    def share(self, completions: Sequence[Completion]) -> float:
        """Share of the completions that give the most frequent answer."""
        answers = Counter(normalise(self.extract(c.text)) for c in completions if not c.failed)
        return max(answers.values(), default=0) / len(completions)
