"""One flow on its way: what every driver shares, without I/O.

A driver asks for ``pending`` calls, makes them however it likes and hands the completions to
``send``, until it has ``ended``. The step number counts the rounds, for journal keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from coterie.compositions import Composition
from coterie.errors import ExpertError
from coterie.experts.base import Expert
from coterie.types import Answer, Call, Completion, Decision, Final, Query, Seed, derive_seed


def expert_of(call: Call, experts: Mapping[str, Expert]) -> Expert:
    """The expert that a call is for; raises ExpertError where there is none of this name."""
    if call.expert not in experts:
        known = ", ".join(experts)
        raise ExpertError(f"no expert called {call.expert!r} in the pool; there are {known}")
    return experts[call.expert]


class Conversation:
    """The state of one composition between two rounds of calls.

    Attributes
    ----------
    pending
        The calls that wait for completions, in order; empty in the end.
    step
        How many rounds have been completed.
    final
        The last call while it is the one pending (a driver may stream it), else None.
    ended
        Whether the flow has ended; ``answer`` is the outcome.
    """

    __slots__ = (
        "_answer", "_fallbacks", "_flow", "_trace", "decision", "final", "pending", "query", "step",
    )  # fmt: skip

    def __init__(
        self, query: Query, decision: Decision, composition: Composition, run_seed: Seed
    ) -> None:
        self.query = query
        self.decision = decision
        self.step = 0
        self.pending: tuple[Call, ...] = ()
        self.final: Final | None = None
        self._answer: Answer | None = None
        self._trace: tuple[Completion, ...] = ()
        self._fallbacks: tuple[Call | Completion, ...] = ()
        self._flow = composition(query, decision, derive_seed(run_seed, query.id))
        self._advance(None)

    @property
    def ended(self) -> bool:
        """Whether there is an answer."""
        return self._answer is not None

    @property
    def answer(self) -> Answer:
        """The answer; raises ValueError while calls are pending."""
        if self._answer is None:
            raise ValueError(f"query {self.query.id!r} still waits for {len(self.pending)} calls")
        return self._answer

    def send(self, completions: Sequence[Completion]) -> None:
        """Hand over the completions of ``pending``, in the same order."""
        if len(completions) != len(self.pending):
            message = f"expected {len(self.pending)} completions, got {len(completions)}"
            raise ValueError(message)
        self.step += 1
        self._trace = (*self._trace, *completions)
        if self.final is None:
            self._advance(completions)
        elif completions[0].failed and self._fallbacks:
            self._fall_back()
        else:
            self._end(completions[0], self.final.prefix)

    def _fall_back(self) -> None:
        fallback, *others = self._fallbacks
        self._fallbacks = tuple(others)
        if isinstance(fallback, Call):
            self.pending = (fallback,)
        else:
            self._end(fallback)

    def abandon_fallbacks(self) -> None:
        """Let the pending final call stand as it comes, because part of it was already shown."""
        self._fallbacks = ()

    def _advance(self, completions: Sequence[Completion] | None) -> None:
        try:
            calls = next(self._flow) if completions is None else self._flow.send(completions)
        except StopIteration as stop:
            outcome: Completion | Final = stop.value
            if isinstance(outcome, Final):
                self.final = outcome
                self._fallbacks = tuple(outcome.fallbacks)
                self.pending = (outcome.call,)
            else:
                self._end(outcome)
        else:
            self.pending = tuple(calls)

    def _end(self, completion: Completion, prefix: str = "") -> None:
        if prefix and not completion.failed:
            completion = replace(completion, text=prefix + completion.text)
        self.pending, self.final = (), None
        self._answer = Answer(self.query.id, completion, self._trace, self.decision)
