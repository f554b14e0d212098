import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.features import LexicalEncoder, StaticEncoder
from coterie.skills import (
    MOST,
    TermAnnotator,
    consensus,
    map_skills,
    parse_keywords,
    profile,
    terms,
)

WORDS = st.lists(st.lists(st.text("abc. ", max_size=3), max_size=4), max_size=5)
SUMS = ["What is 37 plus 58?", "What is 12 plus 90?", "What is 5 plus 6?"]
DATES = ["Which day is 2029-11-01?", "Which day is 2031-02-07?"]


@pytest.mark.parametrize(
    ("text", "keywords"),
    [
        ("Keywords: Algebra, number theory.", ["algebra", "number theory"]),
        ("algebra, sets", ["algebra", "sets"]),
        ("Keywords: a, b. Keywords: c", ["c"]),
        ("Keywords: algebra . , sets .", ["algebra", "sets"]),
        ("Keywords: , ., ,,", []),
        ("Keywords:", []),
        ("", []),
        ("Keywords: algebra, algebra", ["algebra", "algebra"]),
        ("Keywords: U.S. history", ["us history"]),
    ],
)
def test_keywords_are_read_from_the_last_list(text: str, keywords: list[str]) -> None:
    assert parse_keywords(text) == keywords


@given(st.text())
def test_a_keyword_is_never_empty_nor_padded(text: str) -> None:
    assert all(word and word == word.strip() and "." not in word for word in parse_keywords(text))


@pytest.mark.parametrize(
    ("samples", "kept"),
    [
        ([["a"], ["b"], ["a", "c"]], ("a",)),
        ([["b", "a"], ["a", "b"]], ("b", "a")),
        ([["a", "a"]], ("a",)),
        ([["a"], ["b"]], ()),
        ([], ()),
        ([[], []], ()),
        ([["x" * 20], ["x" * 20]], ("x" * 20,)),
        ([["x" * 21], ["x" * 21]], ()),
    ],
)
def test_a_keyword_counts_if_seen_more_than_once_and_short(
    samples: list[list[str]], kept: tuple[str, ...]
) -> None:
    assert consensus(samples) == kept


@given(WORDS)
def test_the_order_of_the_samples_decides_only_the_order_of_the_keywords(
    samples: list[list[str]],
) -> None:
    kept = consensus(samples)
    assert sorted(kept) == sorted(consensus(samples[::-1]))
    assert len(set(kept)) == len(kept)


def test_terms_forget_digits_and_repetition() -> None:
    assert terms("Add 37 + 58 and 3.5 + 2.1.") == ["add", "00", "+", "and", "0.0", "."]


def test_a_right_answer_adds_a_point_to_every_skill_and_a_wrong_one_takes_it() -> None:
    scores = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, np.nan]])
    keywords = [("algebra", "sets"), ("algebra",), ("sets",)]
    points, counts = profile(scores, keywords, ("algebra", "sets"))
    assert points.tolist() == [[0, 2], [0, -1]]
    assert counts.tolist() == [[2, 2], [2, 1]]


def test_half_a_score_adds_nothing_and_a_repeated_skill_counts_twice() -> None:
    points, counts = profile(np.array([[0.5, 1.0]]), [("a", "a")], ("a",))
    assert points.tolist() == [[0], [2]]
    assert counts.tolist() == [[2], [2]]


def test_profiles_over_no_skills_have_no_columns() -> None:
    points, counts = profile(np.ones((3, 2)), [(), (), ()], ())
    assert points.shape == counts.shape == (2, 0)


def test_a_known_keyword_maps_to_itself_and_an_unknown_one_to_the_most_similar() -> None:
    vocabulary = ("algebra", "biology", "chemistry")
    mapped = map_skills([("biology", "chemical"), ("algebraic",)], vocabulary, StaticEncoder())
    assert mapped == [[1, 2], [0]]


def test_two_keywords_that_meet_in_one_skill_count_twice() -> None:
    mapped = map_skills([("chemical", "chemistry")], ("algebra", "chemistry"), StaticEncoder())
    assert mapped == [[1, 1]]


@pytest.mark.parametrize("vocabulary", [("number theory", "theory number"), ("theory number",)])
def test_ties_go_to_the_first_skill_of_the_vocabulary(vocabulary: tuple[str, ...]) -> None:
    assert map_skills([("number  theory",)], vocabulary, StaticEncoder()) == [[0]]
    assert map_skills([("zzz",)], vocabulary, LexicalEncoder().fit(["abc"])) == [[0]]


@pytest.mark.parametrize("keywords", [[], [()], [("algebra",)]])
def test_without_a_vocabulary_nothing_is_mapped(keywords: list[tuple[str, ...]]) -> None:
    assert map_skills(keywords, (), StaticEncoder()) == [[] for _ in keywords]


def test_mapping_does_not_depend_on_the_other_questions() -> None:
    keywords = [("cells",), ("molecules", "atoms"), ("equation",), ()]
    vocabulary = ("algebra", "biology", "chemistry")
    together = map_skills(keywords, vocabulary, StaticEncoder())
    alone = [map_skills([words], vocabulary, StaticEncoder())[0] for words in keywords]
    assert together == alone


def test_terms_shared_by_near_questions_are_the_keywords() -> None:
    annotator = TermAnnotator(StaticEncoder()).fit(SUMS + DATES)
    (words,) = annotator.keywords(["What is 77 plus 11?"])
    assert "plus" in words
    assert len(words) <= MOST


def test_an_annotator_without_questions_or_likeness_gives_no_keywords() -> None:
    assert TermAnnotator(StaticEncoder()).keywords(["anything"]) == [()]
    assert TermAnnotator(StaticEncoder()).fit(["only this"]).keywords(["only this"]) == [()]


def test_a_restored_annotator_gives_the_same_keywords() -> None:
    encoder = StaticEncoder()
    annotator = TermAnnotator(encoder).fit(SUMS + DATES)
    again = TermAnnotator.restore(encoder, *annotator.state())
    assert again.keywords(SUMS) == annotator.keywords(SUMS)
