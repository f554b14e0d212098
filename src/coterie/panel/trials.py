"""Cross-validation of entrants: fit on the other folds, decide, look up what it came to."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coterie.compositions import Composition
from coterie.drivers.replay import replay
from coterie.errors import CoterieError
from coterie.features import Encoder
from coterie.panel.setting import Setting
from coterie.panel.sweeps import best_by_utility
from coterie.panel.values import Outcome
from coterie.plugins import load
from coterie.policies import Policy
from coterie.records import Records
from coterie.routers.base import Router
from coterie.types import Decision, Estimates, FloatArray, IntArray
from coterie.vectors import SharedEncoder

Rows: TypeAlias = NDArray[np.intp]
Report: TypeAlias = Callable[[str, int, int], None]  # what runs, steps done, steps in all


@dataclass(frozen=True)
class Entrant:
    """A router with the policy that decides from its estimates.

    Entrants with the same ``make_router`` share its fits. ``policy`` makes a policy from the
    training records of a fold; None chooses the highest expected quality, the cheaper one among
    equals (``Utility()``). Decisions of another composition than ``single`` are replayed from the
    recorded answers, with ``composition`` in place of the one they name if it is given; the score
    is the recorded one of the expert whose answer is returned.
    """

    name: str
    make_router: Callable[[], Router]
    policy: Callable[[Records], Policy] | None = None
    composition: Composition | None = None


class Choice(NamedTuple):
    """Whose answer counts (expert columns), what was paid and how many were asked, (queries,)."""

    speaker: IntArray
    costs: FloatArray
    calls: FloatArray


def hold(
    setting: Setting,
    entrants: Sequence[Entrant],
    kind: str,
    report: Report,
    on_error: Callable[[str, CoterieError], None],
) -> list[Outcome]:
    """One outcome an entrant, in order.

    Where a router or a policy refuses the records, ``on_error`` gets the entrant's name and the
    error; if it returns, the entrants of that router are left out.
    """
    groups: dict[Callable[[], Router], list[Entrant]] = {}
    for entrant in entrants:
        groups.setdefault(entrant.make_router, []).append(entrant)
    encoders: dict[str, SharedEncoder] = {}
    steps = itertools.count(1)
    found: dict[str, Outcome] = {}
    for make, group in groups.items():
        started = time.perf_counter()

        def step(name: str = group[0].name) -> None:
            report(name, next(steps), len(groups) * len(setting.tests))

        try:
            made = functools.partial(_made, make, encoders)
            outcomes = _cross_validate(setting, made, group, step)
        except CoterieError as error:
            on_error(group[0].name, error)
            continue
        seconds = time.perf_counter() - started
        found |= {o.name: replace(o, kind=kind, seconds=seconds) for o in outcomes}
    return [found[e.name] for e in entrants if e.name in found]


def _cross_validate(
    setting: Setting,
    make: Callable[[], Router],
    group: Sequence[Entrant],
    step: Callable[[], None],
) -> list[Outcome]:
    """Outcomes of the entrants that share a router."""
    records = setting.records
    expected, expected_cost = np.zeros((2, *records.quality.shape))
    parts: dict[str, list[Choice]] = {entrant.name: [] for entrant in group}
    for rest, test in zip(setting.rests, setting.tests, strict=True):
        training, queries = records.take(rest), [records.queries[i] for i in test]
        router = make().fit(training)
        estimates = in_order(router.predict(queries), records.experts)
        expected[test], expected_cost[test] = estimates.quality, estimates.cost
        for entrant in group:
            choice = _decide(setting, entrant, training, test, estimates)
            parts[entrant.name].append(choice)
        step()
    order = np.argsort(np.concatenate(setting.tests))
    return [
        _outcome(setting, name, router.reads, _joined(choices, order), expected, expected_cost)
        for name, choices in parts.items()
    ]


def _joined(parts: Sequence[Choice], order: IntArray) -> Choice:
    """The folds' choices in the order of the queries."""
    return Choice(*(np.concatenate(fields)[order] for fields in zip(*parts, strict=True)))


def in_order(estimates: Estimates, experts: tuple[str, ...]) -> Estimates:
    """The estimates with their experts in the order of the records; the same if they are."""
    if estimates.experts == experts:
        return estimates
    columns = [estimates.experts.index(e) for e in experts]
    return Estimates(experts, estimates.quality[:, columns], estimates.cost[:, columns])


def _outcome(
    setting: Setting,
    name: str,
    reads: str,
    choice: Choice,
    expected: FloatArray,
    expected_cost: FloatArray,
) -> Outcome:
    scores = setting.records.quality[np.arange(len(setting.records)), choice.speaker]
    alone = (choice.calls == 1).all()
    return Outcome(
        name,
        "router",
        reads,
        scores,
        choice.costs,
        choice.calls,
        choice.speaker if alone else None,
        expected,
        expected_cost,
    )


def _decide(
    setting: Setting, entrant: Entrant, training: Records, test: Rows, estimates: Estimates
) -> Choice:
    """What the entrant's decisions on held-out queries come to."""
    if entrant.policy is None:
        best = best_by_utility(estimates.quality, estimates.cost, np.inf)
        return _alone(setting, test, best)
    queries = [setting.records.queries[i] for i in test]
    decisions = entrant.policy(training).decide(queries, estimates)
    number = {name: j for j, name in enumerate(setting.records.experts)}
    choice = _alone(setting, test, np.array([number[d.experts[0]] for d in decisions], np.intp))
    for place, decision in enumerate(decisions):
        if decision.composition != "single":
            row = int(test[place])
            speaker, asked = _replayed(setting.records, row, decision, entrant.composition)
            choice.speaker[place] = number[speaker]
            choice.costs[place] = setting.costs[row, [number[e] for e in asked]].sum()
            choice.calls[place] = len(asked)
    return choice


def _alone(setting: Setting, test: Rows, chosen: IntArray) -> Choice:
    return Choice(chosen, setting.costs[test, chosen], np.ones(len(test)))


def _replayed(
    records: Records, row: int, decision: Decision, composition: Composition | None
) -> tuple[str, list[str]]:
    """Whose answer counts and who was asked, from what the records hold of one query."""
    flow = composition or load("compositions", decision.composition)
    query = records.queries[row]
    (answer,) = replay([query], [decision], flow, records.take([row]))
    return answer.completion.expert, [completion.expert for completion in answer.trace]


def _made(make: Callable[[], Router], encoders: dict[str, SharedEncoder]) -> Router:
    """A router whose encoder, where it has one, shares its vectors with the others."""
    router = make()
    encoder = getattr(router, "encoder", None)
    if isinstance(encoder, SharedEncoder) or not isinstance(encoder, str | Encoder):
        return router
    key = encoder if isinstance(encoder, str) else f"#{id(encoder)}"
    if key not in encoders:
        made = load("encoders", encoder)() if isinstance(encoder, str) else encoder
        encoders[key] = SharedEncoder(made)
    vars(router)["encoder"] = encoders[key]
    return router


def sharing(make: Callable[[], Router]) -> Callable[[], Router]:
    """The same routers with one encoder among them, which encodes every text once."""
    encoder = getattr(make(), "encoder", None)
    if isinstance(encoder, SharedEncoder) or not isinstance(encoder, str | Encoder):
        return make
    shared = SharedEncoder(load("encoders", encoder)() if isinstance(encoder, str) else encoder)

    def again() -> Router:
        router = make()
        vars(router)["encoder"] = shared
        return router

    return again
