"""Traces: fixtures from the published code, definitions written out, and optimality by force."""

from itertools import chain, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import InputError
from coterie.residency import LFU, LRU, Eviction, LookAhead, Residency
from coterie.traces import (
    RULES,
    Replay,
    Steps,
    gap_closed,
    grouped_loads,
    hit_curve,
    load_balance,
    load_order,
    makespan,
    replay,
    segment_routing,
)

# Two of seven experts a step; what moe-lrc's own calc_lru and calc_lfu give for it, times 80 uses.
FIXED = [((3 * t * t + t // 4) % 7, (3 * t * t + t // 4 + 1 + t % 3) % 7) for t in range(40)]
PUBLISHED = {"lru": [14, 27, 37, 46, 57, 70, 80], "lfu": [14, 26, 37, 50, 58, 67, 80]}

STEPS = st.lists(
    st.lists(st.integers(0, 5), min_size=2, max_size=2, unique=True), min_size=1, max_size=25
)


def drawn(count: int, experts: int, k: int, seed: int = 0) -> list[list[int]]:
    """A trace with popular and rare experts."""
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(np.ones(experts)) * 0.9 + 0.1 / experts
    return [generator.choice(experts, k, replace=False, p=shares).tolist() for _ in range(count)]


@pytest.mark.parametrize("rule", PUBLISHED)
def test_hit_curves_are_those_of_the_published_code(rule: str) -> None:
    curve = hit_curve(FIXED, 7, rule, published=True)
    assert [round(80 * one.warm_hit_rate) for one in curve] == PUBLISHED[rule]


def test_cold_fills_are_hits_by_one_convention_and_misses_by_the_other() -> None:
    one = replay([(0, 1), (0, 2), (2, 1)], 3, capacity=3)
    assert (one.uses, one.hits, one.fills, one.loads) == (6, 3, 3, 3)
    assert (one.hit_rate, one.warm_hit_rate) == (0.5, 1.0)


def evicting_by_definition(steps: Steps, capacity: int, window: int) -> int:
    """Hits and fills of SCH as published, from its definition, looking everything up anew."""
    there: list[int] = []  # the least recently used first
    found = 0
    for at, step in enumerate(steps):
        found += len(set(step) & set(there))
        for place, expert in enumerate(step):
            coming = [*step[place + 1 :], *chain(*steps[at + 1 : at + window])]
            if expert in there:
                there.remove(expert)
            elif len(there) < capacity:
                found += 1
            else:
                there.remove(min(there, key=coming.count))  # the first of equals: least recent
            there.append(expert)
    return found


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(2, 5), st.integers(1, 6))
def test_sch_evicts_the_fewest_uses_in_the_window(steps: Steps, capacity: int, window: int) -> None:
    one = replay(steps, 6, capacity, "sch", window, published=True)
    assert one.hits + one.fills == evicting_by_definition(steps, capacity, window)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(2, 6))
def test_belady_loads_least_and_an_endless_window_is_belady(steps: Steps, capacity: int) -> None:
    belady = replay(steps, 6, capacity, "belady")
    assert replay(steps, 6, capacity, "look-ahead", window=99) == belady
    for rule in RULES:
        assert replay(steps, 6, capacity, rule, window=3).loads >= belady.loads


@pytest.mark.parametrize(
    ("rule", "eviction"), [("lru", LRU()), ("lfu", LFU()), ("look-ahead", LookAhead())]
)
def test_a_replay_loads_what_a_residency_loads(rule: str, eviction: Eviction) -> None:
    steps, window = drawn(150, 8, 3), 5
    for capacity in (3, 4, 6):
        residency, loads = Residency(capacity, eviction=eviction), 0
        for expert in range(8):
            residency.resize(str(expert), 1)
        for at, step in enumerate(steps):
            later = [str(one) for one in chain(*steps[at + 1 : at + window])]
            names = sorted(map(str, step), key=lambda name: name not in residency.resident)
            while names:
                name = names.pop(0)
                moves = residency.place(name, upcoming=[*names, *later])
                loads += bool(moves)
        assert replay(steps, 8, capacity, rule, window).loads == loads


def test_more_room_never_means_more_loads_for_rules_without_a_window() -> None:
    for rule in ("lru", "belady"):
        loads = [one.loads for one in hit_curve(drawn(200, 8, 2), 8, rule)]
        assert loads == sorted(loads, reverse=True)
        assert loads[-1] == 8


def test_balance_is_even_where_all_are_used_alike() -> None:
    even = load_balance([(0, 1), (2, 3)], 4)
    assert (even.entropy, even.imbalance, even.shares.tolist()) == (2.0, 1.0, [0.25] * 4)
    one = load_balance([(2,), (2,)], 4)
    assert (one.entropy, one.imbalance) == (0.0, 4.0)
    assert load_balance([], 4).imbalance == 0.0


def test_srp_is_one_where_segments_use_the_same_experts_throughout() -> None:
    found = segment_routing([(0, 1)] * 20, 5, m=4)
    assert (found.srp, found.low, found.high, found.ratio) == (1.0, 1.0, 1.0, 1.0)


def test_srp_is_the_best_f1_over_thresholds() -> None:
    steps = drawn(60, 6, 2)
    segments = [steps[start : start + 4] for start in range(57)]
    counts = np.array([[sum(e in step for step in part) for e in range(6)] for part in segments])
    scores = []
    for t in range(5):
        matches, predicted = counts[counts >= t].sum(), 4 * (counts >= t).sum()
        scores.append(2 * matches / (predicted + counts.sum()))
    found = segment_routing(steps, 6, m=4)
    assert found.srp == pytest.approx(max(scores))
    assert found.low < found.srp < found.high
    assert found == segment_routing(steps, 6, m=4)


def test_sessions_are_more_alike_than_the_same_requests_shuffled() -> None:
    sessions = sorted(drawn(300, 8, 2))
    shuffled = [sessions[row] for row in np.random.default_rng(0).permutation(300)]
    assert segment_routing(sessions, 8, 16).srp > segment_routing(shuffled, 8, 16).srp + 0.1
    assert replay(sessions, 8, 3).hit_rate > replay(shuffled, 8, 3).hit_rate + 0.1


def test_grouping_needs_each_expert_once_a_window() -> None:
    steps = [(0, 1), (2, 3), (0, 1), (2, 3)]
    assert [grouped_loads(steps, window) for window in (1, 2, 4)] == [2000, 2000, 1000]


def test_the_gap_is_that_from_lru_to_belady() -> None:
    lru, half, belady = (Replay(4, 100, hits, 4) for hits in (50, 60, 70))
    assert gap_closed(lru, half, belady) == 0.5
    assert gap_closed(lru, lru, lru) == 1.0


def test_odd_traces_and_settings_are_refused() -> None:
    with pytest.raises(InputError, match="step 1: expected expert numbers from 0 to 2, got 3"):
        replay([(0,), (3,)], 3, 1)
    with pytest.raises(InputError, match="expected one of lru, lfu"):
        replay([(0,)], 1, 1, "fifo")
    with pytest.raises(InputError, match="'sch' needs at least 1, got None"):
        replay([(0,)], 1, 1, "sch")
    with pytest.raises(InputError, match="capacity"):
        replay([(0,)], 1, 0)
    with pytest.raises(InputError, match="1 to 2 steps a segment, got 3"):
        segment_routing([(0,), (0,)], 1, 3)
    with pytest.raises(InputError, match="window"):
        grouped_loads([(0,)], 0)


SECONDS = st.integers(0, 6)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(SECONDS, SECONDS), max_size=5))
def test_no_order_of_loading_ends_sooner_than_johnsons(jobs: list[tuple[int, int]]) -> None:
    load, work = [job[0] for job in jobs], [job[1] for job in jobs]
    soonest = min(makespan(order, load, work) for order in permutations(range(len(jobs))))
    assert makespan(load_order(load, work), load, work) == soonest


def test_the_largest_queue_first_hides_loads_but_johnson_hides_more() -> None:
    load, work = [6, 1, 3], [7, 3, 1]
    largest = sorted(range(3), key=lambda job: -work[job])
    assert makespan(load_order(load, work), load, work) == 15
    assert makespan(largest, load, work) == 17
