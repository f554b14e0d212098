"""The contract of an engine: where weights live and tokens are made. Synchronous, no asyncio."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypedDict

if TYPE_CHECKING:
    from coterie.types import Message  # at run time it would bring numpy into every worker

Emit: TypeAlias = Callable[[str], None]


class Generated(TypedDict):
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
