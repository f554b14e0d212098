"""Logged traffic whose scores are known: ann knows sums, bob knows words, cid knows neither."""

import calendar
from typing import Any

import numpy as np

from coterie.features import StaticEncoder
from coterie.gateway.entries import Attempt, Candidate, Entry, Feedback, Tokens, new_id
from coterie.gateway.exporting import Log
from coterie.records import Records
from coterie.types import Query

POOL = ("ann", "bob", "cid")
START = float(calendar.timegm((2026, 11, 2, 12, 0, 0)))
COST = {"ann": 4.0, "bob": 2.0, "cid": 1.0}
WORDS = ("cat", "dog", "sun", "tree", "moon", "fish", "bird", "rain")


def texts(count: int, seed: int = 0) -> list[str]:
    """Sums and words in turn."""
    draw = np.random.default_rng(seed)
    return [
        f"What is {draw.integers(99)} plus {draw.integers(99)}?"
        if i % 2 == 0
        else f"Spell the word {draw.choice(WORDS)} backwards, then {draw.choice(WORDS)}."
        for i in range(count)
    ]


def chance(text: str, expert: str) -> float:
    """The chance of a good answer."""
    able = {"ann": text.startswith("What"), "bob": text.startswith("Spell"), "cid": False}
    return 0.9 if able[expert] else 0.2


def entry(number: int, text: str, chosen: str, propensity: float, **more: Any) -> Entry:
    at = START + 60.0 * number
    settings: dict[str, Any] = {
        "policy": "auto",
        "decided": chosen,
        "expert": chosen,
        "propensity": propensity,
        "explored": propensity < 0.5,
        "candidates": [Candidate(name, 0.5, 0.1, COST[name]) for name in POOL],
        "attempts": [Attempt(chosen, seconds=0.5, tokens=Tokens(10, 5), cost=COST[chosen])],
        "tokens": Tokens(10, 5),
        "cost": COST[chosen],
        "latency": 0.6,
        "content": {"messages": [{"role": "user", "content": text}]},
    }
    return Entry(new_id("req_", at), at, **{**settings, **more})


def traffic(count: int, rate: float = 0.6, seed: int = 0, hidden: bool = False) -> Log:
    """The log of a gateway that asks ann, and at ``rate`` anybody; ``hidden`` keeps no texts."""
    draw = np.random.default_rng(seed)
    entries, feedback = [], []
    for number, text in enumerate(texts(count, seed)):
        expert = str(draw.choice(POOL)) if draw.random() < rate else "ann"
        propensity = rate / 3 + (1 - rate) * (expert == "ann")
        made = entry(number, text, expert, propensity)
        if hidden:
            made.content = None
            made.vector = StaticEncoder().encode([text])[0].astype("<f2").tobytes()
        entries.append(made)
        score = float(draw.random() < chance(text, expert))
        feedback.append(Feedback(made.id, score, made.time + 5))
    return Log(entries, feedback, StaticEncoder().fingerprint() if hidden else "")


def records(count: int = 80) -> Records:
    """What each expert makes of other questions, fully observed."""
    asked = texts(count, seed=99)
    draw = np.random.default_rng(1)
    quality = np.array([[float(draw.random() < chance(t, e)) for e in POOL] for t in asked])
    queries = tuple(Query.from_text(f"q{i}", text) for i, text in enumerate(asked))
    return Records(queries, POOL, quality, np.tile([*COST.values()], (count, 1)))
