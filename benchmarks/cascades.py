"""Cascades replayed on real records: ZeroEval with costs, RouteLLM's GSM8K with whole answers.

python benchmarks/cascades.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from coterie.compositions import Composition, recruit
from coterie.compositions.cascade_routing import CascadeRouting
from coterie.compositions.consistent import Consistent
from coterie.compositions.scored import plan_cascade
from coterie.drivers.replay import replay
from coterie.formats import read_records
from coterie.metrics.intervals import bootstrap_mean
from coterie.policies import Chain
from coterie.records import Records
from coterie.routers.base import mean_or
from coterie.routers.linear import Linear
from coterie.scorers import learn_scorer
from coterie.thresholds import certified_threshold, outcome
from coterie.types import Decision, FloatArray, IntArray

FOLDS = 5
POOL = (
    "gemini-1.5-flash",
    "deepseek-v2.5-0908",
    "gpt-4o-mini-2024-07-18",
    "Meta-Llama-3.1-70B-Instruct",
    "claude-3-5-sonnet-20241022",
)
STRONG, WEAK = "gpt-4-1106-preview", "Mixtral-8x7B-Instruct-v0.1"
Learn: TypeAlias = Callable[[Records, Records], tuple[list[Decision], Composition]]


class Row(NamedTuple):
    """Scores, costs and calls of every query."""

    scores: FloatArray
    costs: FloatArray
    calls: FloatArray


@functools.cache
def split(records: Records) -> tuple[tuple[Records, Records, IntArray], ...]:
    """Training and held-out records of every fold, and the rows held out; made once."""
    every = np.arange(len(records))
    parts = [np.asarray(part) for part in records.folds(FOLDS, 0)]
    return tuple(
        (records.take(np.setdiff1d(every, part)), records.take(part), part) for part in parts
    )


scorer_of = functools.cache(learn_scorer)


def crossed(records: Records, learn: Learn) -> Row:
    """What a system learnt on the other folds comes to on each fold, replayed."""
    row = Row(*np.zeros((3, len(records))))
    for training, new, test in split(records):
        decisions, composition = learn(training, new)
        answers = replay(new.queries, decisions, composition, new)
        for place, answer in zip(test, answers, strict=True):
            name = answer.completion.expert
            right = records.quality[place, records.experts.index(name)]
            row.scores[place] = 0.0 if answer.completion.failed else right
            row.costs[place], row.calls[place] = answer.cost, len(answer.trace)
    return row


def fixed(names: Sequence[str], composition: Composition) -> Learn:
    """The same experts for every query."""
    decision = Decision("fixed", tuple(names), (1.0,) * len(names))
    return lambda training, new: ([decision] * len(new), composition)


def frugal(budget: float) -> Learn:
    """FrugalGPT, learnt for a mean cost."""

    def learn(training: Records, new: Records) -> tuple[list[Decision], Composition]:
        learnt = plan_cascade(*scorer_of(training), training, budget)
        weights = (1.0,) * len(learnt.experts)
        return [Decision("scored", learnt.experts, weights)] * len(new), learnt.composition

    return learn


def routing(price: float) -> Learn:
    """Cascade routing at a willingness to pay, with the router ``linear``."""

    def learn(training: Records, new: Records) -> tuple[list[Decision], Composition]:
        scorer, _ = scorer_of(training)
        estimates = Linear().fit(training).predict(new.queries)
        chain = Chain("cascade-routing", new.experts, willingness_to_pay=price)
        return chain.decide(new.queries, estimates), CascadeRouting(scorer)

    return learn


def shuffled(learn: Learn) -> Learn:
    """The same system, learnt from answers that were handed to other questions."""

    def control(training: Records, new: Records) -> tuple[list[Decision], Composition]:
        order = np.random.default_rng(0).permutation(len(training))
        return learn(replace(training, texts=training.texts[order]), new)

    return control


def coins(records: Records, cost: float) -> float:
    """The best mean score of a coin between two single experts at this mean cost."""
    price, worth = records.cost.mean(axis=0), records.quality.mean(axis=0)
    best = float(worth[price <= cost].max(initial=0.0))
    for i in np.flatnonzero(price <= cost):
        for j in np.flatnonzero(price > cost):
            share = (cost - price[i]) / (price[j] - price[i])
            best = max(best, float(worth[i] + share * (worth[j] - worth[i])))
    return best


def said(row: Row, base: FloatArray, records: Records) -> dict[str, Any]:
    """The row in numbers: points against ``base`` and against coins at the same cost."""
    gain = bootstrap_mean(100 * (row.scores - base))
    cost = float(row.costs.mean())
    return {
        "score": round(float(row.scores.mean()), 4),
        "cost": round(1000 * cost, 4),
        "calls": round(float(row.calls.mean()), 2),
        "points": [round(v, 2) for v in (gain.value, gain.low, gain.high)],
        "over coins": round(100 * (float(row.scores.mean()) - coins(records, cost)), 2),
    }


def zeroeval(data: Path) -> dict[str, Any]:
    """Five models of ZeroEval; costs in thousandths of a dollar a question."""
    records = read_records(data / "zeroeval").select(POOL)
    best = POOL[int(mean_or(records.quality, 0.0).argmax())]
    base = records.quality[:, records.experts.index(best)]
    systems: dict[str, Learn] = {
        "majority of the three cheapest": fixed(POOL[:3], recruit),
        "cascade-consistent, two then the best": fixed((*POOL[:2], best), Consistent()),
        "cascade-consistent, three then the best": fixed((*POOL[:3], best), Consistent()),
        "cascade-consistent, three, 2/3 agree": fixed((*POOL[:3], best), Consistent(2 / 3)),
        **{f"cascade-scored, budget {b}": frugal(b / 1000) for b in (0.25, 0.5, 1.0)},
        "cascade-scored, budget 0.5, shuffled answers": shuffled(frugal(0.0005)),
        **{f"cascade-routing, worth {w}": routing(w) for w in (0.002, 0.01, 0.05)},
    }
    rows = {name: said(crossed(records, learn), base, records) for name, learn in systems.items()}
    return {"best single": [best, round(float(base.mean()), 4)], "rows": rows}


def gsm8k(data: Path) -> dict[str, Any]:
    """Mixtral before GPT-4: the score where a share of the questions goes on to GPT-4."""
    records = read_records(data / "routellm2")
    kept = [i for i, c in enumerate(records.categories) if str(c) == "gsm8k"]
    records = records.take(kept).select([WEAK, STRONG])
    scored, asked = np.zeros(len(records)), np.zeros(len(records))
    certified = []
    for training, new, test in split(records):
        scorer, chances = scorer_of(training)
        made = [new.completion(i, WEAK) for i in range(len(new))]
        scored[test] = scorer.scores(new.queries, [c for c in made if c is not None])
        estimates = Linear(target="gap").fit(training).predict(new.queries).quality
        asked[test] = estimates[:, 0] - estimates[:, 1]
        # Chances of held-out folds stand in for held-out records.
        threshold, _ = certified_threshold(chances[:, :1], training.quality, 0.05)
        pair = new.quality, np.tile([0.0, 1.0], (len(new), 1))
        worth, paid = outcome(scored[test][:, None], *pair, [threshold])
        worse = float((worth < new.quality[:, 1]).mean())
        certified.append([threshold, round(float(paid.mean()), 3), round(worse, 3)])
    noise = np.random.default_rng(0).permutation(scored)
    rows = {
        name: [round(escalated(score, records.quality, share), 4) for share in (0.25, 0.5, 0.75)]
        for name, score in (
            ("scorer of the answer", scored),
            ("router on the question (gap)", asked),
            ("shuffled scorer", noise),
        )
    }
    low, high = records.quality.mean(axis=0)
    rows["coins"] = [round(float(low + s * (high - low)), 4) for s in (0.25, 0.5, 0.75)]
    return {"single": [float(low), float(high)], "shares": rows, "certified": certified}


def escalated(score: FloatArray, quality: FloatArray, share: float) -> float:
    """Mean score where this share of the queries, the lowest scores, goes to the strong expert."""
    strong = np.argsort(np.argsort(score, kind="stable")) < share * len(score)
    return float(np.where(strong, quality[:, 1], quality[:, 0]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    print(json.dumps({"zeroeval": zeroeval(data), "gsm8k": gsm8k(data)}, indent=1))


if __name__ == "__main__":
    main()
