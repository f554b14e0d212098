"""Synthetic scores of RouterEval's size, from an item response model, and in RouterEval's layout.

    python -m coterie.synthetic DIR --experts 8567 --items 24000

An expert has a general ability and one for each of several latent skills; an item has a difficulty,
a discrimination and a main skill. The score of expert j on item i is 1 with probability

    sigmoid(a_i (general_j + skills_j . loading_i - difficulty_i))

and a fractional score is that probability with logistic noise inside the sigmoid. An item's
vector holds its loading and its difficulty under noise, and its prompt holds words of its skills,
so that a router can learn something, but not everything.
"""

from __future__ import annotations

import argparse
import functools
import json
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie.errors import CoterieError, InputError
from coterie.files import replace_file
from coterie.scaling import ScoreMatrix, candidate_groups, feasible_sizes, split_rows
from coterie.types import FloatArray, IntArray, derive_seed

BLOCK = 512  # items whose scores are drawn together; part of what a seed means
EASY, HARD = (3, 5), (10, 100, 1000)
SCORES, VECTORS, PROMPTS, CARD = "scores.npy", "embeddings.npy", "prompts.npy", "card.json"


@dataclass(frozen=True)
class World:
    """A synthetic population of experts and items, a function of its fields alone.

    Scores are made block by block when asked for: uint8 of 0 and 1, or float16 where
    ``fractional``. ``dim`` is the length of the items' vectors (RouterEval's have 768).
    """

    experts: int = 8567
    items: int = 24_000
    skills: int = 8
    dim: int = 768
    fractional: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("experts", "items", "skills", "dim"):
            if getattr(self, name) < 1:
                raise InputError(f"expected at least 1, got {getattr(self, name)}", field=name)

    @property
    def names(self) -> tuple[str, ...]:
        """One a column."""
        return tuple(f"model-{number:05d}" for number in range(self.experts))

    @functools.cached_property
    def abilities(self) -> FloatArray:
        """General ability plus each skill's, shape (experts, skills)."""
        generator = self._generator("abilities")
        general = generator.normal(0.0, 1.0, (self.experts, 1))
        return general + generator.normal(0.0, 0.8, (self.experts, self.skills))

    @functools.cached_property
    def main_skills(self) -> IntArray:
        """Each item's main skill, its category, shape (items,)."""
        return self._generator("main skills").integers(0, self.skills, self.items)

    @functools.cached_property
    def loadings(self) -> FloatArray:
        """How much each skill counts for each item; rows sum to 1, 0.6 to 1 on the main skill."""
        generator = self._generator("loadings")
        rest = generator.dirichlet(np.ones(self.skills), self.items)
        weight = generator.uniform(0.6, 1.0, (self.items, 1))
        mixed: FloatArray = weight * np.eye(self.skills)[self.main_skills] + (1 - weight) * rest
        return mixed

    @functools.cached_property
    def difficulties(self) -> FloatArray:
        """Shape (items,); an item of difficulty 0 is a coin toss for the average expert."""
        return self._generator("difficulties").normal(0.0, 1.2, self.items)

    @functools.cached_property
    def discriminations(self) -> FloatArray:
        """Shape (items,); how steeply the chance of success rises with ability."""
        return self._generator("discriminations").lognormal(0.3, 0.3, self.items)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """The scores from the first item to the last, at most 512 items (rows) a block."""
        for start in range(0, self.items, BLOCK):
            yield self._block(start, min(start + BLOCK, self.items))

    def scores(self) -> NDArray[Any]:
        """All scores at once, shape (items, experts)."""
        return np.concatenate(list(self.blocks()))

    def vectors(self) -> NDArray[np.float32]:
        """Unit vectors of the items, shape (items, dim)."""
        generator = self._generator("vectors")
        known = np.hstack([self.loadings, 0.3 * self.difficulties[:, None]])
        directions = generator.normal(0.0, 1.0, (self.skills + 1, self.dim))
        noise = generator.standard_normal((self.items, self.dim), dtype=np.float32)
        rows = (known @ directions).astype(np.float32) + noise
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    def prompts(self) -> tuple[str, ...]:
        """A text an item: eight words of its skills, more of those that count more."""
        generator = self._generator("prompts")
        bounds = self.loadings.cumsum(axis=1)[:, None]
        drawn = (generator.random((self.items, 8))[:, :, None] > bounds).sum(axis=2)
        words = generator.integers(0, 40, drawn.shape)
        topics = np.minimum(drawn, self.skills - 1)
        spelt = np.char.add(np.char.add(_letters(topics), "o"), _letters(words))
        return tuple(f"item {row}: {' '.join(line)}" for row, line in enumerate(spelt))

    def _generator(self, *what: object) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.seed, *what))

    def _block(self, start: int, stop: int) -> NDArray[Any]:
        rows = slice(start, stop)
        ability = self.loadings[rows].astype(np.float32) @ self.abilities.T.astype(np.float32)
        ability -= self.difficulties[rows, None].astype(np.float32)
        ability *= self.discriminations[rows, None].astype(np.float32)
        drawn = self._generator("scores", start).random(ability.shape, dtype=np.float32)
        if self.fractional:
            drawn = np.clip(drawn, 1e-6, 1 - 1e-6)
            ability += np.log(drawn / (1 - drawn))
        chance = 0.5 * (1 + np.tanh(0.5 * ability))
        if self.fractional:
            return np.asarray(chance, np.float16)
        return np.asarray(drawn < chance, np.uint8)


