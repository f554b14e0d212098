"""Rows that nobody has to ask for: what a router has to beat, and what it cannot pass."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from coterie.panel.setting import Setting
from coterie.panel.values import Outcome
from coterie.panel.votes import best_vote, winners
from coterie.rasch import null_oracle
from coterie.types import IntArray

VOTES = (3, 5)


def baselines(setting: Setting) -> Iterator[Outcome]:
    """Random, best single and the static votes; the table by category is a router like others."""
    quality = setting.records.quality
    ones, costs = np.ones(len(quality)), setting.costs.mean(axis=1)
    yield Outcome("random", "baseline", "nothing", quality.mean(axis=1), costs, ones)
    yield setting.outcome("best single", "baseline", "nothing", setting.fallback)
    if setting.codes is not None:
        for k in VOTES:
            if k <= len(setting.records.experts):
                yield static_vote(setting, setting.codes, k)


def static_vote(setting: Setting, codes: IntArray, k: int) -> Outcome:
    """The majority of the k experts whose vote was best on the training folds."""
    quality = setting.records.quality
    chosen, costs = np.zeros(len(codes), np.intp), np.zeros(len(codes))
    for rest, test in zip(setting.rests, setting.tests, strict=True):
        members = best_vote(codes[rest], quality[rest], k)
        chosen[test] = winners(codes[test], members)
        costs[test] = setting.costs[np.ix_(test, np.array(members))].sum(axis=1)
    scores, calls = quality[np.arange(len(codes)), chosen], np.full(len(codes), float(k))
    return Outcome(f"static best-{k} vote", "baseline", "every answer", scores, costs, calls)


def bounds(setting: Setting) -> Iterator[Outcome]:
    """The oracle, paying what any of the best costs or the cheapest of them, and the null's."""
    quality, costs = setting.records.quality, setting.costs
    best = quality == quality.max(axis=1, keepdims=True)
    ones, reads = np.ones(len(quality)), "the reference"
    paid = (costs * best).sum(axis=1) / best.sum(axis=1)
    yield Outcome("oracle", "bound", reads, quality.max(axis=1), paid, ones)
    cheapest = np.where(best, np.nan_to_num(costs), np.inf).argmin(axis=1)
    yield setting.outcome("cheapest-correct oracle", "bound", reads, cheapest)
    null, unknown = null_oracle(quality), np.full(len(quality), np.nan)
    yield Outcome("additive-null oracle", "bound", reads, null, unknown, ones)
