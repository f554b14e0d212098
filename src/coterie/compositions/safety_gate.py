"""MoGU at the level of requests: a score decides between a usable and a cautious expert.

MoGU (Du et al. 2024, arXiv 2405.14488) mixes a "glad" and an "unwilling" variant of one model in
every layer, by gates in [0, 1], for the first five tokens; the base model goes on alone. At the
level of requests the gate is any classifier of the question, and mixing is handing over: the
cautious expert begins, and the usable one continues its words. No claim is made that this is safe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from coterie.compositions.base import ask, options_of
from coterie.gates import Classifier, embedded_gate, load_gate
from coterie.policies.base import check_count, check_number
from coterie.types import Call, Completion, Decision, Final, Flow, Query, Seed


@dataclass(frozen=True)
class SafetyGate:
    """The usable expert below ``low``, the cautious one from ``high`` on, a mixture in between.

    The decision names the usable expert first and the cautious one second; others are not asked,
    and with one expert there is nothing to gate. In between the cautious expert writes the first
    ``tokens`` tokens and the usable one goes on from them, which takes a backend and a chat
    template that continue an assistant message (llama.cpp's server with most templates; for vLLM
    set ``handover``); one that begins anew repeats itself. Where the cautious expert fails, the
    usable one does not stand in for it.

    Parameters
    ----------
    gate
        A classifier, or the folder of a saved gate; None takes the one that ships with Coterie,
        whose card (``embedded/gate/card.json``) holds its error rates.
    low, high
        Scores of the gate; equal ones leave no mixture.
    tokens
        Tokens of the cautious expert's opening; MoGU's five.
    handover
        Options for the expert that goes on, for vLLM ``{"continue_final_message": true,
        "add_generation_prompt": false}``.
    """

    gate: Classifier | str | None = None
    low: float = 0.5
    high: float = 0.5
    tokens: int = 5
    handover: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_number(self.low, "low", high=1.0)
        check_number(self.high, "high", low=self.low)
        check_count(self.tokens, "tokens")
        if self.gate is None:
            object.__setattr__(self, "gate", embedded_gate())
        elif isinstance(self.gate, str):
            object.__setattr__(self, "gate", load_gate(self.gate))

    def __call__(self, query: Query, decision: Decision, seed: Seed) -> Flow:
        """The flow of one query."""
        usable, *others = decision.experts[:2]
        score = self.score(query) if others else 0.0
        if score < self.low or not others:
            standing = tuple(ask(query, e, seed, 0, i + 1) for i, e in enumerate(others))
            return Final(ask(query, usable, seed), fallbacks=standing)
        cautious = others[0]
        if score >= self.high:
            return Final(ask(query, cautious, seed, 0, 1))
        (opening,) = yield [self._opening(query, cautious, seed)]
        if opening.failed or opening.finish_reason != "length":
            return opening  # it said all it had to say
        return Final(self._rest(query, usable, opening, seed), opening.text)

    def score(self, query: Query) -> float:
        """The gate's score."""
        assert callable(self.gate)
        return float(self.gate(query))

    def _opening(self, query: Query, expert: str, seed: Seed) -> Call:
        """Only the first tokens, so no call that records could answer."""
        options = {**options_of(query, seed, 0, 1), "max_tokens": self.tokens}
        return Call(expert, query.messages, "route", options)

    def _rest(self, query: Query, expert: str, opening: Completion, seed: Seed) -> Call:
        call = ask(query, expert, seed, 1)
        messages = (*query.messages, {"role": "assistant", "content": opening.text})
        options = dict(call.options)
        if isinstance(whole := options.get("max_tokens"), int):
            options["max_tokens"] = max(whole - self.tokens, 1)
        return replace(call, messages=messages, options={**options, **self.handover})
