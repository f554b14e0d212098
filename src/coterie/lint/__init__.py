"""What is wrong, or worth knowing, about records before anything is learned from them.

Scores outside [0, 1], two scores of one cell and broken files never get this far: ``Records`` and
the readers refuse them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from coterie.errors import InputError
from coterie.lint.alignment import misaligned
from coterie.lint.base import Finding
from coterie.lint.checks import (
    agreement,
    constant,
    duplicates,
    few_observations,
    leak,
    missing_cost,
    near_duplicates,
    no_text,
    ties,
)
from coterie.lint.twins import Twins
from coterie.records import Records

__all__ = ["SERIOUS", "Finding", "lint"]

SERIOUS = frozenset(("misaligned", "leak", "duplicates", "no text", "constant experts"))
"""Checks whose findings mean that results on these records cannot be trusted as they stand."""


def lint(records: Records, split: Sequence[str | None] | None = None) -> list[Finding]:
    """Everything worth knowing about the records, the most serious first.

    Parameters
    ----------
    records
        Partial ones (NaN) are fine.
    split
        One value a query ("train", "test", None where it is in none); with it, questions that
        stand in several are found.

    Raises
    ------
    InputError
        Where ``split`` has another length than the records.
    """
    if split is not None and len(split) != len(records):
        raise InputError(f"expected {len(records)} values, got {len(split)}", field="split")
    if len(records) == 0 or not records.experts:
        return []
    twins = Twins([query.text for query in records.queries])
    found: Iterable[Finding | None] = (
        misaligned(records),
        None if split is None else leak(records, twins, split),
        duplicates(records, twins),
        no_text(records),
        constant(records),
        near_duplicates(records, twins),
        few_observations(records),
        ties(records),
        agreement(records),
        missing_cost(records),
    )
    return [finding for finding in found if finding is not None]
