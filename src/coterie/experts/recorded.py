"""Experts that answer from records, for replays: no weights, no network, no new tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self, TypeAlias

from coterie.errors import NotRecordedError
from coterie.experts.base import Expert
from coterie.records import Records
from coterie.types import Call, Completion, Query

Key: TypeAlias = str | tuple[str, ...]


class RecordedExpert(Expert):
    """Answers what was recorded, and only that: anything else raises NotRecordedError.

    A key of ``completions`` is the contents of all messages of a call as a tuple, or the text of
    its user messages, one below the other (``Query.text``).

    >>> import asyncio
    >>> parrot = RecordedExpert("parrot", {"hello?": Completion("parrot", "hello!")})
    >>> asyncio.run(parrot.complete(Call("parrot", ({"role": "user", "content": "hello?"},)))).text
    'hello!'
    """

    slots = 64

    def __init__(self, name: str, completions: Mapping[Key, Completion]) -> None:
        self.name, self.completions = name, completions

    @classmethod
    def from_records(cls, records: Records, expert: str) -> Self:
        """The recorded answers of ``expert``; of questions with the same text the last one counts.

        Raises NotRecordedError where the records do not know the expert.
        """
        if expert not in records.experts:
            known = ", ".join(records.experts)
            raise NotRecordedError(f"the records hold no expert {expert!r}; they hold {known}")
        found = {q.text: records.completion(row, expert) for row, q in enumerate(records.queries)}
        return cls(expert, {text: c for text, c in found.items() if c is not None})

    async def complete(self, call: Call) -> Completion:
        """The recorded completion; raises NotRecordedError where there is none."""
        contents = tuple(str(message.get("content", "")) for message in call.messages)
        text = Query("", call.messages).text
        for key in (contents, text):
            if key in self.completions:
                return self.completions[key]
        raise NotRecordedError(
            f"{self.name}: no recorded answer to this {call.purpose} call {text[:80]!r}; "
            "run it on live experts instead of records"
        )
