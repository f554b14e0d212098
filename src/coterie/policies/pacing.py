"""A budget kept over questions that come one at a time: the price of money is learnt on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from coterie.errors import InputError
from coterie.policies.base import Policy, check_count, check_number
from coterie.policies.utility import Utility
from coterie.types import Decision, Estimates, FloatArray, IntArray, Query, Support

SLACK = 1e-9  # relative; rounding of sums of costs


class Paced:
    """What ``policy`` decides at a willingness to pay that keeps ``mean_cost`` a question.

    Online dual descent (Balseiro, Lu and Mirrokni 2020): after every question the price of the
    budget rises by ``rate * (cost / mean_cost - 1)``, never below 0, and the next question is
    decided at the willingness to pay ``mean_cost / price``. With a ``horizon`` the total is
    ``mean_cost * horizon``: whoever costs more than what is left, after the cheapest expert for
    every question still to come, is left out.

    Unlike other policies it remembers: questions are decided in the order they come, ``settle``
    replaces an expected cost by the real one, ``state`` and ``restore`` carry its memory as JSON.
    For a batch that is known beforehand ``Budget`` is exact.

    Parameters
    ----------
    mean_cost
        Budget a question, in the pool's unit.
    policy
        A policy with a ``willingness_to_pay``: ``Utility()``, ``UCB()``, ``Thompson()``.
    horizon
        Number of questions; None: the mean is kept in the long run, without a hard limit.
    rate
        Step of the price; None: 1 / sqrt(horizon), 0.05 without a horizon.

    Notes
    -----
    The total is kept where expected costs are the real ones, and where the cheapest expert of a
    question is not dearer than that of an earlier one. When nobody is affordable the cheapest
    answers all the same: a gateway's own limits refuse, a policy does not.
    """

    def __init__(
        self,
        mean_cost: float,
        policy: Policy | None = None,
        horizon: int | None = None,
        rate: float | None = None,
    ) -> None:
        check_number(mean_cost, "mean_cost", above=True)
        if horizon is not None:
            check_count(horizon, "horizon")
        if rate is not None:
            check_number(rate, "rate", above=True)
        self.mean_cost, self.horizon, self.rate = mean_cost, horizon, rate
        self.policy: Policy = Utility() if policy is None else policy
        inner: Any = self.policy
        if not is_dataclass(inner) or "willingness_to_pay" not in {f.name for f in fields(inner)}:
            message = f"expected a policy with a willingness to pay, got {policy!r}"
            raise InputError(message, field="policy")
        self.price, self.spent, self.seen = 0.0, 0.0, 0

    @property
    def composition(self) -> str:
        """The composition that ``policy`` decides for."""
        return str(getattr(self.policy, "composition", "single"))

    def decide(self, queries: Sequence[Query], estimates: Estimates) -> list[Decision]:
        """One decision a query, in order, each at the price that those before it left."""
        return [self._one(query, estimates, row) for row, query in enumerate(queries)]

    def _one(self, query: Query, estimates: Estimates, row: int) -> Decision:
        cost = estimates.cost[row]
        one = narrowed(estimates, row, self._affordable(cost))
        worth = self.mean_cost / self.price if self.price > 0 else math.inf
        inner: Any = self.policy
        policy: Policy = replace(inner, willingness_to_pay=worth)
        (decision,) = policy.decide([query], one)
        expected = sum(float(cost[estimates.experts.index(e)]) for e in _asked(decision))
        facts = {"price": self.price, "spent": self.spent, "expected_cost": expected}
        self.spent += expected
        self.seen += 1
        self.price = max(0.0, self.price + self._step() * (expected / self.mean_cost - 1))
        return replace(decision, evidence={**decision.evidence, "pacing": facts})

    def _affordable(self, cost: FloatArray) -> IntArray:
        """Columns of experts that leave the cheapest for every question to come."""
        if self.horizon is None:
            return np.arange(len(cost))
        coming = max(self.horizon - self.seen - 1, 0)
        left = self.mean_cost * self.horizon * (1 + SLACK) - self.spent - coming * cost.min()
        within = np.flatnonzero(cost <= left)
        return within if len(within) else np.flatnonzero(np.arange(len(cost)) == cost.argmin())

    def _step(self) -> float:
        if self.rate is not None:
            return self.rate
        return 0.05 if self.horizon is None else 1 / math.sqrt(self.horizon)

    def settle(self, decision: Decision, cost: float) -> None:
        """Count what a question really cost in place of what was expected, whenever that is known.

        The price is not moved again: it reacts to the next questions.
        """
        expected = decision.evidence.get("pacing", {}).get("expected_cost")
        if expected is None:
            raise InputError("expected a decision of this policy", field="decision")
        self.spent += cost - expected

    def state(self) -> dict[str, Any]:
        """What it remembers, as JSON values."""
        return {"price": self.price, "spent": self.spent, "seen": self.seen}

    def restore(self, state: Mapping[str, Any]) -> Paced:
        """Remember what ``state`` gave, and return itself; InputError for anything else."""
        try:
            price, spent, seen = (state[key] for key in ("price", "spent", "seen"))
            check_number(price, "price")
            check_number(spent, "spent", low=-math.inf)
            check_count(seen, "seen", low=0)
        except (KeyError, TypeError) as error:
            raise InputError(f"expected price, spent and seen, got {state!r}") from error
        self.price, self.spent, self.seen = float(price), float(spent), int(seen)
        return self


def _asked(decision: Decision) -> tuple[str, ...]:
    """Who is asked for sure: the first of a single choice or a cascade, else everyone."""
    one = decision.composition in ("single", "cascade")
    return decision.experts[:1] if one else decision.experts


def narrowed(estimates: Estimates, row: int, columns: IntArray) -> Estimates:
    """The estimates of one query and some of the experts."""
    cells = np.ix_(np.array([row]), columns)
    local, strength, support = estimates.suitability, estimates.strength, estimates.support
    return Estimates(
        tuple(estimates.experts[j] for j in columns),
        estimates.quality[cells],
        estimates.cost[cells],
        None if local is None else local[cells],
        None if strength is None else strength[columns],
        estimates.evidence[row : row + 1],
        None if estimates.error is None else estimates.error[cells],
        None
        if support is None
        else Support(
            support.rows[row : row + 1],
            support.weights[row : row + 1],
            support.quality[:, columns],
            support.texts,
        ),
    )
