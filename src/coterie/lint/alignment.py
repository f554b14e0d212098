"""Whether the experts' scores belong to the same questions.

A published set once had rows joined by position, wrongly: its models correlated at .09 where .38
was right. Hard questions are hard for most models, so scores that belong together correlate, and
within a category too (category means are taken out first: they survive a wrong order inside a
category). On four public sets the correlation of one model with the mean of the others is .31 to
.68, of a shuffled one at most .03.

Two further signs: a column that fits when moved by a few rows, and fractional scores (F1, share of
tests passed) that stand where every other expert has 0 or 1. Without them an expert is not accused
where it is good at other categories than the rest (``specialists``), or where its scores are surely
opposed to theirs: no wrong order does that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse.csgraph import connected_components

from coterie.lint.base import SHOWN, Finding, listed, pairwise_records
from coterie.lint.specialists import ENOUGH, specialists
from coterie.records import Records
from coterie.types import FloatArray, IntArray

LEAST = 200  # questions below which chance is too large to tell
CORE = 200  # experts among which the main group is sought
LINK = 0.08  # correlation from which two experts count as linked
HALF = 0.5  # of the usual correlation: below, an expert does not fit
QUARTERS, QUARTER = 4, 0.25  # parts of the rows, and what counts as strange in one
UNLINKED = 0.3  # correlation that must be out of question before nobody is said to be linked
LOW = 0.12  # mean correlation of two experts that is suspicious for the whole set
OPPOSED = 4  # standard errors below 0 from which a correlation is no chance
SETTLED = 0.25  # share of the variance within categories below which order does not show
FARTHEST = 10  # rows a column is moved by
BLOCK = 256  # experts looked at together
FRACTIONS = 20  # fractional scores an expert must have to be judged by them


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """Correlation of every expert with the mean of the main group, and what is usual there."""

    correlation: FloatArray
    seen: IntArray
    usual: float
    mean_pair: float
    reference: tuple[FloatArray, IntArray]
    core: tuple[int, ...]
    opposed: IntArray  # experts right where another is wrong, surely: no wrong order does that

    @property
    def strange(self) -> IntArray:
        """Experts that surely fit less than half as well as usual."""
        return self.fitting_less_than(HALF)

    def fitting_less_than(self, part: float) -> IntArray:
        """Experts whose correlation is surely below this part of the usual one."""
        above = self.correlation + 2 / np.sqrt(np.maximum(self.seen, 1))
        return np.flatnonzero((self.seen >= LEAST // 2) & (above < part * self.usual))


def misaligned(records: Records) -> Finding | None:
    """Experts whose scores do not follow the difficulty that the others agree on."""
    if len(records) < LEAST or pairwise_records(records):
        return None
    records = without_settled(records)
    if len(records.experts) < 2:
        return None
    fit = fitted(records)
    if isinstance(fit, float):
        return _nobody(records) if fit < UNLINKED else None
    special = specialists(records, category_codes(records), fit.strange.tolist(), fit.core)
    strange = accused(records, fit, fit.strange, special)
    if not strange.size:
        return stretches(records, fit) or _low(records, fit)
    told = [_told(records, fit, int(expert)) for expert in strange[:SHOWN]]
    more = f" and {len(strange) - SHOWN:,} more" if len(strange) > SHOWN else ""
    message = (
        f"{len(strange)} of {len(records.experts)} experts do not follow the others from question "
        f"to question: correlation {'; '.join(told)}{more}, where {fit.usual:.2f} is usual; "
        "their rows may be in another order (join by id, not by position), or they guess."
    )
    return Finding("misaligned", message, len(strange), tuple(told))


def accused(records: Records, fit: Fit, strange: IntArray, special: IntArray) -> IntArray:
    """Those of the ``strange`` experts that a wrong order would explain.

    Not the ``special`` and not the surely opposed, unless they fit when moved or by fractions.
    """
    doubtful = np.isin(strange, np.concatenate([special, fit.opposed]))
    sure = [
        not d or bool(_sign(records, fit, int(e))) for e, d in zip(strange, doubtful, strict=True)
    ]
    kept: IntArray = strange[np.array(sure, bool)]
    return kept


def _all_special(records: Records) -> bool:
    """Whether at least half of the experts are specialists, which nothing needs to link."""
    experts = _sample(records)
    special = specialists(records, category_codes(records), experts.tolist(), experts.tolist())
    return len(special) >= HALF * len(experts)


def _sample(records: Records) -> IntArray:
    return np.unique(np.linspace(0, len(records.experts) - 1, CORE).astype(np.intp))


def _nobody(records: Records) -> Finding | None:
    if _all_special(records):
        return None
    message = (
        "No two experts' scores are correlated within categories, so no question is harder than "
        "another for them; their rows are probably in different orders: join by id."
    )
    return Finding("misaligned", message, len(records.experts), records.experts[:5])


def _low(records: Records, fit: Fit) -> Finding | None:
    """All fit but loosely, or those that do not are specialists."""
    if fit.strange.size:
        told = [f"{records.experts[e]} {fit.correlation[e]:.2f}" for e in fit.strange]
        message = (
            f"{len(told)} of {len(records.experts)} experts do not follow the others from question "
            f"to question: correlation {listed(told)}, where {fit.usual:.2f} is usual. They are "
            "good at other categories or right where others are wrong, as specialists are; only "
            "another order inside categories would look the same: check a few."
        )
        return Finding("low correlation", message, len(told), tuple(told[:5]))
    if fit.mean_pair >= LOW or len(records.experts) < 3:
        return None
    message = (
        f"Two experts' scores correlate at {fit.mean_pair:.2f} on average, low against the .30 to "
        ".37 of public sets; specialists may differ so much, wrongly joined rows do: check a few."
    )
    return Finding("low correlation", message, len(records.experts))


def _told(records: Records, fit: Fit, expert: int) -> str:
    """The expert with its correlation and what would explain it."""
    told = f"{records.experts[expert]} {fit.correlation[expert]:.2f}"
    sign = _sign(records, fit, expert)
    return f"{told} ({sign})" if sign else told


def _sign(records: Records, fit: Fit, expert: int) -> str:
    """What else says that the expert's rows are in another order; empty where nothing does."""
    rows, correlation = moved(records, fit, expert)
    if correlation > 0.7 * fit.usual:
        return f"{correlation:.2f} when moved by {rows} row{'s'[: abs(rows) != 1]}"
    return fractions(records, fit, expert)


