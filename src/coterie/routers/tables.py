"""Tables of expected scores by group of questions, shrunk by empirical Bayes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from coterie.records import Records
from coterie.routers.base import mean_or
from coterie.types import FloatArray, IntArray, Query

UNKNOWN = 0.25  # the variance of a score nobody has observed: the most it can be

Key: TypeAlias = tuple[str | None, str | None]  # category and subject; None is any


@dataclass(frozen=True, eq=False)
class Effects:
    """What groups of questions add to an expert's score, by empirical Bayes (normal-normal).

    ``totals`` and ``counts`` (groups x experts) are of deviations from a prior, ``within``
    (experts,) their variance in a group and ``between`` the variance of true effects.
    """

    totals: FloatArray
    counts: FloatArray
    within: FloatArray
    between: float

    @property
    def mean(self) -> FloatArray:
        """Posterior means: deviations shrunk to 0, shape (groups, experts)."""
        return self._shrunk(self.totals, self.counts)

    @property
    def variance(self) -> FloatArray:
        """Posterior variances; ``between`` where a group was not observed."""
        return self._shrunk(np.broadcast_to(self.within, self.counts.shape), self.counts)

    def left_out(self, deviations: FloatArray, groups: IntArray) -> FloatArray:
        """Posterior means of the rows' groups without the row itself; 0 where ``groups`` is -1."""
        totals = self.totals[groups] - np.nan_to_num(deviations)
        counts = self.counts[groups] - ~np.isnan(deviations)
        return np.where(groups[:, None] < 0, 0.0, self._shrunk(totals, counts))

    def _shrunk(self, totals: FloatArray, counts: FloatArray) -> FloatArray:
        mass = counts * self.between + self.within
        shrunk: FloatArray = totals * self.between / np.where(mass > 0, mass, np.inf)
        return shrunk


def find_effects(deviations: FloatArray, groups: IntArray, count: int) -> Effects:
    """Effects of ``count`` groups from deviations (rows x experts, NaN unobserved).

    Row i is of group ``groups[i]``, of none where that is -1. Variances are moments of the one-way
    analysis of variance; the one between groups is pooled over experts and at least 0.
    """
    deviations, groups = deviations[groups >= 0], groups[groups >= 0]
    seen, filled = ~np.isnan(deviations), np.nan_to_num(deviations)
    totals, counts, squares = _group_sums((filled, seen, filled**2), groups, count)
    inside = (squares - totals**2 / np.maximum(counts, 1)).sum(axis=0)
    rows, used = counts.sum(axis=0), (counts > 0).sum(axis=0)
    within = np.where(rows > used, inside / np.maximum(rows - used, 1), UNKNOWN)
    grand = totals.sum(axis=0) / np.maximum(rows, 1)
    outside = (counts * (totals / np.maximum(counts, 1) - grand) ** 2).sum(axis=0)
    excess = (outside - np.maximum(used - 1, 0) * within)[rows > used].sum()
    mass = (rows - (counts**2).sum(axis=0) / np.maximum(rows, 1))[rows > used].sum()
    return Effects(totals, counts, within, float(max(excess / mass, 0.0)) if mass > 0 else 0.0)


def _group_sums(
    tables: Sequence[FloatArray | NDArray[np.bool_]], groups: IntArray, count: int
) -> list[FloatArray]:
    """Sums of each table's rows (rows x columns) by group, shape (groups, columns)."""
    order = np.argsort(groups, kind="stable")
    present, starts = np.unique(groups[order], return_index=True)
    sums: list[FloatArray] = [np.zeros((count, table.shape[1])) for table in tables]
    for total, table in zip(sums, tables, strict=True):
        if len(present):
            total[present] = np.add.reduceat(table[order], starts, axis=0, dtype=float)
    return sums


@dataclass(frozen=True, eq=False)
class GroupMeans:
    """Each expert's expected score in every group: prior + common effect + its own effect.

    The common effect is how easy a group's questions are for everyone, learnt first, so that an
    expert seldom asked in a group is expected to do there as the others do. ``value`` and
    ``variance`` have shape (groups, experts), ``left_out`` (rows, experts) and leaves out the row
    itself; ``unseen`` is the variance that not knowing the group adds, shape (experts,).
    """

    value: FloatArray
    variance: FloatArray
    left_out: FloatArray
    unseen: FloatArray
    common: Effects
    own: Effects


