"""An expert reads the question and names who is to answer it, or what kind of question it is.

Choosing among described models is HuggingGPT's way (Shen et al. 2023) and that of models tuned to
route (Arch-Router, Tran et al. 2025); choosing a category that stands for an expert is that of
SambaNova's CoE starter kit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coterie.compositions.base import ask, options_of
from coterie.errors import InputError
from coterie.types import ONE_OF, Call, Decision, Final, Flow, Query, Seed

PROMPT = """{what}

{listed}

Question:
{question}

Write one of the names above and nothing else."""
WHAT = {
    "expert": "Which of these models should answer the question below?",
    "category": "Which of these categories does the question below belong to?",
}
LONGEST = 64  # tokens of a name; a local expert is held to the names by a grammar anyway
FIELDS = ("route", "expert", "category", "model", "id", "name", "choice", "answer")


@dataclass(frozen=True, slots=True)
class Prompted:
    """The ``chooser`` names an expert of the decision, or a category, and that expert answers.

    Parameters
    ----------
    chooser
        Name of the expert that reads the question; None is the preferred one of the decision.
    descriptions
        What experts or categories are about, by name, for the chooser to read.
    categories
        The expert of every category; none means that experts are named. Several names may stand
        for one expert.

    Notes
    -----
    The names go along as the option ``one_of``, to which local experts are held by a grammar.
    Where the reply names nobody, or someone who is not in the decision, the decision's own order
    stands, as by ``single``.
    """

    chooser: str | None = None
    descriptions: Mapping[str, str] = field(default_factory=dict)
    categories: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("descriptions", "categories"):
            value = getattr(self, name)
            if not isinstance(value, Mapping) or not all(
                isinstance(v, str) for v in value.values()
            ):
                message = f"expected a table of texts by name, got {value!r}"
                raise InputError(message, field=name)

    def __call__(self, query: Query, decision: Decision, seed: Seed) -> Flow:
        """The flow of one query."""
        order, names = list(decision.experts), self.names(decision.experts)
        if len(names) > 1:
            (reply,) = yield [self.question(query, decision, seed)]
            said = None if reply.failed else named(reply.text, names)
            chosen = self.categories.get(said, said) if said is not None else None
            if chosen in order:
                order = [chosen, *(e for e in order if e != chosen)]
        first, *others = (ask(query, e, seed, 1, i) for i, e in enumerate(order))
        return Final(first, fallbacks=tuple(others))

    def names(self, experts: Sequence[str]) -> list[str]:
        """What there is to choose from."""
        return list(self.categories) or list(dict.fromkeys(experts))

    def question(self, query: Query, decision: Decision, seed: Seed) -> Call:
        """The call that has the chooser choose."""
        names, told = self.names(decision.experts), self.descriptions
        prompt = PROMPT.format(
            what=WHAT["category" if self.categories else "expert"],
            listed="\n".join(f"- {n}: {told[n]}" if n in told else f"- {n}" for n in names),
            question=query.text,
        )
        messages = ({"role": "user", "content": prompt},)
        own = {"temperature": 0.0, "max_tokens": LONGEST, ONE_OF: names}
        chooser = self.chooser or decision.experts[0]
        return Call(chooser, messages, "route", options_of(query, seed) | own)


def named(text: str, names: Sequence[str]) -> str | None:
    """Which of ``names`` a reply means; None where it is none of them, or more than one.

    Read are the name alone, a JSON object that has it as ``route``, ``expert``, ``category`` or the
    like, and a sentence that holds one of the names as a whole; letter case aside, and without what
    comes before a closing ``</think>``.

    >>> named('{"route": "code"}', ["code", "math"]), named("I'd say Math.", ["code", "math"])
    ('code', 'math')
    """
    said = text.rsplit("</think>", 1)[-1].strip()
    known = {name.casefold(): name for name in reversed(names)}
    for value in _values(said):
        return known.get(value.strip().casefold())
    bare = said.strip("\"'`*.:!()[]{} \n\t").casefold()
    if bare in known:
        return known[bare]
    mentioned = _mentioned(said.casefold(), list(known))
    return known[mentioned[0]] if len(mentioned) == 1 else None


def _values(text: str) -> Iterator[str]:
    """The name in the first JSON object of a text."""
    start = text.find("{")
    try:
        value: Any = json.JSONDecoder().raw_decode(text, start)[0] if start >= 0 else None
    except (ValueError, RecursionError):
        return
    if isinstance(value, Mapping):
        yield from (value[f] for f in FIELDS if isinstance(value.get(f), str))


def _mentioned(text: str, names: Sequence[str]) -> list[str]:
    """Names in a text as whole words; one within a longer one does not count."""
    longest = sorted(filter(None, names), key=len, reverse=True)
    if not longest:
        return []
    pattern = "|".join(map(re.escape, longest))
    return list(dict.fromkeys(re.findall(rf"(?<!\w)(?:{pattern})(?!\w)", text)))
