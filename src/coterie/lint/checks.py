"""One function a check: a finding, or None where there is nothing to say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coterie.lint.base import SHOWN, Finding, listed, pairwise_records
from coterie.lint.twins import ALIKE, Twins
from coterie.records import Records
from coterie.types import FloatArray

FEW = 50  # observations below which an expert's mean is wide open

# scores


def ties(records: Records) -> Finding | None:
    """Questions whose best score is shared: a label "best expert" would be arbitrary there."""
    quality, judged = records.quality, records.observed.sum(1) > 1
    best = np.full(len(records), -np.inf)
    np.fmax.reduce(quality, axis=1, out=best, initial=-np.inf)
    tied = judged & ((quality == best[:, None]).sum(1) > 1)
    if not tied.any():
        return None
    message = (
        f"Several experts share the best score in {_share(tied, judged)} questions; "
        "train on scores, a single best expert is an arbitrary label there."
    )
    return _finding("ties", message, tied, records)


def agreement(records: Records) -> Finding | None:
    """Questions on which every expert has the same score, which no router can win or lose."""
    judged = records.observed.sum(1) > 1
    low = np.fmin.reduce(records.quality, axis=1)
    high = np.fmax.reduce(records.quality, axis=1)
    same = judged & (low == high)
    if not same.any():
        return None
    failed, solved = (int((same & (low == score)).sum()) for score in (0, 1))
    message = (
        f"All experts score the same in {_share(same, judged)} questions (all 0 in {failed:,}, all "
        f"1 in {solved:,}); choosing matters in the other {int((judged & ~same).sum()):,} only."
    )
    return _finding("all agree", message, same, records)


def constant(records: Records) -> Finding | None:
    """Experts with one and the same score everywhere: a failed run more often than a model."""
    seen = records.observed.sum(0)
    low, high = (f.reduce(records.quality, axis=0) for f in (np.fmin, np.fmax))
    found = np.flatnonzero((low == high) & (seen >= 10))
    if not found.size:
        return None
    told = [f"{records.experts[e]} ({low[e]:g} in {seen[e]:,})" for e in found]
    message = f"{len(told)} of {len(records.experts)} experts always have the same score: "
    message += f"{listed(told)}; check that their runs worked, or leave them out."
    return Finding("constant experts", message, len(told), tuple(told[:SHOWN]))


def few_observations(records: Records) -> Finding | None:
    """Experts whose mean rests on little."""
    seen = records.observed.sum(0)
    found = np.flatnonzero(seen < min(FEW, len(records)))
    if not found.size:
        return None
    told = [f"{records.experts[e]} ({seen[e]:,})" for e in found[np.argsort(seen[found])]]
    message = (
        f"{len(told)} of {len(records.experts)} experts have fewer than {FEW} scores: "
        f"{listed(told)}; their quality is a guess, label more questions or leave them out."
    )
    return Finding("few observations", message, len(told), tuple(told[:SHOWN]))


def missing_cost(records: Records) -> Finding | None:
    """Scores without a cost: what a router saves cannot be told there."""
    missing = records.observed & np.isnan(records.cost)
    count, total = int(missing.sum()), int(records.observed.sum())
    if count == 0:
        return None
    where, some = "No cost is recorded", np.flatnonzero(missing.any(0))[:SHOWN]
    if count < total:
        where = f"{count:,} of {total:,} scores ({count / total:.1%}) have no cost"
    message = f"{where}; savings cannot be told without it, give prices in the pool or costs here."
    examples = tuple(records.experts[e] for e in some) if count < total else ()
    return Finding("missing cost", message, count, examples)


# texts


def no_text(records: Records) -> Finding | None:
    """Questions without a text, of which a router that reads text can learn nothing."""
    empty = np.array([not query.text.strip() for query in records.queries])
    if not empty.any():
        return None
    message = (
        f"{_share(empty, np.ones_like(empty))} questions have no text; routers that read text "
        "cannot tell them apart."
    )
    return _finding("no text", message, empty, records)


def duplicates(records: Records, twins: Twins) -> Finding | None:
    """Questions that occur again; comparisons of two experts on one prompt do by design."""
    if pairwise_records(records):
        return None
    groups = twins.exact
    rows = np.array([row for group in groups for row in group], np.intp)
    if not rows.size:
        return None
    torn = sum(_torn(records.quality[group]) for group in groups)
    spare = len(rows) - len(groups)
    message = (
        f"{spare:,} of {len(records):,} questions ({spare / len(records):.1%}) repeat another word "
        f"for word, {torn:,} of {len(groups):,} with other scores; `evaluate` keeps them in one "
        "fold, a split of your own should too, and each of them counts."
    )
    return Finding("duplicates", message, spare, _pairs(records, groups))


def near_duplicates(records: Records, twins: Twins) -> Finding | None:
    """Questions that differ from another in a few characters."""
    groups = twins.near
    if not groups:
        return None
    spare = sum(len(group) - 1 for group in groups)
    message = (
        f"{spare:,} of {len(twins.first):,} different questions nearly repeat another (at least "
        f"{ALIKE:.0%} of the rarer character sequences shared); folds keep together only what is "
        "equal."
    )
    return Finding("near duplicates", message, spare, _pairs(records, groups))


def leak(records: Records, twins: Twins, split: Sequence[str | None]) -> Finding | None:
    """Questions that stand in one split and, the same or nearly so, in another."""
    near = [[row for first in group for row in twins.copies(first)] for group in twins.near]
    exact, crossing = (_crossing(groups, split) for groups in (twins.exact, [*twins.exact, *near]))
    if not crossing:
        return None
    rows, same = ({row for group in groups for row in group} for groups in (crossing, exact))
    per_split = Counter(str(split[row]) for row in rows)
    told = ", ".join(f"{count:,} in {name!r}" for name, count in sorted(per_split.items()))
    message = (
        f"{len(rows):,} questions stand in several splits ({told}; {len(same):,} word for word, "
        f"{len(rows) - len(same):,} nearly); whoever trains on one has seen the other, so keep "
        "them together."
    )
    return Finding("leak", message, len(rows), _pairs_across(records, crossing, split))


def _crossing(groups: Sequence[Sequence[int]], split: Sequence[str | None]) -> list[list[int]]:
    """The rows of each group that are in some split, where they are in several."""
    placed = [[row for row in group if split[row] is not None] for group in groups]
    return [group for group in placed if len({split[row] for row in group}) > 1]


def _pairs_across(
    records: Records, groups: Sequence[Sequence[int]], split: Sequence[str | None]
) -> tuple[str, ...]:
    """The first question of each group and the first of it in another split."""
    others = [next(row for row in g if split[row] != split[g[0]]) for g in groups[:SHOWN]]
    pairs = [[group[0], other] for group, other in zip(groups, others, strict=False)]
    return _pairs(records, pairs)


def _torn(quality: FloatArray) -> bool:
    """Whether an expert has different scores in these rows."""
    low, high = (f.reduce(quality, axis=0) for f in (np.fmin, np.fmax))
    return bool((low < high).any())


def _pairs(records: Records, groups: Sequence[Sequence[int]]) -> tuple[str, ...]:
    ids = [query.id for query in records.queries]
    return tuple(f"{ids[group[0]]} = {ids[group[1]]}" for group in groups[:SHOWN])


def _finding(check: str, message: str, rows: NDArray[np.bool_], records: Records) -> Finding:
    found = np.flatnonzero(rows)
    examples = tuple(records.queries[row].id for row in found[:SHOWN])
    return Finding(check, message, len(found), examples)


def _share(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> str:
    count, total = int(part.sum()), int(whole.sum())
    return f"{count:,} of {total:,} ({count / total:.1%})"
