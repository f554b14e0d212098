"""What the gateway asks of an expert and what it gets: the same for servers and for local ones."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from coterie.gateway.entries import Tokens
from coterie.gateway.retries import Deadline
from coterie.gateway.wire import Fields


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, to the first content, between two events, for a whole answer.

    ``whole`` is for answers that are not streamed; streams end with the request's deadline.
    """

    connect: float = 10.0
    first: float = 60.0
    stall: float = 60.0
    whole: float = 600.0

    @classmethod
    def of(cls, seconds: float) -> Timeouts:
        """Those of an expert that has only one."""
        return cls(min(seconds, 10.0), seconds, seconds, seconds)


@dataclass(slots=True)
class Outgoing:
    """What an expert is asked, whichever it is.

    ``fields`` are the client's own bytes without the gateway's own fields; ``model`` is replaced
    for each expert. ``wants_usage`` says that the client asked for the usage chunk itself.
    ``headers`` may be forwarded as they are. ``bound`` is how many tokens of an answer are paid
    for; it is sent along where the request sets no bound of its own, None to send none.
    ``prompt_tokens`` is the estimate of those, None where nobody made one yet.
    """

    path: str  # "/chat/completions", "/completions", "/embeddings" or "/responses"
    fields: Fields
    stream: bool = False
    wants_usage: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    bound: int | None = None
    prompt_tokens: int | None = None


class Reply:
    """An answer that has begun: the status 200 is certain, and a stream has its first content.

    ``body`` is the whole answer, None in a stream. ``tokens`` are known when the answer is whole or
    its stream has ended; until then ``so_far`` estimates them. ``finish`` is why it ended, where
    that is known. ``shown`` says that events with more than reasoning have been handed out.
    ``pause`` is how many seconds the expert asks to be left alone for from now on.
    """

    def __init__(
        self,
        model: str = "",
        body: bytes | None = None,
        tokens: Tokens | None = None,
        finish: str = "",
        pause: float = 0.0,
    ) -> None:
        self.model, self.body, self.tokens = model, body, tokens
        self.finish, self.pause, self.shown = finish, pause, False

    def so_far(self) -> Tokens | None:
        """Tokens used until now: counted where the expert said, else estimated and marked so."""
        return self.tokens

    async def events(self) -> AsyncGenerator[bytes, None]:
        """One or more whole SSE frames at a time, without ``[DONE]``.

        The usage chunk is left out unless the client asked for it. Raises UpstreamError when the
        stream is cut, stalls or ends with an error.
        """
        none: tuple[bytes, ...] = ()
        for event in none:
            yield event

    async def aclose(self) -> None:
        """Stop: the connection to the expert is aborted at once, unless the answer was whole.

        It is called once the answer is over too, and may be called again.
        """


class FramedReply(Reply):
    """A stream whose events are all there."""

    def __init__(
        self, frames: list[bytes], model: str, tokens: Tokens, finish: str = "", pause: float = 0.0
    ) -> None:
        super().__init__(model, None, tokens, finish, pause)
        self._frames = frames

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The frames."""
        for frame in self._frames:
            self.shown = True
            yield frame


class Upstream(Protocol):
    """What the gateway needs of an expert.

    It may also have ``context_length`` (tokens; None where unknown), ``slots`` (calls at once) and
    ``limit`` (a RateLimit).
    """

    name: str

    async def open(self, out: Outgoing, deadline: Deadline) -> Reply:
        """Ask; returns when an answer is certain. Raises UpstreamError."""

    async def close(self) -> None:
        """Give back connections; what waits in them ends."""
