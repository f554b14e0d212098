"""Requests to experts that misbehave, and what comes of them as seen from all sides."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from fault_upstream import WORDS, FaultUpstream, Seen

from coterie.experts.openai import OpenAIExpert
from coterie.gateway.attempts import AttemptOptions, Attempts, Exhausted
from coterie.gateway.entries import Attempt, Tokens
from coterie.gateway.failures import UpstreamError
from coterie.gateway.retries import Deadline
from coterie.gateway.upstream import HttpUpstream, Outgoing, Timeouts
from coterie.gateway.wire import Fields, decode_fields

Loop = Callable[[], asyncio.AbstractEventLoop]
PATIENT = Timeouts(connect=5, first=5, stall=5, whole=5)
HASTY = Timeouts(connect=5, first=0.25, stall=0.15, whole=0.25)  # where something is to hang
ALL = " ".join(WORDS) + " "
THREE = "one two three "
USED = Tokens(7, 10)
GUESSED = Tokens(10, 13, estimated=True)  # by 40 and 49 bytes


@dataclass
class Outcome:
    """What came of a request, from all sides."""

    text: str = ""
    kind: str = ""  # "" where all went well
    status: int = 200
    code: str | None = None
    message: str = ""
    late: bool = False  # failed after the stream had begun
    expert: str = ""
    finish: str = ""
    body: bytes = b""
    attempts: list[Attempt] = field(default_factory=list)
    log: list[Seen] = field(default_factory=list)

    @property
    def asked(self) -> list[str]:
        return [seen.model for seen in self.log]

    @property
    def billed(self) -> Tokens | None:
        return self.attempts[-1].tokens


def outgoing(stream: bool, path: str = "/chat/completions", **fields: Any) -> Outgoing:
    body = {"model": "auto", "messages": [{"role": "user", "content": "count"}], **fields}
    given: Fields = decode_fields(json.dumps(body).encode())
    return Outgoing(path, given, stream, wants_usage="stream_options" in fields)


async def carry_out(
    models: Sequence[str],
    out: Outgoing,
    url: str,
    options: AttemptOptions,
    result: Outcome,
    owner: Attempts | None = None,
    seconds: float = 5.0,
    times: Timeouts = PATIENT,
    **settings: Any,
) -> None:
    async with AsyncExitStack() as stack:
        upstreams = []
        for model in models:
            address = "http://127.0.0.1:9/v1" if model == "refused" else url
            upstream = HttpUpstream(OpenAIExpert(model, address, model), times, **settings)
            stack.push_async_callback(upstream.close)
            upstreams.append(upstream)
        owner = owner or Attempts(draw=lambda: 0.0)
        try:
            delivery = await owner.serve(
                upstreams, out, Deadline(seconds), options, result.attempts
            )
        except Exhausted as error:
            told = error.to_api_error()
            result.kind, result.status = error.failure.kind, told.status
            result.code, result.message = told.code, told.message
            return
        try:
            result.body = delivery.reply.body or b""
            async for event in delivery.events():
                result.body += event
        except UpstreamError as error:
            result.kind, result.late = error.failure.kind, True
            result.status, result.message = error.failure.status, error.failure.message
        finally:
            await delivery.aclose()
            result.expert, result.finish = delivery.expert, delivery.reply.finish


def texts(body: bytes) -> str:
    """The content of a whole answer or of events, which are proper ones."""
    if body.startswith(b"{"):
        return str(json.loads(body)["choices"][0]["message"]["content"])
    said = ""
    for event in filter(None, body.split(b"\n\n")):
        if event.startswith(b"data: "):
            for choice in json.loads(event[6:])["choices"]:
                said += choice["delta"].get("content") or ""
    return said


def run(main: Coroutine[Any, Any, None], loop: Loop | None = None) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(main, 10))


def ask(
    *models: str,
    stream: bool = True,
    options: AttemptOptions | None = None,
    fields: dict[str, Any] | None = None,
    loop: Loop | None = None,
    **settings: Any,
) -> Outcome:
    """What comes of a request to these experts, named after their faults."""
    result = Outcome()

    async def main() -> None:
        async with FaultUpstream() as server:
            out = outgoing(stream, **(fields or {}))
            given = options or AttemptOptions()
            await carry_out(models, out, server.url, given, result, **settings)
            await asyncio.sleep(0.01)  # until the server has noticed who left
            result.log = server.log

    run(main(), loop)
    result.text = texts(result.body)
    return result
