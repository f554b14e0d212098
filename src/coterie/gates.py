"""A gate says how much caution a request wants: a logistic head on the static encoder.

Ours is trained on prompts of our own (``training/gate.py``); its card holds the error rates on
prompts held out. It is no moderation model.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from coterie.artifacts import read_artifact, write_artifact
from coterie.errors import ArtifactError
from coterie.features import StaticEncoder
from coterie.routers.gradient import sigmoid
from coterie.routers.linear import with_intercept
from coterie.types import FloatArray, Query

EMBEDDED = Path(__file__).parent / "embedded" / "gate"
REMEDY = "train it again with python -m training.gate"


class Classifier(Protocol):
    """What a safety gate asks: any classifier of requests."""

    def __call__(self, query: Query) -> float:
        """How much caution the request wants, 0 to 1; a function of the query alone."""


class Gate:
    """The chance that a request wants caution; ``coefficients`` (dim + 1,), the intercept last."""

    def __init__(self, coefficients: FloatArray) -> None:
        self.coefficients = np.asarray(coefficients, float)
        self.encoder = StaticEncoder()

    def __call__(self, query: Query) -> float:
        """The chance for the user's messages."""
        return float(self.scores([query.text])[0])

    def scores(self, texts: Sequence[str]) -> FloatArray:
        """The chances of these texts, shape (texts,)."""
        vectors = self.encoder.encode(texts)
        return sigmoid(with_intercept(vectors) @ self.coefficients)

    def save(self, folder: str | Path) -> None:
        """Write it as JSON and npz."""
        params = {"encoder": self.encoder.fingerprint()}
        write_artifact(Path(folder), "gate", params, {"coefficients": self.coefficients})

    def __repr__(self) -> str:
        """A hash of what was learnt."""
        return f"Gate({hashlib.sha256(self.coefficients.tobytes()).hexdigest()[:12]})"


def load_gate(folder: str | Path = EMBEDDED) -> Gate:
    """The gate that ``Gate.save`` wrote; raises ArtifactError for anything else."""
    params, arrays = read_artifact(Path(folder), "gate", remedy=REMEDY)
    if "coefficients" not in arrays:
        raise ArtifactError(f"damaged: its coefficients are missing; {REMEDY}", path=folder)
    gate = Gate(arrays["coefficients"])
    if gate.encoder.fingerprint() != params.get("encoder"):
        raise ArtifactError(f"made with another static encoder; {REMEDY}", path=folder)
    return gate


@functools.cache
def embedded_gate() -> Gate:
    """The gate that ships with the package, read once."""
    return load_gate()
