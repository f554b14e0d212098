"""The contract of an engine: where weights live and tokens are made. Synchronous, no asyncio."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypedDict

if TYPE_CHECKING:
    from coterie.types import Message  # at run time it would bring numpy into every worker

Emit: TypeAlias = Callable[[str], None]


class TokenFacts(TypedDict, total=False):
    """``logprobs`` and ``margin`` of a ``Completion``, for calls that ask for them."""

    logprobs: list[float]
    margin: float | None


class Generated(TokenFacts):
    """One generation: ``logprob`` is the mean over its tokens, ``latency`` is in seconds."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    logprob: float | None
    latency: float


class Engine(Protocol):
    """Holds at most one model; every failure is an ExpertError that names the remedy."""

    def load(self, path: str, slots: int, threads: int, context: int) -> None:
        """Load ``path`` for ``slots`` concurrent callers of ``context`` tokens each."""

    def unload(self) -> None:
        """Give the memory back; harmless where nothing is loaded."""

    def complete(
        self,
        messages: Sequence[Message],
        options: Mapping[str, Any],
        emit: Emit | None = None,
        stop: threading.Event | None = None,
    ) -> Generated:
        """The answer; pieces go to ``emit`` as they come, and ``stop``, once set, ends it early."""
        ...


def wants_tokens(options: Mapping[str, Any]) -> bool:
    """Whether a call asks for two readings of each token, and so for what is known of each."""
    readings = options.get("top_logprobs")
    return isinstance(readings, int) and readings >= 2


def token_facts(tokens: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> TokenFacts:
    """What these options want to know of tokens, entries of the OpenAI API's ``logprobs``."""
    if not wants_tokens(options) or not tokens:
        return {}
    probabilities = [float(token["logprob"]) for token in tokens]
    return {"logprobs": probabilities, "margin": margin_of(tokens[0])}


def margin_of(token: Mapping[str, Any]) -> float | None:
    """Probability of a token's likeliest reading less that of the second; None of a single one."""
    readings = sorted(float(reading["logprob"]) for reading in token.get("top_logprobs") or ())
    return math.exp(readings[-1]) - math.exp(readings[-2]) if len(readings) > 1 else None
