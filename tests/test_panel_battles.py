import io
import json
from collections.abc import Sequence
from typing import Self

import numpy as np
import pytest
from rich.console import Console

from coterie.errors import InputError
from coterie.panel import BattlePanel, Entrant, judge, judge_battles
from coterie.panel.battles import is_pairwise
from coterie.panel.specs import ranking_entrants
from coterie.panel.table import show_battles
from coterie.records import Records
from coterie.routers.base import Router, spread
from coterie.routers.linear import Linear
from coterie.routers.preference import BradleyTerry, Elo
from coterie.routers.preference_by_text import P2L, SimilarityWeighted
from coterie.testing import make_records
from coterie.types import Estimates, FloatArray, Query

TOPICS = np.array([[2.0, 0.0, -2.0], [-2.0, 0.0, 2.0]])  # log-odds, (topics, experts)
TEXTS = ("Sort the numbers {} in rising order.", "Which day of the week was date {}?")


def duels(count: int = 300, by_topic: float = 0.0, seed: int = 0, ties: float = 0.0) -> Records:
    """Two of three experts a query; ``by_topic`` is how much of their strengths a topic turns."""
    generator = np.random.default_rng(seed)
    topics = generator.integers(0, 2, count)
    queries = [Query.from_text(f"q{i}", TEXTS[t].format(1000 + i)) for i, t in enumerate(topics)]
    scores = np.full((count, 3), np.nan)
    for row, topic in enumerate(topics):
        a, b = generator.choice(3, 2, replace=False)
        strength = (1 - by_topic) * TOPICS[0] + by_topic * TOPICS[topic]
        scores[row, a] = generator.random() < 1 / (1 + np.exp(strength[b] - strength[a]))
        scores[row, b] = 1 - scores[row, a]
        if generator.random() < ties:
            scores[row, [a, b]] = 0.5
    return Records(tuple(queries), ("ann", "bob", "cid"), scores)


class Peeking(BradleyTerry):
    """Must not have seen what it ranks."""

    def fit(self, records: Records) -> Self:
        self.seen_ = {query.id for query in records.queries}
        return super().fit(records)

    def strengths(self, queries: Sequence[Query]) -> FloatArray:
        assert self.seen_.isdisjoint(query.id for query in queries)
        return super().strengths(queries)


class Backwards(BradleyTerry):
    """The same with its experts in another order."""

    def fit(self, records: Records) -> Self:
        super().fit(records.select(records.experts[::-1]))
        return self


def test_a_coin_has_the_log_loss_of_a_coin_and_battles_tell_more() -> None:
    panel = judge_battles(duels())
    assert [row.name for row in panel.rows] == ["coin", "bradley-terry"]
    assert panel["coin"].log_loss.value == pytest.approx(np.log(2))
    assert panel["coin"].accuracy.value == 0.5
    assert panel["bradley-terry"].log_loss.value < 0.55
    assert panel["coin"].versus.low > 0


def test_losses_are_those_of_the_chances_and_hits_those_of_the_winners() -> None:
    records = duels(60, ties=0.2)
    row = judge_battles(records, folds=2)["bradley-terry"]
    train, test = records.folds(2)[::-1], records.folds(2)
    for rest, own in zip(train, test, strict=True):
        strength = BradleyTerry().fit(records.take(rest)).strengths_
        for at in own:
            a, b = np.flatnonzero(records.observed[at])
            chance = 1 / (1 + np.exp(strength[b] - strength[a]))
            won = 0.5 + (records.quality[at, a] - records.quality[at, b]) / 2
            loss = -(won * np.log(chance) + (1 - won) * np.log(1 - chance))
            assert row.losses[at] == pytest.approx(loss)
            assert np.isnan(row.hits[at]) if won == 0.5 else row.hits[at] == ((chance > 0.5) == won)


def test_rankings_of_their_own_beat_one_for_all_where_topics_turn_them() -> None:
    panel = judge_battles(duels(by_topic=1.0), [Entrant("p2l", P2L)])
    assert panel.beats(panel["p2l"])
    assert panel["p2l"].versus.high < -0.1
    assert panel["p2l"].versus_accuracy.low > 0.1
    assert not panel.beats(panel["bradley-terry"])


def test_where_topics_say_nothing_no_ranking_beats_one_for_all() -> None:
    entrants = [Entrant("p2l", P2L), Entrant("near", SimilarityWeighted), Entrant("elo", Elo)]
    panel = judge_battles(duels(150), entrants)
    assert not any(panel.beats(row) for row in panel.rows)


