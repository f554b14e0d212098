"""What a token costs: the pool file's price, an override, or what genai-prices has published."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec

from coterie.gateway.entries import Tokens

MILLION = 1e6
FRESH = 300.0  # seconds for which a published price is used again: some depend on the time of day
Unknown: TypeAlias = Literal["deny", "free"]


class Rates(msgspec.Struct, frozen=True, omit_defaults=True):
    """Prices of one token of each sort, and of a request.

    ``cached`` prompt tokens and ``reasoning`` tokens cost as others do where None. ``tiers`` are
    the rates for all tokens of a request whose prompt is longer than a number of tokens, the
    smallest number first.
    """

    prompt: float
    completion: float
    cached: float | None = None
    reasoning: float | None = None
    request: float = 0.0
    tiers: tuple[tuple[int, Rates], ...] = ()


FREE = Rates(0.0, 0.0)


def cost(rates: Rates, tokens: Tokens) -> float:
    """What a request with these tokens costs."""
    for start, tier in reversed(rates.tiers):
        if tokens.prompt > start:
            rates = tier
            break
    cached = rates.prompt if rates.cached is None else rates.cached
    reasoning = rates.completion if rates.reasoning is None else rates.reasoning
    read, thought = min(tokens.cached, tokens.prompt), min(tokens.reasoning, tokens.completion)
    return (
        rates.request
        + (tokens.prompt - read) * rates.prompt
        + read * cached
        + (tokens.completion - thought) * rates.completion
        + thought * reasoning
    )


def most(rates: Rates, tokens: Tokens) -> float:
    """The most that a request of at most these tokens costs.

    Nothing is read from a cache nor is every token of the dearer sort, and the prompt is of any
    length up to there, so that each tier it may be in counts.
    """
    prompt, completion = rates.prompt, rates.completion
    if rates.cached is not None and rates.cached > prompt:
        prompt = rates.cached
    if rates.reasoning is not None and rates.reasoning > completion:
        completion = rates.reasoning
    dearest = rates.request + tokens.prompt * prompt + tokens.completion * completion
    for start, tier in rates.tiers:
        if tokens.prompt > start:
            dearest = max(dearest, most(tier, tokens))
    return dearest


class Prices:
    """Rates by expert, looked up once.

    Parameters
    ----------
    fixed
        Rates by expert: prices of the pool file and overrides.
    unknown
        What an expert without a known price means: under a budget "deny" does not ask it, "free"
        counts zero.
    """

    def __init__(
        self,
        fixed: Mapping[str, Rates] | None = None,
        unknown: Unknown = "deny",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.fixed, self.unknown = dict(fixed or {}), unknown
        self._clock = clock
        self._found: dict[tuple[str, str], tuple[float, Rates | None]] = {}

    def of(self, expert: str, model: str = "", provider: str = "") -> Rates | None:
        """Rates of an expert that is ``model`` at a provider (an id, or the address of its API).

        None where nobody knows them.
        """
        if (rates := self.fixed.get(expert)) is not None:
            return rates
        if not model:
            return None
        now, place = self._clock(), (model, provider)
        until, rates = self._found.get(place, (0.0, None))
        if until <= now:
            rates = published(model, provider, now)
            self._found[place] = now + FRESH, rates
        return rates


def published(model: str, provider: str = "", now: float | None = None) -> Rates | None:
    """Rates as genai-prices has them in its package, in US dollars; None for unknown models."""
    from genai_prices.data_snapshot import get_snapshot  # half a second of CPU time

    address = provider if "://" in provider else None
    name = provider if provider and not address else None
    try:
        _, found = get_snapshot().find_provider_model(model, None, name, address)
    except LookupError:
        return None
    at = datetime.fromtimestamp(time.time() if now is None else now, UTC)
    prices = {k: v for k, v in found.get_prices(at).__dict__.items() if v is not None}
    starts = {tier.start for price in prices.values() for tier in getattr(price, "tiers", ())}
    base = _rates(prices, -1)
    if base is None or not starts:
        return base
    return msgspec.structs.replace(
        base, tiers=tuple((start, _rates(prices, start) or base) for start in sorted(starts))
    )


def _rates(prices: Mapping[str, Any], prompt: int) -> Rates | None:
    """The rates of a request whose prompt is longer than this; None without a price of tokens."""

    def of(name: str) -> float | None:
        price = prices.get(name)
        for tier in reversed(getattr(price, "tiers", ())):
            if prompt >= tier.start:
                return float(tier.price) / MILLION
        price = getattr(price, "base", price)
        return None if price is None else float(price) / MILLION

    read, written = of("input_mtok"), of("output_mtok")
    if read is None and written is None:
        return None
    asked = float(prices.get("requests_kcount", 0)) / 1000
    thought = of("output_reasoning_mtok")
    return Rates(read or 0.0, written or 0.0, of("cache_read_mtok"), thought, asked)
