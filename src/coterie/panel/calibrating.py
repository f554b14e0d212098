"""Policies that prove themselves on held-out records, inside the folds of a panel.

A quarter of a fold's training records is kept from the router: it is fitted on the others, the
policy is calibrated on its estimates of the quarter, and both decide on the fold's test queries. So
what the policy guarantees holds for exactly what is judged, at the price of a smaller training set.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Protocol, Self, runtime_checkable

import numpy as np

from coterie.policies import Policy
from coterie.records import Records
from coterie.routers.base import Router
from coterie.types import Decision, Estimates, Query

PARTS = 4  # one of them is kept from the router


@runtime_checkable
class Calibrates(Protocol):
    """A policy that learns from records its router has not seen, as ``policies.Certified`` does."""

    def calibrated(self, queries: Sequence[Query], estimates: Estimates, records: Records) -> Self:
        """The policy after seeing what came of these estimates."""

    @property
    def guarantee(self) -> str:
        """What holds on new queries, in words; empty where the policy keeps to its fallback."""

    def decide(self, queries: Sequence[Query], estimates: Estimates) -> list[Decision]:
        """One decision a query, in order."""


class Calibration:
    """A router fitted on three quarters of the training records, for all policies that ask.

    Nothing is fitted before the first one does.
    """

    def __init__(
        self, make: Callable[[], Router], training: Records, queries: Sequence[Query]
    ) -> None:
        self.make, self.training, self.queries = make, training, queries

    def of(self, make_policy: Callable[[Records], Policy]) -> tuple[Calibrates, Estimates]:
        """The calibrated policy and the smaller router's estimates of the test queries."""
        fitted_on, held_out, router = self._split
        policy = make_policy(fitted_on)
        assert isinstance(policy, Calibrates)
        known = router.predict(held_out.queries)
        policy = policy.calibrated(held_out.queries, known, held_out)
        return policy, self._expected

    @functools.cached_property
    def _split(self) -> tuple[Records, Records, Router]:
        """What the router learns from, what it does not see, and the router."""
        held_out, *others = self.training.folds(PARTS)
        fitted_on = self.training.take(np.sort(np.concatenate(others)))
        return fitted_on, self.training.take(held_out), self.make().fit(fitted_on)

    @functools.cached_property
    def _expected(self) -> Estimates:
        return self._split[2].predict(self.queries)


def summed_up(guarantees: Sequence[str | None]) -> str:
    """One sentence about the folds of a row; empty where its policy does not calibrate."""
    if None in guarantees:
        return ""
    given = [each for each in guarantees if each]
    if not given:
        return "nothing could be certified: the fallback answers everything"
    return (
        f"in {len(given)} of {len(guarantees)} folds certified on a quarter of the training "
        f"records, which its router did not see: {given[0]}"
    )
