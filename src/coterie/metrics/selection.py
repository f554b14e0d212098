"""Whom a router chooses: shares, entropy, switches. ``chosen`` are expert columns, one a query."""

from __future__ import annotations

import numpy as np

from coterie.types import FloatArray, IntArray


def selection_shares(chosen: IntArray, experts: int) -> FloatArray:
    """Share of the queries that each expert gets, shape (experts,)."""
    shares: FloatArray = np.bincount(chosen, minlength=experts) / max(len(chosen), 1)
    return shares


def selection_entropy(shares: FloatArray) -> float:
    """Entropy of the shares in bits: 0 where one expert gets all, log2(experts) where all alike.

    A router that collapses to few experts shows here, however unsure its estimates are.
    """
    used = shares[shares > 0]
    return float(abs(-(used * np.log2(used)).sum()))


def switch_rate(chosen: IntArray, fallback: IntArray | int) -> float:
    """Share of the queries that do not go to the fallback expert (a column, or one a query)."""
    return float(np.mean(chosen != fallback))


def switch_gain(scores: FloatArray, baseline: FloatArray, switched: FloatArray) -> float:
    """Mean gain over the baseline on the queries that were switched, 0 where none was."""
    return float((scores - baseline)[switched].mean()) if np.any(switched) else 0.0


def cumulative_regret(chosen: IntArray, utility: FloatArray) -> FloatArray:
    """What was lost so far against the best expert of every query, shape (queries,).

    ``utility`` (queries, experts) holds true expected values: known in simulations only.
    """
    lost = utility.max(axis=1) - utility[np.arange(len(chosen)), chosen]
    total: FloatArray = np.cumsum(lost)
    return total
