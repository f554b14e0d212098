"""RouterEval's metrics (Huang et al. 2025, arXiv 2503.10657), as its released code computes them.

Scores have shape (queries, experts). A router is a matrix of chances of the same shape; what it
chose is the most likely expert, the first one among equals.
"""

from __future__ import annotations

import numpy as np

from coterie.errors import InputError
from coterie.types import FloatArray, IntArray

REFERENCE = {
    "ARC": 0.852,
    "HellaSwag": 0.953,
    "MMLU": 0.864,
    "TruthfulQA": 0.669,
    "Winogrande": 0.875,
    "GSM8K": 0.92,
    "IFEval": 0.7689,
    "BBH": 0.8303,
    "GPQA": 0.397,
    "MUSR": 0.699,
    "MATH Lvl5": 0.40,
    "MMLU-Pro": 0.637,
}
"""Accuracy of the reference model by benchmark: what V_R divides by."""


def mu(scores: FloatArray, chosen: IntArray) -> float:
    """Mean score of the chosen experts (``chosen`` are column numbers, one a query)."""
    return float(scores[np.arange(len(scores)), chosen].mean())


def reference_value(mean: float, reference: float) -> float:
    """V_R: the router's mean score over that of a strong reference model."""
    return mean / reference


def best_single_value(mean: float, scores: FloatArray) -> float:
    """V_B: the router's mean score over that of the best single candidate on the same queries."""
    return mean / float(scores.mean(axis=0).max())


def classification_bias(chances: FloatArray) -> float:
    """E_p in bits: mean entropy of the router's chances, from 0 to log2(experts).

    Low where a router is sure of itself, whoever it chooses. Rows that are all 0 count 0.
    """
    logs = np.log2(np.where(chances > 0, chances, 1.0))
    return float(-(chances * logs).sum(axis=1).mean())


def oracle_chances(scores: FloatArray) -> FloatArray:
    """The oracle r_o: scores normalised a query; uniform where every candidate has 0."""
    total = scores.sum(axis=1, keepdims=True)
    uniform = 1 / scores.shape[1]
    chances: FloatArray = np.where(total > 0, scores / np.where(total > 0, total, 1.0), uniform)
    return chances


def mixed_chances(scores: FloatArray, p: float) -> FloatArray:
    """The oracle r_o(p): with probability ``p`` the oracle, else any candidate alike."""
    chances: FloatArray = p * oracle_chances(scores) + (1 - p) / scores.shape[1]
    return chances


def mixed_mu(scores: FloatArray, p: float) -> float:
    """Expected mean score of r_o(p): p times the oracle's plus 1 - p times that of all candidates.

    The released code averages 1,000 random repetitions; this is their expectation. Candidates are
    those with a score; raises InputError where no query has one.
    """
    seen = scores[~np.isnan(scores).all(axis=1)]
    if not seen.size:
        raise InputError("no score was observed, so there is no mean", field="score")
    return float(p * np.nanmax(seen, axis=1).mean() + (1 - p) * np.nanmean(seen, axis=1).mean())
