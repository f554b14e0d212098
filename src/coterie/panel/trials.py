"""Cross-validation of entrants: fit on the other folds, decide, look up what it came to."""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coterie.compositions import Composition, bound
from coterie.drivers.replay import replay
from coterie.errors import CoterieError
from coterie.features import Encoder
from coterie.panel.calibrating import Calibrates, Calibration, summed_up
from coterie.panel.jobs import run
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
class Learnt:
    """A composition that is made from the training records of a fold."""

    make: Callable[[Records], Composition]


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
    composition: Composition | Learnt | None = None


class Choice(NamedTuple):
    """Whose answer counts (expert columns), what was paid and how many were asked, (queries,)."""

    speaker: IntArray
    costs: FloatArray
    calls: FloatArray


@dataclass(frozen=True)
class _Group:
    """Entrants that share a router: ``make`` makes it with the panel's shared encoder."""

    make: Callable[[], Router]
    entrants: tuple[Entrant, ...]

    @property
    def name(self) -> str:
        return self.entrants[0].name


class _Decided(NamedTuple):
    """What an entrant's decisions came to, and what a calibrated policy guarantees."""

    choice: Choice
    note: str | None = None


class _Part(NamedTuple):
    """What one fold of a group came to; ``decided`` has one an entrant, an error if it refused."""

    reads: str
    quality: FloatArray
    cost: FloatArray
    decided: list[_Decided | CoterieError]
    seconds: float


def hold(
    setting: Setting,
    entrants: Sequence[Entrant],
    kind: str,
    report: Report,
    on_error: Callable[[str, CoterieError], None],
    jobs: int = 1,
) -> list[Outcome]:
    """One outcome an entrant, in order.

    Where a router refuses the records, ``on_error`` gets the name of its first entrant and the
    error; if it returns, the entrants of that router are left out. Where a policy refuses, it gets
    that entrant's name, and only that entrant is left out. ``jobs`` processes share the folds of
    the routers; outcomes do not depend on their number.
    """
    encoders: dict[str | int, SharedEncoder] = {}
    groups = _grouped(entrants, encoders, on_error)
    if jobs > 1:
        _encode_first(encoders.values(), setting.records)
    tasks = list(itertools.product(range(len(setting.tests)), range(len(groups))))
    parts: dict[int, list[_Part]] = {number: [] for number in range(len(groups))}
    done, dropped = itertools.count(1), set[str]()

    def open_tasks() -> Iterator[tuple[int, int]]:
        return (task for task in tasks if task[1] in parts)

    trial = functools.partial(_try, _Folds(setting), groups)
    with contextlib.closing(run(trial, open_tasks(), jobs)) as results:
        for (_, number), part in results:
            if isinstance(part, _Part) and number in parts:
                parts[number].append(part)
                for name, error in _refusals(groups[number], part, dropped):
                    dropped.add(name)
                    on_error(name, error)
                report(groups[number].name, next(done), len(tasks))
            elif isinstance(part, CoterieError) and parts.pop(number, None) is not None:
                on_error(groups[number].name, part)
    found = {o.name: o for n, kept in parts.items() for o in _outcomes(setting, groups[n], kept)}
    return [replace(found[e.name], kind=kind) for e in entrants if e.name in found]


def _refusals(group: _Group, part: _Part, known: Collection[str]) -> list[tuple[str, CoterieError]]:
    """Entrants whose policy refused in this fold, with the error, but those known to refuse."""
    both = zip(group.entrants, part.decided, strict=True)
    return [(e.name, d) for e, d in both if isinstance(d, CoterieError) and e.name not in known]


def named(error: CoterieError, name: str) -> CoterieError:
    """The same error; its message begins with the name of the entrant that it stopped."""
    error.args = (f"{name}: {error}",)
    return error


def _grouped(
    entrants: Sequence[Entrant],
    encoders: dict[str | int, SharedEncoder],
    on_error: Callable[[str, CoterieError], None],
) -> list[_Group]:
    """Entrants by the router they share; one encoder of a kind serves all of them."""
    together: dict[Callable[[], Router], list[Entrant]] = {}
    for entrant in entrants:
        together.setdefault(entrant.make_router, []).append(entrant)
    groups = []
    for make, group in together.items():
        try:
            groups.append(_Group(sharing(make, encoders), tuple(group)))
        except CoterieError as error:
            on_error(group[0].name, error)
    return groups


def _encode_first(encoders: Iterable[SharedEncoder], records: Records) -> None:
    """Vectors that need no fit, for all processes; a failing encoder fails again in its router."""
    texts = [q.text for q in records.queries]
    for encoder in encoders:
        with contextlib.suppress(CoterieError):
            if encoder.known is not None:
                encoder.encode(texts)


