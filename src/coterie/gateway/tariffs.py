"""What requests to the experts of one pool cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

from coterie.gateway.entries import Tokens
from coterie.gateway.prices import FREE, Prices, Rates, cost, most


class Tariffs:
    """Prices by expert; ``models`` names model and address of those without a fixed one."""

    def __init__(self, prices: Prices, models: Mapping[str, tuple[str, str]] | None = None) -> None:
        self._prices, self._models = prices, dict(models or {})

    def of(self, expert: str) -> Rates | None:
        """The expert's rates, None where nobody knows them."""
        model, address = self._models.get(expert, ("", ""))
        return self._prices.of(expert, model, address)

    def cost(self, expert: str, tokens: Tokens) -> float:
        """What these tokens cost; nothing where the price is unknown."""
        return cost(self._or_free(expert), tokens)

    def worst(self, experts: Sequence[str], tokens: Tokens, together: int = 1) -> float:
        """The most that so many of the experts cost together, for at most these tokens each."""
        costs = [most(self._or_free(expert), tokens) for expert in experts]
        return max(costs) if together == 1 else sum(sorted(costs)[-together:])

    def expected(self, expert: str, tokens: Tokens) -> float:
        """The same, without bound where a budget would bar the expert for its unknown price."""
        return math.inf if expert in self.unpriced else self.cost(expert, tokens)

    def barred(self, budgeted: bool) -> frozenset[str]:
        """Experts that a key may not ask, whose budget cannot be kept without their price."""
        return self.unpriced if budgeted else frozenset()

    @cached_property
    def unpriced(self) -> frozenset[str]:
        """Experts that a budget bars, as nobody knows their price."""
        if self._prices.unknown == "free":
            return frozenset()
        return frozenset(expert for expert in self._models if self.of(expert) is None)

    def _or_free(self, expert: str) -> Rates:
        return self.of(expert) or FREE

    def prefix_saving(self, expert: str) -> float:
        """What a prompt token saves where the expert has it cached."""
        rates = self.of(expert)
        if rates is None or rates.cached is None:
            return 0.0
        return max(rates.prompt - rates.cached, 0.0)
