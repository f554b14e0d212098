import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.layout import NAMES, layout


def measure(text: str, name: str) -> float:
    return float(layout([text])[0, NAMES.index(name)])


@pytest.mark.parametrize(
    ("name", "with_it", "without"),
    [
        ("options", "Which?\nA. one\nB. two", "Which one, A or B?"),
        ("fractions", r"What is $\frac{1}{2}$?", "What is a half?"),
        ("code", "def f(x):\n    return x", "a definition of f"),
        ("negation", "Which is NOT true?", "Which is true?"),
        ("ends as a question", "Why?  ", "Say why."),
        ("lines", "a\nb", "a b"),
        ("years", "born in 1865", "born in 18650"),
        ("beyond ASCII", "naïve", "naive"),
    ],
)
def test_a_measure_tells_texts_apart(name: str, with_it: str, without: str) -> None:
    assert measure(with_it, name) > measure(without, name)


def test_there_is_a_row_per_text_and_a_column_per_measure() -> None:
    assert layout(["a", "", "b"]).shape == (3, len(NAMES))
    assert layout([]).shape == (0, len(NAMES))


@given(st.text(max_size=200))
def test_every_text_has_finite_measures(text: str) -> None:
    assert np.isfinite(layout([text])).all()
