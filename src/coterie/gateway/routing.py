"""From a request to who is asked, in order: the model's name, constraints, estimates, policy."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from coterie.compositions import Composition
from coterie.errors import CoterieError, InputError
from coterie.gateway.asked import Asked
from coterie.gateway.eligibility import Eligibility, Profile, narrowed, nobody
from coterie.gateway.entries import Candidate
from coterie.gateway.observing import Memory, Observing
from coterie.gateway.wire import ApiError, bad_request, not_found
from coterie.policies import Explore, Policy, Recruit, Utility
from coterie.routers.base import Router
from coterie.types import Decision, Estimates, Query

AUTO = "auto"
MOST_RECRUITED = 16
APART = frozenset({"tools", "vision", "audio", "logprobs"})  # needs that no merged text serves
OFTEN = 64  # requests between two looks at who is best on average
COMPOSED = ("/chat/completions", "/completions")  # what several experts can answer together
KEPT_THERE = ("previous_response_id", "conversation")  # what a provider keeps of earlier ones
VECTORS = "/embeddings"  # each expert has a space of its own, so none stands in for another


@dataclass(slots=True)
class Plan:
    """Who is asked, in order, and why.

    ``composition`` is "" where one expert answers and the others stand in. ``candidates`` lists
    every expert with what was expected of it and what barred it.
    """

    experts: tuple[str, ...]
    policy: str
    composition: str = ""
    decision: Decision | None = None
    query: Query | None = None
    propensity: float = 1.0
    explored: bool = False
    quality: float | None = None
    cost: float | None = None
    drift: float | None = None
    candidates: list[Candidate] = field(default_factory=list)
    constraints: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Named:
    """A policy under a name, and the composition it decides for."""

    name: str
    policy: Policy
    composition: str


class Routing:
    """Turns requests into plans.

    Parameters
    ----------
    profiles
        The pool's experts, in order.
    router, default, policies
        Without a router only experts' own names are models. ``policies`` are further ones, asked
        for as ``auto:NAME``.
    compositions
        Names of compositions that can be asked for as ``NAME`` or ``NAME:K``.
    latency
        Seconds an expert takes now, None while unknown.
    price
        The cost of a request by an expert's prices, for experts that the router does not know.
    loads
        Names of local experts that would have to be loaded first.
    observing, refuge
        What watches for drift, and the expert that "auto" asks first while there is some.
    """

    def __init__(
        self,
        profiles: Mapping[str, Profile],
        router: Router | None,
        default: Named | None,
        *,
        policies: Mapping[str, Named] | None = None,
        compositions: Mapping[str, Composition] | None = None,
        explore: float = 0.0,
        stay_margin: float = 0.0,
        load_margin: float = 0.0,
        latency: Callable[[str], float | None] = lambda name: None,
        price: Callable[[str, Asked], float] = lambda name, asked: 0.0,
        loads: Callable[[], frozenset[str]] = frozenset,
        observing: Observing | None = None,
        refuge: str | None = None,
    ) -> None:
        self.profiles, self.router, self.default = dict(profiles), router, default
        self.policies = dict(policies or {})
        self.compositions = dict(compositions or {})
        self.explore, self.stay_margin, self.load_margin = explore, stay_margin, load_margin
        self.price, self.loads = price, loads
        self.eligibility = Eligibility(self.profiles, latency, self._cost)
        self.observing = observing or Observing(Memory(router))
        self.refuge = refuge
        self.experts: tuple[str, ...] = ()
        if router is not None:
            self.experts = tuple(router.predict([_PROBE]).experts)
            if missing := [name for name in self.experts if name not in self.profiles]:
                message = f"the router was fitted on experts this pool lacks: {', '.join(missing)}"
                raise CoterieError(f"{message}; profile this pool and fit again")
        self._quality = np.zeros(len(self.profiles if router is None else self.experts))
        self._seen, self._due = 0, 1
        self._best: str | None = None

    def models(self) -> list[str]:
        """Everything that a request's ``model`` may be, experts last."""
        auto = [AUTO, *(f"{AUTO}:{name}" for name in self.policies)] if self.router else []
        return [*auto, *(self.compositions if self.router else ()), *self.profiles]

    @property
    def best_single(self) -> str | None:
        """The expert of the highest mean expected quality over the traffic so far."""
        if self._seen >= self._due:  # it seldom changes, and every request asks
            self._due = 2 * self._seen if self._seen < OFTEN else self._seen + OFTEN
            self._best = self.experts[int(self._quality.argmax())]
        return self._best

    def plan(
        self,
        asked: Asked,
        id: str,
        allowed: Sequence[str],
        stay: str = "",
        explain: bool = False,
        unpriced: Set[str] = frozenset(),
    ) -> Plan:
        """Who is asked; raises ApiError where nobody may be, or there is no such model.

        ``allowed`` are the experts of the client's key, empty for all; ``stay`` is the expert that
        answered this conversation before. Evidence that can be made later from the candidates
        (see ``explaining``) is made now only to ``explain``, and such a request is no traffic: it
        counts for nothing. A budget bars the experts that are ``unpriced``.
        """
        if asked.model in self.profiles:
            return self._direct(asked, allowed, unpriced)
        named = self._named(asked)
        if self.router is None:
            message = f"{asked.model!r} needs a fitted router and this gateway has none"
            raise ApiError(404, message, code="model_not_found", param="model")
        return self._routed(asked, id, named, allowed, stay, explain, unpriced)

    # -- by name

    def _direct(self, asked: Asked, allowed: Sequence[str], unpriced: Set[str]) -> Plan:
        names = tuple(dict.fromkeys((asked.model, *asked.models)))
        barred = {
            name: self.eligibility.bar(name, asked, allowed, None, unpriced) for name in names
        }
        if unknown := [name for name in names if name not in self.profiles]:
            raise not_found(unknown[0])
        kept = tuple([name for name in names if not barred[name]])
        candidates = [Candidate(name, barred=barred[name]) for name in names]
        if not kept:
            raise nobody(candidates)
        return Plan(kept, "direct", candidates=candidates)

    def _named(self, asked: Asked) -> Named:
        """The policy that the model's name and the wishes ask for."""
        model = asked.model
        if model == AUTO or model.startswith(f"{AUTO}:"):
            if asked.path == VECTORS:
                told = "vectors of different models cannot be compared; name the expert"
                raise bad_request(f"{model!r} answers no {asked.path}: {told}", "model")
            if asked.path == "/responses" and any(asked.fields.get(f) for f in KEPT_THERE):
                told = "what it refers to lies with one expert; name the expert"
                raise bad_request(f"{model!r} cannot answer this: {told}", "model")
            name = asked.wishes.policy or model.removeprefix(AUTO).removeprefix(":")
            if (worth := asked.wishes.willingness_to_pay) is not None:
                return Named("utility", Utility(_number(worth)), "single")
            return self._policy(name, model)
        name, _, count = model.partition(":")
        if name not in self.compositions:
            raise not_found(model)
        if ":" in model and not _COUNT.fullmatch(count):
            raise not_found(model)
        if asked.path not in COMPOSED:
            raise bad_request(f"{name} answers no {asked.path}; name an expert", "model")
        k = int(count) if count else 3
        if not 1 <= k <= MOST_RECRUITED:
            message = f"the number of experts must be between 1 and {MOST_RECRUITED}, got {k}"
            raise bad_request(message, "model")
        return Named(model, Recruit(k, composition=name), name)

    def _policy(self, name: str, model: str) -> Named:
        if not name:
            if self.default is None:
                raise not_found(model)
            return self.default
        if name in self.policies:
            return self.policies[name]
        known = ", ".join(self.policies) or "none"
        message = f"no policy {name!r}; the pool file's [gateway.policies] has {known}"
        raise ApiError(404, message, code="model_not_found", param="model")

    # -- by the router

    def _routed(
        self,
        asked: Asked,
        id: str,
        named: Named,
        allowed: Sequence[str],
        stay: str,
        explain: bool,
        unpriced: Set[str],
    ) -> Plan:
        assert self.router is not None
        wishes = asked.wishes
        query = _query(id, asked)
        estimates = self.router.predict([query])
        if not explain:
            self._seen += 1
            self._quality += estimates.quality[0]
        (qualities,), (costs,) = estimates.quality.tolist(), estimates.cost.tolist()
        bar = self.eligibility.bar
        barred = [
            bar(name, asked, allowed, cost, unpriced)
            for name, cost in zip(self.experts, costs, strict=True)
        ]
        columns = [j for j, why in enumerate(barred) if not why]
        candidates = self._candidates(estimates, qualities, costs, barred)
        drift = None if explain else self.observing.measure(asked.text)
        if not columns:
            raise nobody(candidates)
        if len(columns) < len(barred):
            estimates = narrowed(estimates, columns)
        constraints: dict[str, Any] = {}
        worth = getattr(named.policy, "willingness_to_pay", math.inf)
        judged = self._with_switching(estimates, asked, stay, worth, constraints)
        policy: Policy = named.policy
        if self.explore and wishes.explore and named.composition == "single":
            policy = Explore(policy, self.explore)
        if isinstance(policy, Utility) and judged is estimates and not explain:
            decision = policy.choose(judged)
        else:
            decision = _decided(policy, query, judged, len(columns) < len(barred), constraints)
        if decision.composition == "cascade" and isinstance(policy, Recruit):
            decision = _cheap_first(decision, estimates)
        if self.observing.alarm and self.refuge in estimates.experts and named is self.default:
            decision = self._sheltered(decision, estimates)
            constraints["drift"] = f"traffic is away from the records, so {self.refuge} is asked"
        if asked.models and decision.composition == "single":
            decision = self._with_listed(decision, asked, allowed, candidates, unpriced)
        plan = self._plan(decision, named, query, candidates, constraints, asked)
        plan.drift = drift
        return plan

    def _sheltered(self, decision: Decision, estimates: Estimates) -> Decision:
        """The expert for queries that the records say nothing of, alone, the others behind it."""
        assert self.refuge is not None
        others = [name for name in estimates.experts if name != self.refuge]
        experts = (self.refuge, *others)
        weights = (1.0,) * len(experts)
        evidence = {"policy": "drift"}
        return replace(
            decision, composition="single", experts=experts, weights=weights, evidence=evidence
        )

    def _with_listed(
        self,
        decision: Decision,
        asked: Asked,
        allowed: Sequence[str],
        candidates: list[Candidate],
        unpriced: Set[str],
    ) -> Decision:
        """The first of the decision, then the experts that the request lists and may have."""
        barred = {one.expert: one.barred for one in candidates}
        for name in asked.models:
            if name not in self.profiles:
                raise not_found(name)
            if name not in barred:  # the router does not know it
                barred[name] = self.eligibility.bar(name, asked, allowed, None, unpriced)
                candidates.append(Candidate(name, barred=barred[name]))
        listed = [name for name in asked.models if not barred[name]]
        experts = tuple(dict.fromkeys((decision.experts[0], *listed)))
        weights = dict(zip(decision.experts, decision.weights, strict=True))
        return replace(
            decision, experts=experts, weights=tuple([weights.get(n, 0.0) for n in experts])
        )

    def _plan(
        self,
        decision: Decision,
        named: Named,
        query: Query,
        candidates: list[Candidate],
        constraints: dict[str, Any],
        asked: Asked,
    ) -> Plan:
        experts, composition = decision.experts, decision.composition
        if composition != "single" and (why := _unmergeable(asked)):
            constraints["composition"] = f"single: {why} cannot be merged"
            composition = "single"
        known = {c.expert: c for c in candidates}
        if composition != "single" and (most := asked.wishes.max_cost) is not None:
            together = sum(known[name].cost or 0.0 for name in experts)
            if not together <= most:
                dear = f"expected cost {together:.4g} of all > {most:.4g}"
                constraints["composition"], composition = f"single: {dear}", "single"
        first = known[experts[0]]
        asked_all = experts if composition != "single" else experts[:1]
        costs = [known[name].cost for name in asked_all if name in known]
        return Plan(
            experts=experts,
            policy=named.name,
            composition="" if composition == "single" else composition,
            decision=_composed(decision, composition),
            query=query,
            propensity=float(decision.evidence.get("propensity", 1.0)),
            explored=bool(decision.evidence.get("explored", False)),
            quality=first.quality,
            cost=None if None in costs else sum(c for c in costs if c is not None),
            candidates=candidates,
            constraints=constraints,
        )

    def _candidates(
        self,
        estimates: Estimates,
        qualities: list[float],
        costs: list[float],
        barred: list[str],
    ) -> list[Candidate]:
        nothing = [None] * len(barred)
        (errors,) = [nothing] if estimates.error is None else estimates.error.tolist()
        rows = zip(self.experts, qualities, errors, costs, barred, strict=True)
        return [Candidate(*row) for row in rows]

    def _with_switching(
        self,
        estimates: Estimates,
        asked: Asked,
        stay: str,
        worth: float,
        constraints: dict[str, Any],
    ) -> Estimates:
        """Estimates in which leaving the conversation's expert, and loading one, has its price.

        What the conversation's expert saves by its prompt cache is taken off its cost; a gain in
        quality must exceed the margins (none where everybody would have to load or to switch).
        """
        loading = self.loads() if self.load_margin else frozenset()
        sticky = stay in estimates.experts
        if not sticky and not loading:
            return estimates
        names = estimates.experts
        quality, cost = estimates.quality.copy(), estimates.cost.copy()
        if sticky:
            column = names.index(stay)
            saving = asked.prompt_tokens * self.profiles[stay].prefix_saving
            quality[0, column] += self.stay_margin
            cost[0, column] = max(cost[0, column] - saving, 0.0)
            constraints["session"] = {"expert": stay, "saves": saving, "margin": self.stay_margin}
        if loading:
            quality[0] -= [self.load_margin * (name in loading) for name in names]
            constraints["loading"] = sorted(loading.intersection(names))
        return replace(estimates, quality=quality, cost=cost)

    def _cost(self, name: str, asked: Asked) -> float:
        """What an expert is expected to take, by the router or else by its prices."""
        if self.router is None or name not in self.experts:
            return self.price(name, asked)
        estimates = self.router.predict([_query("cost", asked)])
        return float(estimates.cost[0, self.experts.index(name)])


