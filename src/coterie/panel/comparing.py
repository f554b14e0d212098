"""Intervals and p-values of a panel's rows: one set of resamples for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coterie.metrics.intervals import bootstrap_p, holm, interval, resampled_means
from coterie.metrics.selection import selection_shares
from coterie.panel.values import Difference, Outcome, PanelRow
from coterie.types import FloatArray


def compare(
    outcomes: Sequence[Outcome], quality: FloatArray, default: str | None, seed: int
) -> list[PanelRow]:
    """The outcomes with intervals, paired with best single and with random at equal cost.

    Holm's correction covers every row that could be used instead (baselines other than random and
    best single, and routers) but the default; bounds keep their plain p-values.
    """
    matched = [matched_random(outcome, quality) for outcome in outcomes]
    scores = np.column_stack([o.scores for o in outcomes])
    extra = [m for m in matched if m is not None]
    resampled = resampled_means(np.column_stack([scores, *extra]), seed)
    names = [o.name for o in outcomes]
    best = names.index("best single")
    plain = [_difference(scores, resampled, j, best) for j in range(len(names))]
    rivals = [j for j, o in enumerate(outcomes) if _contender(o) and o.name != default]
    corrected = dict(zip(rivals, holm([plain[j].p for j in rivals]), strict=True))
    rows, place = [], len(outcomes)
    for j, (outcome, mean) in enumerate(zip(outcomes, matched, strict=True)):
        versus = plain[j]._replace(adjusted=corrected.get(j, plain[j].p))
        against = None
        if mean is not None:
            pair = np.column_stack([outcome.scores, mean])
            against = _difference(pair, resampled[:, [j, place]], 0, 1)
            place += 1
        rows.append(_row(outcome, resampled[:, j], versus, mean, against))
    return rows


def _contender(outcome: Outcome) -> bool:
    return outcome.kind != "bound" and outcome.name not in ("random", "best single")


def _difference(scores: FloatArray, resampled: FloatArray, column: int, base: int) -> Difference:
    gain = resampled[:, column] - resampled[:, base]
    found = interval(float((scores[:, column] - scores[:, base]).mean()), gain)
    p = bootstrap_p(gain)
    return Difference(*found, p, p)


def _row(
    outcome: Outcome,
    resampled: FloatArray,
    versus: Difference,
    matched: FloatArray | None,
    against: Difference | None,
) -> PanelRow:
    return PanelRow(
        **vars(outcome),
        quality=interval(float(outcome.scores.mean()), resampled),
        versus=versus,
        matched_score=None if matched is None else float(matched.mean()),
        matched=against,
    )


def matched_random(outcome: Outcome, quality: FloatArray) -> FloatArray | None:
    """Expected scores of experts drawn with the router's own selection shares, (queries,).

    Every expert is called as often as the router calls it, so with prices per call the cost is the
    same; what a router gains over it is what it knows about questions, not about experts. None for
    rows that are no routers or that ask several experts.
    """
    if outcome.chosen is None or outcome.expected is None:
        return None
    expectation: FloatArray = quality @ selection_shares(outcome.chosen, quality.shape[1])
    return expectation
