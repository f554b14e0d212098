"""A2FM's adaptive reward as training targets: no credit for a dear mode where the cheap one passes.

Experts are modes of one model (instant, reasoning, agentic ...) or any cheap and dear experts.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np

from coterie import plugins
from coterie.errors import InputError
from coterie.features import Encoder
from coterie.records import Records
from coterie.routers.base import Router, mean_or, require_rows
from coterie.types import Estimates, FloatArray, Query


def adaptive_targets(
    records: Records, cheap: str, alpha: float = 2.0, passes: FloatArray | None = None
) -> Records:
    """The records with adaptive rewards in place of scores; texts and references are left out.

    The reward is ``score * (1 - p**alpha)`` for every expert but ``cheap``, whose own is its
    score; p is the chance that ``cheap`` passes the query (A2FM, arXiv 2510.12838, alpha 2). It is
    read off the records: the mean of repeated runs if scores are such means, else 0 or 1.
    ``passes`` (queries,) gives other chances, for example estimates. Where p is not known, other
    experts' cells count as not observed.

    Raises InputError for an unknown expert, an ``alpha`` of 0 or less, or chances outside [0, 1].
    """
    if cheap not in records.experts:
        known = ", ".join(records.experts)
        raise InputError(f"no expert {cheap!r}; there are {known}", field="cheap")
    if not alpha > 0:
        raise InputError(f"expected a number above 0, got {alpha!r}", field="alpha")
    column = records.experts.index(cheap)
    chance = np.asarray(records.quality[:, column] if passes is None else passes, float)
    if chance.shape != (len(records),) or (chance < 0).any() or (chance > 1).any():
        message = f"expected a chance for each of {len(records)} queries"
        raise InputError(message, field="passes")
    reward = records.quality * (1 - chance[:, None] ** alpha)
    reward[:, column] = records.quality[:, column]
    texts = np.full(records.quality.shape, None, object)
    return replace(records, quality=reward, texts=texts, references=(None,) * len(records))


class Adaptive(Router):
    """Any router, fitted on adaptive rewards: it leaves the cheap expert only where that fails.

    ``quality`` estimates rewards, not scores: decide by it alone (``Utility()``), or the cost of
    the dear expert counts twice.

    Parameters
    ----------
    cheap
        Name of the cheap expert; None takes the one of the least mean cost, the worst one where no
        cost is known.
    router
        Plug-in name of the router, with its default settings.
    alpha
        How surely the cheap one must pass before others lose their reward.
    encoder
        Given to the router if it takes one.
    """

    name = "adaptive"
    member_: Router
    cheap_: str

    def __init__(
        self,
        cheap: str | None = None,
        router: str = "linear",
        alpha: float = 2.0,
        encoder: str | Encoder = "static",
    ) -> None:
        self.cheap = cheap
        self.router = router
        self.alpha = alpha
        self.encoder = encoder

    def fit(self, records: Records) -> Self:
        """Fit the router on the rewards; InputError for an unknown ``cheap``."""
        require_rows(records)
        cheap = self.cheap or cheapest(records)
        kind = plugins.load("routers", self.router)
        takes = "encoder" in inspect.signature(kind).parameters
        member: Router = kind(encoder=self.encoder) if takes else kind()
        targets = adaptive_targets(records, cheap, self.alpha)
        if not targets.observed.any():  # nothing is known of the cheap one: nothing to adapt
            targets = records
        self.member_ = member.fit(targets)
        self.experts_, self.cheap_ = records.experts, cheap
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """The router's estimates of the rewards."""
        self._check_fitted()
        return self.member_.predict(queries)

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        self._check_fitted()
        member = self.member_
        del self.member_
        try:
            params, arrays = super()._state()
        finally:
            self.member_ = member
        params["member"], own = member._state()
        return params, arrays | {f"member/{key}": array for key, array in own.items()}

    @classmethod
    def _restore(cls, params: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        router = super()._restore(params, arrays)
        prefix, member = "member/", params["member"]
        own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        router.member_ = plugins.load("routers", str(member["router"]))._restore(member, own)
        return router


def cheapest(records: Records) -> str:
    """The expert of the least mean cost, where none is known of the least mean score."""
    worth = mean_or(records.cost, np.inf)
    if not np.isfinite(worth).any():
        worth = mean_or(records.quality, np.inf)
    # Names break ties, so that the order of the experts does not matter.
    return min(zip(worth.tolist(), records.experts, strict=True))[1]