def learn_group_means(
    quality: FloatArray, groups: IntArray, priors: FloatArray, prior_of: FloatArray
) -> GroupMeans:
    """Empirical-Bayes means of every group from scores (rows x experts, NaN unobserved).

    ``priors`` are those of the groups (groups x experts), ``prior_of`` those of the rows, each
    without the row itself.
    """
    prior = np.where(groups[:, None] < 0, prior_of, priors[groups])
    raw = quality - prior
    easiness = mean_or(raw.T, np.nan)[:, None]
    common = find_effects(easiness, groups, len(priors))
    shift = np.where(groups[:, None] < 0, 0.0, common.mean[groups])
    own = find_effects(raw - shift, groups, len(priors))
    left_out = common.left_out(easiness, groups) + own.left_out(raw - shift, groups)
    return GroupMeans(
        value=priors + common.mean + own.mean,
        variance=common.variance + own.variance,
        left_out=prior_of + left_out,
        unseen=np.full(quality.shape[1], common.between + own.between),
        common=common,
        own=own,
    )


def overall_means(quality: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Each expert's mean, its variance, both (experts,), and the means without each row.

    An expert nobody has observed has mean 0.
    """
    seen, filled = ~np.isnan(quality), np.nan_to_num(quality)
    count, total = seen.sum(axis=0), filled.sum(axis=0)
    mean = mean_or(quality, 0.0)
    squares = mean_or((quality - mean) ** 2, UNKNOWN)
    others = count - seen
    left_out = np.where(others > 0, (total - filled) / np.maximum(others, 1), mean)
    return mean, (squares + UNKNOWN / np.maximum(count, 1)) / np.maximum(count, 1), left_out


@dataclass(frozen=True, eq=False)
class Table:
    """Expected scores by category and subject.

    ``quality``, ``variance`` and ``cost`` have a row per key; the first key is (None, None), the
    overall means. ``left_out`` (rows x experts) is what each record's own cell would be without it.
    """

    keys: tuple[Key, ...]
    quality: FloatArray
    variance: FloatArray
    cost: FloatArray
    left_out: FloatArray


def learn_table(records: Records, labels: Sequence[Key], level: str) -> Table:
    """The table of records whose rows have these labels, nested: overall, category, subject."""
    mean, variance, left_out = overall_means(records.quality)
    keys: list[Key] = [(None, None)]
    quality, variances = mean[None, :], variance[None, :]
    cost = mean_or(records.cost, 0.0)[None, :]
    cuts: list[list[Key]] = [[(c, None) for c, _ in labels]]
    if level == "subject":
        cuts.append([(c, s) if s is not None else (None, None) for c, s in labels])
    for cut in cuts:
        new = sorted({key for key in cut if key != (None, None)} - set(keys), key=repr)
        if not new:
            continue
        number = {key: place for place, key in enumerate(new)}
        groups = np.array([number.get(key, -1) for key in cut])
        parents = find_rows(keys, new)
        learnt = learn_group_means(records.quality, groups, quality[parents], left_out)
        left_out = np.clip(learnt.left_out, 0.0, 1.0)
        asked = [mean_or(records.cost[groups == g], cost[p]) for g, p in enumerate(parents)]
        base = variances[parents]
        variances = variances + learnt.unseen
        quality = np.vstack([quality, np.clip(learnt.value, 0.0, 1.0)])
        variances = np.vstack([variances, base + learnt.variance])
        cost = np.vstack([cost, *[row[None, :] for row in asked]])
        keys += new
    return Table(tuple(keys), quality, variances, cost, left_out)


def find_rows(keys: Sequence[Key], labels: Sequence[Key]) -> IntArray:
    """The row of each label's finest known key: its subject, else its category, else overall."""
    row_of = {tuple(key): row for row, key in enumerate(keys)}
    found = [row_of.get(label, row_of.get((label[0], None), 0)) for label in labels]
    return np.array(found, dtype=np.intp)


def given_labels(queries: Sequence[Query]) -> list[Key]:
    """Category and subject of each query, None where not given."""
    return [(q.category, q.subject) for q in queries]


def mixture(
    shares: FloatArray, quality: FloatArray, variance: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of a table's rows (rows x experts) mixed in these shares."""
    mean = np.clip(shares @ quality, 0.0, 1.0)
    around = shares @ (variance + quality**2) - mean**2
    return mean, np.sqrt(np.maximum(around, 0.0))


def contrast_error(errors: FloatArray) -> float:
    """Summed squares of errors (rows x experts) about the row's mean, which decides nothing.

    A row in which one expert is known counts as it is.
    """
    if errors.shape[1] > 1 and not np.isnan(errors).any():
        return float(np.square(errors - errors.mean(axis=1, keepdims=True)).sum())
    count = (~np.isnan(errors)).sum(axis=1, keepdims=True)
    mean = np.nansum(errors, axis=1, keepdims=True) / np.maximum(count, 1)
    return float(np.nansum((errors - np.where(count > 1, mean, 0.0)) ** 2))
