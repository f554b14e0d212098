"""The replay driver: completions come from records, nothing is asked.

What is evaluated offline is the code that serves online. Replay serves only what the records hold
and raises NotRecordedError for anything else: aggregate and judge calls, and calls with other
messages than the question.
"""

from __future__ import annotations

from collections.abc import Sequence

from coterie.compositions import Composition
from coterie.drivers.conversation import Conversation
from coterie.errors import NotRecordedError
from coterie.records import Records
from coterie.types import Answer, Call, Completion, Decision, Query, Seed


def replay(
    queries: Sequence[Query],
    decisions: Sequence[Decision],
    composition: Composition,
    records: Records,
    seed: Seed = 0,
) -> list[Answer]:
    """Answers to ``queries`` from the recorded completions, in order."""
    row_of = {query.id: row for row, query in enumerate(records.queries)}
    answers = []
    for query, decision in zip(queries, decisions, strict=True):
        conversation = Conversation(query, decision, composition, seed)
        while not conversation.ended:
            row = row_of.get(query.id)
            conversation.send(
                [_recorded(call, query, row, records) for call in conversation.pending]
            )
        answers.append(conversation.answer)
    return answers


def _recorded(call: Call, query: Query, row: int | None, records: Records) -> Completion:
    completion = None
    known = call.expert in records.experts and call.messages == query.messages
    if row is not None and call.purpose == "answer" and known:
        completion = records.completion(row, call.expert)
    if completion is None:
        what = f"{call.purpose} call to {call.expert!r} for query {query.id!r}"
        raise NotRecordedError(f"the records hold no completion for the {what}; use a live pool")
    return completion
