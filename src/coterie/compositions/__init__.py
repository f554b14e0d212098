"""Compositions: conversations with experts as generators that do no I/O.

A composition yields the calls to make together, is sent their completions in the same order, and
returns the answer or one last call (``Final``), which is what can stream. It is a deterministic
function of query, decision, seed and completions, so a driver may run it again from a journal.
"""

from coterie.compositions.base import (
    Composition,
    annotate,
    answered,
    ask,
    bound,
    cascade,
    confident,
    options_of,
    recruit,
    single,
)

__all__ = [
    "Composition",
    "annotate",
    "answered",
    "ask",
    "bound",
    "cascade",
    "confident",
    "options_of",
    "recruit",
    "single",
]
