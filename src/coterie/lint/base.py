"""What a check returns, and the words that checks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coterie.records import Records

SHOWN = 5  # examples in a finding


@dataclass(frozen=True, slots=True)
class Finding:
    """One plain sentence with figures, how many rows or experts it is about, and some of them."""

    check: str
    message: str
    count: int
    examples: tuple[str, ...] = ()


def pairwise_records(records: Records) -> bool:
    """Whether every row is a comparison of two experts out of more."""
    return len(records.experts) > 2 and bool((records.observed.sum(1) == 2).all())


def listed(names: Sequence[str]) -> str:
    """Some of the names, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
