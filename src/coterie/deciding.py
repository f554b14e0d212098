"""Decisions for many queries, page by page into a journal, within caps where there are some."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from coterie.drivers.limits import Caps
from coterie.errors import CoterieError
from coterie.paging import PAGE, Paged
from coterie.policies import Policy
from coterie.policies.planning import NOBODY, Options, cut, plan
from coterie.pool import Pool
from coterie.routers.base import Router
from coterie.store import Journal
from coterie.types import Decision, Estimates, IntArray, Query


def decide(
    queries: Sequence[Query],
    pool: Pool,
    router: Router,
    policy: Policy,
    journal: Journal,
    caps: Caps | None = None,
) -> Sequence[Decision]:
    """Journaled decisions where there are some, else the policy's, journaled before any call.

    Under ``caps`` they are planned (see ``policies.planning``). What the caps do not pay for is
    left undecided, so that a later run with more may. Experts that the router knows and the pool
    lacks are named in a CoterieError.
    """
    deciding = _Deciding(queries, pool, router, policy, journal)
    capped = caps is not None and (math.isfinite(caps.cost) or math.isfinite(caps.calls))
    deciding.fill(deciding.planned(caps) if caps is not None and capped else None)
    return Paged(len(queries), deciding.journaled)


class _Deciding:
    """What ``decide`` works on."""

    def __init__(
        self,
        queries: Sequence[Query],
        pool: Pool,
        router: Router,
        policy: Policy,
        journal: Journal,
    ) -> None:
        self.queries, self.pool, self.journal = queries, pool, journal
        self.router, self.policy = router, policy

    def pages(self) -> Iterator[tuple[int, int]]:
        """First and stop of parts to decide together: all where a policy looks at the batch."""
        count = len(self.queries)
        step = max(count, 1) if hasattr(self.policy, "frozen") else PAGE
        return ((first, min(first + step, count)) for first in range(0, count, step))

    def proposed(self, first: int, stop: int) -> tuple[list[Decision], Estimates]:
        """What the policy decides, and the estimates it decides on."""
        asked = self.queries[first:stop]
        estimates = self.router.predict(asked)
        if missing := [e for e in estimates.experts if e not in self.pool.experts]:
            raise CoterieError(
                f"the router was fitted on experts this pool lacks: {', '.join(missing)}; "
                "profile this pool and fit again"
            )
        return self.policy.decide(asked, estimates), estimates

    def planned(self, caps: Caps) -> IntArray:
        """The option of every query within what the decided ones leave of the caps."""
        parts, known = [], np.zeros(len(self.queries), bool)
        for first, stop in self.pages():
            kept = self.journal.decisions(first, stop)
            made, estimates = self.proposed(first, stop)
            decided = [kept.get(first + i, decision) for i, decision in enumerate(made)]
            parts.append(Options.of(decided, estimates))
            known[list(kept)] = True
        options = Options.joined(parts)
        taken = np.flatnonzero(known)
        cost, calls = options.total(taken)
        chosen = options.wanted.copy()
        left = max(caps.cost - cost, 0.0), max(caps.calls - calls, 0.0)
        chosen[~known] = plan(options.take(np.flatnonzero(~known)), *left)
        return chosen

    def fill(self, chosen: IntArray | None) -> None:
        """Journal what is not decided yet: the policy's decision, or the chosen option of it."""
        for first, stop in self.pages():
            known = self.journal.decisions(first, stop)
            if len(known) == stop - first or (chosen is not None and not chosen[first:stop].any()):
                continue
            made = self.proposed(first, stop)[0]
            if chosen is not None:
                made = [cut(d, int(o)) for d, o in zip(made, chosen[first:stop], strict=True)]
            new = ((i, d) for i, d in enumerate(made, start=first) if i not in known and d.experts)
            self.journal.decide((i, self.queries[i].id, d) for i, d in new)

    def journaled(self, first: int, stop: int) -> list[Decision]:
        """Decisions from the journal, nobody where it has none."""
        known = self.journal.decisions(first, stop)
        return [known.get(i, NOBODY) for i in range(first, stop)]
