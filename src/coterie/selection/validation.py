"""What a choice of experts is worth on queries it was not made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coterie.errors import InputError
from coterie.metrics.intervals import Interval, resampled_means
from coterie.records import Records
from coterie.routers.base import mean_or
from coterie.selection.subsets import Learnt, Objective, Outcomes, choose_subset, learn
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

    Paired 95 % intervals; with one expert owned, losing it loses its score. An owned expert is
    judged in the folds whose own choice it was, a further one where it was not; None where there
    was no such fold. ``folds`` says in how many each was chosen.
    """

    owned: Mapping[str, Interval | None]
    further: Mapping[str, Interval | None]
    folds: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON, the most valuable first."""
        return {"owned": self._facts(self.owned), "further": self._facts(self.further)}

    def _facts(self, values: Mapping[str, Interval | None]) -> dict[str, Any]:
        known = [(name, each) for name, each in values.items() if each is not None]
        known.sort(key=lambda item: -item[1].value)
        facts: dict[str, Any] = {
            name: {"gain": i.value, "ci": [i.low, i.high], "chosen_in_folds": self.folds[name]}
            for name, i in known
        }
        unknown = [name for name, each in values.items() if each is None]
        nothing = {"gain": None, "ci": None}
        return facts | {n: nothing | {"chosen_in_folds": self.folds[n]} for n in unknown}


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
        best = mean_or(single.quality[rest], 0.0).argmax()
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
        best_single[rows] = outcomes.quality[rows, mean_or(training.quality, 0.0).argmax()]
        chosen.append(subset)
    return Validation(scores, best_single, tuple(chosen))


def marginal_values(
    outcomes: Outcomes,
    records: Records,
    owned: Sequence[str],
    chosen: Sequence[Sequence[str]],
    objective: Objective = "routing",
    seed: Seed = 0,
) -> Marginal:
    """What each owned expert adds to the others, and what each other one would add to them.

    ``chosen`` are the experts chosen for each fold on the other folds, as in
    ``Validation.chosen``, by the same ``seed``: there the queries of a fold judge, and what the
    objective learns (category means, weights of votes) is learnt. The experts ``owned`` in the end
    were chosen on all queries, which would flatter them. So an owned expert is judged in the folds
    that chose it, a further one in those that did not. In pure noise half of the flattery or more
    goes; some stays, because who is listed as owned still depends on every query.
    """
    check_folds(records, len(chosen))
    names = [*owned, *(e for e in outcomes.experts if e not in owned)]
    changes = np.full((len(records), len(names)), np.nan)
    for rows, experts in zip(records.folds(len(chosen), seed), chosen, strict=True):
        learnt = learn(outcomes.take(np.setdiff1d(np.arange(len(records)), rows)), objective)
        change = _changes(learnt, outcomes.take(rows), experts)
        for column, name in enumerate(names):
            if (name in owned) == (name in experts):
                changes[rows, column] = change(name)
    judged = np.flatnonzero(~np.isnan(changes).all(axis=0))
    found = intervals(changes[:, judged]) if len(judged) else []
    values = {names[column]: each for column, each in zip(judged, found, strict=True)}
    times = {name: sum(name in experts for experts in chosen) for name in names}
    return Marginal(
        {name: values.get(name) for name in owned},
        {name: values.get(name) for name in names[len(owned) :]},
        times,
    )


def _changes(
    learnt: Learnt, held_out: Outcomes, experts: Sequence[str]
) -> Callable[[str], FloatArray]:
    """What one expert changes in the scores of held-out queries, beside the other chosen ones."""

    def scored(names: Sequence[str]) -> FloatArray:
        columns = [held_out.experts.index(e) for e in names]
        return learnt.scores(held_out, columns) if columns else np.zeros(len(held_out.quality))

    now = scored(experts)

    def change(name: str) -> FloatArray:
        if name in experts:
            return now - scored([e for e in experts if e != name])
        return scored([*experts, name]) - now

    return change
