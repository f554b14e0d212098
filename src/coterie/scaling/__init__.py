"""Scaling up the number of candidate experts, as RouterEval measures it (arXiv 2503.10657)."""

from coterie.scaling.curves import Curve, scaling_curve
from coterie.scaling.groups import SIZES, Group, candidate_groups, feasible_sizes
from coterie.scaling.matrix import ScoreMatrix
from coterie.scaling.splitting import split_rows

__all__ = [
    "SIZES",
    "Curve",
    "Group",
    "ScoreMatrix",
    "candidate_groups",
    "feasible_sizes",
    "scaling_curve",
    "split_rows",
]
