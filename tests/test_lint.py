import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from coterie.errors import InputError
from coterie.lint import SERIOUS, Finding, lint
from coterie.lint.alignment import misaligned
from coterie.lint.twins import Twins
from coterie.records import Records
from coterie.types import Query

LETTERS = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
WORDS = np.array([a + b + c for a in LETTERS for b in LETTERS for c in ("n", "r", "st")])


def texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(8, 40, count)
    return [" ".join(rng.choice(WORDS, size)) for size in lengths]


def records(quality: Any, said: list[str] | None = None, **more: Any) -> Records:
    quality = np.asarray(quality, float)
    said = texts(len(quality)) if said is None else said
    queries = tuple(Query.from_text(f"q{n}", text) for n, text in enumerate(said))
    return Records(queries, tuple(f"e{n}" for n in range(quality.shape[1])), quality, **more)


def difficult(count: int = 2400, experts: int = 8, seed: int = 0) -> Records:
    """Like MMLU-Pro: 14 categories, binary scores of experts that agree on what is hard."""
    rng = np.random.default_rng(seed)
    category = np.sort(rng.integers(0, 14, count))
    ability, bent = rng.normal(0, 1, experts), rng.normal(0, 0.5, (14, experts))
    logits = ability + bent[category] - rng.normal(0, 1.8, count)[:, None]
    quality = rng.random((count, experts)) < 1 / (1 + np.exp(-logits))
    made = records(quality)
    queries = zip(made.queries, category, strict=True)
    return replace(made, queries=tuple(replace(q, category=str(c)) for q, c in queries))


def found(made: Records, check: str, split: list[str] | None = None) -> Finding | None:
    return next((f for f in lint(made, split) if f.check == check), None)


def said(made: Records, check: str, split: list[str] | None = None) -> str:
    finding = found(made, check, split)
    assert finding is not None
    return finding.message


# scores


def test_clean_records_raise_nothing() -> None:
    made = records([[1.0, 0.5]] * 60, cost=np.ones((60, 2)))
    quality = np.random.default_rng(0).random((60, 2))
    assert lint(replace(made, quality=quality)) == []


def test_ties_count_rows_whose_best_is_shared() -> None:
    made = records([[1, 1, 0], [1, 0, 0], [0.5, 0.5, np.nan], [1, np.nan, np.nan]])
    assert "2 of 3 (66.7%)" in said(made, "ties")
    assert found(made, "ties").examples == ("q0", "q2")  # type: ignore[union-attr]


def test_agreement_says_how_many_all_fail_and_all_solve() -> None:
    made = records([[0, 0], [0, 0], [1, 1], [1, 0], [1, np.nan]])
    assert "3 of 4 (75.0%) questions (all 0 in 2, all 1 in 1)" in said(made, "all agree")


def test_constant_experts_are_named() -> None:
    quality = np.random.default_rng(0).integers(0, 2, (50, 3)).astype(float)
    quality[:, 1] = 0
    assert "e1 (0 in 50)" in said(records(quality), "constant experts")
    assert found(records(quality[:9]), "constant experts") is None


def test_experts_with_few_scores_are_named_fewest_first() -> None:
    quality = np.random.default_rng(0).random((100, 3))
    quality[10:, 0] = quality[3:, 2] = np.nan
    assert "2 of 3 experts have fewer than 50 scores: e2 (3), e0 (10)" in said(
        records(quality), "few observations"
    )


def test_missing_cost_counts_observed_scores_only() -> None:
    quality = [[1, 0], [np.nan, 1]]
    assert said(records(quality), "missing cost").startswith("No cost is recorded")
    cost = np.array([[1, np.nan], [np.nan, 1]])
    assert "1 of 3 scores (33.3%)" in said(records(quality, cost=cost), "missing cost")
    assert found(records(quality, cost=np.ones((2, 2))), "missing cost") is None


# texts


def test_questions_without_text_are_counted_and_are_no_duplicates() -> None:
    made = records(np.eye(3), ["", "  ", "a question"])
    assert "2 of 3" in said(made, "no text")
    assert found(made, "duplicates") is None


