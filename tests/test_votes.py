from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coterie.answers import choice, whole
from coterie.errors import ArtifactError, InputError, NotRecordedError
from coterie.records import Records
from coterie.types import Completion, Decision, Query
from coterie.votes import Ballot, LearnedVote, learn_vote, load_vote

EXPERTS = ("careful", "hasty", "echo")
DECISION = Decision("recruit", EXPERTS, (0.6, 0.6, 0.6))


def world(queries: int = 120) -> Records:
    """``careful`` is right on sums and wrong on products; the others agree with each other.

    So a majority is right on products alone, a vote that reads the question on both.
    """
    generator = np.random.default_rng(0)
    asked, texts, scores = [], [], []
    for row in range(queries):
        a, b = generator.integers(10, 99, 2)
        is_sum = row % 2 == 0
        asked.append(
            Query.from_text(f"q{row}", f"What is {a} {'plus' if is_sum else 'times'} {b}?")
        )
        right, wrong = str(a + b if is_sum else a * b), str(a - b)
        texts.append([right, wrong, wrong] if is_sum else [wrong, right, right])
        scores.append([1.0, 0.0, 0.0] if is_sum else [0.0, 1.0, 1.0])
    return Records(tuple(asked), EXPERTS, np.array(scores), texts=np.array(texts, object))


def learnt(records: Records) -> LearnedVote:
    return learn_vote(records, [DECISION] * len(records), rounds=20)


def believed(vote: LearnedVote, records: Records, row: int) -> float:
    """The score of the expert that the vote believes."""
    completions = [records.completion(row, name) for name in EXPERTS]
    assert all(completions)
    answer = vote(records.queries[row], completions, DECISION.weights, 0)  # type: ignore[arg-type]
    return float(records.quality[row, EXPERTS.index(answer.expert)])


def test_a_learnt_vote_knows_when_the_minority_is_right() -> None:
    records = world()
    vote, new = learnt(records.take(range(80))), range(80, 120)
    assert np.mean([believed(vote, records, row) for row in new]) > 0.95


def test_a_saved_vote_believes_the_same_answers(tmp_path: Path) -> None:
    records = world()
    vote = learnt(records)
    vote.save(tmp_path)
    again = load_vote(str(tmp_path))
    assert repr(again) == repr(vote)
    rows = range(0, 120, 7)
    assert [believed(vote, records, r) for r in rows] == [believed(again, records, r) for r in rows]


def test_a_vote_is_refused_where_answers_are_read_otherwise(tmp_path: Path) -> None:
    learnt(world()).save(tmp_path)
    assert load_vote(str(tmp_path), whole).extract is whole
    with pytest.raises(ArtifactError, match="read by 'whole', the pool reads by 'choice'"):
        load_vote(str(tmp_path), choice)


def test_a_folder_without_a_vote_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no vote here"):
        load_vote(str(tmp_path))


def test_answers_that_agree_need_no_trees() -> None:
    vote = learnt(world())
    said = [Completion(name, " 42 ") for name in EXPERTS]
    assert vote(Query.from_text("q", "?"), said, (0.2, 0.9, 0.3), 0) is said[1]


def test_failures_are_not_candidates() -> None:
    vote = learnt(world())
    failed = Completion("careful", error="down", finish_reason="error")
    said = Completion("hasty", "7")
    assert vote(Query.from_text("q", "?"), [failed, said], (0.9, 0.1), 0) is said
    assert vote(Query.from_text("q", "?"), [failed], (0.9,), 0).failed


def test_a_ballot_groups_equal_answers_in_order_of_appearance() -> None:
    said = [Completion("a", "Yes."), Completion("b", "no"), Completion("c", "yes")]
    ballot = Ballot.of(Query.from_text("q", "?"), said, (0.1, 0.5, 0.9), whole)
    assert (ballot.candidates, ballot.given) == (("yes", "no"), (0, 1, 0))
    assert ballot.speaker(0) is said[2]


def test_records_without_disagreement_teach_nothing() -> None:
    records = world(10)
    same = replace(records, texts=np.full((10, 3), "1", object))
    with pytest.raises(InputError, match="nothing to learn from"):
        learnt(same)


def test_an_answer_that_was_not_recorded_is_named() -> None:
    records = world(10)
    records.texts[3, 1] = None
    with pytest.raises(NotRecordedError, match="no answer of 'hasty' to 'q3'"):
        learnt(records)
