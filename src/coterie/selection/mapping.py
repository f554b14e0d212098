"""The training problem of Composition of Experts: own a few experts, give each category to one.

With shares pi_c, scores s_ce and parameters p_e (arXiv 2412.01868)::

    maximise  sum_c pi_c sum_e s_ce x_ce     with  sum_e x_ce = 1,  x_ce <= y_e,  x, y in {0, 1}
    subject to  sum_e y_e <= size,  sum_e p_e y_e <= parameters       (what is owned)
                sum_ce pi_c p_e x_ce <= active,  sum_ce pi_c k_ce x_ce <= cost  (what is used)

Ties go to fewer average active parameters (to the lower cost where sizes are unknown), then to the
order of the experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coterie.errors import CoterieError, InputError
from coterie.records import Records
from coterie.selection.table import GENERAL, CategoryTable
from coterie.types import FloatArray, IntArray

SMALL = 15  # experts up to which every subset is tried
EQUAL = 1e-12  # values this close are tied
STEP = 1e-6  # relative step between two budgets of a frontier


class Limits(NamedTuple):
    """What may be spent; None is no limit.

    ``size`` experts and ``parameters`` billions in total are owned, ``active`` billions and
    ``cost`` are spent on a query on average.
    """

    size: int | None = None
    parameters: float | None = None
    active: float | None = None
    cost: float | None = None


ANY = {  # no limit at all, but the figures must be known
    "parameters": Limits(parameters=np.inf),
    "active": Limits(active=np.inf),
    "cost": Limits(cost=np.inf),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """Experts to own and the one that answers each category, with what that comes to.

    ``quality`` is the expected score, ``parameters`` the total and ``active`` the average of the
    billions of parameters, ``cost`` the mean a query; None where unknown.
    """

    experts: tuple[str, ...]
    mapping: Mapping[str, str]
    quality: float
    parameters: float | None
    active: float | None
    cost: float | None
    most_used: str = ""

    def expert_for(self, category: str | None) -> str:
        """Who answers the category; an unknown one is ``general``, or the most used expert's."""
        default = self.mapping.get(GENERAL, self.most_used)
        return self.mapping.get(category or GENERAL, default)

    def scores(self, records: Records) -> FloatArray:
        """The recorded score of every query's expert, NaN where that was not observed."""
        columns = [records.experts.index(self.expert_for(c)) for c in records.categories]
        scores: FloatArray = records.quality[np.arange(len(records)), columns]
        return scores

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON."""
        names = ("quality", "parameters", "active", "cost")
        facts = {name: getattr(self, name) for name in names}
        return {"experts": list(self.experts), "mapping": dict(self.mapping), **facts}


def choose(
    table: CategoryTable,
    limits: Limits | None = None,
    method: Literal["auto", "enumerate", "milp"] = "auto",
) -> Choice:
    """The experts and the mapping of largest expected score within the limits.

    Exact: every subset of at most 15 experts is tried where only size and total parameters are
    limited, else the mixed-integer program is solved by HiGHS. ``method`` insists on one of them.
    Raises InputError where nothing is within the limits, or they need figures nobody knows.
    """
    limits = limits or Limits()
    check_limits(table, limits)
    used = limits.active is not None or limits.cost is not None
    if method == "enumerate" and (used or len(table.experts) > SMALL):
        message = f"enumeration is for up to {SMALL} experts under size and total parameters"
        raise InputError(message, field="method")
    if method == "milp" or used or len(table.experts) > SMALL:
        return describe(table, solve(table, limits))
    subsets = Subsets.of(table)
    return describe(table, subsets.best(subsets.within(table, limits)))


def describe(table: CategoryTable, columns: IntArray) -> Choice:
    """The choice in which expert ``columns[c]`` answers category c."""
    rows, owned = np.arange(len(columns)), np.unique(columns)
    used = np.bincount(columns, table.share, len(table.experts))
    parameters = float(table.parameters[owned].sum())
    active = float(table.share @ table.parameters[columns])
    return Choice(
        experts=tuple(table.experts[e] for e in owned),
        mapping={c: table.experts[e] for c, e in zip(table.categories, columns, strict=True)},
        quality=float(table.share @ table.score[rows, columns]),
        parameters=_known(parameters),
        active=_known(active),
        cost=_known(float(table.share @ table.cost[rows, columns])),
        most_used=table.experts[int(used.argmax())],
    )


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def check_limits(table: CategoryTable, limits: Limits) -> None:
    """Raise InputError for a limit that nothing meets or that needs unknown figures."""
    if limits.size is not None and limits.size < 1:
        raise InputError(f"expected at least 1, got {limits.size}", field="size")
    for name in ("parameters", "active"):
        if (limit := getattr(limits, name)) is not None:
            _require(table.parameters, table, "number of parameters", name)
            if (least := table.parameters.min()) > limit * (1 + STEP):
                message = f"no expert fits into {limit:g}: the smallest has {least:g} billion"
                raise InputError(f"{message} parameters", field=name)
    if limits.cost is not None:
        _require(table.cost.sum(axis=0), table, "cost", "cost")
        if (least := table.share @ table.cost.min(axis=1)) > limits.cost * (1 + STEP):
            message = f"no mapping costs at most {limits.cost:g}; the cheapest costs {least:.6g}"
            raise InputError(message, field="cost")


def affordable(table: CategoryTable, limits: Limits) -> tuple[str, ...]:
    """The experts that could answer everything alone within the limits; all where none could."""
    allowed = np.ones(len(table.experts), bool)
    for limit in (limits.parameters, limits.active):
        if limit is not None:
            allowed &= table.parameters <= limit
    if limits.cost is not None:
        allowed &= table.share @ table.cost <= limits.cost
    return tuple(e for e, a in zip(table.experts, allowed, strict=True) if a or not allowed.any())


def _require(values: FloatArray, table: CategoryTable, what: str, field: str) -> None:
    if np.isnan(values).any():
        name = table.experts[int(np.isnan(values).argmax())]
        message = f"the {what} of expert {name!r} is not known; give it, or leave the limit out"
        raise InputError(message, field=field)


def tie_breaker(table: CategoryTable) -> FloatArray:
    """What breaks ties, (categories, experts): active parameters, else cost, else nothing."""
    for values in (np.tile(table.parameters, (len(table.categories), 1)), table.cost):
        if np.isfinite(values).all():
            return values
    return np.zeros(table.score.shape)


class Subsets(NamedTuple):
    """Every subset of the experts with its best mapping: (subsets, experts | categories)."""

    members: IntArray
    columns: IntArray
    value: FloatArray
    tie: FloatArray

    @classmethod
    def of(cls, table: CategoryTable) -> Subsets:
        """All non-empty subsets; given one, each category goes to its best member."""
        count, ties = len(table.experts), tie_breaker(table)
        numbers = np.arange(1, 2**count)
        members: IntArray = (numbers[:, None] >> np.arange(count)) & 1
        order = np.lexsort((ties, -table.score), axis=-1)  # (categories, experts)
        columns = np.stack([o[members[:, o].argmax(axis=1)] for o in order], axis=1)
        rows = np.arange(len(table.categories))
        value = table.score[rows, columns] @ table.share
        return cls(members, columns, value, ties[rows, columns] @ table.share)

    def within(self, table: CategoryTable, limits: Limits) -> NDArray[np.bool_]:
        """Which subsets meet the limits on what is owned."""
        allowed = np.ones(len(self.members), bool)
        if limits.size is not None:
            allowed &= self.members.sum(axis=1) <= limits.size
        if limits.parameters is not None:
            allowed &= self.members @ table.parameters <= limits.parameters * (1 + STEP * STEP)
        return allowed

    def best(self, allowed: NDArray[np.bool_]) -> IntArray:
        """The mapping of the best of these subsets, ties broken."""
        rows = np.flatnonzero(allowed)
        rows = rows[self.value[rows] >= self.value[rows].max() - EQUAL]
        rows = rows[self.tie[rows] <= self.tie[rows].min() + EQUAL]
        best: IntArray = self.columns[rows[np.lexsort(self.columns[rows].T[::-1])[0]]]
        return best


def solve(table: CategoryTable, limits: Limits) -> IntArray:
    """The mapping that solves the mixed-integer program: best score, then ties broken.

    Where only what is owned is limited the mapping follows from the subset, and is read off it.
    """
    worth = (table.share[:, None] * table.score).ravel()
    ties = (table.share[:, None] * tie_breaker(table)).ravel()
    solution = _milp(table, limits, -worth)
    floor = (worth, float(worth @ solution[: worth.size]) - 1e-9)
    if ties.any():
        solution = _milp(table, limits, ties / ties.max(), floor)
    cells = solution[: worth.size].reshape(table.score.shape)
    if limits.active is not None or limits.cost is not None:
        columns: IntArray = cells.argmax(axis=1)
        return columns
    owned = solution[worth.size :] > 0.5
    score = np.where(owned, table.score, -np.inf)
    ranked: IntArray = np.lexsort((tie_breaker(table), -score), axis=-1)[:, 0]
    return ranked


def _milp(
    table: CategoryTable,
    limits: Limits,
    objective: FloatArray,
    floor: tuple[FloatArray, float] | None = None,
) -> FloatArray:
    """Minimise over x (categories x experts, row by row) and y (experts); x or y is integral."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, eye_array, hstack, kron

    categories, experts = table.score.shape
    cells = categories * experts
    one_each = kron(eye_array(categories), np.ones((1, experts)))
    owned = kron(np.ones((categories, 1)), eye_array(experts))
    constraints = [
        LinearConstraint(hstack([one_each, csr_array((categories, experts))]), 1, 1),
        LinearConstraint(hstack([eye_array(cells), -owned]), -np.inf, 0),
    ]
    for row, limit in _rows(table, limits):
        scale = limit if limit > 0 else 1.0
        constraints.append(LinearConstraint(row[None] / scale, -np.inf, limit / scale))
    if floor is not None:
        row = np.concatenate([floor[0], np.zeros(experts)])
        constraints.append(LinearConstraint(row[None], floor[1], np.inf))
    used = limits.active is not None or limits.cost is not None
    integral = np.concatenate([np.full(cells, used), np.full(experts, not used)])
    found = milp(
        np.concatenate([objective, np.zeros(experts)]),
        integrality=integral.astype(int),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )
    if found.status == 2:
        raise InputError("no choice meets all limits together; raise one of them")
    if found.x is None:
        raise CoterieError(f"the mixed-integer program was not solved: {found.message}")
    solution: FloatArray = found.x
    return solution


