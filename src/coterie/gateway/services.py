"""What the requests of a gateway share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from coterie.gateway.attempts import AttemptOptions, Attempts
from coterie.gateway.entries import Entry
from coterie.gateway.metering import Meters
from coterie.gateway.replies import Upstream
from coterie.gateway.routing import Routing
from coterie.gateway.sessions import Sessions

if TYPE_CHECKING:
    from coterie.gateway.accounts import Accounts
    from coterie.gateway.tariffs import Tariffs
    from coterie.gateway.tracing import Tracing


class Log(Protocol):
    """Where entries go."""

    def write(self, entry: Entry) -> None:
        """Keep the entry; never blocks."""


@dataclass(slots=True)
class Limits:
    """What a request may take at most."""

    total: float = 600.0
    answer_tokens: int = 4096
    log_content: bool = False


@dataclass(slots=True)
class Services:
    """What requests share. A reload makes another one; those under way keep theirs."""

    routing: Routing
    upstreams: Mapping[str, Upstream]
    attempts: Attempts
    accounts: Accounts
    prices: Tariffs
    log: Log
    meters: Meters
    sessions: Sessions | None = None
    limits: Limits = field(default_factory=Limits)
    options: AttemptOptions = field(default_factory=AttemptOptions)
    tracing: Tracing | None = None
    access: Callable[[Entry], None] | None = None
    compositions: Mapping[str, Any] = field(default_factory=dict)
    upstreams_of: object = None  # the settings that they were made of
