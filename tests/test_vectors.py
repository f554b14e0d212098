from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from coterie.errors import CoterieError, NotFittedError
from coterie.features import LexicalEncoder, StaticEncoder, Vectors
from coterie.vectors import SharedEncoder

TEXTS = ["add 2 and 3", "sort 3 1 2", "add 7 and 9"]


class Counting(StaticEncoder):
    """Counts the texts it encodes."""

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.encoded += len(texts)
        return super().encode(texts)


def test_equal_texts_are_encoded_once_whoever_asks() -> None:
    shared = SharedEncoder(inner := Counting())
    first = shared.encode(TEXTS)
    twin = deepcopy(shared).fit(TEXTS)
    assert (twin.encode([*TEXTS[::-1], "new"])[:3] == first[::-1]).all()
    assert inner.encoded == 4


def test_the_vectors_are_those_of_the_encoder_inside() -> None:
    lexical = LexicalEncoder(dim=4).fit(TEXTS)
    shared = SharedEncoder(LexicalEncoder(dim=4)).fit(TEXTS)
    assert np.array_equal(shared.encode(["add 1"]), lexical.encode(["add 1"]))
    assert shared.encode([]).shape == (0, 4)
    assert shared.fingerprint() == lexical.fingerprint()


def test_copies_that_learn_from_other_texts_do_not_disturb_each_other() -> None:
    shared = SharedEncoder(LexicalEncoder(dim=4))
    one, other = deepcopy(shared).fit(TEXTS), deepcopy(shared).fit(TEXTS[:2])
    assert one.fingerprint() != other.fingerprint()
    assert deepcopy(shared).fit(TEXTS).known is one.known
    for text in "abcde":
        deepcopy(shared).fit([text])
    assert deepcopy(shared).fit(TEXTS).fingerprint() == one.fingerprint()


def test_what_learns_must_be_fitted_first() -> None:
    with pytest.raises(NotFittedError, match="LexicalEncoder"):
        SharedEncoder(LexicalEncoder()).encode(TEXTS)


@pytest.mark.parametrize("refused", [lambda e: e.to_arrays(), lambda e: e.from_arrays({}, {})])
def test_a_shared_encoder_is_never_saved(refused: Any) -> None:
    with pytest.raises(CoterieError, match="shared encoder"):
        refused(SharedEncoder(StaticEncoder()))
