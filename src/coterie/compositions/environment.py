"""Router-R1 as an environment to train a policy in: TRL's interface, without TRL.

``GRPOTrainer(environment_factory=...)`` of TRL 1.x makes instances, calls ``reset`` with a row's
columns, offers every other public method as a tool, and asks ``get_reward`` in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from coterie.compositions.actions import known_expert
from coterie.compositions.multi_round import NOTHING, ROUNDS, SHOWN, sub_question
from coterie.compositions.rewards import CostReward, FixedCost, Metric, exact_match, reward
from coterie.types import Call, Completion, Query, derive_seed


class RoutingEnvironment:
    """One conversation of a policy with the experts, and what it is worth.

    Parameters
    ----------
    ask
        Makes a call: a pool, recorded answers or a simulation.
    experts
        Names with a description each, which ``reset`` tells the policy.
    cost_reward
        What a conversation's cost is worth, see ``rewards``.
    cost_weight
        Weight of the cost among conversations with a right answer (``cost_coe`` as released).
    metric
        Scores an answer against the references.
    rounds
        How many questions may be put to experts.
    """

    def __init__(
        self,
        ask: Callable[[Call], Completion],
        experts: Mapping[str, str],
        *,
        cost_reward: CostReward = FixedCost(0.0, 1.0),  # noqa: B008 (frozen)
        cost_weight: float = 0.0,
        metric: Metric = exact_match,
        rounds: int = ROUNDS,
    ) -> None:
        self._ask = ask
        self._experts = dict(experts)
        self._cost_reward = cost_reward
        self._cost_weight = cost_weight
        self._metric = metric
        self._rounds = rounds
        self.reset("", ())

    def reset(self, question: str, references: Sequence[str], **columns: object) -> str:
        """Start on this question; the text tells the policy whom it may ask."""
        self._query = Query.from_text("question", question)
        self._references = references
        self._replies: list[Completion] = []
        self._answer: str | None = None
        self.invalid = 0
        told = "\n".join(f"- {name}: {text}" for name, text in self._experts.items())
        return f"\n\nExperts to ask with route(expert, question):\n{told}"

    def route(self, expert: str, question: str) -> str:
        """Put a question to one expert and read what it says; None where that is impossible.

        Args:
            expert: The name of the expert.
            question: A question that can be answered on its own.
        """
        name = known_expert(expert.strip(), self._experts)
        if name is None or len(self._replies) >= self._rounds or self._answer is not None:
            self.invalid += 1
            return NOTHING
        seed = derive_seed(0, len(self._replies))
        reply = self._ask(sub_question(self._query, name, question.strip(), seed))
        self._replies.append(reply)
        self.invalid += reply.failed
        return NOTHING if reply.failed else reply.text.strip()[:SHOWN]

    def answer(self, text: str) -> str:
        """End with the final answer.

        Args:
            text: The answer alone, without explanation.
        """
        if self._answer is not None:
            self.invalid += 1
            return NOTHING
        self._answer = text
        return "The answer was taken."

    def get_reward(self) -> float:
        """Router-R1's reward; malformed means without an answer, or with an invalid call."""
        cost = sum(reply.cost for reply in self._replies)
        metric = 0.0 if self._answer is None else self._metric(self._answer, self._references)
        proper = self._answer is not None and not self.invalid
        return reward(metric, proper, self._cost_reward(cost), self._cost_weight)
