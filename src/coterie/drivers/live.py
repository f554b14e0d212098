"""The live driver: one question at a time, calls of a round side by side, the last one streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

from coterie.compositions import Composition
from coterie.drivers.conversation import Conversation, expert_of
from coterie.experts.base import Expert
from coterie.types import Answer, Call, Completion, Decision, Query, Seed


async def answer(
    query: Query,
    decision: Decision,
    composition: Composition,
    experts: Mapping[str, Expert],
    seed: Seed = 0,
) -> Answer:
    """The answer to one query; calls of the same round run concurrently."""
    conversation = Conversation(query, decision, composition, seed)
    while not conversation.ended:
        conversation.send(await ask_all(conversation.pending, experts))
    return conversation.answer


async def stream(
    query: Query,
    decision: Decision,
    composition: Composition,
    experts: Mapping[str, Expert],
    seed: Seed = 0,
) -> AsyncGenerator[str | Answer, None]:
    """Pieces of the answer's text as they come, then the whole answer last.

    Only a flow that ends in a final call streams; another one yields its text in one piece. Once
    a piece was sent a failing final call is not replaced by its fallbacks.
    """
    conversation = Conversation(query, decision, composition, seed)
    sent = False
    while not conversation.ended:
        if conversation.final is None:
            conversation.send(await ask_all(conversation.pending, experts))
            continue
        prefix, (call,) = conversation.final.prefix, conversation.pending
        async with closing(expert_of(call, experts).stream(call)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Completion):
                    if sent:
                        conversation.abandon_fallbacks()
                    conversation.send([piece])
                else:
                    yield piece if sent else prefix + piece
                    sent = True
    if not sent and conversation.answer.completion.text:
        yield conversation.answer.completion.text
    yield conversation.answer


async def ask_all(calls: tuple[Call, ...], experts: Mapping[str, Expert]) -> list[Completion]:
    """Completions of ``calls``, in their order, made side by side."""
    asked = [(expert_of(call, experts), call) for call in calls]
    return list(await asyncio.gather(*(expert.complete(call) for expert, call in asked)))


@asynccontextmanager
async def closing(
    pieces: AsyncIterator[str | Completion],
) -> AsyncIterator[AsyncIterator[str | Completion]]:
    """End an expert's stream at once when its listener leaves, not when memory is tidied up."""
    try:
        yield pieces
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()
