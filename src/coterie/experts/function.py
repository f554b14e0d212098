"""Any Python function as an expert: a rule, a tool, another library's client."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeAlias, cast

from coterie.experts.base import Expert, Price
from coterie.experts.openai import estimate_usage
from coterie.experts.threads import PerLoop, in_thread
from coterie.types import Call, Completion

Result: TypeAlias = str | Completion
Function: TypeAlias = Callable[[Call], Result | Awaitable[Result]]


class FunctionExpert(Expert):
    """Answers with ``function(call)``, a text or a whole Completion; sync functions get a thread.

    What the function raises becomes the completion's ``error``. Of a text, four characters count
    as one token and the completion says ``estimated``.

    >>> shout = FunctionExpert("shout", lambda call: call.messages[-1]["content"].upper())
    >>> question = Call("shout", ({"role": "user", "content": "hello"},))
    >>> asyncio.run(shout.complete(question)).text
    'HELLO'
    """

    def __init__(
        self, name: str, function: Function, *, price: Price = Expert.price, slots: int = 8
    ) -> None:
        self.name, self.function, self.price, self.slots = name, function, price, slots
        self._free = PerLoop(lambda: asyncio.Semaphore(slots))

    def fingerprint(self) -> str:
        """Module and name of the function; not what it does."""
        name = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return f"{self.function.__module__}:{name}"

    async def complete(self, call: Call) -> Completion:
        """See Expert."""
        async with self._free.get():
            start = time.perf_counter()
            try:
                completion = self._completion(call, await self._run(call))
            except Exception as error:
                why = f"{self.name}: {type(error).__name__}: {error}"
                completion = Completion(self.name, finish_reason="error", error=why)
            return replace(completion, latency=time.perf_counter() - start)

    async def _run(self, call: Call) -> Result:
        if inspect.iscoroutinefunction(self.function):
            return cast(Result, await self.function(call))
        result = await in_thread(self.function, call)
        return await result if inspect.isawaitable(result) else result

    def _completion(self, call: Call, result: Result) -> Completion:
        if not isinstance(result, (str, Completion)):
            raise TypeError(f"expected str or Completion, the function returned {result!r}")
        if isinstance(result, str):
            usage = estimate_usage(call.messages, result)
            result = Completion(self.name, result, usage, estimated=True)
        empty = result.error or (None if result.text.strip() else f"{self.name}: answered nothing")
        cost = self.price.of(result.usage)
        return replace(result, expert=self.name, cost=cost, error=empty)
