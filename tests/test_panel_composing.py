"""Compositions in the panel: the default router leads them, the records answer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_world import Project

from coterie.aggregators import Weighted
from coterie.answers import arrow
from coterie.compositions import Composition, single
from coterie.errors import InputError, NotRecordedError, PluginError
from coterie.panel import Entrant, Panel, judge
from coterie.panel.composing import composition_entrants
from coterie.panel.contest import LIVE
from coterie.panel.specs import flow, parse_spec
from coterie.panel.trials import Learnt
from coterie.plugins import names
from coterie.policies import Chain
from coterie.records import Records
from coterie.routers.baselines import BestSingle
from coterie.routers.linear import Linear
from coterie.testing import make_records


def judged(compositions: str, records: Records, tolerant: bool = True) -> Panel:
    entrants = composition_entrants(compositions, "linear", Linear, arrow)
    plain = Entrant("linear", Linear)
    return judge(records, [plain, *entrants], 2, default="linear", tolerant=tolerant)


def test_every_composition_is_a_row_or_is_named_with_what_it_lacks() -> None:
    panel = judged("all", make_records(24))
    rows = {row.name for row in panel.rows}
    for name in names("compositions"):
        said = f"linear: {name}: ", f"linear: {name} was left out: "
        noted = [note for note in panel.notes if note.startswith(said)]
        assert (f"linear: {name}" in rows) != bool(noted), name
    assert {"linear: single", "linear: cascade", "linear: recruit"} <= rows
    assert "linear: cascade-scored" in rows  # its scorer is learnt in every fold
    assert f"linear: annotate: {LIVE}" in panel.notes


def test_single_is_the_router_and_a_vote_asks_three() -> None:
    panel = judged("single,recruit", make_records(30))
    np.testing.assert_array_equal(panel["linear: single"].scores, panel["linear"].scores)
    assert panel["linear: recruit"].calls.tolist() == [3.0] * 30


def test_a_cascade_pays_for_everyone_it_asked() -> None:
    records = make_records(30)
    cost = np.tile([1.0, 2.0, 3.0, 4.0], (30, 1))
    panel = judged("cascade-unsure(threshold=-0.5)", replace(records, cost=cost))
    row = panel["linear: cascade-unsure(threshold=-0.5)"]
    assert row.scores.mean() == 1.0  # wrong answers have low probabilities here
    several = row.calls > 1
    assert several.any()
    assert (row.costs[several] > panel["linear"].costs[several]).all()


def test_records_without_answers_leave_only_what_needs_none() -> None:
    records = make_records(30)
    silent = replace(records, texts=np.full(records.texts.shape, None, object))
    panel = judged("cascade-consistent,recruit,single", silent)
    assert "linear: single" in {row.name for row in panel.rows}
    assert f"linear: recruit: {LIVE}" in panel.notes


def test_a_composition_asked_for_by_name_is_not_left_out_quietly() -> None:
    with pytest.raises(NotRecordedError, match="linear: annotate: the records hold no completion"):
        judged("annotate", make_records(30), tolerant=False)
    with pytest.raises(PluginError, match="did you mean 'cascade'"):
        judged("cascde", make_records(30))
    with pytest.raises(InputError, match="no setting 'thresold'"):
        judged("cascade-unsure(thresold=1.0)", make_records(30))


def test_what_is_learnt_is_learnt_from_the_training_records_of_its_fold() -> None:
    seen: list[frozenset[str]] = []
    records = make_records(30)

    def make(training: Records) -> Composition:
        seen.append(frozenset(q.id for q in training.queries))
        return single

    entrant = Entrant("learnt", BestSingle, lambda training: Chain("cascade"), Learnt(make))
    panel = judge(records, [entrant], 3)
    folds = {frozenset(records.queries[i].id for i in np.flatnonzero(panel.fold_of != f))
             for f in range(3)}  # fmt: skip
    assert set(seen) == folds


def test_settings_of_a_composition_are_words_and_numbers() -> None:
    made = flow(parse_spec("recruit(aggregator=majority)"), arrow)
    assert "Majority" in repr(made)
    assert repr(Weighted(arrow)) in repr(flow(parse_spec("recruit"), arrow))
    with pytest.raises(InputError, match="expected an aggregator that votes, got 'expert'"):
        flow(parse_spec("recruit(aggregator=expert)"), arrow)


def test_evaluate_prints_compositions_and_names_what_was_not_recorded(tmp_path: Path) -> None:
    make_records(24).write(tmp_path / "records")
    args = ("--routers", "best-single", "--compositions", "all", "--folds", "2")
    run = Project(tmp_path).main("evaluate", "records", *args, "--extract", "arrow")
    assert run.returncode == 0, run.stderr
    assert "stack: cascade-consistent" in run.stdout
    assert f"stack: annotate: {LIVE}" in " ".join(run.stdout.split())
