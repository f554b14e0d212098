"""Vectors of texts computed once and shared by many routers."""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from coterie.errors import CoterieError, NotFittedError
from coterie.features import Encoder, Vectors

KEPT = 4  # fits whose vectors are held at once


class Known:
    """A fitted encoder and the vectors of the texts it has met."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.row_of: dict[str, int] = {}
        self.table: Vectors = np.zeros((0, 0), np.float32)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of the texts; only those never met before are encoded."""
        new = [text for text in dict.fromkeys(texts) if text not in self.row_of]
        if new:
            fresh = self.encoder.encode(new)
            start = len(self.row_of)
            self.row_of |= {text: start + place for place, text in enumerate(new)}
            self.table = fresh if start == 0 else np.concatenate([self.table, fresh])
        if not len(texts):
            return self.encoder.encode(texts)
        return self.table[[self.row_of[text] for text in texts]]


class SharedEncoder(Encoder):
    """An encoder that remembers: equal texts are fitted and encoded once, whoever asks.

    Copies share what they know, so give the same instance to every router of a comparison.
    An encoder with nothing to learn is never fitted; any other is fitted once per set of texts,
    and what the last four fits know is kept. ``name`` is that of the encoder inside.
    """

    name: ClassVar[str] = "shared"

    def __init__(self, encoder: Encoder) -> None:
        self.inner = encoder
        self.dim = encoder.dim
        self.store: OrderedDict[str, Known] = OrderedDict()
        self.known: Known | None = None
        if type(encoder).fit is Encoder.fit:
            self.known = Known(encoder)

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedEncoder:
        twin = SharedEncoder(self.inner)
        twin.store, twin.known = self.store, self.known
        return twin

    def fit(self, texts: Sequence[str]) -> Self:
        """What the encoder inside learns from these texts, or learnt from them before."""
        if type(self.inner).fit is Encoder.fit:
            return self
        digest = hashlib.sha256("\x00".join(texts).encode("utf-8", "surrogatepass")).hexdigest()
        if digest not in self.store:
            self.store[digest] = Known(copy.deepcopy(self.inner).fit(texts))
            while len(self.store) > KEPT:
                self.store.popitem(last=False)
        self.store.move_to_end(digest)
        self.known = self.store[digest]
        return self

    def encode(self, texts: Sequence[str]) -> Vectors:
        """The vectors of the encoder inside; raises NotFittedError before ``fit`` if it learns."""
        if self.known is None:
            raise NotFittedError(type(self.inner).__name__)
        return self.known.encode(texts)

    def fingerprint(self) -> str:
        """That of the encoder inside."""
        return (self.known.encoder if self.known else self.inner).fingerprint()

    def to_arrays(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Refused: routers are saved with the encoder itself."""
        raise CoterieError(
            "a shared encoder is for comparisons; fit a router of its own to save it"
        )

    @classmethod
    def from_arrays(cls, params: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Refused, see ``to_arrays``."""
        raise CoterieError("a shared encoder is never saved")