def test_battles_are_judged_by_fits_that_did_not_see_them() -> None:
    panel = judge_battles(duels(60), [Entrant("peeking", Peeking)])
    assert np.array_equal(panel["peeking"].losses, panel["bradley-terry"].losses)


def test_experts_go_by_name() -> None:
    panel = judge_battles(duels(60), [Entrant("turned", Backwards)])
    np.testing.assert_allclose(panel["turned"].losses, panel["bradley-terry"].losses, atol=1e-8)


def test_the_number_of_jobs_changes_nothing() -> None:
    entrants = [Entrant("elo", Elo), Entrant("p2l", P2L)]
    one, two = (judge_battles(duels(60), entrants, folds=2, jobs=j) for j in (1, 2))
    assert one.to_dict() == two.to_dict()


def test_a_router_that_does_not_rank_is_refused_or_noted() -> None:
    with pytest.raises(InputError, match=r"^linear: it does not rank experts"):
        judge_battles(duels(30), [Entrant("linear", Linear)])
    panel = judge_battles(duels(30), [Entrant("linear", Linear)], tolerant=True)
    assert panel.notes[0].startswith("linear was left out: it does not rank experts")


def test_a_ranking_that_refuses_a_fold_is_noted_once() -> None:
    class Refusing(BradleyTerry):
        def fit(self, records: Records) -> Self:
            raise InputError("wants more")

    panel = judge_battles(duels(30), [Entrant("refusing", Refusing)], tolerant=True)
    assert panel.notes == ("refusing was left out: wants more",)
    assert len(panel.rows) == 2


def test_a_router_of_ones_own_ranks_by_having_strengths() -> None:
    class Mine(Router):
        name = "mine"

        def fit(self, records: Records) -> Self:
            self.experts_ = records.experts
            return self

        def predict(self, queries: Sequence[Query]) -> Estimates:
            raise NotImplementedError

        def strengths(self, queries: Sequence[Query]) -> FloatArray:
            return spread(TOPICS[0], queries)

    assert judge_battles(duels(90), [Entrant("mine", Mine)])["mine"].accuracy.value > 0.7


def test_pairwise_records_are_told_from_others() -> None:
    assert is_pairwise(duels(10))
    assert not is_pairwise(make_records(12))
    assert not is_pairwise(duels(10).select(["ann", "bob"]))
    with pytest.raises(InputError, match=r"two of 3 experts.*judge_battles"):
        judge(duels(40))
    with pytest.raises(InputError, match="expected two experts a query, got up to 4; use judge"):
        judge_battles(make_records(12))


def test_two_chosen_experts_have_a_panel_of_the_queries_they_met_on() -> None:
    records = duels(90)
    panel = judge(records, keep=["ann", "bob"])
    met = records.select(["ann", "bob"]).observed.all(axis=1)
    assert len(panel.records) == met.sum()


@pytest.mark.parametrize(
    ("name", "folds", "message"),
    [
        ("coin", 5, "two rows would be called 'coin'"),
        ("bradley-terry", 5, "two rows would be called 'bradley-terry'"),
        ("elo", 31, "expected 2 to 30"),
    ],
)
def test_battles_that_cannot_be_judged_are_refused(name: str, folds: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        judge_battles(duels(30), [Entrant(name, Elo)], folds)


def printed(panel: BattlePanel) -> str:
    out = io.StringIO()
    show_battles(panel, Console(width=80, file=out))
    return out.getvalue()


def test_the_table_fits_80_columns_and_the_verdict_names_who_beats_one_for_all() -> None:
    records = duels(by_topic=1.0, ties=0.1)
    text = printed(judge_battles(records, [Entrant("similarity-weighted", SimilarityWeighted)]))
    assert f"300 battles ({judge_battles(records).ties} ties), 3 experts, 5-fold" in text
    assert "(Holm-corrected): similarity-weighted" in text
    table = text.partition("of 1 rankings")[0]
    assert "\nsimilarity-weighted " in table
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 80


def test_battles_that_nobody_won_have_no_accuracy() -> None:
    panel = judge_battles(duels(30, ties=1.0))
    facts = json.loads(json.dumps(panel.to_dict(), allow_nan=False))
    assert [row["accuracy"] for row in facts["battles"]] == [None, None]
    assert "bradley-terry" in printed(panel)


def test_every_registered_ranking_is_judged_and_those_named_once() -> None:
    names = [e.name for e in ranking_entrants("knn, p2l(ridge=1.0), elo", "lexical")]
    assert names == ["elo", "p2l", "similarity-weighted", "knn", "p2l(ridge=1.0)"]
    assert len(ranking_entrants("all", "static")) == 3
