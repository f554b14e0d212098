"""Now and then another expert than the best, by chance that is written down."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.policies.base import Policy, check_number, utilities
from coterie.policies.evidence import evidence
from coterie.types import Decision, Estimates, Query, Seed, derive_seed


@dataclass(frozen=True, slots=True)
class Explore:
    """What ``policy`` decides; at ``rate`` instead an expert drawn from all that are eligible.

    The evidence says with which chance the expert that goes first was asked (``propensity``) and
    whether it was drawn (``explored``), so that records of served questions can be weighted by
    ``1 / propensity``. Draws depend on the query's id and ``seed`` alone.

    Parameters
    ----------
    policy
        Any policy. What it decides counts as certain, also where it draws by itself.
    rate
        Chance of a draw, in [0, 1]. The policy's own choice may be drawn too.
    among
        Only these experts are drawn (empty: all); never one whose quality or cost is not finite.

    Notes
    -----
    An expert that ``policy`` puts first is asked with chance ``1 - rate + rate / n``, where ``n``
    are eligible, any other with ``rate / n``. Where several answer (another composition than
    ``single``) a drawn expert answers alone, and the propensity of the rest is that of the first.
    """

    policy: Policy
    rate: float = 0.05
    among: tuple[str, ...] = ()
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_number(self.rate, "rate", high=1.0)
        if not hasattr(self.policy, "decide"):
            raise InputError(f"expected a policy, got {self.policy!r}", field="policy")
        if not isinstance(self.among, list | tuple):  # a text would match by its letters
            raise InputError(f"expected a list of names, got {self.among!r}", field="among")

    @property
    def composition(self) -> str:
        """The composition that ``policy`` decides for."""
        return str(getattr(self.policy, "composition", "single"))

    @property
    def frozen(self) -> Callable[[Sequence[Query], Estimates], Explore]:
        """As of ``policy``, where that looks at the whole batch (AttributeError elsewhere)."""
        inner: Any = self.policy
        freeze = inner.frozen
        return lambda queries, estimates: replace(self, policy=freeze(queries, estimates))

    def decide(self, queries: Sequence[Query], estimates: Estimates) -> list[Decision]:
        """The policy's decisions, or drawn ones, each with its propensity."""
        decided = self.policy.decide(queries, estimates)
        eligible = self._eligible(estimates)
        rows = zip(queries, decided, eligible, strict=True)
        return [self._explored(q, d, e, i, estimates) for i, (q, d, e) in enumerate(rows)]

    def _eligible(self, estimates: Estimates) -> NDArray[np.bool_]:
        """Who may be drawn, boolean, (queries, experts)."""
        if unknown := [name for name in self.among if name not in estimates.experts]:
            message = f"no expert {unknown[0]!r}; there are {', '.join(estimates.experts)}"
            raise InputError(message, field="among")
        named = np.array([not self.among or e in self.among for e in estimates.experts], bool)
        known = np.isfinite(estimates.quality) & np.isfinite(estimates.cost)
        eligible: NDArray[np.bool_] = known & named
        return eligible

    def _explored(
        self,
        query: Query,
        decision: Decision,
        eligible: NDArray[np.bool_],
        row: int,
        estimates: Estimates,
    ) -> Decision:
        columns = np.flatnonzero(eligible)
        generator = np.random.default_rng(derive_seed(self.seed, "explore", query.id))
        drawn = generator.random() < self.rate and len(columns) > 0
        first = estimates.experts.index(decision.experts[0])
        column = int(generator.choice(columns)) if drawn else first
        share = self.rate / len(columns) if eligible[column] else 0.0
        kept = 1 - self.rate if len(columns) else 1.0
        propensity = share + (kept if column == first else 0.0)
        facts = {"propensity": propensity, "explored": bool(drawn)}
        if column == first:
            return replace(decision, evidence={**decision.evidence, **facts})
        return self._drawn(decision, column, row, estimates, facts)

    def _drawn(
        self,
        decision: Decision,
        column: int,
        row: int,
        estimates: Estimates,
        facts: dict[str, Any],
    ) -> Decision:
        """The decision with another expert first; alone where several would answer."""
        name, first = estimates.experts[column], estimates.experts.index(decision.experts[0])
        rest = [
            (e, w)
            for e, w in zip(decision.experts, decision.weights, strict=True)
            if e != name and decision.composition == "single"
        ]
        price = decision.evidence.get("willingness_to_pay")
        worth = math.inf if price is None else float(price)
        quality, cost = estimates.quality[row], estimates.cost[row]
        one = replace(
            estimates,
            quality=quality[None],
            cost=cost[None],
            error=None if estimates.error is None else estimates.error[[row]],
            support=None,
        )
        shown = evidence(one, [[column]], [first], worth)[0]
        nearest = decision.evidence.get("nearest", shown["nearest"])
        reason = f"explores {name} by chance (propensity {facts['propensity']:.3g})"
        return replace(
            decision,
            experts=(name, *[e for e, _ in rest]),
            weights=(float(quality[column]), *[w for _, w in rest]),
            utility=float(utilities(quality, cost, worth)[column]),
            reason=f"{reason} instead of {decision.experts[0]}; {decision.reason}",
            evidence={**decision.evidence, **shown, "nearest": nearest, **facts},
        )