def write(world: World, folder: str | Path) -> None:
    """Write scores, vectors and prompts as ``.npy`` and a card as JSON; memory stays flat.

    The card is written last, so a folder with a card is complete. Raises CoterieError where the
    folder already holds a card or cannot be written.
    """
    target = Path(folder)
    if (target / CARD).exists():
        raise CoterieError(f"{target} already holds a synthetic world; choose another name")
    scratch = target / f".{SCORES}"
    try:
        target.mkdir(parents=True, exist_ok=True)
        kind = np.float16 if world.fractional else np.uint8
        with scratch.open("wb") as file:
            _write_header(file, (world.items, world.experts), np.dtype(kind))
            for block in world.blocks():
                file.write(block.tobytes())
        scratch.replace(target / SCORES)
        np.save(target / VECTORS, world.vectors())
        np.save(target / PROMPTS, np.array(world.prompts()))
        np.save(target / "categories.npy", world.main_skills)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise CoterieError(f"{target}: cannot be written: {error.strerror or error}") from None
    replace_file(target / CARD, json.dumps(asdict(world), indent=1) + "\n")


def write_router_dataset(
    path: str | Path, world: World, sizes: Sequence[int] | None = None
) -> None:
    """Write the world as RouterEval's ``{dataset}_router_dataset.pkl``: dicts, arrays, strings.

    ``sizes`` are the group sizes, RouterEval's 3, 5 (easy), 10, 100 and 1000 (hard) by default, as
    far as there are experts enough. Needs all scores in memory, so it is meant for small worlds.
    Only writing uses pickle here; reading such files is for ``coterie records import``.
    """
    scores = world.scores()
    matrix = ScoreMatrix(scores)
    wanted = feasible_sizes(matrix, sizes or EASY + HARD)
    parts = dict(zip(("train", "val", "test"), split_rows(world.main_skills), strict=True))
    data: dict[str, Any] = {"easy": {m: {} for m in wanted if m in EASY}}
    data["hard"] = {m: {} for m in wanted if m not in EASY}
    for group in candidate_groups(matrix, wanted, seed=world.seed):
        chosen = scores[:, group.members].astype(np.float64)
        data["easy" if group.size in EASY else "hard"][group.size][group.kind] = {
            "data": {f"{part}_score": chosen[rows] for part, rows in parts.items()},
            "model": np.array([world.names[j] for j in group.members]),
        }
    vectors, prompts = world.vectors(), np.array(world.prompts())
    data["split_index"] = {f"{part}_indices": rows for part, rows in parts.items()}
    data["embedding"] = {f"{part}_embed": vectors[rows] for part, rows in parts.items()}
    data["prompt"] = {f"{part}_prompt": prompts[rows] for part, rows in parts.items()}
    replace_file(path, pickle.dumps(data, protocol=4))


def _letters(numbers: IntArray) -> NDArray[np.str_]:
    """A consonant-vowel syllable pair for every number below 400."""
    syllables = np.array([c + v for c in "bdfgklmnprstvzhjcwxy" for v in "aeiu"])
    return np.char.add(syllables[numbers % 80], syllables[(7 * numbers + 3) % 80])


def _write_header(file: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, facts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a world from the command line."""
    parser = argparse.ArgumentParser(prog="python -m coterie.synthetic", description=write.__doc__)
    parser.add_argument("folder", type=Path)
    for name, default in (("experts", 8567), ("items", 24_000), ("skills", 8), ("dim", 768)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fractional", action="store_true", help="float16 instead of 0 and 1")
    parser.add_argument("--routereval", action="store_true", help="also synthetic_router_dataset")
    args = vars(parser.parse_args(arguments))
    folder, layout = args.pop("folder"), args.pop("routereval")
    world = World(**args)
    write(world, folder)
    if layout:
        write_router_dataset(folder / "synthetic_router_dataset.pkl", world)


if __name__ == "__main__":
    main()
