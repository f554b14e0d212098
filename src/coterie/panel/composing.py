"""Compositions as entrants: a router's policy decides, the records answer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

from coterie.answers import Extractor
from coterie.compositions import Composition
from coterie.errors import InputError
from coterie.panel.specs import Spec, flow, parse_specs, policy_factory, settings_of
from coterie.panel.trials import Entrant, Learnt
from coterie.plugins import names
from coterie.policies import Policy
from coterie.records import Records
from coterie.routers.base import Router
from coterie.scorers import Scorer, learn_scorer
from coterie.types import Decision, Flow, Query, Seed

LEADERS = {"single": "utility", "cascade": "chain"}  # by the first part of a composition's name
LEADER = "recruit"  # for all others: three experts


def composition_entrants(
    compositions: str, router: str, make: Callable[[], Router], extract: Extractor
) -> list[Entrant]:
    """The router called ``router`` in front of each of these compositions (``all``: every one).

    A cascade gets the chain from the cheapest expert to the one expected to be best, any other
    composition the three best. One that takes a scorer gets it learnt from the training records of
    every fold. Of ``all``, one that needs other settings refuses when it is used.
    """
    everyone = compositions.strip() == "all"
    wanted = parse_specs(",".join(names("compositions")) if everyone else compositions)
    making = _Making(extract, everyone)
    return [Entrant(f"{router}: {s.text}", make, _leader(s), making.of(s)) for s in wanted]


def _leader(spec: Spec) -> Callable[[Records], Policy]:
    """Makes the policy that decides for a composition."""
    name = LEADERS.get(spec.name.partition("-")[0], LEADER)
    return policy_factory(Spec(name, name, {"composition": spec.name}))


class _Making:
    """Makes compositions; those of one fold share a scorer."""

    def __init__(self, extract: Extractor, lenient: bool) -> None:
        self.extract, self.lenient = extract, lenient
        self._learnt: tuple[Records, Scorer] | None = None

    def of(self, spec: Spec) -> Composition | Learnt:
        """The composition, or how it is learnt; one that refuses when used if that is allowed."""
        if "scorer" in settings_of(spec) and "scorer" not in spec.settings:
            return Learnt(functools.partial(self._with_scorer, spec))
        try:
            return flow(spec, self.extract)
        except InputError as error:
            if not self.lenient:
                raise
            return functools.partial(_refuse, error)

    def _with_scorer(self, spec: Spec, training: Records) -> Composition:
        if self._learnt is None or self._learnt[0] is not training:
            self._learnt = training, learn_scorer(training, self.extract)[0]
        settings = {**spec.settings, "scorer": self._learnt[1]}
        return flow(replace(spec, settings=settings), self.extract)


def _refuse(error: InputError, query: Query, decision: Decision, seed: Seed) -> Flow:
    raise error
