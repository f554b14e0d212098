"""Experts behind an OpenAI-compatible ``/chat/completions``, ours or anyone's."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from coterie.errors import ExpertError, InputError
from coterie.experts.base import Expert, Price, check_limits
from coterie.experts.engine import Emit, margin_of, wants_tokens
from coterie.experts.limits import RateLimit
from coterie.experts.retries import delay, retry_after
from coterie.experts.streams import PushingExpert
from coterie.experts.threads import PerLoop
from coterie.types import ONE_OF, Call, Completion, Message, Usage

RETRIED = frozenset({408, 429, *range(500, 600)})


class OpenAIExpert(PushingExpert):
    """The model ``model`` of the server at ``base_url`` (as OpenAI clients have it, with /v1).

    The key is read from the environment variable ``api_key_env`` for each call and never shown.
    Connection errors, 429 and 5xx are repeated up to ``retries`` times, as late as ``Retry-After``
    asks for; nothing is repeated once a piece was streamed. ``timeout`` is in seconds a try, in a
    stream between two pieces. Where the server reports no usage, four characters count as one token
    and the completion says ``estimated``. ``options`` are request options under those of the call,
    of which ``choices`` and ``one_of`` are not sent: no such servers have them in common.

    No minute sees more tries than ``requests_per_minute``, nor more tokens than
    ``tokens_per_minute``, a call under way counting with its ``max_tokens`` (prompts above the
    limit pass alone). Waiting for this is not part of ``latency``, waiting for repetitions is.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        model: str,
        *,
        api_key_env: str | None = None,
        price: Price = Expert.price,
        timeout: float = 60.0,
        slots: int = 8,
        retries: int = 2,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        check_limits(timeout, slots, retries)
        check_url(base_url)
        self.name, self.base_url, self.model = name, base_url.rstrip("/"), model
        self.api_key_env, self.price, self.timeout = api_key_env, price, timeout
        self.slots, self.retries, self.options = slots, retries, dict(options or {})
        self.limit = RateLimit(requests_per_minute, tokens_per_minute)
        self._session = PerLoop(_open_session)
        self._free = PerLoop(lambda: asyncio.Semaphore(slots))

    def fingerprint(self) -> str:
        """Server, model and options; the server may change its weights behind them."""
        options = json.dumps(self.options, sort_keys=True)
        return f"{self.base_url} {self.model} options {options}"

    async def close(self) -> None:
        """Close the connections."""
        if session := self._session.pop():
            await session.close()

    async def _complete(self, call: Call, emit: Emit | None) -> Completion:
        async with self._free.get():
            start, reply = time.perf_counter(), _Reply(emit)
            failure = await self._try(call, reply)
            seconds = time.perf_counter() - start - reply.held
        error = failure
        if failure is None and not reply.text.strip():
            error = f"{self.name}: answered nothing"
        usage, estimated = reply.usage, False
        if usage is None:
            usage, estimated = estimate_usage(call.messages, reply.text), True
        if error is not None and estimated and not reply.text:
            usage = Usage()  # nothing came, nothing is charged
        return Completion(
            expert=self.name,
            text=reply.text,
            usage=usage,
            cost=self.price.of(usage),
            latency=seconds,
            finish_reason="error" if failure else reply.finish_reason,
            error=error,
            estimated=estimated,
            logprob=reply.logprob,
            **self._tokens(call, reply),
        )

    def _tokens(self, call: Call, reply: _Reply) -> dict[str, Any]:
        """What is known of every token, for calls that ask for two readings of each."""
        if not wants_tokens({**self.options, **call.options}):
            return {}
        return {"logprobs": tuple(reply.logprobs), "margin": reply.margin}

    async def _try(self, call: Call, reply: _Reply) -> str | None:
        """Fill ``reply``; returns what went wrong in the end, None if nothing did."""
        for attempt in range(self.retries + 1):
            try:
                await self._post_in_turn(call, reply)
                return None
            except _Refusal as refusal:
                wait = delay(attempt, refusal.after)
                last = attempt == self.retries or not refusal.again or wait > self.timeout
                if last or reply.text:
                    return f"{self.name}: {self._without_key(str(refusal))}"
                await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns")

    async def _post_in_turn(self, call: Call, reply: _Reply) -> None:
        """One try, when the rate limits have room for it."""
        body = self._body(call, stream=reply.emit is not None)
        start = time.perf_counter()
        entry = await self.limit.take(_expected_tokens(call.messages, body))
        reply.held += time.perf_counter() - start
        used = 0
        try:
            await self._post(body, reply)
        finally:
            if reply.usage or reply.text:
                used = (reply.usage or estimate_usage(call.messages, reply.text)).total
            self.limit.settle(entry, used)

    def _body(self, call: Call, stream: bool) -> dict[str, Any]:
        body = {**self.options, **call.options, "model": self.model, "stream": stream}
        body.pop("choices", None)
        body.pop(ONE_OF, None)
        body["messages"] = [dict(message) for message in call.messages]
        if stream:
            body["stream_options"] = {"include_usage": True}
        return body

    async def _post(self, body: Mapping[str, Any], reply: _Reply) -> None:
        stream = reply.emit is not None
        limit = "sock_read" if stream else "total"
        timeout = aiohttp.ClientTimeout(sock_connect=self.timeout, **{limit: self.timeout})
        url = f"{self.base_url}/chat/completions"
        try:
            async with self._session.get().post(
                url, json=body, headers=self._headers(), timeout=timeout, allow_redirects=False
            ) as response:
                await _check(response)
                await (reply.read_stream(response) if stream else reply.read(response))
        except TimeoutError as error:
            why = f"no answer from {self.base_url} within {self.timeout:g} s"
            raise _Refusal(why, again=isinstance(error, aiohttp.ConnectionTimeoutError)) from None
        except aiohttp.ClientError as error:
            raise _Refusal(f"{self.base_url}: {error}", again=True) from None
        except UNREADABLE as error:
            detail = f"{type(error).__name__}: {error}"
            raise _Refusal(f"{self.base_url} sent no chat completion ({detail})") from None

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"} if (key := self._key()) else {}

    def _key(self) -> str:
        if self.api_key_env is None:
            return ""
        if key := os.environ.get(self.api_key_env, ""):
            return key
        raise _Refusal(f"the environment variable {self.api_key_env} with its key is not set")

    def _without_key(self, message: str) -> str:
        key = os.environ.get(self.api_key_env or "", "")
        return message.replace(key, "***") if key else message


