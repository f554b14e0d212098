"""EcoAssistant: code that an expert writes is run, and what does not run goes to a dearer expert.

Zhang et al. 2023, arXiv 2310.03046: the cheapest assistant writes code and refines it on the
messages of the executor; where it does not get there, the next one takes over. Their retrieval of
earlier solutions is left out. The composition itself runs nothing: the judge is an expert of the
pool, ``PythonExpert`` for one, and that is no sandbox.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from coterie.compositions.base import ask, options_of
from coterie.errors import InputError
from coterie.policies.base import check_count
from coterie.types import Call, Completion, Decision, Flow, Message, Query, Seed

AGAIN = """Running this code failed:
{error}
Write the whole program again, corrected, in one fenced block."""


@dataclass(frozen=True, slots=True)
class Executed:
    """Ask expert after expert until the code in an answer runs without an error.

    Where none does, the last answer that came stands.

    Parameters
    ----------
    runner
        Name of the expert that runs code and fails where it fails; it is asked as a judge.
    attempts
        Answers an expert may give: the first, and corrections on the runner's message.
    show
        Answer with what the code printed instead of the answer that holds it.
    """

    runner: str
    attempts: int = 2
    show: bool = False

    def __post_init__(self) -> None:
        check_count(self.attempts, "attempts")
        if not self.runner or not isinstance(self.runner, str):
            message = f"expected the name of an expert that runs code, got {self.runner!r}"
            raise InputError(message, field="runner")

    def __call__(self, query: Query, decision: Decision, seed: Seed) -> Flow:
        """The flow of one query."""
        step, last = 0, Completion("", error="no expert was asked", finish_reason="error")
        for expert in decision.experts:
            call = ask(query, expert, seed, step)
            for _ in range(self.attempts):
                (written,) = yield [call]
                step += 2
                if written.failed:
                    last = written if last.failed else last
                    break
                last = written
                (ran,) = yield [self._judge(query, written, seed, step - 1)]
                if not ran.failed:
                    return replace(written, text=ran.text) if self.show else written
                call = self._again(ask(query, expert, seed, step), written, ran)
        return last

    def _judge(self, query: Query, written: Completion, seed: Seed, step: int) -> Call:
        messages = ({"role": "user", "content": written.text},)
        return Call(self.runner, messages, "judge", options_of(query, seed, step))

    def _again(self, call: Call, written: Completion, ran: Completion) -> Call:
        """The question, the answer, and why its code failed."""
        said: tuple[Message, ...] = (
            {"role": "assistant", "content": written.text},
            {"role": "user", "content": AGAIN.format(error=f"{ran.error}\n{ran.text}".strip())},
        )
        return replace(call, messages=(*call.messages, *said))
