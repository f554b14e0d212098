"""Questions that repeat each other, word for word or nearly.

Nearly: the Jaccard similarity of the two texts' sets of six-byte sequences is at least ``ALIKE``,
sequences that more than a few texts have (templates, option letters) left out. Candidates come from
MinHash signatures in bands (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive
Datasets, section 3.4) and are checked exactly. Ten bands of four find a pair at .8 with probability
.995.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from coterie.answers import normalise

ALIKE = 0.8
WIDTH = 6  # bytes of a sequence
BANDS, ROWS = 10, 4
LEAST = 10  # rare sequences that a text must have to be compared
COMMON = 0.005  # share of texts from which on a sequence is no longer rare
CROWD = 30  # texts of one band value that are compared pair by pair
MOST = 20_000_000  # sequences kept; beyond, every k-th by hash
HASH_BITS = 40

Hashes = NDArray[np.uint64]


class Twins:
    """Groups of rows whose texts repeat; rows without a text are in none."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._copies: dict[str, list[int]] = defaultdict(list)
        for row, text in enumerate(texts):
            if text.strip():
                self._copies[normalise(unicodedata.normalize("NFKC", text))].append(row)
        self._groups = {rows[0]: rows for rows in self._copies.values()}

    @property
    def first(self) -> list[int]:
        """The first row of every different text."""
        return list(self._groups)

    @property
    def exact(self) -> list[list[int]]:
        """Rows of equal texts, where there is more than one."""
        return [rows for rows in self._groups.values() if len(rows) > 1]

    def copies(self, first: int) -> list[int]:
        """Every row with the text of this first one."""
        return self._groups[first]

    @cached_property
    def near(self) -> list[list[int]]:
        """First rows of texts that nearly repeat each other, linked where a chain of pairs does."""
        first = np.array(self.first, np.intp)
        groups = near_groups(list(self._copies))
        return [first[group].tolist() for group in groups]


def near_groups(texts: Sequence[str]) -> list[list[int]]:
    """Positions of texts that are alike, in groups of at least two."""
    hashes, starts = sequences(texts)
    pairs = [pair for pair in sorted(candidates(hashes, starts)) if alike(hashes, starts, *pair)]
    if not pairs:
        return []
    left, right = np.array(pairs).T
    graph = coo_array((np.ones(len(pairs)), (left, right)), shape=(len(texts), len(texts)))
    _, label = connected_components(graph, directed=False)
    groups: dict[int, list[int]] = defaultdict(list)
    for position in np.unique([left, right]).tolist():
        groups[int(label[position])].append(position)
    return list(groups.values())


def sequences(texts: Sequence[str]) -> tuple[Hashes, NDArray[np.intp]]:
    """Sorted hashes of each text's rare sequences, and where each text's begin (and the end)."""
    encoded = [re.sub(r"\W+", " ", text.casefold()).encode("utf-8", "replace") for text in texts]
    step = np.uint64(1 + sum(map(len, encoded)) // MOST)
    parts = [_keys(number, text, step) for number, text in enumerate(encoded)]
    keys = np.concatenate([np.empty(0, np.uint64), *parts])
    codes = keys & np.uint64((1 << HASH_BITS) - 1)
    _, inverse, count = np.unique(codes, return_inverse=True, return_counts=True)
    rare = count[inverse] <= max(10, int(COMMON * len(texts)))
    keys, codes = keys[rare], codes[rare]
    owners = keys >> np.uint64(HASH_BITS)
    return codes, np.searchsorted(owners, np.arange(len(texts) + 1, dtype=np.uint64))


def _keys(number: int, text: bytes, step: np.uint64) -> Hashes:
    """One text's different sequences, hashed, with its number in the upper bits."""
    if len(text) < WIDTH:
        return np.empty(0, np.uint64)
    values = np.frombuffer(text, np.uint8).astype(np.uint64)
    packed = values[: len(values) - WIDTH + 1].copy()
    for shift in range(1, WIDTH):
        packed = (packed << np.uint64(8)) | values[shift : len(values) - WIDTH + 1 + shift]
    hashed: Hashes = np.unique(mixed(packed) >> np.uint64(64 - HASH_BITS))
    kept: Hashes = hashed[hashed % step == 0] | np.uint64(number << HASH_BITS)
    return kept


def mixed(values: Hashes, seed: int = 0) -> Hashes:
    """A well mixed 64-bit hash (the finaliser of SplitMix64) for each value."""
    found: Hashes = values + np.uint64(0x9E3779B97F4A7C15 * (seed + 1) % (1 << 64))
    found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(found ^ (found >> np.uint64(31)), np.uint64)


def candidates(hashes: Hashes, starts: NDArray[np.intp]) -> set[tuple[int, int]]:
    """Pairs of texts whose signatures agree in a band."""
    long = np.flatnonzero(np.diff(starts) >= LEAST)
    found: set[tuple[int, int]] = set()
    if long.size < 2:
        return found
    kept = np.concatenate([hashes[starts[t] : starts[t + 1]] for t in long])
    offsets = np.concatenate([[0], np.cumsum(np.diff(starts)[long])[:-1]])
    for band in range(BANDS):
        seeds = range(band * ROWS, (band + 1) * ROWS)
        signature = [np.minimum.reduceat(mixed(kept, seed), offsets) for seed in seeds]
        found.update(_together(np.column_stack(signature), long))
    return found


def _together(signature: Hashes, texts: NDArray[np.intp]) -> Iterator[tuple[int, int]]:
    """Pairs of texts with one signature; of crowds only neighbours and pairs with the first."""
    _, inverse = np.unique(signature, axis=0, return_inverse=True)
    order = np.argsort(inverse.ravel(), kind="stable")
    edges = np.flatnonzero(np.diff(inverse.ravel()[order])) + 1
    for group in np.split(texts[order], edges):
        members = group.tolist()
        if len(members) <= CROWD:
            yield from combinations(members, 2)
        else:
            yield from pairwise(members)
            yield from ((members[0], other) for other in members[2:])


def alike(hashes: Hashes, starts: NDArray[np.intp], one: int, other: int) -> bool:
    """Whether two texts share enough of their rare sequences."""
    a, b = (hashes[starts[text] : starts[text + 1]] for text in (one, other))
    if min(len(a), len(b)) < ALIKE * max(len(a), len(b)):
        return False
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared >= ALIKE * (len(a) + len(b) - shared)
