"""What a choice of experts is worth on queries it was not made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coterie.errors import InputError
from coterie.metrics.intervals import Interval, resampled_means
from coterie.records import Records
from coterie.selection.subsets import Objective, Outcomes, choose_subset, expert_means, learn
from coterie.types import FloatArray, Seed

FOLDS = 5
RESAMPLES = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Validation:
    """Held-out scores of a choice and of the best single expert, each made on the other folds.

    ``chosen`` holds the experts of every fold: where they differ, the choice is not a stable one.
    Queries with a missing score on either side are left out.
    """

    scores: FloatArray
    best_single: FloatArray
    chosen: tuple[tuple[str, ...], ...]

    @property
    def quality(self) -> Interval:
        """Mean held-out score with its 95 % interval."""
        return intervals(self.scores + 0 * self.best_single)[0]

    @property
    def gain(self) -> Interval:
        """Paired gain over the best single expert with its 95 % interval."""
        return intervals(self.scores - self.best_single)[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON."""
        quality, gain = self.quality, self.gain
        return {
            "quality": quality.value,
            "ci": [quality.low, quality.high],
            "gain": gain.value,
            "gain_ci": [gain.low, gain.high],
            "queries": int((~np.isnan(self.scores - self.best_single)).sum()),
            "chosen": [list(names) for names in self.chosen],
        }


def intervals(columns: FloatArray) -> list[Interval]:
    """Means of what is observed (not NaN) in every column, with 95 % bootstrap intervals.

    Queries are resampled. Raises InputError for a column without any value.
    """
    table = columns.reshape(len(columns), -1)
    seen = ~np.isnan(table)
    if not seen.any(axis=0).all():
        raise InputError("no query has a score on both sides of a comparison", field="score")
    means = resampled_means(np.hstack([np.nan_to_num(table), seen]), resamples=RESAMPLES)
    sums, counts = np.hsplit(means, 2)
    low, high = np.percentile(sums / np.maximum(counts, 1e-12), [2.5, 97.5], axis=0)
    value = np.nan_to_num(table).sum(axis=0) / seen.sum(axis=0)
    return [
        Interval(float(v), float(a), float(b)) for v, a, b in zip(value, low, high, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Marginal:
    """Held-out change of the mean score: losing each owned expert, and owning each further one.

    Paired 95 % intervals; with one expert owned, losing it loses its score.
    """

    owned: Mapping[str, Interval]
    further: Mapping[str, Interval]

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON, the most valuable first."""
        return {
            name: {
                expert: {"gain": i.value, "ci": [i.low, i.high]}
                for expert, i in sorted(values.items(), key=lambda item: -item[1].value)
            }
            for name, values in (("owned", self.owned), ("further", self.further))
        }


def cross_validate(
    records: Records,
    choose: Callable[[Records], tuple[Sequence[str], Callable[[Records], FloatArray]]],
    affordable: Sequence[str] = (),
    folds: int = FOLDS,
    seed: Seed = 0,
) -> Validation:
    """Make the choice on all folds but one and score it there, for every fold.

    ``choose`` returns the chosen experts and a function from held-out records to their scores. The
    best single expert is chosen likewise, among ``affordable`` ones where these are named.
    """
    check_folds(records, folds)
    scores, best_single = np.full((2, len(records)), np.nan)
    single = records.select(affordable) if affordable else records
    chosen = []
    for rows in records.folds(folds, seed):
        rest = np.setdiff1d(np.arange(len(records)), rows)
        experts, score = choose(records.take(rest))
        scores[rows] = score(records.take(rows))
        best = expert_means(single.quality[rest]).argmax()
        best_single[rows] = single.quality[rows, best]
        chosen.append(tuple(experts))
    return Validation(scores, best_single, tuple(chosen))


def check_folds(records: Records, folds: int) -> None:
    """Raise InputError unless every fold gets a query and leaves one."""
    if not 2 <= folds <= len(records):
        message = f"expected between 2 and the number of queries ({len(records)}), got {folds}"
        raise InputError(message, field="folds")


def validate_subset(
    outcomes: Outcomes,
    records: Records,
    size: int,
    objective: Objective,
    folds: int = FOLDS,
    seed: Seed = 0,
) -> Validation:
    """``cross_validate`` for ``choose_subset``, with the answers compared only once."""
    check_folds(records, folds)
    scores, best_single = np.full((2, len(records)), np.nan)
    chosen = []
    for rows in records.folds(folds, seed):
        training = outcomes.take(np.setdiff1d(np.arange(len(records)), rows))
        subset = choose_subset(training, size, objective).experts
        columns = [outcomes.experts.index(e) for e in subset]
        scores[rows] = learn(training, objective).scores(outcomes.take(rows), columns)
        best_single[rows] = outcomes.quality[rows, expert_means(training.quality).argmax()]
        chosen.append(subset)
    return Validation(scores, best_single, tuple(chosen))


def marginal_values(
    outcomes: Outcomes,
    records: Records,
    owned: Sequence[str],
    objective: Objective = "routing",
    folds: int = FOLDS,
    seed: Seed = 0,
) -> Marginal:
    """What each owned expert adds to the others, and what each other one would add to them.

    What the objective learns (category means, weights of votes) is learnt on the other folds.
    """
    check_folds(records, folds)
    parts = [
        (rows, outcomes.take(np.setdiff1d(np.arange(len(records)), rows)), outcomes.take(rows))
        for rows in records.folds(folds, seed)
    ]
    fitted = [(rows, learn(training, objective), held_out) for rows, training, held_out in parts]

    def scored(names: Sequence[str]) -> FloatArray:
        scores = np.zeros(len(records))
        columns = [outcomes.experts.index(e) for e in names]
        for rows, learnt, held_out in fitted if columns else ():
            scores[rows] = learnt.scores(held_out, columns)
        return scores

    now = scored(owned)
    others = [e for e in outcomes.experts if e not in owned]
    lost = [now - scored([o for o in owned if o != e]) for e in owned]
    won = [scored([*owned, e]) - now for e in others]
    found = intervals(np.column_stack([*lost, *won]))
    half = len(owned)
    return Marginal(
        dict(zip(owned, found[:half], strict=True)), dict(zip(others, found[half:], strict=True))
    )
