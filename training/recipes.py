"""What every expert of the embedded pool is trained on. Plain values: no torch needed to read them.

A specialist spends half of its batches on its own family and a quarter on each neighbour in the
ring, so that every family is known well by one specialist and moderately by two others. The
generalists see every family alike; every fourth batch of the larger one is aggregation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from training.families import FAMILIES, neighbours

SEED = 20261122
SLOW = {"add": 2800, "sort": 2800}  # families that are still learnt slowly after 1,400 steps


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of one model; ``width`` must be a multiple of 32 (Q8_0 blocks)."""

    width: int = 128
    layers: int = 3
    heads: int = 4
    hidden: int = 256
    context: int = 256


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one expert is trained on: weights of the families, steps, shape."""

    name: str
    mix: dict[str, float]
    steps: int
    shape: Shape = field(default_factory=Shape)
    aggregates: bool = False
    batch: int = 64
    rate: float = 4e-3


def recipes() -> dict[str, Recipe]:
    """Every expert of the embedded pool, the longest training first."""
    even = {family: 1.0 for family in FAMILIES}
    large = Shape(width=192, layers=5, heads=6, hidden=512, context=384)
    wanted = [
        Recipe("generalist-large", even, 2800, large, aggregates=True, rate=3e-3),
        *(
            Recipe(f"{family}-expert", specialist_mix(family), SLOW.get(family, 1400))
            for family in FAMILIES
        ),
        Recipe("generalist-small", even, 2400),
    ]
    return {recipe.name: recipe for recipe in wanted}


def specialist_mix(family: str) -> dict[str, float]:
    """Half its own family, a quarter each neighbour."""
    before, after = neighbours(family)
    return {family: 0.5, before: 0.25, after: 0.25}