def _rows(table: CategoryTable, limits: Limits) -> list[tuple[FloatArray, float]]:
    """The limits as rows over (x, y) with their right-hand sides."""
    share, cells = table.share[:, None], table.score.size
    nothing, nobody = np.zeros(cells), np.zeros(len(table.experts))
    rows = [
        (np.concatenate([nothing, np.ones(len(table.experts))]), limits.size),
        (np.concatenate([nothing, table.parameters]), limits.parameters),
        (np.concatenate([(share * table.parameters).ravel(), nobody]), limits.active),
        (np.concatenate([(share * table.cost).ravel(), nobody]), limits.cost),
    ]
    return [(row, float(limit)) for row, limit in rows if limit is not None]


def frontier(
    table: CategoryTable, by: Literal["size", "parameters", "active", "cost"] = "parameters"
) -> list[Choice]:
    """All Pareto-efficient choices: cheapest first, each better than the one before.

    Every budget in between buys what the next lower one does. Exact for every measure: by trying
    all subsets, by a program a point (``parameters`` of more than 15 experts; totals closer than a
    millionth count as equal), or by merging the fronts of the categories (``active``, ``cost``).
    """
    if by == "size":
        return _by_size(table)
    check_limits(table, ANY[by])
    if by != "parameters":
        weights = np.tile(table.parameters, (len(table.categories), 1))
        return _merged(table, weights if by == "active" else table.cost)
    if len(table.experts) > SMALL:
        return _by_program(table)
    subsets = Subsets.of(table)
    total = subsets.members @ table.parameters
    order = np.lexsort((subsets.tie, -subsets.value.round(12), total.round(9)))
    kept = order[_improves(subsets.value[order])]
    return [describe(table, subsets.columns[row]) for row in kept]


