"""The fitted router's cost-quality plane, and what another willingness to pay would change.

Everything here is what the router itself expects of a sample of queries; what it would really have
earned, ``coterie evaluate --off-policy`` tells.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie.gateway.eligibility import narrowed
from coterie.gateway.entries import Entry
from coterie.gateway.routing import Named
from coterie.policies import Policy, Utility
from coterie.policies.base import ranked, utilities
from coterie.routers.base import Router
from coterie.types import Decision, Estimates, FloatArray, IntArray, Query

STEPS = 96  # positions of the slider; one more is an infinite willingness to pay
LEAST, MOST = 20, 400  # requests of a sample
TEXTS = 200  # of the router's own questions


@dataclass(frozen=True)
class Sample:
    """Queries with their estimates; ``allowed`` (queries, experts) is who was not barred."""

    queries: tuple[Query, ...]
    estimates: Estimates
    allowed: NDArray[np.bool_]
    source: str


@dataclass(frozen=True)
class Point:
    """Mean expected quality and cost of a request."""

    quality: float
    cost: float


@dataclass(frozen=True)
class Plane:
    """``curve[i]`` is what ``prices[i]`` gives; the last price is infinite."""

    prices: tuple[float, ...]
    curve: tuple[Point, ...]
    singles: dict[str, Point]
    source: str
    count: int


@dataclass(frozen=True)
class Change:
    """What another policy would do to the sample: who would be asked, expected quality and cost."""

    before: Point
    after: Point
    share: float
    moves: tuple[tuple[str, str, int], ...]


def sample_of_traffic(entries: Sequence[Entry], experts: tuple[str, ...]) -> Sample | None:
    """The routed requests among these, None where they are too few to say anything."""
    kept, rows = [], []
    for entry in entries:
        found = {one.expert: one for one in entry.candidates}
        line = [found.get(name) for name in experts]
        if all(
            one is not None and one.quality is not None and one.cost is not None for one in line
        ):
            kept.append(entry)
            rows.append([(one.quality, one.cost, one.error, not one.barred) for one in line if one])
    if len(rows) < LEAST:
        return None
    table = np.array(rows[:MOST], object)
    error = None if (table[:, :, 2] == None).any() else table[:, :, 2].astype(float)  # noqa: E711
    estimates = Estimates(
        experts, table[:, :, 0].astype(float), table[:, :, 1].astype(float), error=error
    )
    queries = tuple(Query(entry.id, ()) for entry in kept[:MOST])
    return _usable(queries, estimates, table[:, :, 3].astype(bool), "the latest requests")


def sample_of_texts(router: Router, texts: Sequence[str]) -> Sample | None:
    """The router's own training questions, of which it thinks too well."""
    if not texts:
        return None
    step = max(1, len(texts) // TEXTS)
    chosen = texts[::step][:TEXTS]
    queries = tuple(Query.from_text(f"text{i}", text) for i, text in enumerate(chosen))
    estimates = router.predict(queries)
    bare = Estimates(estimates.experts, estimates.quality, estimates.cost, error=estimates.error)
    source = "the router's own training questions, as there is too little traffic yet"
    return _usable(queries, bare, np.ones(estimates.quality.shape, bool), source)


def _usable(
    queries: tuple[Query, ...], estimates: Estimates, allowed: NDArray[np.bool_], source: str
) -> Sample | None:
    """Without rows whose numbers are not finite or where nobody is left."""
    finite = np.isfinite(estimates.quality).all(axis=1) & np.isfinite(estimates.cost).all(axis=1)
    rows = np.flatnonzero(finite & allowed.any(axis=1))
    if not len(rows):
        return None
    error = None if estimates.error is None else estimates.error[rows]
    kept = Estimates(estimates.experts, estimates.quality[rows], estimates.cost[rows], error=error)
    return Sample(tuple(queries[row] for row in rows), kept, allowed[rows], source)


def training_texts(router: Router) -> tuple[str, ...]:
    """Questions that a router, or a member of it, was fitted on, where it keeps them."""
    own = vars(router).get("texts_")
    if isinstance(own, list | tuple) and own:
        return tuple(map(str, own))
    members = vars(router).get("members_", ())
    members = members.values() if isinstance(members, dict) else members
    kept = (training_texts(member) for member in members if isinstance(member, Router))
    return next((texts for texts in kept if texts), ())


def plane_of(sample: Sample) -> Plane:
    """The curve over the slider's prices and the point of every single expert."""
    quality, cost = sample.estimates.quality, sample.estimates.cost
    prices = prices_of(cost)
    curve = [_mean(sample, _best(sample, price)) for price in prices]
    means = zip(sample.estimates.experts, quality.mean(axis=0), cost.mean(axis=0), strict=True)
    singles = {name: Point(float(q), float(c)) for name, q, c in means}
    return Plane(prices, tuple(curve), singles, sample.source, len(sample.queries))


def prices_of(cost: FloatArray) -> tuple[float, ...]:
    """The slider's positions, evenly on a log scale, and infinity."""
    known = cost[cost > 0]
    low, high = (float(known.min()), float(known.max())) if known.size else (1.0, 1.0)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high)) + 2
    return (*np.logspace(first, last, STEPS).tolist(), math.inf)


