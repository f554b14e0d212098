"""What encoders with pinned weights share: reading, blank texts, fingerprints, missing extras."""

from __future__ import annotations

import hashlib
import importlib.util
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from coterie.errors import ArtifactError, CoterieError
from coterie.features import PackagedEncoder, Vectors, _unit, readable


class PinnedEncoder(PackagedEncoder):
    """An encoder whose weights another package ships; they are checked against pinned hashes.

    Nothing is downloaded. ``pins`` is all that the vectors depend on: hashes of weights and the
    way they are used.
    """

    pins: ClassVar[tuple[str, ...]]

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of shape (texts, dim), each of its text alone; a blank text gives zeros.

        Raises CoterieError where the package is missing, ArtifactError where it holds other
        weights.
        """
        kept = [text.replace("\0", " ") for text in readable(texts)]
        vectors = np.zeros((len(kept), self.dim), dtype=np.float32)
        rows = [row for row, text in enumerate(kept) if text.strip()]
        if rows:
            vectors[rows] = self._embed([kept[row] for row in rows])
        return _unit(vectors)

    @abstractmethod
    def _embed(self, texts: list[str]) -> Vectors:
        """Vectors of texts that are not blank, of any length."""

    def fingerprint(self) -> str:
        """A hash of the pins; the weights are held to them when they are loaded."""
        return hashlib.sha256("\n".join(self.pins).encode()).hexdigest()


def locate(package: str, file: str, extra: str) -> Path:
    """The path of a file that an installed package ships; the package itself is not imported."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise missing(package, extra)
    return Path(spec.origin).parent / file


def missing(package: str, extra: str) -> CoterieError:
    """The error of an extra that is not installed, with the command that installs it."""
    return CoterieError(
        f"the {extra} encoder needs the package {package}, which is not installed: "
        f"pip install 'coterie[{extra}]'"
    )


def verified(path: Path, sha256: str, extra: str) -> Path:
    """The path, its content checked; ArtifactError names file, expected and found hash."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        why = f"cannot be read: {error.strerror}; {_reinstall(extra)}"
        raise ArtifactError(why, path=path) from error
    if found != sha256:
        message = f"expected sha256 {sha256}, got {found}; {_reinstall(extra)}"
        raise ArtifactError(message, path=path)
    return path


def _reinstall(extra: str) -> str:
    return f"reinstall it: pip install --force-reinstall 'coterie[{extra}]'"
