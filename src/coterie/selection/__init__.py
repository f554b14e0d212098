"""Which experts to own: under a budget for routing by category, or by number for a vote."""

from coterie.selection.mapping import Choice, Limits, choose, frontier
from coterie.selection.subsets import Subset, choose_subset
from coterie.selection.table import CategoryTable, category_table, parameters_of
from coterie.selection.validation import Marginal, Validation, cross_validate, marginal_values

__all__ = [
    "CategoryTable",
    "Choice",
    "Limits",
    "Marginal",
    "Subset",
    "Validation",
    "category_table",
    "choose",
    "choose_subset",
    "cross_validate",
    "frontier",
    "marginal_values",
    "parameters_of",
]
