"""Which questions to label for a new expert: few that stand for all.

Facility location: a set of questions is worth the sum over all questions of the similarity to the
nearest one in the set, each weighted alike or by how much experts differ on it. That is monotone
and submodular: greedy choice reaches (1 - 1/e) of the best set (Nemhauser, Wolsey, Fisher 1978).
Gains only fall, so most of them need no new look (Minoux 1978), and they bound the best set.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from coterie.errors import InputError
from coterie.features import Encoder
from coterie.records import Records
from coterie.routers.base import make_encoder, mean_or
from coterie.types import FloatArray, IntArray, Query

if TYPE_CHECKING:
    from rich.table import Table

SIZE = 50
EMPHASIS = 0.0  # what discriminates is no fair sample: see ``suggest``
SAMPLE = 10_000  # questions that are candidates and to be stood for
BLOCK = 512  # similarities held at once, in rows

Chooser: TypeAlias = Callable[[Records, int, int], IntArray]  # records, how many, seed -> rows


@dataclass(frozen=True)
class Suggestion:
    """A question to label, and why.

    Parameters
    ----------
    row, id, category
        Where it is in the records, its query's id and its category.
    covers
        Share of the questions that it stands for: those more similar to no other suggestion.
    spread
        Standard deviation of the experts' scores on what it stands for, on average.
    gain
        What it added to the weighted coverage when it was chosen, as a share of the final one.
    why
        The same as a sentence.
    """

    row: int
    id: str
    category: str | None
    covers: float
    spread: float
    gain: float
    why: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Suggestions:
    """Questions to label, the most useful first, so that any first few are a good choice too.

    ``coverage`` is the weighted mean similarity of a question to the nearest suggestion (at most
    1); ``guarantee`` the share of the best possible coverage that this choice surely reaches, of
    which 1 - 1/e is known without looking.
    """

    chosen: tuple[Suggestion, ...]
    coverage: float
    guarantee: float
    encoder: str

    @property
    def rows(self) -> IntArray:
        """Row numbers in the records, in order of choice."""
        return np.array([each.row for each in self.chosen], np.intp)

    def to_dict(self) -> dict[str, Any]:
        """The choice and what it comes to as JSON values."""
        facts = {"encoder": self.encoder, "coverage": self.coverage, "guarantee": self.guarantee}
        return {"schema": 1, **facts, "questions": [each.to_dict() for each in self.chosen]}

    def jsonl(self, records: Records) -> str:
        """Questions that ``coterie profile`` reads, one JSON object a line.

        With the reference as ``answer`` where the records hold one, and with ``why``.
        """
        lines = []
        for each in self.chosen:
            query, reference = records.queries[each.row], records.references[each.row]
            facts = {"id": query.id, **_asked(query), "category": query.category}
            facts |= {"answer": reference, "why": each.why}
            kept = {key: value for key, value in facts.items() if value is not None}
            lines.append(json.dumps(kept, ensure_ascii=False) + "\n")
        return "".join(lines)

    def table(self) -> Table:
        """Every question with its category, its share of the space and how experts differ there."""
        from rich.table import Table
        from rich.text import Text

        title = f"{len(self.chosen)} questions to label, the most useful first"
        table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
        for name, widest in (("id", 30), ("category", 20)):
            table.add_column(name, overflow="fold", max_width=widest)
        for name in ("stands for", "spread"):
            table.add_column(name, justify="right")
        for each in self.chosen:
            cells = (f"{each.covers:.1%}", f"{each.spread:.2f}")
            table.add_row(Text(each.id), Text(each.category or "-"), *cells)
        return table


def suggest(
    records: Records,
    size: int = SIZE,
    seed: int = 0,
    *,
    encoder: str | Encoder = "static",
    emphasis: float = EMPHASIS,
) -> Suggestions:
    """Which ``size`` questions to label for a new expert.

    Parameters
    ----------
    records
        Questions and what the known experts scored on them; scores may be missing. Questions
        without a text are not looked at: nothing could be asked.
    seed
        Draws the ``SAMPLE`` questions looked at where there are more; nothing else is drawn.
    encoder
        Whose similarity counts, a plug-in name or an instance.
    emphasis
        0 covers all questions alike. Otherwise a question weighs 1 plus ``emphasis`` times the
        variance of the experts' scores on it, in units of the mean variance. Routers take labels
        for a fair sample, and questions on which experts differ are not one: on both record sets
        measured routing was worse with 1 than with 0 at every number of labels from 10 to 250.

    Raises
    ------
    InputError
        For a size below 1 or above the number of questions with a text, or a negative emphasis.
    """
    rows = _with_text(records)
    if not len(rows):
        message = "no question of the records has a text, so none can be asked; import the texts"
        raise InputError(f"{message} too (--map text=COLUMN)", field="text")
    if not (isinstance(size, int) and 1 <= size <= len(rows)):
        message = f"expected 1 to {len(rows):,} (the recorded questions with a text), got {size!r}"
        raise InputError(message, field="size")
    if not emphasis >= 0:
        raise InputError(f"expected at least 0, got {emphasis!r}", field="emphasis")
    drawn = rows[_drawn(len(rows), max(size, SAMPLE), seed)]
    texts = [records.queries[row].text for row in drawn]
    fitted = make_encoder(encoder).fit(texts)
    vectors = np.asarray(fitted.encode(texts), np.float32)
    spread = _variance(records.quality[drawn])
    usual = spread.mean()
    weights = 1.0 + emphasis * spread / (usual if usual > 0 else 1.0)
    weights = (weights / weights.sum()).astype(np.float32)
    order, gains, bound = facility_location(vectors, weights, size)
    total = float(gains.sum())
    guarantee = total / (total + bound) if total + bound > 0 else 1.0
    chosen = _explained(records, drawn, order, gains, vectors, spread)
    return Suggestions(chosen, total, max(guarantee, 1 - 1 / np.e), fitted.name)


def facility_location(
    vectors: FloatArray, weights: FloatArray, size: int
) -> tuple[IntArray, FloatArray, float]:
    """The rows that greedy choice takes, in order, each one's gain, and what could be missing.

    Maximises the sum of ``weights`` times the similarity (dot product, at least 0) to the nearest
    row taken. The last number is the sum of the ``size`` largest gains still open: no set of that
    size is worth more than this choice by more. Among equal gains the heavier row, then the first.
    """
    best = np.zeros(len(vectors), np.float32)

    def gain(row: int) -> float:
        near = vectors @ vectors[row]
        return float(weights @ np.maximum(near - best, 0.0))

    queue = [
        (-g, -float(w), row)
        for row, (g, w) in enumerate(zip(_gains(vectors, weights, best), weights, strict=True))
    ]
    heapq.heapify(queue)
    order: list[int] = []
    gains: list[float] = []
    while len(order) < size:
        _, heavy, row = heapq.heappop(queue)
        now = gain(row)
        if queue and (-now, heavy, row) > queue[0]:
            heapq.heappush(queue, (-now, heavy, row))
            continue
        order.append(row)
        gains.append(now)
        best = np.maximum(best, vectors @ vectors[row])
    left = np.sort(_gains(vectors, weights, best))[::-1][:size]
    return np.array(order, np.intp), np.array(gains), float(left.sum())


def at_random(records: Records, size: int, seed: int) -> IntArray:
    """So many row numbers, drawn without replacement."""
    return np.random.default_rng(seed).permutation(len(records))[:size]


def suggested(records: Records, size: int, seed: int) -> IntArray:
    """The rows of ``suggest``; random ones where fewer questions have a text."""
    enough = len(_with_text(records)) >= size
    return suggest(records, size, seed).rows if enough else at_random(records, size, seed)


WAYS: Mapping[str, Chooser] = {"random": at_random, "suggested": suggested}


def _with_text(records: Records) -> IntArray:
    return np.flatnonzero([bool(query.text.strip()) for query in records.queries])


def _drawn(count: int, most: int, seed: int) -> IntArray:
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def _variance(quality: FloatArray) -> FloatArray:
    """Variance of the experts' scores on every question, 0 where fewer than two are known."""
    means = mean_or(quality.T, 0.0)
    variance: FloatArray = mean_or(((quality - means[:, None]) ** 2).T, 0.0)
    return variance