_COUNT = re.compile("[0-9]{1,4}")


def _decided(
    policy: Policy,
    query: Query,
    estimates: Estimates,
    narrowed: bool,
    constraints: dict[str, Any],
) -> Decision:
    """The policy's decision; that of utility where constraints took out an expert it needs."""
    try:
        (decision,) = policy.decide([query], estimates)
    except InputError as error:
        if not narrowed:
            raise
        constraints["policy"] = f"utility: {error}"
        worth = getattr(policy, "willingness_to_pay", math.inf)
        (decision,) = Utility(worth).decide([query], estimates)
    return decision


def _cheap_first(decision: Decision, estimates: Estimates) -> Decision:
    """The same experts in the order of a cascade."""
    costs = dict(zip(estimates.experts, estimates.cost[0].tolist(), strict=True))
    pairs = zip(decision.experts, decision.weights, strict=True)
    experts, weights = zip(*sorted(pairs, key=lambda pair: costs[pair[0]]), strict=True)
    return replace(decision, experts=experts, weights=weights)


def _unmergeable(asked: Asked) -> str:
    """What of this request experts cannot answer together, "" where they can."""
    if asked.path not in COMPOSED:
        return f"answers of {asked.path}"
    if apart := asked.needs & APART:
        return f"{', '.join(sorted(apart))}:"
    return "several choices" if asked.choices > 1 else ""


_PROBE = Query.from_text("probe", "probe")


def _composed(decision: Decision, composition: str) -> Decision:
    if decision.composition == composition:
        return decision
    return replace(decision, composition=composition)


def _number(value: float) -> float:
    if not value >= 0:
        raise bad_request(f"willingness_to_pay must be at least 0, got {value}", "coterie")
    return value


def _query(id: str, asked: Asked) -> Query:
    """What the router reads of a request."""
    messages = ({"role": "user", "content": asked.text},)
    return Query(id, messages, tags=tuple(asked.wishes.skills), category=asked.wishes.category)
