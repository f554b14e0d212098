"""Who may answer a request: what an expert can, where it is, what the key and the wishes allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from coterie.gateway.asked import NO_WISHES, Asked
from coterie.gateway.entries import Candidate
from coterie.gateway.wire import ApiError, bad_request
from coterie.types import Estimates

ALL = frozenset(
    ("tools", "vision", "audio", "json_schema", "logprobs", "prefix", "embeddings", "responses")
)
BRIDGED = frozenset({"responses"})  # what a chat can stand in for
NOT_ALLOWED = "not allowed for this key"
UNPRICED = "its price is not known, so that no budget could be kept: give it one in the pool file"


@dataclass(frozen=True, slots=True)
class Profile:
    """What the gateway knows of an expert beside the router: capabilities, place, tags.

    ``prefix_saving`` is what reading one cached prompt token saves, in the pool's unit.
    """

    name: str
    capabilities: frozenset[str] = ALL
    context_length: int | None = None
    tags: frozenset[str] = frozenset()
    region: str | None = None
    prefix_saving: float = 0.0


class Eligibility:
    """What keeps experts from answering.

    ``latency`` is the seconds that an expert takes now, None while unknown; ``cost`` what it is
    expected to take for a request.
    """

    def __init__(
        self,
        profiles: Mapping[str, Profile],
        latency: Callable[[str], float | None],
        cost: Callable[[str, Asked], float],
    ) -> None:
        self.profiles, self.latency, self.cost = profiles, latency, cost

    def bar(
        self,
        name: str,
        asked: Asked,
        allowed: Sequence[str],
        cost: float | None = None,
        unpriced: Set[str] = frozenset(),
    ) -> str:
        """Why this expert may not answer, "" where it may."""
        wishes, profile = asked.wishes, self.profiles.get(name)
        if profile is None:
            return "unknown"
        if allowed and name not in allowed:
            return NOT_ALLOWED
        if unpriced and name in unpriced:
            return UNPRICED
        if asked.needs and (lacking := asked.needs - profile.capabilities):
            if lacking != BRIDGED:
                return f"lacks {', '.join(sorted(lacking - BRIDGED))}"
            if unsaid := asked.untranslatable():
                return f"lacks responses, and {unsaid} cannot be translated"
        if profile.context_length is not None:
            tokens = asked.prompt_tokens + (asked.answer_tokens or 0)
            if tokens > profile.context_length:
                return f"about {tokens} tokens, its context holds {profile.context_length}"
        if wishes is not NO_WISHES and (why := self._against(asked, profile, cost)):
            return why
        return ""

    def _against(self, asked: Asked, profile: Profile, cost: float | None) -> str:
        """Why the wishes rule this expert out."""
        wishes = asked.wishes
        if wishes.experts and profile.name not in wishes.experts:
            return "not among the experts asked for"
        if profile.name in wishes.exclude:
            return "excluded by the request"
        if wishes.region is not None and profile.region != wishes.region:
            return f"in region {profile.region}, asked for {wishes.region}"
        if wishes.tags and (missing := set(wishes.tags) - profile.tags):
            return f"lacks the tags {', '.join(sorted(missing))}"
        if wishes.max_cost is not None:
            cost = self.cost(profile.name, asked) if cost is None else cost
            if not cost <= wishes.max_cost:
                return f"expected cost {cost:.4g} > {wishes.max_cost:.4g}"
        if wishes.max_latency is not None:
            seconds = self.latency(profile.name)
            if seconds is not None and not seconds <= wishes.max_latency:
                return f"takes {seconds:.2g} s now, asked for {wishes.max_latency:.2g}"
        return ""


def narrowed(estimates: Estimates, columns: Sequence[int]) -> Estimates:
    """The estimates of these experts alone, in this order."""
    support = estimates.support
    if support is not None:
        support = replace(support, quality=support.quality[:, columns])

    def of(array: Any) -> Any:
        return None if array is None else array[..., columns]

    return replace(
        estimates,
        experts=tuple([estimates.experts[j] for j in columns]),
        quality=estimates.quality[:, columns],
        cost=estimates.cost[:, columns],
        suitability=of(estimates.suitability),
        strength=of(estimates.strength),
        error=of(estimates.error),
        support=support,
    )


def nobody(candidates: Sequence[Candidate]) -> ApiError:
    """400: every expert is barred, with the reason of each; 403 where the key is all of it."""
    if all(c.barred == NOT_ALLOWED for c in candidates):
        names = ", ".join(c.expert for c in candidates)
        message, code = f"this key may not ask {names}", "model_not_allowed"
        return ApiError(403, message, type="permission_error", code=code, param="model")
    whys = "; ".join(f"{c.expert}: {c.barred}" for c in candidates)
    code = "no_eligible_expert"
    if all(c.barred == UNPRICED for c in candidates):
        code = "unknown_price"
    return bad_request(f"no expert can answer this request ({whys})", code=code)