def stretches(records: Records, whole: Fit) -> Finding | None:
    """Experts that fit on the whole but not in one quarter of the rows, in their order.

    That is what a row too many or too few in the middle of a column does.
    """
    rows, codes = np.array_split(np.arange(len(records)), QUARTERS), category_codes(records)
    told: dict[str, str] = {}
    for part in rows if len(rows[-1]) >= LEAST else ():
        taken = records.take(part)
        fit = fitted(taken)
        if isinstance(fit, float):
            if fit < HALF * whole.mean_pair and not _all_special(records):
                told["every expert"] = f"every expert near 0 in {_span(part)}"
            continue
        strange = fit.fitting_less_than(QUARTER)
        special = specialists(records, codes, strange.tolist(), whole.core)
        for expert in accused(taken, fit, strange, special):
            name, value = records.experts[expert], fit.correlation[expert]
            where = f"{_span(part)}, where {fit.usual:.2f} is usual"
            told.setdefault(name, f"{name} {value:.2f} in {where}")
    if not told:
        return None
    some = tuple(told.values())[:3]
    more = f" and {len(told) - len(some):,} more" if len(told) > len(some) else ""
    message = (
        "Scores follow the other experts' only in a part of the questions: correlation "
        f"{'; '.join(some)}{more}; a row may be missing or doubled in the middle (join by id, not "
        "by position)."
    )
    return Finding("misaligned", message, len(told), some)


def _span(rows: IntArray) -> str:
    return f"rows {rows[0] + 1:,} to {rows[-1] + 1:,}"


def fitted(records: Records) -> Fit | float:
    """How each expert fits the largest group of linked ones.

    Where no two are linked, what the strongest link could still be: 1 where some are opposed.
    """
    sample, codes = _sample(records), category_codes(records)
    values = centred(records.quality[:, sample], codes)
    pairs, counts = correlations(values)
    chance = (3 if len(sample) < 6 else 4) / np.sqrt(np.maximum(counts, 1))
    linked = pairs > np.maximum(LINK, chance)
    _, labels = connected_components(linked, directed=False)
    main = np.flatnonzero(labels == np.argmax(np.bincount(labels)))
    opposed = sample[(pairs * np.sqrt(counts) < -OPPOSED).any(1)]
    upper = np.triu_indices_from(pairs, 1)
    if len(main) < 2:
        strongest = (pairs + 2 / np.sqrt(np.maximum(counts, 1)))[upper].max()
        return 1.0 if opposed.size else float(strongest)
    present = ~np.isnan(values[:, main])
    total, number = np.where(present, values[:, main], 0).sum(1), present.sum(1)
    core = tuple(sample[main].tolist())
    correlation, seen = against(records, codes, (total, number), core)
    usual, mean_pair = float(np.median(correlation[list(core)])), float(pairs[upper].mean())
    return Fit(correlation, seen, usual, mean_pair, (total, number), core, opposed)