def position(prices: Sequence[float], price: float) -> int:
    """The slider's position nearest to a price."""
    if math.isinf(price):
        return len(prices) - 1
    known = np.log(np.array(prices[:-1]))
    return int(np.abs(known - math.log(max(price, prices[0]))).argmin())


def _best(sample: Sample, price: float) -> IntArray:
    """Whom the plug-in rule asks at a price, for every query."""
    quality, cost = sample.estimates.quality, sample.estimates.cost
    utility = np.where(sample.allowed, utilities(quality, cost, price), -np.inf)
    first: IntArray = ranked(utility, cost)[:, 0]
    return first


def _mean(sample: Sample, chosen: IntArray) -> Point:
    rows = np.arange(len(chosen))
    quality, cost = sample.estimates.quality[rows, chosen], sample.estimates.cost[rows, chosen]
    return Point(float(quality.mean()), float(cost.mean()))


def priced(named: Named, price: float) -> Named:
    """The policy with this willingness to pay; the plug-in rule where it minds none."""
    policy: Any = named.policy
    if takes_price(policy):
        return replace(named, policy=replace(policy, willingness_to_pay=price))
    return Named("utility", Utility(price), "single")


def takes_price(policy: Any) -> bool:
    """Whether the willingness to pay changes what the policy decides."""
    if not is_dataclass(policy) or getattr(policy, "rule", "budgeted") != "budgeted":
        return False
    return "willingness_to_pay" in {one.name for one in fields(policy)}


def decided(sample: Sample, policy: Policy) -> list[Decision]:
    """What the policy decides on the sample, with the same experts barred as then."""
    policy = copy.deepcopy(policy)  # it may learn from what it decides
    made: dict[int, Decision] = {}
    for pattern in np.unique(sample.allowed, axis=0):
        rows = np.flatnonzero((sample.allowed == pattern).all(axis=1))
        part = _rows(sample.estimates, rows)
        if not pattern.all():
            part = narrowed(part, np.flatnonzero(pattern).tolist())
        decisions = policy.decide([sample.queries[row] for row in rows], part)
        made |= dict(zip(rows.tolist(), decisions, strict=True))
    return [made[row] for row in range(len(sample.queries))]


def _rows(estimates: Estimates, rows: IntArray) -> Estimates:
    error = None if estimates.error is None else estimates.error[rows]
    return Estimates(estimates.experts, estimates.quality[rows], estimates.cost[rows], error=error)


def point_of(sample: Sample, decisions: Sequence[Decision]) -> Point:
    """Mean expected quality of who is put first, and cost of everyone who is asked."""
    columns = {name: column for column, name in enumerate(sample.estimates.experts)}
    quality, cost = sample.estimates.quality, sample.estimates.cost
    qualities, costs = [], []
    for row, decision in enumerate(decisions):
        asked = decision.experts if decision.composition == "recruit" else decision.experts[:1]
        qualities.append(quality[row, columns[decision.experts[0]]])
        costs.append(sum(cost[row, columns[name]] for name in asked))
    return Point(float(np.mean(qualities)), float(np.mean(costs)))


def change(sample: Sample, before: Policy, after: Policy) -> Change:
    """What another policy would change."""
    old, new = decided(sample, before), decided(sample, after)
    pairs = [(a.experts[0], b.experts[0]) for a, b in zip(old, new, strict=True)]
    moves = Counter(pair for pair in pairs if pair[0] != pair[1])
    return Change(
        point_of(sample, old),
        point_of(sample, new),
        sum(moves.values()) / len(pairs),
        tuple((a, b, count) for (a, b), count in moves.most_common(8)),
    )
