"""Experts as the gateway asks them: the client's own bytes there, the expert's own bytes back."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp
from yarl import URL

from coterie.experts.openai import OpenAIExpert
from coterie.experts.threads import PerLoop
from coterie.gateway.entries import Tokens
from coterie.gateway.failures import UpstreamError, failure
from coterie.gateway.retries import Deadline
from coterie.gateway.wire import DONE, Fields, encode_fields, raw


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, to the first content, between two events, for a whole answer.

    ``whole`` is for answers that are not streamed; streams end with the request's deadline.
    """

    connect: float = 10.0
    first: float = 60.0
    stall: float = 60.0
    whole: float = 600.0


@dataclass(slots=True)
class Outgoing:
    """What an expert is asked, whichever it is.

    ``fields`` are the client's own bytes without the gateway's own fields; ``model`` is replaced
    for each expert. ``wants_usage`` says that the client asked for the usage chunk itself.
    ``headers`` may be forwarded as they are.
    """

    path: str  # "/chat/completions", "/completions", "/embeddings" or "/responses"
    fields: Fields
    stream: bool = False
    wants_usage: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


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
        """Stop: the connection to the expert is aborted at once, unless the answer was whole."""


class Upstream(Protocol):
    """What the gateway needs of an expert.

    It may also have ``context_length`` (tokens; None where unknown), ``slots`` (calls at once) and
    ``limit`` (a RateLimit).
    """

    name: str

    async def open(self, out: Outgoing, deadline: Deadline) -> Reply:
        """Ask; returns when an answer is certain. Raises UpstreamError."""


class HttpUpstream:
    """An expert behind an OpenAI-compatible server, asked over a session of its own."""

    def __init__(
        self,
        expert: OpenAIExpert,
        timeouts: Timeouts | None = None,
        context_length: int | None = None,
    ) -> None:
        self.name, self.slots, self.context_length = expert.name, expert.slots, context_length
        self.timeouts = timeouts or Timeouts(first=expert.timeout, stall=expert.timeout)
        self._expert = expert
        self._session = PerLoop(_open_session)
        self._timeout = aiohttp.ClientTimeout(total=None, connect=self.timeouts.connect)

    async def close(self) -> None:
        """Close the connections."""
        if session := self._session.pop():
            await session.close()

    async def open(self, out: Outgoing, deadline: Deadline) -> Reply:
        """Ask; returns when an answer is certain. Raises UpstreamError."""
        try:
            response = await self._session.get().post(
                URL(self._expert.base_url + out.path),
                data=self._body(out),
                headers=self._headers(out),
                timeout=self._timeout,
                allow_redirects=False,
            )
            if response.status != 200:
                told = failure("http_5xx", f"{self.name}: status {response.status}")
                response.close()
                raise UpstreamError(told)
            if not out.stream:
                return Reply(body=await response.read())
            return _Stream(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            told = failure("reset", f"{self.name}: {type(error).__name__}")
            raise UpstreamError(told) from None

    def _body(self, out: Outgoing) -> bytes:
        fields = {**out.fields, "model": raw(self._expert.model)}
        return encode_fields(fields)

    def _headers(self, out: Outgoing) -> dict[str, str]:
        headers = {**out.headers, "Content-Type": "application/json"}
        headers["Accept-Encoding"] = "identity"
        if key := os.environ.get(self._expert.api_key_env or "", ""):
            headers["Authorization"] = f"Bearer {key}"
        return headers


def _open_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )


class _Stream(Reply):
    """Events as they come."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        super().__init__()
        self._response = response

    async def events(self) -> AsyncGenerator[bytes, None]:
        buffer = b""
        async for chunk in self._response.content.iter_any():
            buffer += chunk
            whole, end, buffer = buffer.rpartition(b"\n\n")
            if whole := whole.removesuffix(DONE.strip()):
                self.shown = True
                yield whole + end
            if not end:
                buffer = buffer or whole

    async def aclose(self) -> None:
        self._response.close()