def category_codes(records: Records) -> IntArray:
    """A number for each row's category; small ones share one, or their means would be the rows."""
    names = [category or "" for category in records.categories]
    _, codes, counts = np.unique(names, return_inverse=True, return_counts=True)
    return np.unique(np.where(counts[codes] < ENOUGH, -1, codes), return_inverse=True)[1]


def without_settled(records: Records) -> Records:
    """The records of experts whose category does not say nearly everything about their scores.

    Of the others too few scores are open to tell their order.
    """
    codes, settled = category_codes(records), np.zeros(len(records.experts), bool)
    for start in range(0, len(settled) if codes.any() else 0, BLOCK):
        at = slice(start, start + BLOCK)
        whole = centred(records.quality[:, at], np.zeros_like(codes))
        within = centred(records.quality[:, at], codes)
        settled[at] = np.nansum(within**2, 0) < SETTLED * np.nansum(whole**2, 0)
    kept = [name for name, s in zip(records.experts, settled.tolist(), strict=True) if not s]
    return records.select(kept) if settled.any() else records


def centred(quality: FloatArray, codes: IntArray) -> FloatArray:
    """The scores with each expert's mean in each category taken out."""
    values = np.array(quality, np.float64)
    for code in range(int(codes.max()) + 1):
        rows = np.flatnonzero(codes == code)
        part = values[rows]
        present = (~np.isnan(part)).sum(0)
        values[rows] = part - np.nansum(part, 0) / np.maximum(present, 1)
    return values


def correlations(values: FloatArray) -> tuple[FloatArray, IntArray]:
    """Correlation of every two columns over the rows that both have, and how many these are."""
    present = ~np.isnan(values)
    filled, weight = np.where(present, values, 0), present.astype(float)
    counts = weight.T @ weight
    sums = filled.T @ weight  # of the row's expert over rows both have
    squares = (filled**2).T @ weight
    covariance = counts * (filled.T @ filled) - sums * sums.T
    spread = np.maximum(counts * squares - sums**2, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = covariance / np.sqrt(spread * spread.T)
    return np.nan_to_num(found), counts.astype(np.intp)


def against(
    records: Records, codes: IntArray, reference: tuple[FloatArray, IntArray], core: tuple[int, ...]
) -> tuple[FloatArray, IntArray]:
    """Correlation of every expert with the core's mean without itself, and on how many rows."""
    found = np.zeros(len(records.experts))
    seen = np.zeros(len(records.experts), np.intp)
    inside = set(core)
    for start in range(0, len(records.experts), BLOCK):
        block = centred(records.quality[:, start : start + BLOCK], codes)
        for offset, column in enumerate(block.T):
            expert = start + offset
            found[expert], seen[expert] = _with_rest(column, reference, expert in inside)
    return found, seen


def _with_rest(
    column: FloatArray, reference: tuple[FloatArray, IntArray], inside: bool
) -> tuple[float, int]:
    total, number = reference
    own = ~np.isnan(column)
    if inside:
        total, number = total - np.where(own, column, 0), number - own
    both = own & (number > 0)
    if both.sum() < 3:
        return 0.0, int(both.sum())
    return _correlation(column[both], total[both] / number[both]), int(both.sum())


def _correlation(a: FloatArray, b: FloatArray) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else 0.0


def moved(records: Records, fit: Fit, expert: int) -> tuple[int, float]:
    """The shift of the expert's column that fits best, and its correlation then."""
    codes = category_codes(records)
    best = (0, -1.0)
    for rows in (*range(-FARTHEST, 0), *range(1, FARTHEST + 1)):
        column = np.roll(records.quality[:, expert], rows)[:, None]
        value, _ = _with_rest(centred(column, codes)[:, 0], fit.reference, False)
        best = max(best, (rows, value), key=lambda pair: pair[1])
    return best


def fractions(records: Records, fit: Fit, expert: int) -> str:
    """What the expert's fractional scores say, empty where they say nothing.

    Where scores are fractional on some questions only, the others should be fractional there too.
    """
    fractional = (records.quality > 0) & (records.quality < 1)
    others = [e for e in fit.core if e != expert]
    elsewhere = np.asarray(fractional[:, others].any(1))
    own = fractional[:, expert]
    alone = int((own & ~elsewhere).sum())
    if own.sum() < FRACTIONS or alone < HALF * own.sum() or elsewhere.mean() > HALF:
        return ""
    return f"{alone:,} of its {int(own.sum()):,} fractional scores stand where others have 0 or 1"
