"""Contracts as checks: run them on your own implementations, as ours do on ours.

Each check takes a function that makes a new instance and fails with an AssertionError that says
which promise was broken. With pytest::

    @pytest.mark.parametrize("check", EXPERT_CHECKS)
    def test_my_expert_keeps_the_contract(check):
        check(lambda: MyExpert("mine"))
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from coterie.errors import ExpertError, NotRecordedError
from coterie.experts.base import Expert, Price
from coterie.experts.engine import Emit, Generated
from coterie.types import Call, Completion, Message

# ---------------------------------------------------------------------------------------- experts

QUESTION = "What is 37 plus 58?"  # what EXPERT_CHECKS ask; any answer will do
MakeExpert = Callable[[], Expert]


def ask(expert: Expert, text: str = QUESTION, **options: Any) -> Call:
    """A call to ``expert`` with one user message: greedy, seeded and short by default."""
    options = {"max_tokens": 48, "temperature": 0.0, "seed": 1, **options}
    return Call(expert.name, ({"role": "user", "content": text},), options=options)


def check_keeps_its_name(make: MakeExpert) -> None:
    """A completion carries the name of the expert that made it."""
    expert, completion = _run(make, lambda expert: expert.complete(ask(expert)))
    assert isinstance(completion, Completion), f"complete() returned {completion!r}"
    assert completion.expert == expert.name, f"{completion.expert!r} is not {expert.name!r}"


def check_answers(make: MakeExpert) -> None:
    """A plain question is answered with a text, without an error."""
    _, completion = _run(make, lambda expert: expert.complete(ask(expert)))
    assert completion.error is None, completion.error
    assert completion.text, "an empty text has to come with an error"


def check_counts_what_it_used(make: MakeExpert) -> None:
    """Usage and latency are not negative."""
    _, completion = _run(make, lambda expert: expert.complete(ask(expert)))
    usage = completion.usage
    assert min(usage.prompt_tokens, usage.completion_tokens) >= 0, usage
    assert completion.latency >= 0, completion.latency


def check_cost_is_the_price_of_the_usage(make: MakeExpert) -> None:
    """Cost is price times usage; an expert without a price reports what it was told, never < 0."""
    expert, completion = _run(make, lambda expert: expert.complete(ask(expert)))
    due = expert.price.of(completion.usage)
    assert completion.cost >= 0, completion.cost
    assert expert.price == Price() or abs(completion.cost - due) < 1e-9, (completion.cost, due)


def check_reports_failure_instead_of_raising(make: MakeExpert) -> None:
    """A call that makes no sense comes back as a completion (NotRecordedError may be raised)."""

    async def misuse(expert: Expert) -> Completion | None:
        try:
            return await expert.complete(Call(expert.name, ({"role": "user"},)))
        except NotRecordedError:
            return None

    expert, completion = _run(make, misuse)
    assert completion is None or completion.expert == expert.name, completion


def check_streams_what_it_completes(make: MakeExpert) -> None:
    """A stream is pieces of text, then one completion whose text is the pieces joined."""

    async def collect(expert: Expert) -> list[str | Completion]:
        return [piece async for piece in expert.stream(ask(expert))]

    _, streamed = _run(make, collect)
    *pieces, completion = streamed
    assert isinstance(completion, Completion), f"the stream ended with {completion!r}"
    assert all(isinstance(piece, str) for piece in pieces), pieces
    assert "".join(map(str, pieces)) == completion.text, (pieces, completion.text)


def check_survives_an_abandoned_stream(make: MakeExpert) -> None:
    """A listener that leaves after the first piece does no harm to the next call."""

    async def leave(expert: Expert) -> Completion:
        stream = expert.stream(ask(expert))
        await anext(stream)
        if close := getattr(stream, "aclose", None):
            await close()
        return await expert.complete(ask(expert))

    _, completion = _run(make, leave)
    assert completion.error is None, completion.error


def check_loads_and_unloads_twice(make: MakeExpert) -> None:
    """Loading what is loaded and unloading what is not are harmless; loading again works."""

    async def repeat(expert: Expert) -> Completion:
        for step in (expert.unload, expert.load, expert.load, expert.unload, expert.unload):
            await step()
        await expert.load()
        return await expert.complete(ask(expert))

    _, completion = _run(make, repeat)
    assert completion.error is None, completion.error


def check_closes_twice(make: MakeExpert) -> None:
    """Closing an expert that was never used, or twice, is harmless."""
    _run(make, lambda expert: expert.close())


def check_fills_its_slots(make: MakeExpert) -> None:
    """As many calls as there are slots, and two more, are all answered side by side."""

    async def crowd(expert: Expert) -> list[Completion]:
        assert expert.slots >= 1, expert.slots
        calls = [ask(expert) for _ in range(expert.slots + 2)]
        return list(await asyncio.gather(*map(expert.complete, calls)))

    _, completions = _run(make, crowd)
    assert [c.error for c in completions if c.error] == []


def check_repeats_itself(make: MakeExpert) -> None:
    """The same call with the same seed at temperature 0 gives the same text."""

    async def twice(expert: Expert) -> list[str]:
        return [(await expert.complete(ask(expert))).text for _ in range(2)]

    _, (first, second) = _run(make, twice)
    assert first == second, (first, second)


def check_has_a_stable_fingerprint(make: MakeExpert) -> None:
    """The fingerprint is a text that neither use nor a new instance changes."""

    async def around(expert: Expert) -> list[str]:
        before = expert.fingerprint()
        await expert.complete(ask(expert))
        return [before, expert.fingerprint()]

    seen = {mark for _ in range(2) for mark in _run(make, around)[1]}
    assert len(seen) == 1, seen
    assert all(isinstance(mark, str) and mark for mark in seen), seen


EXPERT_CHECKS: tuple[Callable[[MakeExpert], None], ...] = (
    check_keeps_its_name,
    check_answers,
    check_counts_what_it_used,
    check_cost_is_the_price_of_the_usage,
    check_reports_failure_instead_of_raising,
    check_streams_what_it_completes,
    check_survives_an_abandoned_stream,
    check_loads_and_unloads_twice,
    check_closes_twice,
    check_fills_its_slots,
    check_repeats_itself,
    check_has_a_stable_fingerprint,
)


def _run(make: MakeExpert, use: Callable[[Expert], Awaitable[Any]]) -> tuple[Expert, Any]:
    """Make an expert in a new event loop, use it, close it."""

    async def main() -> tuple[Expert, Any]:
        expert = make()
        try:
            return expert, await use(expert)
        finally:
            await expert.close()

    return asyncio.run(main())


class FaultyEngine:
    """An engine that echoes the last message word by word and fails where a word says so.

    ``hang`` sleeps on and on; ``crash`` ends the process by SIGKILL, ``exit`` by code 3;
    ``refuse`` raises ExpertError and ``break`` anything else; ``chatter`` prints to standard
    output; ``nothing`` as the first word answers with no text. Any file will do as weights::

        LocalExpert("odd", path, engine="coterie.testing:FaultyEngine")
    """

    def load(self, path: str, slots: int, threads: int, context: int) -> None:
        """Fails by the name of the file: ``hang`` or ``crash``."""
        self._fail(os.path.basename(path))

    def unload(self) -> None:
        """Nothing to give back."""

    def complete(
        self,
        messages: Sequence[Message],
        options: Mapping[str, Any],
        emit: Emit | None = None,
        stop: threading.Event | None = None,
    ) -> Generated:
        """Echo the last message, or fail on the way."""
        text = str(messages[-1].get("content", ""))
        words = [] if text.startswith("nothing") else text.split(" ")
        for place, word in enumerate(words):
            self._fail(word)
            if emit:
                emit(f" {word}" if place else word)
        return {
            "text": " ".join(words),
            "prompt_tokens": len(text.split()),
            "completion_tokens": len(words),
            "finish_reason": "stop",
            "logprob": None,
            "latency": 0.0,
        }

    def _fail(self, word: str) -> None:
        match word:
            case "hang":
                time.sleep(3600)
            case "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os.write(2, b"cannot go on\n")
                os._exit(3)
            case "refuse":
                raise ExpertError("refused")
            case "break":
                raise ZeroDivisionError("broken")
            case "chatter":
                print("library chatter", flush=True)


# ---------------------------------------------------------------------------- end of experts
