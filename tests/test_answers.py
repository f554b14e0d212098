import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.answers import EXTRACTORS, Extractor, extractor, normalise, score, whole
from coterie.errors import PluginError


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("whole", "  95 \n", "95"),
        ("arrow", "37 + 58 => 90 => 95", "95"),
        ("arrow", "95", "95"),
        ("arrow", "37 + 58 =>", ""),
        ("choice", "The answer is (C).", "C"),
        ("choice", "(A) or (B)? (B) it is", "B"),
        ("choice", "C) rather than D", "C"),
        ("choice", "between B and D, D", "D"),
        ("choice", "(K) and no other", "N/A"),
        ("choice", "", "N/A"),
        ("boxed", r"\boxed{1} then \boxed{2}", "2"),
        ("boxed", r"\boxed{1} then \fbox{\sqrt{2}}", r"\sqrt{2}"),
        ("boxed", r"\boxed{\boxed{5}}", "5"),
        ("boxed", r"\boxed{never closed", r"\boxed{never closed"),
        ("boxed", "no box", "no box"),
        ("number", "3 boxes hold 1,200 pens.", "1200"),
        ("number", "about -2.5", "-2.5"),
        ("number", "it is 7.", "7"),
        ("number", "none at all", "none at all"),
    ],
)
def test_an_extractor_finds_the_last_answer(name: str, text: str, found: str) -> None:
    assert extractor(name)(text) == found


@pytest.mark.parametrize("extract", EXTRACTORS.values(), ids=list(EXTRACTORS))
@given(text=st.text())
def test_an_extractor_makes_a_text_of_any_text(extract: Extractor, text: str) -> None:
    assert isinstance(extract(text), str)


def test_an_unknown_extractor_brings_the_list() -> None:
    with pytest.raises(PluginError, match="'box'; there are whole, arrow, choice, boxed, number"):
        extractor("box")


@pytest.mark.parametrize("text", ["936 inches", " 936  Inches. ", "936\ninches .", "936 INCHES"])
def test_answers_that_differ_in_form_alone_are_equal(text: str) -> None:
    assert normalise(text) == "936 inches"
    assert score(text, "936 inches", whole) == 1.0


@given(st.text())
def test_normalising_twice_changes_nothing_but_further_full_stops(text: str) -> None:
    once = normalise(text)
    assert once == once.strip()
    assert normalise(once + ".") == once


@pytest.mark.parametrize("text", ["", "936 centimetres", "1936 inches"])
def test_other_answers_score_nothing(text: str) -> None:
    assert score(text, "936 inches", whole) == 0.0
