"""Judging: what each way of answering scores, costs, and gains over the best single expert.

A row is one way of answering (a router's top choice, a vote, the oracle) with its score, cost and
calls on every query. Everything here is computed from records by the replay driver or by plain
indexing; what needs live calls is measured by the caller and enters as a row like the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coterie.aggregators import Aggregator, Calibrated, calibration_features
from coterie.answers import Extractor, score
from coterie.compositions import Composition
from coterie.drivers.replay import replay
from coterie.errors import InputError, NotRecordedError
from coterie.metrics import Interval, bootstrap_mean
from coterie.policies import Recruit
from coterie.records import Records
from coterie.routers.base import Router, mean_or
from coterie.types import Answer, Completion, Decision, FloatArray

FOLDS = 5


@dataclass(frozen=True, eq=False)
class Row:
    """One way of answering: scores and costs per query (arrays of that length), and its reading.

    ``reads`` says what a decision is made from: nothing, the question's text, a given category,
    every expert's answer, or the reference itself.
    """

    name: str
    reads: str
    scores: FloatArray
    costs: FloatArray
    calls: float

    def summary(self, baseline: Row) -> dict[str, Any]:
        """Accuracy, cost and calls a query, with intervals, against ``baseline``."""
        accuracy, difference = _seen(self.scores), _seen(self.scores - baseline.scores)
        return {
            "name": self.name,
            "reads": self.reads,
            "accuracy": accuracy.value,
            "ci": [accuracy.low, accuracy.high],
            "cost": float(self.costs.mean()),
            "calls": self.calls,
            "vs_best_single": {"diff": difference.value, "ci": [difference.low, difference.high]},
        }


def _seen(scores: FloatArray) -> Interval:
    """The mean with its interval; NaN where nothing was observed, which a table shows as a gap."""
    return Interval(*[np.nan] * 3) if np.isnan(scores).all() else bootstrap_mean(scores)


def answers_row(
    name: str, answers: Sequence[Answer], records: Records, extract: Extractor, reads: str = "text"
) -> Row:
    """The row of answers to the records' queries, in their order; a failed answer scores 0."""
    scores, costs, calls = [], [], []
    for answer, reference in zip(answers, records.references, strict=True):
        completion = answer.completion
        right = 0.0 if reference is None else score(completion.text, reference, extract)
        scores.append(0.0 if completion.failed else right)
        costs.append(answer.cost)
        calls.append(len(answer.trace))
    return Row(name, reads, np.array(scores), np.array(costs), float(np.mean(calls)))


def replay_row(
    name: str,
    decisions: Sequence[Decision],
    composition: Composition,
    records: Records,
    extract: Extractor,
    reads: str = "text",
) -> Row:
    """The row of a composition replayed from the records."""
    answers = replay(records.queries, decisions, composition, records)
    return answers_row(name, answers, records, extract, reads)


def complete(records: Records, share: float = 0.99, keep: Sequence[str] = ()) -> Records:
    """The records of experts observed on at least ``share`` of the queries, and only full rows.

    Experts named in ``keep`` stay, however seldom they were observed. Raises InputError where
    nothing is left.
    """
    records.select(keep)  # unknown names are refused
    seen = dict(zip(records.experts, records.observed.sum(axis=0), strict=True))
    enough = [e for e, count in seen.items() if 0 < count >= share * len(records)]
    kept = [e for e in records.experts if e in enough or e in keep]
    chosen = records.select(kept)
    rows = np.flatnonzero(chosen.observed.all(axis=1))
    if not kept or not len(rows):
        message = f"no query was answered by every expert seen on {share:.0%} of the queries"
        raise InputError(message)
    return chosen.take(rows)


def random_row(records: Records) -> Row:
    """Any expert with equal probability, in expectation."""
    return Row("random", "nothing", records.quality.mean(1), records.cost.mean(1), 1.0)


def column_row(name: str, records: Records, columns: FloatArray, reads: str) -> Row:
    """One chosen expert a query; ``columns`` are expert numbers."""
    at = np.arange(len(records)), np.asarray(columns, dtype=np.intp)
    return Row(name, reads, records.quality[at], records.cost[at], 1.0)


def best_single_row(training: Records, records: Records) -> Row:
    """The expert with the highest mean score in training, for every query."""
    best = int(mean_or(training.select(records.experts).quality, 0.0).argmax())
    columns = np.full(len(records), best)
    return column_row(f"best single ({records.experts[best]})", records, columns, "nothing")


def category_means(training: Records, records: Records) -> list[FloatArray]:
    """For each query the mean training scores of ``records.experts`` in its given category.

    Overall means where training knows nothing of the category, or of an expert in it.
    """
    quality = training.select(records.experts).quality
    overall = mean_or(quality, 0.0)
    table = {}
    for category in dict.fromkeys(records.categories):
        rows = [i for i, c in enumerate(training.categories) if c == category]
        table[category] = mean_or(quality[rows], overall)
    return [table[c] for c in records.categories]


def category_row(training: Records, records: Records) -> Row:
    """The best expert of the query's given category."""
    columns = np.array([means.argmax() for means in category_means(training, records)])
    return column_row("per-category table", records, columns, "category")


