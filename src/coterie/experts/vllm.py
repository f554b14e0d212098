"""vLLM servers in sleep mode: weights that leave the device and come back over HTTP.

Several servers share a device, each started with ``--enable-sleep-mode`` and
``VLLM_SERVER_DEV_MODE=1``. Level 1 of sleep keeps the weights in host memory, level 2 forgets
them; waking up from there has to read them from disk again before the cache is allocated.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from coterie.errors import ExpertError
from coterie.experts.base import Expert, Price, check_limits
from coterie.experts.engine import Emit
from coterie.experts.openai import OpenAIExpert
from coterie.experts.sizes import parse_bytes
from coterie.experts.threads import PerLoop
from coterie.types import ONE_OF, Call, Completion

AWAKE, KEPT, FORGOTTEN = 0, 1, 2  # sleep levels as vLLM counts them
REMEDY = (
    "start vLLM with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1, "
    'or take kind = "openai" for a server that is always awake'
)


class VLLMExpert(OpenAIExpert):
    """The model ``model`` of a vLLM server that sleeps while its ``memory`` is needed elsewhere.

    ``memory`` is what the server takes of the device while awake (bytes or ``"14 GB"``): no server
    tells it. The first call or ``load`` wakes it up; a step of this may take ``load_timeout``
    seconds. ``unload(keep=True)`` is sleep level 1, ``unload()`` level 2, when the running calls
    have ended. A server asleep at level 1 stays there on ``unload()``, because it could forget its
    weights only by way of the device; where host memory is short, unload it at once. ``close``
    leaves the server as it is.

    ``choices`` and ``one_of`` become vLLM's ``structured_outputs``; the rest is as for
    OpenAIExpert.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        model: str,
        *,
        memory: int | str,
        api_key_env: str | None = None,
        price: Price = Expert.price,
        timeout: float = 60.0,
        load_timeout: float = 300.0,
        slots: int = 32,
        retries: int = 2,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            name,
            base_url,
            model,
            api_key_env=api_key_env,
            price=price,
            timeout=timeout,
            slots=slots,
            retries=retries,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            options=options,
        )
        check_limits(load_timeout, slots)
        self.memory, self.load_timeout = parse_bytes(memory), load_timeout
        self._root = self.base_url.removesuffix("/v1")
        self._level: int | None = None  # None: unknown, the server has to be asked
        self._running = 0
        self._lock = PerLoop(asyncio.Lock)
        self._idle = PerLoop(_set_event)

    @property
    def size(self) -> int:
        """``memory`` in bytes."""
        return self.memory

    async def load(self) -> None:
        """Wake the server up; raises ExpertError if it cannot, or hangs, or has no sleep mode."""
        async with self._lock.get():
            asked = await self._asked()  # it may have been restarted, or sent to sleep by others
            if (asked == AWAKE) != (self._level == AWAKE):
                self._level = asked
            await self._wake()

    async def unload(self, keep: bool = False) -> None:
        """Put the server to sleep when the running calls have ended; ExpertError if it cannot."""
        async with self._lock.get():
            await self._idle.get().wait()
            if self._level is None:
                self._level = await self._asked()
            if self._level != AWAKE:
                return
            level, self._level = KEPT if keep else FORGOTTEN, None
            await self._control("POST", f"/sleep?level={level}")
            self._level = level

    async def _complete(self, call: Call, emit: Emit | None) -> Completion:
        try:
            async with self._awake():
                return await super()._complete(call, emit)
        except ExpertError as error:
            return Completion(self.name, finish_reason="error", error=self._without_key(str(error)))

    @asynccontextmanager
    async def _awake(self) -> AsyncIterator[None]:
        """Nobody puts the server to sleep inside."""
        async with self._lock.get():
            await self._wake()
            self._running += 1
            self._idle.get().clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.get().set()

    async def _wake(self) -> None:
        """Bring the weights to the device, from disk unless they are known to be in host memory."""
        if self._level is None:
            self._level = await self._asked()
        if self._level == AWAKE:
            return
        kept, self._level = self._level == KEPT, None
        if kept:
            await self._control("POST", "/wake_up")
        else:
            await self._control("POST", "/wake_up?tags=weights")
            await self._control("POST", "/collective_rpc", {"method": "reload_weights"})
            await self._control("POST", "/wake_up?tags=kv_cache")
        self._level = AWAKE

    async def _asked(self) -> int:
        """What the server says: AWAKE, or FORGOTTEN, as it does not tell the level of a sleep."""
        said = await self._control("GET", "/is_sleeping")
        try:
            return FORGOTTEN if json.loads(said)["is_sleeping"] else AWAKE
        except (ValueError, LookupError, TypeError):
            message = f"{self.name}: {self._root}/is_sleeping answered {said[:80]!r}; {REMEDY}"
            raise ExpertError(message) from None

    async def _control(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> str:
        """The answer to a control request; raises ExpertError naming address and remedy."""
        url = f"{self._root}{path}"
        timeout = aiohttp.ClientTimeout(total=self.load_timeout, sock_connect=self.timeout)
        try:
            async with self._session.get().request(
                method, url, json=body, headers=self._headers(), timeout=timeout
            ) as response:
                said = await response.text(errors="replace")
        except TimeoutError:
            message = f"{self.name}: no answer from {url} within {self.load_timeout:g} s"
            raise ExpertError(f"{message}; raise load_timeout if its disk is slow") from None
        except aiohttp.ClientError as error:
            raise ExpertError(f"{self.name}: {url}: {error}") from None
        if response.status in (404, 405):
            raise ExpertError(f"{self.name}: {self._root} offers no {path}; {REMEDY}")
        if response.status != 200:
            why = self._without_key(said.strip()[:300]) or str(response.reason)
            raise ExpertError(f"{self.name}: {url}: status {response.status}: {why}")
        return said

    def _body(self, call: Call, stream: bool) -> dict[str, Any]:
        body = super()._body(call, stream)
        choices = call.options.get(ONE_OF)
        if choices is None and call.purpose == "answer":
            choices = call.options.get("choices", self.options.get("choices"))
        if choices:
            body["structured_outputs"] = {"choice": list(choices)}
        return body


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event
