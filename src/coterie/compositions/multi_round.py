"""Router-R1: a policy thinks, puts questions to experts round by round, and answers.

The policy is pluggable: an expert that writes its actions (``ByExpert``), a rule (``Forward``), a
script (``Scripted``), or anything else that says what to do next.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

from coterie.compositions.actions import (
    Action,
    Invalid,
    Respond,
    Route,
    as_tags,
    known_expert,
    parse_tags,
    parse_tool_call,
    until_action,
    without_tags,
)
from coterie.compositions.base import ask, passed
from coterie.errors import InputError
from coterie.policies.base import check_count
from coterie.types import Call, Completion, Decision, Final, Flow, Query, Seed, derive_seed

ROUNDS = 4  # Router-R1's ``max_turns``, before the answer that is forced
SHOWN = 2400  # characters of an expert's answer that the policy reads, about 600 tokens
NOTHING = "None"  # shown where an action was invalid or the expert failed, as released


@dataclass(frozen=True, slots=True)
class Turn:
    """One round: what the policy wrote, what it did, and what came back.

    ``reply`` is the completion of the expert asked; None where nobody was. ``valid`` is false for
    an action that could not be carried out, an unknown or failing expert included.
    """

    written: str
    action: Action
    reply: Completion | None = None
    valid: bool = True

    @property
    def information(self) -> str:
        """What the policy is shown of the reply."""
        if self.reply is None or not self.valid:
            return NOTHING
        return self.reply.text.strip()[:SHOWN]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A whole conversation; ``answer`` is None where the policy came to none."""

    turns: tuple[Turn, ...]
    answer: Completion | None

    @property
    def invalid(self) -> int:
        """How many actions could not be carried out."""
        return sum(not turn.valid for turn in self.turns)

    @property
    def cost(self) -> float:
        """What the experts asked cost; the policy's own tokens are not in it, as in the paper."""
        return sum(turn.reply.cost for turn in self.turns if turn.reply is not None)

    @property
    def text(self) -> str:
        """What was written and shown, in the released tags."""
        parts = []
        for turn in self.turns:
            parts.append(turn.written)
            if not isinstance(turn.action, Respond):
                parts.append(f"<information>{turn.information}</information>")
        return "\n".join(parts)


class RoundPolicy(Protocol):
    """Says what to do next: an action, or the call to an expert that writes one."""

    def __call__(
        self, query: Query, experts: Sequence[str], turns: Sequence[Turn], last: bool, seed: Seed
    ) -> Action | Call:
        """The next step after these turns; where it is the ``last`` only an answer counts."""

    def read(self, text: str) -> Action:
        """The action in what a called expert wrote."""


Talk: TypeAlias = Generator[Sequence[Call], Sequence[Completion], Trajectory]


@dataclass(frozen=True, slots=True)
class MultiRound:
    """At most ``rounds`` rounds of think and route, then the policy's answer.

    Parameters
    ----------
    policy
        Says what to do. None has the expert ``writer`` write its actions in the released tags.
    writer
        Its name; None is the preferred expert of the decision. Everyone in the decision may be
        asked.
    descriptions
        What experts are good at, by name, for the writer to read.
    rounds
        How many actions before the answer that is forced.

    Notes
    -----
    If the policy comes to no answer the latest thing that an expert said stands; if none said
    anything, the experts of the decision are asked in order, as by ``single``.
    """

    policy: RoundPolicy | None = None
    writer: str | None = None
    descriptions: Mapping[str, str] = field(default_factory=dict)
    rounds: int = ROUNDS

    def __post_init__(self) -> None:
        check_count(self.rounds, "rounds", low=0)

    def __call__(self, query: Query, decision: Decision, seed: Seed) -> Flow:
        """The flow of one query."""
        trajectory = yield from self.talk(query, decision, seed)
        if trajectory.answer is not None:
            return trajectory.answer
        first, *others = (ask(query, e, seed, -1, i) for i, e in enumerate(decision.experts))
        return Final(first, fallbacks=tuple(others))

    def talk(self, query: Query, decision: Decision, seed: Seed) -> Talk:
        """The same conversation with everything that happened in it, for rewards and analyses."""
        policy = self.policy or ByExpert(self.writer or decision.experts[0], self.descriptions)
        turns: list[Turn] = []
        for step in range(self.rounds + 1):
            last = step == self.rounds
            action = policy(query, decision.experts, turns, last, derive_seed(seed, step, 0))
            writer, written = None, ""
            if isinstance(action, Call):
                (writer,) = yield [action]
                if writer.failed:
                    break
                written, action = until_action(writer.text), policy.read(writer.text)
            if last:
                action = _forced(action, written)
            if isinstance(action, Respond):
                speaker = writer or _latest(turns) or Completion(decision.experts[0])
                turns.append(Turn(written or as_tags(action), action))
                return Trajectory(tuple(turns), replace(speaker, text=action.text))
            reply, call = None, _call(query, decision, action, derive_seed(seed, step, 1))
            if call is not None and not last:
                (reply,) = yield [call]
            valid = reply is not None and not reply.failed
            turns.append(Turn(written or as_tags(action), action, reply, valid))
        return Trajectory(tuple(turns), _latest(turns))


