"""Policies: estimates in, decisions out, alike for every router.

Pure functions of the estimates and a seed; sampled rules draw from a generator seeded by the query
id, so a decision does not depend on which other queries are in the batch. The exceptions look at
the whole batch on purpose, and each has ``frozen`` for queries that come one at a time: ``Budget``,
and ``Guarded`` or ``Certified`` where nothing names their fallback.

Every decision carries evidence as JSON values: ``chosen`` and ``runner_up`` with expected quality,
95 % interval and cost, the ``willingness_to_pay``, where it ``flips_at`` and whom it ``flips_to``,
and the ``nearest`` records; null where a router or a policy has none.
"""

from coterie.policies.bandits import UCB, Thompson
from coterie.policies.base import Policy, switch_share
from coterie.policies.budget import Allocation, Budget, allocate
from coterie.policies.certified import Certified
from coterie.policies.chain import Chain
from coterie.policies.exploring import Explore
from coterie.policies.guarded import Guarded
from coterie.policies.pacing import Paced
from coterie.policies.penalties import Penalties
from coterie.policies.recruit import (
    RULES,
    Recruit,
    distinct_experts,
    paper_chances,
    released_chances,
)
from coterie.policies.scores import Selection, softmax
from coterie.policies.utility import Utility

__all__ = [
    "RULES",
    "UCB",
    "Allocation",
    "Budget",
    "Certified",
    "Chain",
    "Explore",
    "Guarded",
    "Paced",
    "Penalties",
    "Policy",
    "Recruit",
    "Selection",
    "Thompson",
    "Utility",
    "allocate",
    "distinct_experts",
    "paper_chances",
    "released_chances",
    "softmax",
    "switch_share",
]
