"""Metrics of the field: pure functions of arrays, one file a family.

Every definition names its source; where a paper and its code differ, both are here under names
that say so.
"""

from coterie.metrics.intervals import Interval, bootstrap_mean, paired_difference

__all__ = ["Interval", "bootstrap_mean", "paired_difference"]