def test_duplicates_ignore_case_space_and_width() -> None:
    made = records([[1, 0], [1, 0], [0, 1]], ["What  is it?", "what is ｉt?", "Other"])
    assert "1 of 3 questions (33.3%) repeat another word for word, 0 of 1" in said(
        made, "duplicates"
    )
    torn = replace(made, quality=np.array([[1, 0], [0, 0], [0, 1]], float))
    assert "1 of 1 with other scores" in said(torn, "duplicates")


def test_near_duplicates_are_grouped() -> None:
    listed = texts(300)
    listed[7], listed[9] = listed[3] + " ure", "ain " + listed[3]
    made = records(np.random.default_rng(0).random((300, 2)), listed)
    assert "2 of 300 different questions" in said(made, "near duplicates")
    assert Twins(listed).near == [[3, 7, 9]]


def test_a_shared_template_makes_no_near_duplicates() -> None:
    template = "You are given a function and an input to it. Complete the assertion with care: "
    assert Twins([template + text for text in texts(400)]).near == []


def test_a_leak_counts_questions_on_both_sides() -> None:
    listed = texts(200)
    listed[150], listed[151] = listed[0], listed[1] + " x"
    listed[2] = listed[3]
    made = records(np.random.default_rng(0).random((200, 2)), listed)
    split = ["train"] * 100 + ["test"] * 100
    message = said(made, "leak", split)
    assert message.startswith("4 questions stand in several splits (2 in 'test', 2 in 'train'; 2 ")
    assert found(made, "leak") is None
    assert found(made, "leak", ["train"] * 200) is None
    with pytest.raises(InputError, match="expected 200 values, got 3"):
        lint(made, ["a", "b", "c"])


def test_comparisons_on_one_prompt_are_no_duplicates() -> None:
    battles = np.full((30, 3), np.nan)
    for row in range(30):
        battles[row, [row % 3, (row + 1) % 3]] = (1, 0)
    made = records(battles, ["One prompt"] * 30)
    assert found(made, "duplicates") is None
    assert found(made, "leak", ["train", "test"] * 15) is not None


def test_twelve_thousand_texts_take_seconds() -> None:
    listed = texts(12_000)
    start = time.process_time()
    assert Twins(listed).near == []
    assert time.process_time() - start < 20


# alignment


def accusation(made: Records) -> str:
    finding = misaligned(made)
    assert finding is not None
    assert finding.check == "misaligned"
    return finding.message


def test_aligned_experts_raise_nothing() -> None:
    for seed in range(3):
        assert misaligned(difficult(seed=seed)) is None


def test_one_shuffled_expert_is_found() -> None:
    made = difficult()
    quality = np.array(made.quality)
    quality[:, 5] = np.random.default_rng(1).permutation(quality[:, 5])
    finding = misaligned(replace(made, quality=quality))
    assert finding is not None
    assert finding.count == 1
    assert finding.examples[0].startswith("e5 ")


def test_a_shift_by_a_row_is_named() -> None:
    made = difficult()
    quality = np.array(made.quality)
    quality[:, 2] = np.roll(quality[:, 2], -1)
    assert "when moved by 1 row)" in accusation(replace(made, quality=quality))


def test_a_shift_in_the_middle_is_found() -> None:
    made = difficult()
    quality = np.array(made.quality)
    quality[1200:, 4] = np.roll(quality[1200:, 4], 1)
    message = accusation(replace(made, quality=quality))
    assert "e4" in message
    assert "in rows 1,201 to 1,800" in message


def test_a_shuffle_inside_categories_is_found() -> None:
    made = difficult()
    quality = np.array(made.quality)
    rng, categories = np.random.default_rng(1), np.array(made.categories)
    for name in set(categories.tolist()):
        rows = np.flatnonzero(categories == name)
        quality[rows, 0] = rng.permutation(quality[rows, 0])
    assert "e0 " in accusation(replace(made, quality=quality))


def test_every_expert_in_its_own_order_is_found() -> None:
    made, rng = difficult(), np.random.default_rng(1)
    quality = np.column_stack([rng.permutation(column) for column in made.quality.T])
    assert accusation(replace(made, quality=quality)).startswith("No two experts")


