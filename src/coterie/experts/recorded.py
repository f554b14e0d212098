"""Experts that answer from records, for replays: no weights, no network, no new tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, TypeAlias

from coterie.errors import NotRecordedError
from coterie.experts.base import Expert
from coterie.types import Call, Completion, Query, Usage

Key: TypeAlias = str | tuple[str, ...]


class Recording(Protocol):
    """The part of Records that a recorded expert reads; arrays are queries x experts."""

    @property
    def queries(self) -> Sequence[Query]: ...
    @property
    def experts(self) -> Sequence[str]: ...
    @property
    def quality(self) -> Any: ...
    @property
    def cost(self) -> Any: ...
    @property
    def latency(self) -> Any: ...
    @property
    def texts(self) -> Any: ...
    @property
    def prompt_tokens(self) -> Any: ...
    @property
    def completion_tokens(self) -> Any: ...


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
    def from_records(cls, records: Recording, expert: str) -> Self:
        """The recorded answers of ``expert``; of questions with the same text the last one counts.

        Where the records hold no text for an observed answer the completion's text is empty.
        """
        if expert not in records.experts:
            known = ", ".join(records.experts)
            raise NotRecordedError(f"the records hold no expert {expert!r}; they hold {known}")
        column = list(records.experts).index(expert)
        observed = (i for i, q in enumerate(records.quality[:, column]) if not math.isnan(q))
        rows = {records.queries[i].text: _completion(records, i, column) for i in observed}
        return cls(expert, dict(rows))

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


def _completion(records: Recording, row: int, column: int) -> Completion:
    def number(array: Any) -> float:
        """The cell; 0 where the records do not hold it."""
        value = 0.0 if array is None else float(array[row, column])
        return 0.0 if math.isnan(value) else value

    tokens = (records.prompt_tokens, records.completion_tokens)
    text = None if records.texts is None else records.texts[row, column]
    return Completion(
        expert=records.experts[column],
        text=text or "",
        usage=Usage(*(int(number(array)) for array in tokens)),
        cost=number(records.cost),
        latency=number(records.latency),
    )
