"""Modes: one set of weights as several experts, by prompt, thinking budget or samples."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from coterie.aggregators import tally
from coterie.answers import Extractor, whole
from coterie.errors import InputError
from coterie.experts.base import Expert, Price
from coterie.experts.engine import Emit
from coterie.experts.streams import PushingExpert
from coterie.types import Call, Completion, Message, Usage, derive_seed


class ModeExpert(PushingExpert):
    """``expert`` under another name and in another way; both share one load.

    ``system`` goes before the system prompt of a call, if it has one. ``options`` win over those of
    the call, and so over the pool's: a thinking budget (``reasoning_effort``,
    ``chat_template_kwargs``) would be none otherwise. With ``samples`` > 1 an answer is asked for
    so many times, with seeds derived from the call's, and the majority of what ``extract`` finds
    speaks (self-consistency; Wang et al. 2023). It costs what all samples cost. They
    differ only if ``temperature`` is above 0, so say that in ``options`` where the pool has 0.

    ``price`` is the expert's own unless given. ``close`` closes the expert.
    """

    def __init__(
        self,
        name: str,
        backend: Expert,
        *,
        system: str | None = None,
        options: Mapping[str, Any] | None = None,
        samples: int = 1,
        extract: Extractor = whole,
        price: Price | None = None,
    ) -> None:
        if isinstance(backend, ModeExpert):
            message = f"{backend.name!r} is a mode itself; take its backend {backend.backend!r}"
            raise InputError(message, field="backend")
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            message = f"expected a whole number of at least 1, got {samples!r}"
            raise InputError(message, field="samples")
        if not isinstance(system, str | None):
            raise InputError(f"expected a text, got {system!r}", field="system")
        self.name, self.expert, self.system = name, backend, system
        self.options, self.samples, self.extract = dict(options or {}), samples, extract
        self.slots, self.price = backend.slots, backend.price if price is None else price

    @property
    def size(self) -> int:
        """See Expert: that of the backend."""
        return self.expert.size

    @property
    def measured(self) -> int:
        """See Expert: that of the backend."""
        return self.expert.measured

    @property
    def backend(self) -> str:
        """Name of the expert whose weights it shares."""
        return self.expert.backend

    async def prefetch(self) -> None:
        """See Expert."""
        await self.expert.prefetch()

    async def load(self) -> None:
        """See Expert."""
        await self.expert.load()

    async def unload(self, keep: bool = False) -> None:
        """See Expert: the backend is unloaded, and with it all its modes."""
        await self.expert.unload(keep)

    async def footprint(self) -> int:
        """See Expert."""
        return await self.expert.footprint()

    async def close(self) -> None:
        """See Expert: the backend is closed."""
        await self.expert.close()

    def fingerprint(self) -> str:
        """The backend's fingerprint and the settings, the name of the extractor included."""
        extract = f"{self.extract.__module__}:{self.extract.__qualname__}"
        settings = [self.system, self.options, self.samples, extract if self.samples > 1 else ""]
        return f"{self.expert.fingerprint()} as {json.dumps(settings, sort_keys=True)}"

    async def _complete(self, call: Call, emit: Emit | None) -> Completion:
        asked = self._asked(call)
        if self.samples > 1 and call.purpose == "answer":
            completion = self._merged(await self._sampled(asked))
            if emit and completion.text:
                emit(completion.text)
        elif emit:
            completion = await self._streamed(asked, emit)
        else:
            completion = await self.expert.complete(asked)
        return self._priced(completion)

    def _asked(self, call: Call) -> Call:
        """The call as the backend gets it."""
        messages = with_system(call.messages, self.system) if self.system else call.messages
        options = {**call.options, **self.options}
        return replace(call, expert=self.expert.name, messages=messages, options=options)

    async def _streamed(self, call: Call, emit: Emit) -> Completion:
        async for piece in self.expert.stream(call):
            if isinstance(piece, Completion):
                return piece
            emit(piece)
        raise TypeError(f"the stream of {self.expert.name!r} ended without a completion")

    async def _sampled(self, call: Call) -> Sequence[Completion]:
        seed = call.options.get("seed", 0)
        seeds = [derive_seed(seed, "sample", number) for number in range(self.samples)]
        calls = [replace(call, options={**call.options, "seed": seed}) for seed in seeds]
        return await asyncio.gather(*map(self.expert.complete, calls))

    def _merged(self, samples: Sequence[Completion]) -> Completion:
        """The sample that speaks for the majority, charged for all; the first one if all failed."""
        chosen = tally(samples, [1.0] * len(samples), self.extract)
        if chosen.failed:
            chosen = samples[0]
        return replace(
            chosen,
            usage=Usage(
                sum(sample.usage.prompt_tokens for sample in samples),
                sum(sample.usage.completion_tokens for sample in samples),
            ),
            cost=sum(sample.cost for sample in samples),
            latency=max(sample.latency for sample in samples),  # they ran side by side
            estimated=any(sample.estimated for sample in samples),
        )

    def _priced(self, completion: Completion) -> Completion:
        """In this expert's name, at its price."""
        error = completion.error
        if error is not None:
            error = f"{self.name}: {error.removeprefix(f'{self.expert.name}: ')}"
        cost = completion.cost
        if self.price != self.expert.price:
            cost = self.price.of(completion.usage)
        return replace(completion, expert=self.name, cost=cost, error=error)


def with_system(messages: Sequence[Message], system: str) -> tuple[Message, ...]:
    """``messages`` with ``system`` ahead of their system prompt: templates refuse two of them.

    >>> with_system([{"role": "user", "content": "Hi"}], "Be brief.")[0]
    {'role': 'system', 'content': 'Be brief.'}
    """
    first, *rest = messages or ({},)
    if first.get("role") != "system":
        return ({"role": "system", "content": system}, *messages)
    content = f"{system}\n\n{first.get('content') or ''}"
    return ({**first, "content": content}, *rest)