def category_decisions(training: Records, records: Records, top: int) -> list[Decision]:
    """The ``top`` experts of the query's given category, weighted by their training score there."""
    decisions = []
    for means in category_means(training, records):
        chosen = np.argsort(-means, kind="stable")[:top]
        names = tuple(records.experts[j] for j in chosen)
        decisions.append(Decision("recruit", names, tuple(float(means[j]) for j in chosen)))
    return decisions


def static_vote(training: Records, k: int, aggregator: Aggregator) -> Decision:
    """The k experts whose vote scores highest in training: every subset is tried.

    With fewer than k experts all of them vote. Raises NotRecordedError where an answer is missing.
    """
    means = mean_or(training.quality, 0.0)
    order = np.argsort(-means, kind="stable")
    cells = [[recorded(training, i, e) for e in training.experts] for i in range(len(training))]
    column = {name: j for j, name in enumerate(training.experts)}

    def accuracy(subset: tuple[int, ...]) -> float:
        weights = [float(means[j]) for j in subset]
        total = 0.0
        for i, query in enumerate(training.queries):
            winner = aggregator(query, [cells[i][j] for j in subset], weights, 0)
            total += training.quality[i, column[winner.expert]]
        return total / len(training)

    best = max(itertools.combinations(order.tolist(), min(k, len(order))), key=accuracy)
    names = tuple(training.experts[j] for j in best)
    return Decision("recruit", names, tuple(float(means[j]) for j in best))


def recorded(records: Records, row: int, expert: str) -> Completion:
    """The recorded completion of one cell; raises NotRecordedError where there is none."""
    completion = records.completion(row, expert)
    if completion is None:
        message = f"the records hold no answer of {expert!r} to {records.queries[row].id!r}"
        raise NotRecordedError(message)
    return completion


def confidence_row(records: Records) -> Row:
    """Every expert is asked; the one with the highest mean token log probability is believed."""
    surest = np.nan_to_num(records.logprob, nan=-np.inf).argmax(axis=1)
    row = column_row("highest self-confidence", records, surest, "every answer")
    return Row(row.name, row.reads, row.scores, records.cost.sum(1), float(len(records.experts)))


def oracle_row(records: Records) -> Row:
    """Right where any expert is right, at the cost of the cheapest of the best."""
    best = records.quality == records.quality.max(axis=1, keepdims=True)
    columns = np.where(best, records.cost, np.inf).argmin(axis=1)
    return column_row("oracle", records, columns, "the reference")


def trimmed(policy: Recruit, router: Router, records: Records) -> Recruit:
    """The policy without the experts under 5 % of recruitments on the records' queries."""
    return policy.trimmed(records.queries, router.predict(records.queries))


def cross_fitted(
    make: Callable[[], Router], records: Records, policies: Mapping[str, Recruit]
) -> dict[str, list[Decision]]:
    """Decisions on the records' own queries, each by a router that did not see its fold.

    For every policy one decision a query, in order; experts rare in training are trimmed.
    """
    decisions: dict[str, dict[int, Decision]] = {name: {} for name in policies}
    for rows in records.folds(FOLDS):
        training = records.take(np.setdiff1d(np.arange(len(records)), rows))
        router = make().fit(training)
        queries = [records.queries[i] for i in rows]
        known, expected = router.predict(training.queries), router.predict(queries)
        for name, policy in policies.items():
            chosen = policy.trimmed(training.queries, known).decide(queries, expected)
            decisions[name] |= dict(zip(rows.tolist(), chosen, strict=True))
    return {name: [d[i] for i in range(len(records))] for name, d in decisions.items()}


def calibrate(
    decisions: Sequence[Decision], records: Records, extract: Extractor
) -> Calibrated | None:
    """The confidence-weighted vote for such decisions, fitted on what their experts answered.

    Logistic regression of right or wrong on expected quality and log probability, with a ridge of
    0.01. None where no answer has a log probability. Decisions should be cross-fitted.
    """
    from scipy.optimize import minimize

    rows = []
    for row, decision in enumerate(decisions):
        for name, quality in zip(decision.experts, decision.weights, strict=True):
            completion = records.completion(row, name)
            if completion is not None and completion.logprob is not None:
                right = records.quality[row, records.experts.index(name)]
                rows.append((1.0, *calibration_features(quality, completion.logprob), right))
    if not rows:
        return None
    table = np.array(rows)
    features, right = table[:, :3], table[:, 3]

    def loss(weights: FloatArray) -> float:
        odds = features @ weights
        return float(np.logaddexp(0, odds).sum() - right @ odds + 0.01 * weights @ weights)

    intercept, quality, surprise = (round(float(w), 3) for w in minimize(loss, np.zeros(3)).x)
    return Calibrated(intercept, quality, surprise, extract)


def calibrated_scores(
    decisions: Sequence[Decision],
    records: Records,
    extract: Extractor,
    compose: Callable[[Aggregator], Composition],
) -> FloatArray | None:
    """Scores of the confidence-weighted vote on the records, fitted on the other folds."""
    scores = np.zeros(len(records))
    for rows in records.folds(FOLDS):
        rest = np.setdiff1d(np.arange(len(records)), rows)
        vote = calibrate([decisions[i] for i in rest], records.take(rest), extract)
        if vote is None:
            return None
        chosen, held_out = [decisions[i] for i in rows], records.take(rows)
        scores[rows] = replay_row("", chosen, compose(vote), held_out, extract).scores
    return scores
