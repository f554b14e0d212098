"""Joining records of the same queries, of the same experts, or of neither: a union of cells."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie.columns import NUMBERS
from coterie.errors import InputError
from coterie.records import Records
from coterie.types import FloatArray, Query


def merge(parts: Sequence[Records], names: Sequence[str] = ()) -> Records:
    """The union of records, joined on query id and expert name, in order of first appearance.

    What one part leaves open another may fill. Numbers agree within 1e-6 of each other. Raises
    InputError where two parts say different things of one query, expert or cell; it names both
    parts by ``names`` (by default part 1, part 2, ...).
    """
    if not parts:
        raise InputError("expected records to merge, got none")
    labels = list(names) or [f"part {number}" for number in range(1, len(parts) + 1)]
    known = _Union()
    for part, label in zip(parts, labels, strict=True):
        _add_queries(known, part, label)
        for expert, facts in part.facts.items():
            for fact, value in facts.items():
                known.add(("expert", expert, fact), value, label)
    queries = list(dict.fromkeys(q.id for part in parts for q in part.queries))
    experts = list(dict.fromkeys(e for part in parts for e in part.experts))
    facts_of: dict[str, dict[str, Any]] = {}
    for kind, owner, fact in known.values:
        if kind == "expert":
            facts_of.setdefault(owner, {})[fact] = known.get(kind, owner, fact)
    table = _Table(parts, labels, queries, experts)
    return Records(
        tuple(_query(known, id) for id in queries),
        tuple(experts),
        texts=table.texts(),
        references=tuple(known.get("query", id, "reference") for id in queries),
        facts=facts_of,
        **{name: table.numbers(name) for name in NUMBERS},
    )


class _Union:
    """Values by kind, owner and field, each with the part that said it first."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str, str], tuple[Any, str]] = {}

    def add(self, key: tuple[str, str, str], value: Any, label: str) -> None:
        """Remember a value unless it is empty; raises InputError where it is known otherwise."""
        if value is None or value in ((), {}):
            return
        before, source = self.values.setdefault(key, (value, label))
        if before != value:
            kind, owner, field = key
            shown = f"{str(before)[:60]!r} in {source}, {str(value)[:60]!r} in {label}"
            raise InputError(f"{kind} {owner!r} is {shown}", field=field)

    def get(self, *key: str, default: Hashable = None) -> Any:
        kind, owner, field = key
        return self.values.get((kind, owner, field), (default, ""))[0]


def _add_queries(known: _Union, part: Records, label: str) -> None:
    for query, reference in zip(part.queries, part.references, strict=True):
        known.add(("query", query.id, "text"), query.text, label)
        known.add(("query", query.id, "messages"), query.messages, label)
        known.add(("query", query.id, "params"), dict(query.params), label)
        known.add(("query", query.id, "skills"), query.tags, label)
        known.add(("query", query.id, "category"), query.category, label)
        known.add(("query", query.id, "subject"), query.subject, label)
        known.add(("query", query.id, "reference"), reference, label)


def _query(known: _Union, id: str) -> Query:
    return Query(
        id,
        known.get("query", id, "messages", default=()),
        known.get("query", id, "params") or {},
        known.get("query", id, "skills", default=()),
        known.get("query", id, "category"),
        known.get("query", id, "subject"),
    )


class _Table:
    """Where the cells of each part lie in the union."""

    def __init__(
        self,
        parts: Sequence[Records],
        labels: Sequence[str],
        queries: Sequence[str],
        experts: Sequence[str],
    ) -> None:
        self.parts, self.labels, self.queries, self.experts = parts, labels, queries, experts
        row_of = {id: row for row, id in enumerate(queries)}
        column_of = {name: column for column, name in enumerate(experts)}
        self.places = [
            np.ix_([row_of[q.id] for q in part.queries], [column_of[e] for e in part.experts])
            for part in parts
        ]
        self.shape = (len(queries), len(experts))

    def numbers(self, name: str) -> FloatArray:
        """One number array of the union; empty where no part has it."""
        arrays = [getattr(part, name) for part in self.parts]
        if all(not any(array.strides) and np.isnan(array[:1, :1]).all() for array in arrays):
            return np.empty(0)
        merged = np.full(self.shape, np.nan, np.result_type(*arrays))
        for number, (array, place) in enumerate(zip(arrays, self.places, strict=True)):
            here = merged[place]
            differs = np.abs(here - array) > 1e-6 * np.maximum(1.0, np.abs(here))
            if differs.any():
                self._refuse("score" if name == "quality" else name, merged, number, differs)
            merged[place] = np.where(np.isnan(here), array, here)
        return merged

    def texts(self) -> NDArray[np.object_]:
        """The texts of the union; empty where no part has any."""
        if all(not any(part.texts.strides) for part in self.parts):
            return np.empty(0, object)
        merged = np.full(self.shape, None, object)
        for number, (part, place) in enumerate(zip(self.parts, self.places, strict=True)):
            here, given = merged[place], _given(part.texts)
            differs = _given(here) & given
            differs[differs] = here[differs] != part.texts[differs]
            if differs.any():
                self._refuse("answer", merged, number, differs)
            merged[place] = np.where(given, part.texts, here)
        return merged

    def _refuse(
        self, field: str, merged: NDArray[Any], number: int, differs: NDArray[np.bool_]
    ) -> None:
        """Say which cell differs, and between which two parts."""
        row, column = np.argwhere(differs)[0]
        part, name = self.parts[number], "quality" if field == "score" else field
        array = part.texts if field == "answer" else getattr(part, name)
        query, expert = part.queries[row].id, part.experts[column]
        before = merged[self.queries.index(query), self.experts.index(expert)]
        came = str(array[row, column])[:60]
        both = f"{str(before)[:60]!r} in {self._first(query, expert, name)}"
        message = f"query {query!r}, expert {expert!r} is {both}, {came!r} in {self.labels[number]}"
        raise InputError(message, field=field)

    def _first(self, query: str, expert: str, name: str) -> str:
        """The part that filled this cell."""
        for part, label in zip(self.parts, self.labels, strict=True):
            ids = [q.id for q in part.queries]
            if query in ids and expert in part.experts:
                array = part.texts if name == "answer" else getattr(part, name)
                value = array[ids.index(query), part.experts.index(expert)]
                if value is not None and value == value:
                    return label
        raise AssertionError("a cell that conflicts was filled by some part")


def _given(texts: NDArray[np.object_]) -> NDArray[np.bool_]:
    flat = np.fromiter((text is not None for text in texts.flat), bool, texts.size)
    return flat.reshape(texts.shape)