def watch(conversation: Talk, reply: Callable[[Call], Completion]) -> Trajectory:
    """Drive a conversation with completions from ``reply``: recorded, simulated or live."""
    try:
        calls = next(conversation)
        while True:
            calls = conversation.send([reply(call) for call in calls])
    except StopIteration as stop:
        trajectory: Trajectory = stop.value
        return trajectory


def sub_question(query: Query, expert: str, question: str, seed: Seed) -> Call:
    """The call that puts a question of the policy to an expert.

    The query itself is put as it stands, so that a recorded answer to it can be replayed.
    """
    options = passed(query) | {"seed": seed}
    if question == query.text:
        return Call(expert, query.messages, "answer", options)
    messages = ({"role": "user", "content": HELP.format(question=question)},)
    options = {"temperature": 0.0, "max_tokens": 512} | options
    return Call(expert, messages, "answer", options)


HELP = """Another model works on a larger question and needs help with this part of it. Answer in
a few sentences and to the point. If you do not know, say so.

{question}"""


def _call(query: Query, decision: Decision, action: Action, seed: Seed) -> Call | None:
    """The call for an action that can be carried out."""
    if not isinstance(action, Route):
        return None
    expert = known_expert(action.expert, decision.experts)
    return None if expert is None else sub_question(query, expert, action.question, seed)


def _forced(action: Action, written: str) -> Action:
    """In the last round a text without any action counts as the answer."""
    if isinstance(action, Invalid) and (said := without_tags(written)):
        return Respond(said)
    return action


def _latest(turns: Sequence[Turn]) -> Completion | None:
    """The last thing that an expert said."""
    return next((t.reply for t in reversed(turns) if t.reply is not None and t.valid), None)


INSTRUCTIONS = """Answer the question below. You may ask other models for help, one at a time:

{experts}

{form}

What comes back stands in <information> tags. Ask again if something is still missing, and answer
as soon as you can.

Question: {question}"""
FORMS = {
    "tags": """In every turn, first reason briefly inside <think> and </think>, then do one of two:
ask with <search>NAME:your question</search>, where NAME is one of the names above, or finish with
<answer>your answer</answer>, holding the answer alone.""",
    "tools": """In every turn write exactly one JSON object, to ask
{"name": "route", "arguments": {"expert": "NAME", "question": "your question"}}
where NAME is one of the names above, or to finish
{"name": "answer", "arguments": {"text": "your answer"}}""",
}
LAST = "No question is left. Answer now."


@dataclass(frozen=True, slots=True)
class ByExpert:
    """An expert writes the actions, in ``tags`` as Router-R1 was trained or as ``tools`` in JSON.

    ``descriptions`` say what the experts are good at, in a sentence or a few each.
    """

    expert: str
    descriptions: Mapping[str, str] = field(default_factory=dict)
    form: str = "tags"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            message = f"expected one of {', '.join(FORMS)}, got {self.form!r}"
            raise InputError(message, field="form")

    def __call__(
        self, query: Query, experts: Sequence[str], turns: Sequence[Turn], last: bool, seed: Seed
    ) -> Call:
        """The call that has the expert write its next action."""
        messages = [{"role": "user", "content": self.prompt(query.text, experts)}]
        for turn in turns:
            why = f"{turn.action.why}\n" if isinstance(turn.action, Invalid) else ""
            shown = f"{why}<information>{turn.information}</information>"
            messages.append({"role": "assistant", "content": turn.written})
            messages.append({"role": "user", "content": shown})
        if last:
            messages[-1] = {"role": "user", "content": f"{messages[-1]['content']}\n\n{LAST}"}
        return Call(self.expert, tuple(messages), "route", passed(query) | {"seed": seed})

    def read(self, text: str) -> Action:
        """The action in the form asked for."""
        return parse_tags(text) if self.form == "tags" else parse_tool_call(text)

    def prompt(self, question: str, experts: Sequence[str]) -> str:
        """Instructions, the experts with their descriptions, and the question."""
        names = list(dict.fromkeys(experts))
        told = [f"{n}: {self.descriptions[n]}" if n in self.descriptions else n for n in names]
        listed = "\n".join(f"- {line}" for line in told)
        return INSTRUCTIONS.format(experts=listed, form=FORMS[self.form], question=question)


@dataclass(frozen=True, slots=True)
class Forward:
    """The rule that puts the query to expert after expert until one answers, and repeats that."""

    def __call__(
        self, query: Query, experts: Sequence[str], turns: Sequence[Turn], last: bool, seed: Seed
    ) -> Action:
        """Ask the next expert, or answer with what came back."""
        if turns and turns[-1].reply is not None and turns[-1].valid:
            return Respond(turns[-1].reply.text)
        left = experts[len(turns) :]
        return Route(left[0], query.text) if left else Invalid("nobody is left to ask")

    def read(self, text: str) -> Action:
        """Rules call no expert to write."""
        return parse_tags(text)


@dataclass(frozen=True, slots=True)
class Scripted:
    """Actions fixed in advance, one a round; after them, the latest information is the answer."""

    actions: tuple[Action, ...]

    def __call__(
        self, query: Query, experts: Sequence[str], turns: Sequence[Turn], last: bool, seed: Seed
    ) -> Action:
        """The action of this round."""
        if len(turns) < len(self.actions):
            return self.actions[len(turns)]
        return Respond(turns[-1].information) if turns else Invalid("the script is empty")

    def read(self, text: str) -> Action:
        """Scripts call no expert to write."""
        return parse_tags(text)