def estimate_usage(messages: tuple[Message, ...], text: str) -> Usage:
    """A count by length, four characters a token, for experts that report none."""
    asked = sum(len(str(message.get("content") or "")) for message in messages)
    return Usage(asked // 4, len(text) // 4)


def _expected_tokens(messages: tuple[Message, ...], body: Mapping[str, Any]) -> int:
    """Prompt and the longest answer, as far as the request bounds it."""
    bound = body.get("max_completion_tokens") or body.get("max_tokens")
    return estimate_usage(messages, "").total + (bound if isinstance(bound, int) else 0)


# What reading a reply raises that is not a chat completion.
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)


class _Refusal(ExpertError):
    """No answer: why, whether asking again may help, and after how many seconds."""

    def __init__(self, message: str, *, again: bool = False, after: float | None = None) -> None:
        super().__init__(message)
        self.again, self.after = again, after


@dataclass(slots=True)
class _Reply:
    """What came back so far."""

    emit: Emit | None
    text: str = ""
    usage: Usage | None = None
    finish_reason: str = "stop"
    logprobs: list[float] = field(default_factory=list)
    margin: float | None = None
    held: float = 0.0  # seconds spent waiting for rate limits

    @property
    def logprob(self) -> float | None:
        return sum(self.logprobs) / len(self.logprobs) if self.logprobs else None

    async def read(self, response: aiohttp.ClientResponse) -> None:
        self.take(json.loads(await response.read()), "message")

    async def read_stream(self, response: aiohttp.ClientResponse) -> None:
        """Server-sent events: ``data: {json}`` lines until ``data: [DONE]``."""
        async for line in response.content:
            if not line.startswith(b"data:"):
                continue  # comments keep the connection alive
            if (data := line[5:].strip()) == b"[DONE]":
                return
            self.take(json.loads(data), "delta")

    def take(self, data: Mapping[str, Any], part: str) -> None:
        """Add a response (``part`` is "message") or a chunk of one ("delta")."""
        if data.get("error"):
            raise _Refusal(_message(data))
        if usage := data.get("usage"):
            counts = usage["prompt_tokens"], usage.get("completion_tokens", 0)
            if not all(type(count) is int and 0 <= count < 2**53 for count in counts):
                raise ValueError(f"token counts of {counts!r}")
            self.usage = Usage(*counts)
        for choice in data["choices"][:1]:
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            tokens = (choice.get("logprobs") or {}).get("content") or []
            if tokens and not self.logprobs:
                self.margin = margin_of(tokens[0])
            self.logprobs += [float(token["logprob"]) for token in tokens]
            if piece := choice[part].get("content"):
                self.text += piece
                if self.emit:
                    self.emit(piece)


def check_url(url: object) -> None:
    """Raise InputError unless this is the address of a server, and nothing more."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        host = parts.hostname.encode("idna") if parts and parts.hostname else b""
        known = parts is not None and parts.port != 0 and parts.scheme in ("http", "https")
    except ValueError:  # a port that is none, or a label of a name
        parts = None
    if parts is None or not host or not known:
        raise InputError(f"expected an http or https address, got {url!r}", field="base_url")
    if parts.username is not None:  # the message does not repeat it
        raise InputError("an address with a user; a key belongs in api_key_env", field="base_url")
    if parts.query or parts.fragment:
        raise InputError(f"expected an address without ? and #, got {url!r}", field="base_url")


def _open_session() -> aiohttp.ClientSession:
    # Longer lines than this end a stream with an error; log probabilities make lines long.
    return aiohttp.ClientSession(read_bufsize=1 << 20)


async def _check(response: aiohttp.ClientResponse) -> None:
    """Raise _Refusal with status and message unless the response is a success."""
    if response.status == 200:
        return
    body = await response.text(errors="replace")
    try:
        message = _message(json.loads(body))
    except (ValueError, RecursionError):
        message = body.strip()[:300] or str(response.reason)
    again, after = response.status in RETRIED, retry_after(response.headers)
    raise _Refusal(f"status {response.status}: {message}", again=again, after=after)


def _message(body: Any) -> str:
    """The message of an error body, of which servers have several shapes."""
    error = body.get("error", body) if isinstance(body, dict) else body
    message = error.get("message", error) if isinstance(error, dict) else error
    return str(message)[:300]
