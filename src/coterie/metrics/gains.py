"""LLMRouterBench's metrics (Li et al. 2026, arXiv 2601.07206).

Accuracies are one a data set. The benchmark's published pairs of average accuracy and gap fit
only relative gains that are averaged over data sets, so that is what the functions do; with one
data set it is the plain ratio. A data set whose reference is 0 has no ratio and is left out.
"""

from __future__ import annotations

import numpy as np

from coterie.types import FloatArray


def avg_acc(accuracy: FloatArray) -> float:
    """AvgAcc: the mean over data sets, every one alike."""
    return float(np.mean(accuracy))


def gain_at_random(accuracy: FloatArray, random: FloatArray) -> float:
    """Gain@R: how much better than a random expert, relative to it."""
    return _relative(accuracy - random, random)


def gain_at_best(accuracy: FloatArray, best: FloatArray) -> float:
    """Gain@B: how much better than the best single expert (one for all sets), relative to it."""
    return _relative(accuracy - best, best)


def gap_at_oracle(accuracy: FloatArray, oracle: FloatArray) -> float:
    """Gap@O: how far below the oracle, relative to it."""
    return _relative(oracle - accuracy, oracle)


def _relative(difference: FloatArray, reference: FloatArray) -> float:
    known = np.asarray(reference) > 0
    if not known.any():
        return float("nan")
    return float((np.asarray(difference)[known] / np.asarray(reference)[known]).mean())


def perf_gain(accuracies: FloatArray, best: float) -> float:
    """PerfGain: the best of a router's settings against the best single expert, relative to it."""
    return (float(np.max(accuracies)) - best) / best


def cost_save(accuracies: FloatArray, costs: FloatArray, best: float, best_cost: float) -> float:
    """CostSave: what the cheapest setting at least as good as the best single expert saves.

    Relative to the best single expert's cost; negative where it costs more, NaN where no setting
    is as good.
    """
    enough = np.asarray(accuracies) >= best
    if not enough.any():
        return float("nan")
    return 1 - float(np.asarray(costs)[enough].min()) / best_cost


def pareto_dist(accuracies: FloatArray, costs: FloatArray, front: FloatArray) -> float:
    """ParetoDist: mean distance of a router's settings to the front of all that are compared.

    ``front`` holds (cost, accuracy) points of every router and expert, dominated ones included.
    Both axes are scaled so that those points span [0, 1]; the distance is Euclidean, to the
    nearest point of the front. The scaling is our reading: the paper says "normalised".
    """
    low, high = front.min(axis=0), front.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    best = (pareto_front(front) - low) / span
    own = (np.column_stack([costs, accuracies]) - low) / span
    distance = np.sqrt(((own[:, None, :] - best[None, :, :]) ** 2).sum(axis=2))
    return float(distance.min(axis=1).mean())


def pareto_front(points: FloatArray) -> FloatArray:
    """The (cost, accuracy) points that no other beats: no cheaper one is as good, (k, 2)."""
    ordered = points[np.lexsort((-points[:, 1], points[:, 0]))]
    highest = np.maximum.accumulate(np.concatenate([[-np.inf], ordered[:-1, 1]]))
    return ordered[ordered[:, 1] > highest]