class _Folds:
    """The records of a panel by fold; the training records of the last fold are kept."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._kept: tuple[int, Records] | None = None

    def training(self, fold: int) -> Records:
        if self._kept is None or self._kept[0] != fold:
            self._kept = fold, self.setting.records.take(self.setting.rests[fold])
        return self._kept[1]


def _try(folds: _Folds, groups: Sequence[_Group], task: tuple[int, int]) -> _Part | CoterieError:
    """One fold of one group, or what its router or a policy said against it."""
    fold, number = task
    try:
        return _one_fold(folds, fold, groups[number])
    except CoterieError as error:
        return error


def _one_fold(folds: _Folds, fold: int, group: _Group) -> _Part:
    started, setting = time.perf_counter(), folds.setting
    training, test = folds.training(fold), setting.tests[fold]
    queries = [setting.records.queries[i] for i in test]
    router = group.make().fit(training)
    estimates = in_order(router.predict(queries), setting.records.experts)
    calibration = Calibration(group.make, training, queries)
    decided = [_attempt(setting, e, test, estimates, calibration) for e in group.entrants]
    seconds = time.perf_counter() - started
    return _Part(router.reads, estimates.quality, estimates.cost, decided, seconds)


def _outcomes(setting: Setting, group: _Group, parts: Sequence[_Part]) -> Iterator[Outcome]:
    """Outcomes of the entrants that share a router, from its folds in order.

    Those whose policy refused have none.
    """
    order = np.argsort(np.concatenate(setting.tests))
    expected = np.concatenate([part.quality for part in parts])[order]
    expected_cost = np.concatenate([part.cost for part in parts])[order]
    seconds = sum(part.seconds for part in parts)
    for place, entrant in enumerate(group.entrants):
        decided = [d for part in parts if isinstance(d := part.decided[place], _Decided)]
        if len(decided) < len(parts):
            continue  # its policy refused a fold
        choice = _joined([d.choice for d in decided], order)
        yield replace(
            _outcome(setting, entrant.name, parts[0].reads, choice, expected, expected_cost),
            seconds=seconds,
            note=summed_up([d.note for d in decided]),
        )


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


def _attempt(
    setting: Setting, entrant: Entrant, test: Rows, estimates: Estimates, calibration: Calibration
) -> _Decided | CoterieError:
    """What the entrant decides, or what its policy says against it."""
    try:
        return _decide(setting, entrant, test, estimates, calibration)
    except CoterieError as error:
        return error


def _decide(
    setting: Setting, entrant: Entrant, test: Rows, estimates: Estimates, calibration: Calibration
) -> _Decided:
    """What the decisions on held-out queries come to."""
    if entrant.policy is None:
        best = best_by_utility(estimates.quality, estimates.cost, np.inf)
        return _Decided(_alone(setting, test, best))
    policy, note = entrant.policy(calibration.training), None
    if isinstance(policy, Calibrates):
        policy, estimates = calibration.of(entrant.policy)
        note = policy.guarantee
    decisions = policy.decide(calibration.queries, estimates)
    number = {name: j for j, name in enumerate(setting.records.experts)}
    choice = _alone(setting, test, np.array([number[d.experts[0]] for d in decisions], np.intp))
    composition = entrant.composition
    if isinstance(composition, Learnt):
        composition = composition.make(calibration.training)
    for place, decision in enumerate(decisions):
        if decision.composition != "single":
            row = int(test[place])
            speaker, asked = _replayed(setting.records, row, decision, composition)
            choice.speaker[place] = number[speaker]
            choice.costs[place] = setting.costs[row, [number[e] for e in asked]].sum()
            choice.calls[place] = len(asked)
    return _Decided(choice, note)


def _alone(setting: Setting, test: Rows, chosen: IntArray) -> Choice:
    return Choice(chosen, setting.costs[test, chosen], np.ones(len(test)))


def _replayed(
    records: Records, row: int, decision: Decision, composition: Composition | None
) -> tuple[str, list[str]]:
    """Whose answer counts and who was asked, from what the records hold of one query."""
    flow = composition or bound(load("compositions", decision.composition), {})
    query = records.queries[row]
    (answer,) = replay([query], [decision], flow, records.take([row]))
    return answer.completion.expert, [completion.expert for completion in answer.trace]


def sharing(
    make: Callable[[], Router], encoders: dict[str | int, SharedEncoder] | None = None
) -> Callable[[], Router]:
    """The same routers with one encoder among them, which encodes every text once.

    ``encoders`` are those of other routers, by name or identity: one that is there is used, a new
    one is added. Routers without an encoder stay as they are.
    """
    encoder = getattr(make(), "encoder", None)
    if isinstance(encoder, SharedEncoder) or not isinstance(encoder, str | Encoder):
        return make
    known = {} if encoders is None else encoders
    key = encoder if isinstance(encoder, str) else id(encoder)
    if key not in known:
        made = load("encoders", encoder)() if isinstance(encoder, str) else encoder
        known[key] = SharedEncoder(made)
    shared = known[key]

    def again() -> Router:
        router = make()
        vars(router)["encoder"] = shared
        return router

    return again
