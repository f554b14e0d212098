"""Simulation: the published knees and ratios, and queues in which nobody starves."""

import math

import numpy as np
import pytest

from coterie.errors import InputError
from coterie.residency import LFU, LRU, LookAhead
from coterie.routers.baselines import BestSingle
from coterie.routers.categories import CategoryTable
from coterie.simulation import (
    A100,
    H100,
    NODES,
    QUEUES,
    SN40L,
    Trace,
    arrival_times,
    batch_latency,
    compare_queues,
    compare_rules,
    recruit_trace,
    serve,
    speedups,
)
from coterie.testing import make_records
from coterie.traces import replay

# Prabhakar et al., arXiv 2405.07518, Table V: SN40L node against DGX A100 and DGX H100.
TABLE = {
    "switching": (31, 15),
    "expert only, 20 tokens": (2.0, 1.5),
    "overall, batch 1, 20 tokens": (4.8, 2.8),
    "overall, batch 8, 20 tokens": (6.6, 3.7),
    "expert only, 200 tokens": (3.2, 2.3),
    "overall, batch 1, 200 tokens": (3.9, 2.6),
    "overall, batch 8, 200 tokens": (4.2, 2.7),
}


def drawn(count: int = 200, experts: int = 8, k: int = 2, seed: int = 0) -> Trace:
    """Requests for popular and rare experts."""
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(np.ones(experts)) * 0.9 + 0.1 / experts
    steps = [generator.choice(experts, k, replace=False, p=shares).tolist() for _ in range(count)]
    return Trace(tuple("abcdefghij"[:experts]), tuple(map(tuple, steps)))


@pytest.mark.parametrize("row", TABLE)
def test_the_published_speedups_come_out(row: str) -> None:
    for other, published in zip((A100, H100), TABLE[row], strict=True):
        tolerance = 0.05 if row == "switching" else 0.02
        assert speedups(other)[row] == pytest.approx(published, rel=tolerance)


def test_about_fifty_experts_fit_a_dgx_and_150_do_not_fit_its_host() -> None:
    assert [node.fits() for node in NODES] == [39, 46, 46]
    assert A100.holds() == H100.holds() == 148
    assert SN40L.holds() >= 850
    assert math.ceil(850 / (A100.fits() + 1)) == 19


def test_latency_is_flat_to_the_knee_rises_after_it_and_ends_in_out_of_memory() -> None:
    flat, knee, after, far, gone = (batch_latency(A100, n) for n in (10, 46, 60, 148, 150))
    assert flat.seconds == knee.seconds
    seconds = [one.seconds or math.nan for one in (flat, after, far)]
    assert seconds[0] < seconds[1] < seconds[2]
    assert (gone.seconds, gone.switching, gone.missed) == (None, None, None)
    assert batch_latency(SN40L, 150).seconds is not None


@pytest.mark.parametrize("experts", [60, 100, 140])
def test_least_recently_used_misses_as_often_as_chance_says(experts: int) -> None:
    missed = batch_latency(H100, experts).missed
    assert missed == pytest.approx(1 - 46 / experts, abs=0.03)


def test_smaller_experts_move_the_knee() -> None:
    assert A100.fits(6.75e9) == 93
    assert batch_latency(A100, 90, size=6.75e9).missed == 0
    with pytest.raises(InputError, match="do not fit into DGX A100"):
        batch_latency(A100, 1, size=400e9)


def test_a_queue_that_waits_from_the_start_loads_what_a_replay_loads() -> None:
    trace = drawn()
    for rule, eviction in (("lru", LRU()), ("lfu", LFU()), ("look-ahead", LookAhead())):
        service = serve(trace, 3, eviction, window=5)
        assert service.replay == replay(trace.steps, 8, 3, rule, 5)
        assert service.seconds == 400 + service.replay.loads
        assert service.overtaken == 0


def test_waits_follow_from_loads_and_work() -> None:
    trace = Trace(("a", "b"), ((0,), (1,), (1,)))
    service = serve(trace, 1, LRU(), load=10, work=1, arrivals=np.array([0.0, 0.0, 50.0]))
    assert service.waits.tolist() == [0, 11, 0]
    assert service.seconds == 51


def test_look_ahead_knows_only_who_has_arrived() -> None:
    trace = Trace(("a", "b", "c"), ((0,), (1,), (2,), (0,)))
    together = serve(trace, 2, LookAhead())
    apart = serve(trace, 2, LookAhead(), arrivals=np.array([0.0, 10.0, 20.0, 30.0]))
    assert (together.replay.loads, apart.replay.loads) == (3, 4)


@pytest.mark.parametrize("patience", [1, 4, 15])
def test_nobody_is_overtaken_more_often_than_the_patience(patience: int) -> None:
    trace = drawn(400)
    service = serve(trace, 3, LookAhead(), patience=patience)
    assert 0 < service.overtaken <= patience
    assert service.replay.loads < serve(trace, 3, LookAhead()).replay.loads


def test_every_request_is_served_once_whatever_the_order() -> None:
    trace = drawn(60)
    arrivals = arrival_times(60, 0.3)
    service = serve(trace, 3, LookAhead(), patience=4, load=0.5, work=0.25, arrivals=arrivals)
    assert service.replay.uses == 120
    assert service.waits.min() >= 0
    assert service.seconds >= arrivals[-1]
    idle = service.seconds - 120 * 0.25 - service.replay.loads * 0.5
    assert idle > 0


def test_a_short_queue_needs_the_past_as_well() -> None:
    found = compare_queues(drawn(600, 10, 3, seed=1), 4, utilization=0.7)
    assert list(found) == [name for name, _, _ in QUEUES]
    loads = {name: one.replay.loads for name, one in found.items()}
    assert loads["look-ahead, then LFU"] < loads["look-ahead, then LRU"] < loads["LRU"]
    assert found["fewest loads first"].overtaken <= 15
    assert found["look-ahead, then LFU"].waits.mean() < found["LRU"].waits.mean()


def test_rules_are_compared_between_lru_and_belady() -> None:
    rows = {one.rule: one for one in compare_rules(drawn(), 3, window=8)}
    assert (rows["lru"].gap_closed, rows["belady"].gap_closed) == (0.0, 1.0)
    assert 0 < rows["sch"].gap_closed < rows["look-ahead"].gap_closed <= 1


def test_a_trace_is_what_a_router_recruits_for_questions_it_did_not_learn_from() -> None:
    records = make_records(60)
    trace = recruit_trace(records, CategoryTable, k=2, requests=20)
    assert trace.experts == records.experts
    assert len(trace.steps) == 20
    assert {len(set(step)) for step in trace.steps} == {2}
    assert trace == recruit_trace(records, CategoryTable, k=2, requests=20)
    assert len(recruit_trace(records, BestSingle, requests=999).steps) == 30


def test_odd_settings_are_refused() -> None:
    trace = drawn(5)
    with pytest.raises(InputError, match="needs 2 experts at once; the capacity is 1"):
        serve(trace, 1, LRU())
    with pytest.raises(InputError, match="window"):
        serve(trace, 2, LRU(), window=0)
    with pytest.raises(InputError, match="rate above 0"):
        arrival_times(5, 0)
    with pytest.raises(InputError, match="utilization"):
        compare_queues(trace, 3, utilization=0)
    with pytest.raises(InputError, match="at least 2 questions"):
        recruit_trace(make_records(1), BestSingle)
    assert arrival_times(3, math.inf).tolist() == [0, 0, 0]
