from dataclasses import replace

import numpy as np
import pytest

from coterie.errors import InputError
from coterie.policies import Recruit
from coterie.records import Records
from coterie.routers.skills import Skills
from coterie.testing import make_records
from coterie.types import Query

RECORDS = make_records(48)
NEW = make_records(30, seed=7)


def tagged(*tags: str) -> Query:
    return replace(Query.from_text("n", "whatever"), tags=tags)


def paper_world() -> Records:
    """Records whose profiles are A{algebra 10, biology 3, chemistry -6}, B{4, 8, 2}, C{-2, 1, 5}.

    Ten questions a skill; points are right minus wrong answers, the rest half right (0 points).
    """
    profiles = np.array([[10, 3, -6], [4, 8, 2], [-2, 1, 5]])
    queries, rows = [], []
    for skill, name in enumerate(("algebra", "biology", "chemistry")):
        for number in range(10):
            queries.append(replace(Query.from_text(f"{name}{number}", name), tags=(name,)))
            points = profiles[:, skill]
            rows.append(np.where(number < abs(points), (np.sign(points) + 1) / 2, 0.5))
    return Records(tuple(queries), ("A", "B", "C"), np.array(rows))


def test_profiles_and_scores_are_those_of_the_specification() -> None:
    router = Skills(annotator="tags").fit(paper_world())
    assert router.points_.tolist() == [[10, 3, -6], [4, 8, 2], [-2, 1, 5]]
    estimates = router.predict([tagged("algebra", "chemistry")])
    assert estimates.suitability is not None
    assert estimates.suitability.tolist() == [[4, 6, 3]]
    assert estimates.strength is not None
    assert estimates.strength.tolist() == [7, 14, 4]


def test_recruiting_from_it_is_as_peaked_as_the_paper_says() -> None:
    router = Skills(annotator="tags").fit(paper_world())
    queries = [replace(tagged("algebra", "chemistry"), id=f"n{i}") for i in range(2000)]
    decisions = Recruit(k=3, rule="paper").decide(queries, router.predict(queries))
    share = np.mean([e == "B" for d in decisions for e in d.experts])
    assert share == pytest.approx(0.985722, abs=0.006)


def test_a_skill_named_twice_counts_twice() -> None:
    router = Skills(annotator="tags").fit(paper_world())
    estimates = router.predict([tagged("algebra", "algebra")])
    assert estimates.suitability is not None
    assert estimates.suitability.tolist() == [[20, 8, -4]]


def test_an_unknown_skill_counts_as_the_most_similar_one_and_the_evidence_says_so() -> None:
    router = Skills(annotator="tags").fit(paper_world())
    estimates = router.predict([tagged("algebraic equations")])
    assert estimates.suitability is not None
    assert estimates.suitability.tolist() == [[10, 4, -2]]
    assert estimates.evidence == ("skills: algebraic equations (as algebra)",)


def test_a_question_without_skills_is_judged_by_overall_means() -> None:
    records = paper_world()
    estimates = Skills(annotator="tags").fit(records).predict([tagged()])
    assert estimates.suitability is not None
    assert np.isnan(estimates.suitability).all()
    np.testing.assert_allclose(estimates.quality[0], records.quality.mean(axis=0))
    assert estimates.evidence == ("no skill recognised: overall means decide",)


def test_records_without_skills_leave_the_means_even_to_tagged_questions() -> None:
    bare = replace(RECORDS, queries=tuple(replace(q, tags=()) for q in RECORDS.queries))
    router = Skills(annotator="tags").fit(bare)
    estimates = router.predict([tagged("sums"), tagged()])
    np.testing.assert_allclose(estimates.quality, [RECORDS.quality.mean(axis=0)] * 2)
    assert estimates.evidence[0] == "no skill was profiled: overall means decide"


@pytest.mark.parametrize("annotator", ["terms", "tags"])
def test_topics_go_to_their_specialists(annotator: str) -> None:
    estimates = Skills(annotator=annotator).fit(RECORDS).predict(NEW.queries)
    chosen = [estimates.experts[j] for j in estimates.quality.argmax(axis=1)]
    assert np.mean([c == t for c, t in zip(chosen, NEW.categories, strict=True)]) > 0.9


def test_quality_is_the_share_of_right_answers_shrunk_to_the_mean() -> None:
    records = paper_world()
    estimates = Skills(annotator="tags", shrinkage=2.0).fit(records).predict([tagged("algebra")])
    overall = records.quality.mean(axis=0)
    right = np.array([10.0, 7.0, 4.0])
    np.testing.assert_allclose(estimates.quality[0], (right + 2 * overall) / 12)


def test_keywords_can_be_looked_at() -> None:
    router = Skills().fit(RECORDS)
    (words,) = router.keywords([NEW.queries[0]])
    assert words
    assert set(words) <= set(router.vocabulary_)


def test_an_unknown_annotator_is_refused() -> None:
    with pytest.raises(InputError, match="'annotator': expected one of terms, tags, got 'llm'"):
        Skills(annotator="llm").fit(RECORDS)