def test_fractional_scores_alone_are_evidence() -> None:
    made, rng = difficult(), np.random.default_rng(1)
    quality = np.array(made.quality)
    quality[:300] = 0.2 + 0.5 * quality[:300]
    assert misaligned(replace(made, quality=quality)) is None
    quality[:, 6] = rng.permutation(quality[:, 6])
    message = accusation(replace(made, quality=quality))
    assert "of its 300 fractional scores stand where others have 0 or 1" in message


def test_loosely_related_experts_are_mentioned_not_accused() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(0, 1, (3000, 1))
    quality = (0.42 * common + rng.normal(0, 1, (3000, 6)) > 0).astype(float)
    finding = misaligned(records(quality))
    assert finding is not None
    assert finding.check == "low correlation"
    assert "correlate at 0.09 on average" in finding.message
    assert finding.check not in SERIOUS


def test_few_rows_say_nothing_about_alignment() -> None:
    quality = np.random.default_rng(0).integers(0, 2, (150, 4)).astype(float)
    assert misaligned(records(quality)) is None


def test_missing_scores_do_not_look_like_another_order() -> None:
    made, rng = difficult(), np.random.default_rng(1)
    quality = np.where(rng.random(made.quality.shape) < 0.5, np.nan, made.quality)
    assert misaligned(replace(made, quality=quality)) is None


def test_findings_are_the_same_each_time_and_serious_ones_come_first() -> None:
    made = difficult()
    quality = np.array(made.quality)
    quality[:, 1] = np.random.default_rng(1).permutation(quality[:, 1])
    first, second = (lint(replace(made, quality=quality)) for _ in range(2))
    assert first == second
    assert first[0].check in SERIOUS


# specialists


def specialised(right: float, guess: float, count: int = 1200, kinds: int = 6) -> Records:
    """Three generalists that agree on what is hard, and a specialist for each category."""
    rng = np.random.default_rng(0)
    kind = np.sort(rng.integers(0, kinds, count))
    chance = np.where(kind[:, None] == np.arange(kinds), right, guess)
    agreed = 1 / (1 + np.exp(rng.normal(0, 1.8, (count, 1)) - [0.2, 0.5, 0.8]))
    made = records(rng.random((count, kinds + 3)) < np.hstack([chance, agreed]))
    queries = zip(made.queries, kind, strict=True)
    return replace(made, queries=tuple(replace(q, category=str(k)) for q, k in queries))


def test_specialists_that_guess_elsewhere_are_mentioned_not_accused() -> None:
    finding = misaligned(specialised(0.95, 0.25))
    assert finding is not None
    assert finding.check == "low correlation"
    assert "6 of 9 experts" in finding.message


def test_specialists_that_leave_nothing_open_say_nothing_about_their_order() -> None:
    made = specialised(0.98, 0.01)
    assert misaligned(made) is None
    assert misaligned(made.select(made.experts[:6])) is None


def test_a_shuffled_specialist_is_accused_alone() -> None:
    for made in (specialised(0.98, 0.01), specialised(0.95, 0.25)):
        quality = np.array(made.quality)
        quality[:, 2] = np.random.default_rng(1).permutation(quality[:, 2])
        finding = misaligned(replace(made, quality=quality))
        assert finding is not None
        assert (finding.check, finding.count) == ("misaligned", 1)
        assert finding.examples[0].startswith("e2 ")


def test_an_expert_opposed_to_the_others_is_not_in_another_order() -> None:
    made = difficult()
    bare = replace(made, queries=tuple(replace(q, category=None) for q in made.queries))
    quality = np.array(bare.quality)
    quality[:, 3] = 1 - quality[:, 3]
    finding = misaligned(replace(bare, quality=quality))
    assert finding is not None
    assert finding.check == "low correlation"
    assert "e3 -0." in finding.message


def test_a_category_for_every_question_hides_no_wrong_order() -> None:
    made = difficult(800)
    apart = replace(made, queries=tuple(replace(q, category=q.id) for q in made.queries))
    assert misaligned(apart) is None
    quality = np.array(made.quality)
    quality[:, 5] = np.random.default_rng(1).permutation(quality[:, 5])
    assert "e5 " in accusation(replace(apart, quality=quality))
