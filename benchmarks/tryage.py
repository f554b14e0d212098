"""Tryage in small: which of eleven tiny language models has the least loss on a prompt.

Experts are character n-gram models, trained here on texts generated here: six domains with a
specialist each, and five generalists of other orders and sizes. A prompt mixes one or two domains;
its true loss under every model is known (nats a character), so it is known how often a router picks
the model of the least loss.

    python benchmarks/tryage.py
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from coterie.metrics.intervals import bootstrap_mean
from coterie.policies.penalties import pareto, tradeoff
from coterie.records import Records
from coterie.routers.base import Router
from coterie.routers.mlp import MLP
from coterie.routers.neighbors import KNN
from coterie.routers.tryage import Tryage
from coterie.types import IntArray, Query

ALPHABET = 96  # characters a model chooses among
MASS = 2.0  # of a shorter context's prediction, in observations
WORDS: Mapping[str, str] = {  # alternatives, separated by |
    "who": "Ada|Bruno|Clara|Dario|Elif|Farah|Goran|Hanna|Ivo|Jun|Kira|Liam|Mina|Noor|Otto",
    "thing": "apples|pens|boxes|coins|stamps|shells|cards|tickets|candles|buttons",
    "name": "total|count|value|index|items|result|width|buffer|node|cache|limit|token",
    "food": "onion|garlic|flour|butter|rice|lentils|tomato|basil|pepper|cream|eggs|leek",
    "cook": "chop|stir|simmer|fold|whisk|roast|season|drain|knead|fry",
    "party": "the Lessee|the Lessor|the Supplier|the Customer|either Party|the Guarantor",
    "duty": "pay all sums due|give written notice|keep the premises insured|deliver the goods"
    "|keep such matters secret|bear its own costs",
    "metal": "copper|zinc|iron|sodium|silver|nickel|cobalt|barium",
    "salt": "sulfate|chloride|nitrate|carbonate|acetate|oxide|hydroxide",
    "town": "Lisbon|Graz|Oslo|Porto|Bergen|Lyon|Ghent|Turku|Split|Parma",
    "wish": "a quiet room|an early train|a window seat|two adult tickets|a late checkout",
    "number": "|".join(str(n) for n in (*range(2, 30), 35, 40, 48, 60, 75, 96, 120, 250)),
}
FRAMES: Mapping[str, Sequence[str]] = {
    "sums": (
        "{who} has {number} {thing} and gives {number} of them to {who}. How many are left?",
        "A shop sells {thing} at {number} cents each. What do {number} of them cost?",
        "{who} packs {number} {thing} into each of {number} boxes. How many {thing} is that?",
    ),
    "code": (
        "def {name}({name}, {name}):\n    return {name} + {name} * {number}\n",
        "for {name} in range({number}):\n    if {name} % {number} == 0:\n        print({name})\n",
        "{name} = [{name} for {name} in {name} if {name} > {number}]\n",
    ),
    "recipes": (
        "{cook} the {food} with {food} for {number} minutes, then add the {food}.",
        "In a large pan {cook} {number} g of {food}; {cook} in the {food} until golden.",
        "Serve the {food} warm, with {food} and a little {food}.",
    ),
    "contracts": (
        "In the event of default {party} shall {duty} within {number} days.",
        "Save as herein provided, {party} shall {duty} and {party} shall {duty}.",
        "Nothing in clause {number} obliges {party} to {duty}.",
    ),
    "chemistry": (
        "Dissolve {number} g of {metal} {salt} in {number} ml of water and titrate.",
        "The {metal} {salt} precipitates as a pale solid above pH {number}.",
        "Heating {metal} {salt} to {number} K yields {metal} {salt} and gas.",
    ),
    "travel": (
        "Hello, I would like {wish} to {town} on the {number}th, please.",
        "Is there {wish} from {town} to {town} after {number} o'clock?",
        "Thank you! And could we have {wish} in {town} as well?",
    ),
}


class NGram:
    """Chances of the next character, each context's smoothed by that of the shorter one."""

    def __init__(self, order: int) -> None:
        self.order = order
        self.counts: Counter[str] = Counter()  # of contexts and of contexts with what follows

    def fit(self, texts: Sequence[str]) -> NGram:
        """Count every context with what follows, up to the order."""
        for text in texts:
            padded = "\0" * (self.order - 1) + text
            for at in range(self.order - 1, len(padded)):
                for start in range(at - self.order + 1, at + 1):
                    self.counts[padded[start:at] + "\1"] += 1
                    self.counts[padded[start : at + 1]] += 1
        return self

    @property
    def size(self) -> int:
        """Numbers that the model keeps."""
        return len(self.counts)

    def loss(self, text: str) -> float:
        """Mean nats a character."""
        padded, total = "\0" * (self.order - 1) + text, 0.0
        for at in range(self.order - 1, len(padded)):
            chance = 1 / ALPHABET
            for start in range(at, at - self.order, -1):
                seen = self.counts[padded[start:at] + "\1"]
                hits = self.counts[padded[start : at + 1]]
                chance = (hits + MASS * chance) / (seen + MASS)
            total -= np.log(chance)
        return total / max(len(text), 1)


