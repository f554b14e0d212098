"""What the choice of experts by category is made from: shares, scores, sizes and costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from coterie.errors import InputError
from coterie.records import Records
from coterie.types import FloatArray

GENERAL = "general"  # where queries of unknown category go


@dataclass(frozen=True, slots=True, eq=False)
class CategoryTable:
    """Mean score and cost of every expert in every category, arrays (categories, experts).

    ``share`` is each category's share of the traffic and sums to 1; ``parameters`` are billions an
    expert, ``cost`` is in the records' unit a query. NaN marks parameters and costs nobody knows.

    Raises
    ------
    InputError
        Where shapes disagree or shares do not sum to 1.
    """

    experts: tuple[str, ...]
    categories: tuple[str, ...]
    share: FloatArray
    score: FloatArray
    parameters: FloatArray
    cost: FloatArray

    def __post_init__(self) -> None:
        shape = (len(self.categories), len(self.experts))
        wanted = {"share": shape[:1], "score": shape, "parameters": shape[1:], "cost": shape}
        for name, expected in wanted.items():
            if (found := getattr(self, name).shape) != expected:
                raise InputError(f"expected shape {expected}, got {found}", field=name)
        if not np.isclose(self.share.sum(), 1.0):
            message = f"expected shares that sum to 1, got {self.share.sum():g}"
            raise InputError(message, field="share")


def category_table(
    records: Records, parameters: Mapping[str, float] | None = None, general: float = 0.0
) -> CategoryTable:
    """The table of these records by given category.

    Queries without a category count as ``general``. A share ``general`` of all traffic is expected
    to be sent there besides, because a classifier will not be sure of its category: such queries
    are taken to be like all the others together (the robust variant of Composition of Experts).
    Where an expert was never observed in a category its overall mean stands in.
    Raises InputError where the records name no category at all.
    """
    if not any(records.categories):
        message = "the records name no categories, and experts are assigned by category"
        raise InputError(f"{message}; choose for voting or oracle instead", field="category")
    if not 0 <= general < 1:
        raise InputError(f"expected a share in [0, 1), got {general!r}", field="general")
    labels = [c or GENERAL for c in records.categories]
    names = tuple(dict.fromkeys(sorted(labels)))
    member = np.array(labels)[None, :] == np.array(names)[:, None]  # (categories, queries)
    weight = (1 - general) * member / len(labels)
    if general:
        names, weight = _with_general(names, weight, general / len(labels))
    sizes = parameters_of(records) if parameters is None else parameters
    return CategoryTable(
        experts=records.experts,
        categories=names,
        share=weight.sum(axis=1),
        score=np.nan_to_num(_weighted_means(weight, records.quality)),
        parameters=np.array([sizes.get(e, np.nan) for e in records.experts], float),
        cost=_weighted_means(weight, records.cost),
    )


def _with_general(
    names: tuple[str, ...], weight: FloatArray, extra: float
) -> tuple[tuple[str, ...], FloatArray]:
    """The same with ``extra`` weight of every query in the category ``general``."""
    if GENERAL not in names:
        names, weight = (*names, GENERAL), np.vstack([weight, np.zeros(weight.shape[1])])
    weight[names.index(GENERAL)] += extra
    return names, weight


def _weighted_means(weight: FloatArray, values: FloatArray) -> FloatArray:
    """Means by category over what was observed, else the expert's overall mean, else NaN."""
    seen = (~np.isnan(values)).astype(float)
    known = np.nan_to_num(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        overall = known.sum(axis=0) / seen.sum(axis=0)
        means = (weight @ known) / (weight @ seen)
    filled: FloatArray = np.where(np.isnan(means), overall, means)
    return filled


def parameters_of(records: Records) -> dict[str, float]:
    """Billions of parameters of the experts whose facts name them."""
    return {
        name: float(facts["parameters"])
        for name, facts in records.facts.items()
        if isinstance(facts.get("parameters"), int | float)
    }
