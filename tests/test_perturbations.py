"""Perturbed questions, and how many choices flip."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.errors import InputError
from coterie.panel import Entrant, judge
from coterie.perturbations import PERTURBATIONS, perturb, robustness, typos
from coterie.policies import Recruit
from coterie.records import Records
from coterie.routers.base import Router, spread
from coterie.routers.baselines import BestSingle
from coterie.testing import EXPERTS, make_records
from coterie.types import Estimates, Query

RECORDS = make_records(60)
TEXT = "Which of these Rivers is longer, the Danube or the Rhine?"


class ByCase(Router):
    """Chooses the topic's expert, but the generalist for a text in small letters."""

    name = "by-case"

    def fit(self, records: Records) -> Self:
        self.experts_ = records.experts
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        best = ["generalist" if q.text.islower() else q.category for q in queries]
        quality = np.array([[float(e == name) for e in self.experts_] for name in best])
        return Estimates(self.experts_, quality, spread(np.ones(4), queries))


class Refusing(ByCase):
    """Fails on what it has not been asked in training: text that shouts."""

    def predict(self, queries: Sequence[Query]) -> Estimates:
        if queries[0].text.isupper():
            raise InputError("does not read this")
        return super().predict(queries)


def test_every_perturbation_changes_the_text_and_nothing_else() -> None:
    query = replace(Query.from_text("q", TEXT, temperature=0.5), category="rivers")
    for name in PERTURBATIONS:
        changed = perturb(query, name)
        assert changed.text != TEXT
        assert replace(changed, messages=query.messages) == query


@given(st.text(max_size=80), st.sampled_from(sorted(PERTURBATIONS)), st.integers(0, 99))
def test_a_perturbation_is_a_function_of_text_and_seed(text: str, name: str, seed: int) -> None:
    once = perturb(Query.from_text("a", text), name, seed)
    assert once.text == perturb(Query.from_text("b", text), name, seed).text


def test_other_seeds_draw_other_typos() -> None:
    query = Query.from_text("q", TEXT * 5)
    assert perturb(query, "typos", 0).text != perturb(query, "typos", 1).text


def test_typos_come_at_the_rate_asked_for() -> None:
    text, generator = "abcdefghij" * 1000, np.random.default_rng(0)
    dropped = len(text) - len(typos(text, generator, 0.1))
    assert 400 < dropped < 600  # half of the hits drop a letter
    assert typos(text, generator, 0.0) == text
    assert typos("12 + 34 = ?", generator, 1.0) == "12 + 34 = ?"


def test_swaps_keep_all_letters() -> None:
    swapped = [typos("ab", np.random.default_rng(seed), 1.0) for seed in range(20)]
    assert "ba" in swapped


def test_prefixes_and_injections_keep_the_question() -> None:
    for name in ("polite", "role", "injection"):
        assert TEXT in perturb(Query.from_text("q", TEXT), name).text


def test_spaces_and_endings_keep_the_words() -> None:
    for name in ("spaces", "ending"):
        changed = perturb(Query.from_text("q", TEXT), name).text
        assert changed.rstrip(" .?!\n\t").split() == TEXT.rstrip("?").split()


def test_an_unknown_perturbation_is_refused() -> None:
    with pytest.raises(InputError, match="no perturbation 'irony'; there are typos"):
        perturb(RECORDS.queries[0], "irony")


def test_flips_and_their_price_are_counted() -> None:
    entrants = [Entrant("by case", ByCase), Entrant("single", BestSingle)]
    panel = judge(RECORDS, entrants)
    found = robustness(panel, entrants, ["lower", "upper"])
    by_case, single = found.rows
    lower, upper = by_case.flips
    assert (lower.flips.value, upper.flips.value, by_case.robustness) == (1.0, 0.0, 0.5)
    generalist = RECORDS.quality[:, EXPERTS.index("generalist")].mean()
    assert lower.change.value == pytest.approx(generalist - 1.0)
    assert lower.cost == pytest.approx(3.0)
    assert single.robustness == 1.0


def test_intervals_surround_the_share_of_flips() -> None:
    entrants = [Entrant("half", ByCase)]
    some = [
        replace(q, messages=({"role": "user", "content": q.text.upper() if i % 2 else "12"},))
        for i, q in enumerate(RECORDS.queries)
    ]
    panel = judge(replace(RECORDS, queries=tuple(some)), entrants)
    (flips,) = robustness(panel, entrants, ["lower"]).rows[0].flips
    assert flips.flips.low < flips.flips.value == 0.5 < flips.flips.high
    assert flips.change.low < flips.change.value < flips.change.high


def test_routers_that_refuse_and_votes_become_notes() -> None:
    vote = Entrant("vote", ByCase, lambda training: Recruit(k=3))
    entrants = [Entrant("refusing", Refusing), vote]
    found = robustness(judge(RECORDS, entrants), entrants, ["upper"])
    assert found.rows == ()
    assert found.notes == (
        "refusing was left out of robustness: does not read this",
        "vote asks several experts: no flips are counted",
    )


def test_progress_counts_folds_and_json_holds_everything() -> None:
    entrants, seen = [Entrant("by case", ByCase)], []
    panel = judge(RECORDS, entrants, folds=3)
    found = robustness(panel, entrants, report=lambda name, done, all: seen.append((done, all)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    (row,) = json.loads(json.dumps(found.to_dict(), allow_nan=False))["rows"]
    assert [each["perturbation"] for each in row["perturbations"]] == [*PERTURBATIONS]
    assert all(each["robustness"] == 1 - each["flips"] for each in row["perturbations"])
