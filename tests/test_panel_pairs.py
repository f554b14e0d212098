"""RouteLLM's metrics over the estimates of several fits."""

import json

import numpy as np
import pytest

from coterie.answers import whole
from coterie.metrics.routellm import apgr, call_curve, cpt
from coterie.panel import Entrant, PairMetrics, judge
from coterie.panel.setting import Setting
from coterie.panel.sweeps import pair_metrics
from coterie.panel.table import pair_table
from coterie.records import Records
from coterie.routers.baselines import BestSingle
from coterie.routers.linear import Linear
from coterie.types import FloatArray, IntArray, Query


def noise(seed: int, count: int = 200) -> Records:
    """Two experts whose scores no text foretells."""
    generator = np.random.default_rng(seed)
    queries = tuple(Query.from_text(f"q{i}", f"question {i}") for i in range(count))
    quality = (generator.random((count, 2)) < [0.5, 0.7]).astype(float)
    return Records(queries, ("weak", "strong"), quality)


def constant(seed: int) -> PairMetrics:
    """Of a router that expects the means of each fold's training records everywhere."""
    records = noise(seed)
    setting = Setting.make(records, 5, seed, whole)
    rests = [records.quality[rest].mean(axis=0) for rest in setting.rests]
    found = pair_metrics(
        np.array(rests)[setting.fold_of], records.quality, records.experts, setting.fold_of
    )
    assert found is not None
    return found


def test_a_constant_router_recovers_half_the_gap_and_any_share_with_that_share_of_calls() -> None:
    pair = judge(noise(0), [Entrant("means", BestSingle)]).pairs["means"]
    found = (pair.apgr, pair.cpt_20, pair.cpt_50, pair.cpt_80)
    assert found == pytest.approx((0.5, 0.2, 0.5, 0.8), abs=1e-9)


def test_pooling_fits_makes_a_constant_router_worse_than_random() -> None:
    pairs = [constant(seed) for seed in range(20)]
    assert [pair.apgr for pair in pairs] == pytest.approx([0.5] * 20)
    assert np.mean([pair.apgr_pooled for pair in pairs]) < 0.47
    assert np.mean([pair.apgr_as_released for pair in pairs]) < 0.47
    assert np.mean([pair.cpt_50_pooled for pair in pairs]) > 0.52


def two_folds() -> tuple[FloatArray, FloatArray, FloatArray, IntArray]:
    generator = np.random.default_rng(1)
    weak, strong = (generator.random((2, 90)) < [[0.4], [0.8]]).astype(float)
    return weak, strong, strong - weak + generator.random(90), np.repeat([0, 1], [30, 60])


def test_an_offset_of_a_fold_changes_nothing_within_folds() -> None:
    weak, strong, wanted, folds = two_folds()
    moved = wanted + 10.0 * folds
    assert apgr(weak, strong, moved, folds) == apgr(weak, strong, wanted, folds)
    assert cpt(weak, strong, moved, 0.5, folds) == cpt(weak, strong, wanted, 0.5, folds)
    assert apgr(weak, strong, moved) != apgr(weak, strong, wanted)


def test_areas_of_folds_weigh_as_much_as_they_have_queries() -> None:
    weak, strong, wanted, folds = two_folds()
    areas = []
    for fold, size in ((0, 30), (1, 60)):
        share, score = call_curve(*(each[folds == fold] for each in (weak, strong, wanted)))
        areas.append(size / 90 * np.trapezoid(score, share))
    gap = strong.mean() - weak.mean()
    expected = (sum(areas) - weak.mean()) / gap
    assert apgr(weak, strong, wanted, folds) == pytest.approx(expected)


def test_queries_without_a_score_leave_their_fold() -> None:
    weak, strong, wanted, folds = two_folds()
    weak[:5] = np.nan
    rest = apgr(weak[5:], strong[5:], wanted[5:], folds[5:])
    assert apgr(weak, strong, wanted, folds) == rest


def test_one_fold_is_the_metric_without_folds() -> None:
    weak, strong, wanted, _ = two_folds()
    assert apgr(weak, strong, wanted, np.zeros(90, int)) == apgr(weak, strong, wanted)


def test_both_figures_are_printed_and_in_the_json() -> None:
    panel = judge(noise(2), [Entrant("linear", Linear)])
    row = next(r for r in json.loads(json.dumps(panel.to_dict()))["panel"] if r["name"] == "linear")
    assert row["pair"]["apgr"] == panel.pairs["linear"].apgr
    assert row["pair"]["apgr"] != row["pair"]["apgr_pooled"]
    assert [str(column.header) for column in pair_table(panel).columns][1:3] == ["APGR", "pooled"]
