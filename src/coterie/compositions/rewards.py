"""The reward of Router-R1 for a finished conversation: format, outcome, and hierarchical cost.

Pure functions of texts and numbers. Cost counts only where the answer is right, so that a cheap
wrong answer is never better than a dear right one.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from coterie.compositions.actions import known_expert
from coterie.errors import InputError

Metric: TypeAlias = Callable[[str, Sequence[str]], float]
CostReward: TypeAlias = Callable[[float], float]

MALFORMED = -1.0
DEGENERATE = 0.5  # where all costs are alike, as released
TAGS = ("search", "answer", "think", "information")
_ELEMENT = re.compile(r"<(search|answer|think|information)>(.*?)</\1>", re.DOTALL)
_ANY_TAG = re.compile(r"</?(?:search|answer|think|information)>")


def reward(metric: float, well_formed: bool, cost_reward: float, cost_weight: float = 0.0) -> float:
    """-1 if malformed; else metric (1 - w) + w * cost reward if the metric is above 0, else 0.

    >>> reward(1.0, True, 0.5, 0.2), reward(0.0, True, 1.0, 0.2), reward(1.0, False, 1.0, 0.2)
    (0.9, 0.0, -1.0)
    """
    if not well_formed:
        return MALFORMED
    return metric * (1 - cost_weight) + cost_weight * cost_reward if metric > 0 else 0.0


@dataclass(frozen=True, slots=True)
class FixedCost:
    """1 at the square root of cost ``low`` or below, 0 at that of ``high`` or above.

    The bounds stay as they are, so that equal conversations earn equal rewards throughout training.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < math.inf:
            message = f"expected 0 <= low <= high, got {self.low!r} and {self.high!r}"
            raise InputError(message, field="high")

    @classmethod
    def of(cls, costs: Iterable[float]) -> FixedCost:
        """The bounds at the 5th and 95th percentile of these costs, for example of training."""
        roots = np.sqrt(list(costs))
        if not len(roots):
            raise InputError("expected at least one cost", field="costs")
        low, high = np.percentile(roots, [5, 95])
        return cls(float(low) ** 2, float(high) ** 2)

    def __call__(self, cost: float) -> float:
        """The cost reward, in [0, 1]."""
        return _between(math.sqrt(cost), math.sqrt(self.low), math.sqrt(self.high))


@dataclass(slots=True)
class RollingCost:
    """The same between percentiles of the latest 1,000 costs, this one included, as released.

    What a conversation earns then depends on those before it.
    """

    window: int = 1000
    roots: deque[float] = field(default_factory=deque, init=False)

    def __call__(self, cost: float) -> float:
        """The cost reward, in [0, 1]; the cost is remembered."""
        self.roots.append(math.sqrt(cost))
        while len(self.roots) > self.window:
            self.roots.popleft()
        low, high = np.percentile(self.roots, [5, 95])
        return _between(self.roots[-1], float(low), float(high))


def _between(value: float, low: float, high: float) -> float:
    if high - low < 1e-8:
        return DEGENERATE
    return 1 - min(max((value - low) / (high - low), 0.0), 1.0)


def well_formed(text: str, experts: Sequence[str], *, released: bool = False) -> bool:
    """Whether a conversation in tags has Router-R1's format and asks known experts alone.

    It starts with a thought that is not empty, ends with its only answer, and has as many pieces of
    information as searches; tags are balanced and not nested; every search is NAME:question.
    ``released`` also forbids what the released check does: further colons in a question, the
    template's placeholders, and a question that names its expert.
    """
    elements = [(tag, inside.strip()) for tag, inside in _ELEMENT.findall(text)]
    count = Counter(tag for tag, _ in elements)
    searches = [inside for tag, inside in elements if tag == "search"]
    thoughts = [inside for tag, inside in elements if tag == "think"]
    return (
        all(text.count(f"<{tag}>") == text.count(f"</{tag}>") for tag in TAGS)
        and not any(_ANY_TAG.search(inside) for _, inside in elements)
        and count["answer"] == 1
        and count["search"] == count["information"]
        and bool(thoughts)
        and not any(thought in ("", "...") for thought in thoughts)
        and text.strip().startswith("<think>")
        and text.strip().endswith("</answer>")
        and all(_asks(inside, experts, released) for inside in searches)
    )


def _asks(search: str, experts: Sequence[str], released: bool) -> bool:
    name, colon, question = (part.strip() for part in search.partition(":"))
    if not colon or not question or known_expert(name, experts) is None:
        return False
    placeholders = ("llm-name", "your-query")
    strict = ":" in question or name.lower() in question.lower()
    return not (released and (strict or any(p in search.lower() for p in placeholders)))


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 where the answer is one of the references but for case, punctuation and articles.

    >>> exact_match("The Beatles.", ["beatles"])
    1.0
    """
    return float(_plain(answer) in [_plain(reference) for reference in references])


def token_f1(answer: str, references: Sequence[str]) -> float:
    """The largest F1 of the answer's words with those of a reference.

    Yes, no and noanswer count whole.

    >>> token_f1("Paul McCartney", ["McCartney"])
    0.6666666666666666
    """
    return max((_f1(_plain(answer), _plain(r)) for r in references), default=0.0)


def _f1(answer: str, reference: str) -> float:
    if answer != reference and {answer, reference} & {"yes", "no", "noanswer"}:
        return 0.0
    given, wanted = answer.split(), reference.split()
    common = (Counter(given) & Counter(wanted)).total()
    return 2 * common / (len(given) + len(wanted)) if common else 0.0


def _plain(text: str) -> str:
    """SQuAD's normal form: lower case, no punctuation, no articles, single spaces."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())