def sentence(domain: str, generator: np.random.Generator) -> str:
    """One sentence of a domain, every slot filled anew."""
    frame = str(generator.choice(FRAMES[domain]))
    while "{" in frame:
        slot = frame[frame.index("{") + 1 : frame.index("}")]
        frame = frame.replace(f"{{{slot}}}", str(generator.choice(WORDS[slot].split("|"))), 1)
    return frame


def prompt(generator: np.random.Generator, mixed: float) -> tuple[str, str]:
    """A prompt of three sentences and the domain of the first; some change domain on the way."""
    first, second = (str(d) for d in generator.choice(list(FRAMES), 2, replace=False))
    change = generator.random() < mixed
    domains = [first, first, second] if change else [first] * 3
    return " ".join(sentence(domain, generator) for domain in domains), first


def make_experts(sentences: int, generator: np.random.Generator) -> dict[str, NGram]:
    """Specialists of order 4 and generalists of orders 2, 3, 4, 5 and a small one of order 5."""
    texts = {d: [sentence(d, generator) for _ in range(sentences)] for d in FRAMES}
    experts = {domain: NGram(4).fit(own) for domain, own in texts.items()}
    for order in (2, 3, 4, 5):
        few = [text for own in texts.values() for text in own[: sentences // 6]]
        experts[f"general-{order}"] = NGram(order).fit(few)
    experts["general-5-small"] = NGram(5).fit([own[0] for own in texts.values()])
    return experts


def make_prompts(
    experts: Mapping[str, NGram], count: int, generator: np.random.Generator, mixed: float
) -> Records:
    """Prompts with the likelihood a character, exp(-loss), as every expert's score."""
    queries, loss = [], np.zeros((count, len(experts)))
    for row in range(count):
        text, domain = prompt(generator, mixed)
        queries.append(Query(f"p{row}", ({"role": "user", "content": text},), category=domain))
        loss[row] = [expert.loss(text) for expert in experts.values()]
    facts = {name: {"size": expert.size} for name, expert in experts.items()}
    return Records(tuple(queries), tuple(experts), np.exp(-loss), facts=facts)


def picks(chosen: IntArray, records: Records) -> dict[str, Any]:
    """How often the chosen column has the least loss, with a 95 % interval; regret in nats."""
    loss, rows = -np.log(records.quality), np.arange(len(records))
    hit = bootstrap_mean((loss[rows, chosen] <= loss.min(axis=1) + 1e-12).astype(float))
    regret = float((loss[rows, chosen] - loss.min(axis=1)).mean())
    interval = [round(v, 3) for v in (hit.low, hit.high)]
    return {"optimal": round(hit.value, 3), "interval": interval, "regret": round(regret, 4)}


def routed(router: Router, training: Records, new: Records) -> dict[str, Any]:
    return picks(router.fit(training).predict(new.queries).quality.argmax(axis=1), new)


def shuffled(records: Records, seed: int) -> Records:
    """The same prompts with the scores of other prompts: nothing is left to learn."""
    order = np.random.default_rng(seed).permutation(len(records))
    return Records(records.queries, records.experts, records.quality[order], facts=records.facts)


ROUTERS: Mapping[str, Callable[[], Router]] = {
    "tryage": lambda: Tryage(loss="nats"),
    "tryage, lexical": lambda: Tryage("lexical", "nats"),
    "tryage, linear": lambda: Tryage(loss="nats", features=0),
    "tryage, loss=error": Tryage,
    "mlp": MLP,
    "knn": KNN,
}


def measure(
    train: int = 1500,
    test: int = 1500,
    sentences: int = 300,
    seed: int = 0,
    mixed: float = 0.5,
    routers: Mapping[str, Callable[[], Router]] = ROUTERS,
) -> dict[str, Any]:
    """Every figure of the experiment."""
    generator = np.random.default_rng(seed)
    experts = make_experts(sentences, generator)
    training = make_prompts(experts, train, generator, mixed)
    new = make_prompts(experts, test, generator, mixed)
    loss = -np.log(training.quality)
    best = np.full(test, loss.mean(axis=0).argmin())
    often = np.bincount(loss.argmin(axis=1), minlength=len(experts)).argmax()
    rows = {
        "chance": picks(generator.integers(0, len(experts), test), new),
        "best single (least mean loss)": picks(best, new),
        "most often optimal": picks(np.full(test, often), new),
        **{name: routed(make(), training, new) for name, make in routers.items()},
        "tryage, shuffled losses": routed(Tryage(loss="nats"), shuffled(training, seed), new),
        "oracle": picks(new.quality.argmax(axis=1), new),
    }
    return {"rows": rows, "experts": len(experts), "sweep": sweep(training, new)}


def sweep(training: Records, new: Records) -> list[list[float]]:
    """Mean loss and mean size (thousands) of the choices as size weighs more; undominated ones."""
    size = np.array([new.facts[name]["size"] for name in new.experts]) / 1000
    estimates = Tryage(loss="nats").fit(training).predict(new.queries)
    weights = [0.0, *np.geomspace(1e-4, 1.0, 13).tolist()]
    points = tradeoff(estimates, np.log(new.quality), size, weights)
    return [[round(-worth, 4), round(much, 2)] for worth, much in pareto(points)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mixed", type=float, default=0.5, help="share of prompts of two domains")
    given = parser.parse_args()
    print(json.dumps(measure(seed=given.seed, mixed=given.mixed), indent=1))


if __name__ == "__main__":
    main()
