"""What is noted of a query beside its answer: its vector, drift, a shadow router's choice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from coterie.gateway.drift import DriftMonitor
from coterie.gateway.entries import Entry
from coterie.gateway.rerouting import encoders
from coterie.gateway.shadow import Shadow
from coterie.routers.base import Router
from coterie.types import FloatArray, Query

HALF = np.dtype("<f2")


class Memory:
    """The vector that a router's encoder made last, so that it need not be made twice."""

    def __init__(self, router: Router | None) -> None:
        found = [] if router is None else encoders(router)
        self._encoder = found[0] if found else None
        self._last: tuple[str, FloatArray] | None = None
        if self._encoder is not None:
            self._encode = self._encoder.encode
            self._encoder.encode = self._remembering  # type: ignore[method-assign]

    @property
    def fingerprint(self) -> str:
        """That of the encoder, "" where the router has none."""
        return "" if self._encoder is None else self._encoder.fingerprint()

    def vector(self, text: str) -> FloatArray | None:
        """The text's vector, None where the router has no encoder."""
        if self._encoder is None:
            return None
        if self._last is None or self._last[0] != text:
            self._remembering([text])
        return None if self._last is None else self._last[1]

    def _remembering(self, texts: Sequence[str]) -> Any:
        vectors = self._encode(texts)
        self._last = (texts[0], vectors[0]) if len(texts) == 1 else None
        return vectors


class Observing:
    """Looks at every query that was routed.

    ``monitor`` and ``shadow`` are optional; without ``vectors`` the log keeps no embeddings.
    """

    def __init__(
        self,
        memory: Memory,
        monitor: DriftMonitor | None = None,
        shadow: Shadow | None = None,
        vectors: bool = True,
    ) -> None:
        self.memory, self.monitor, self.shadow = memory, monitor, shadow
        self._vectors = vectors

    @property
    def alarm(self) -> bool:
        """Whether the traffic has left the records' region."""
        return self.monitor is not None and self.monitor.alarm

    def measure(self, text: str) -> float | None:
        """Take a query into account for the alarm; its distance from the records."""
        if self.monitor is None:
            return None
        vector = self.memory.vector(text)
        return None if vector is None else self.monitor.observe(vector)

    def note(self, entry: Entry, text: str) -> None:
        """Hash and vector of the query's text."""
        entry.digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).hexdigest()
        if self._vectors and (vector := self.memory.vector(text)) is not None:
            entry.vector = np.asarray(vector, HALF).tobytes()

    def submit(self, query: Query, decided: str) -> Future[str | None] | None:
        """Ask the shadow router, in its own thread."""
        return None if self.shadow is None else self.shadow.submit(query, decided)

    def state(self) -> dict[str, Any]:
        """What the dashboard shows."""
        monitor = None if self.monitor is None else self.monitor.state()
        return {"drift": monitor, "shadow": None if self.shadow is None else self.shadow.state()}

    def close(self) -> None:
        """End the shadow's thread."""
        if self.shadow is not None:
            self.shadow.close()


def choice(future: Future[str | None] | None) -> str:
    """Whom the shadow chose, as far as it has got."""
    if future is None or not future.done() or future.cancelled():
        return ""
    return future.result() or ""