def _gains(vectors: FloatArray, weights: FloatArray, best: FloatArray) -> FloatArray:
    """What every row would add to what is covered by now, in blocks."""
    gains = np.zeros(len(vectors))
    for start in range(0, len(vectors), BLOCK):
        near = vectors[start : start + BLOCK] @ vectors.T - best
        gains[start : start + BLOCK] = np.maximum(near, 0.0) @ weights
    return gains


def _explained(
    records: Records,
    drawn: IntArray,
    order: IntArray,
    gains: FloatArray,
    vectors: FloatArray,
    variance: FloatArray,
) -> tuple[Suggestion, ...]:
    """The suggestions, with what each of them stands for."""
    near = vectors @ vectors[order].T  # (questions, suggestions)
    stands = np.where(near.max(axis=1) > 0, near.argmax(axis=1), -1)
    total, usual = max(gains.sum(), 1e-12), float(np.sqrt(variance).mean())
    found = []
    for place, row in enumerate(order):
        own = np.flatnonzero(stands == place)
        query, covers = records.queries[drawn[row]], len(own) / len(vectors)
        spread = float(np.sqrt(variance[own]).mean()) if len(own) else float(variance[row] ** 0.5)
        why = _why(covers, spread, usual)
        gain = float(gains[place] / total)
        facts = (int(drawn[row]), query.id, query.category, covers, spread, gain, why)
        found.append(Suggestion(*facts))
    return tuple(found)


def _why(covers: float, spread: float, usual: float) -> str:
    differ = f"experts differ by {spread:.2f} there (standard deviation; overall {usual:.2f})"
    return f"stands for {covers:.1%} of the questions; {differ}"


def _asked(query: Query) -> dict[str, Any]:
    """The question as a text, or as messages where it is more than one of a user."""
    if [m.get("role") for m in query.messages] == ["user"]:
        return {"question": query.text}
    return {"messages": [dict(message) for message in query.messages]}