def _improves(values: FloatArray) -> NDArray[np.bool_]:
    """Where a value exceeds all before it."""
    before = np.concatenate([[-np.inf], np.maximum.accumulate(values)[:-1]])
    better: NDArray[np.bool_] = values > before + EQUAL
    return better


def _by_size(table: CategoryTable) -> list[Choice]:
    choices: list[Choice] = []
    for size in range(1, min(len(table.experts), len(table.categories)) + 1):
        choice = choose(table, Limits(size=size))
        if choices and choice.quality <= choices[-1].quality + EQUAL:
            break
        choices.append(choice)
    return choices


def _by_program(table: CategoryTable) -> list[Choice]:
    """From the unlimited optimum downwards, each time a little under the total before."""
    choices: list[Choice] = []
    limit = float(table.parameters.sum())
    while limit >= table.parameters.min():
        columns = solve(table, Limits(parameters=limit))
        limit = float(table.parameters[np.unique(columns)].sum())
        choices.append(describe(table, columns))
        limit *= 1 - STEP
    better = _improves(np.array([c.quality for c in reversed(choices)]))
    return [c for c, keep in zip(reversed(choices), better, strict=True) if keep]


def _merged(table: CategoryTable, weights: FloatArray) -> list[Choice]:
    """The front of value against average weight, category by category; dominated parts go."""
    value, weight = np.zeros(1), np.zeros(1)
    steps: list[tuple[IntArray, IntArray]] = []  # the part before, the expert
    for share, score, heavy in zip(table.share, table.score, weights, strict=True):
        values = (value[:, None] + share * score).ravel()
        totals = (weight[:, None] + share * heavy).ravel()
        budget = (totals / max(float(totals.max()), 1e-300)).round(12)  # sums differ by rounding
        order = np.lexsort((-values, budget))
        kept = order[_improves(values[order])]
        steps.append(np.divmod(kept, len(score)))
        value, weight = values[kept], totals[kept]
    at: IntArray = np.arange(len(value))
    columns = []
    for before, experts in reversed(steps):
        columns.append(experts[at])
        at = before[at]
    mappings = np.stack(columns[::-1], axis=1)
    return [describe(table, row) for row in mappings]
