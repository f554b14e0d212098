import random
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coterie.gateway.breakers import LAST_PAUSE, SPREAD, TRIP_AFTER, Breaker, Permit

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass
class Clock:
    """Time that a test moves."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def broken(clock: Clock, draw: float = 0.5) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker(clock, lambda: draw)
    for _ in range(TRIP_AFTER):
        permit = breaker.enter()
        assert permit is Permit.NORMAL
        breaker.leave(permit, False)
    return breaker


def test_failures_in_a_row_open_it() -> None:
    clock = Clock()
    breaker = broken(clock)
    assert (breaker.state, breaker.enter()) == ("open", None)
    assert breaker.wait() > 0


def test_a_success_in_between_starts_the_count_anew() -> None:
    breaker = Breaker(Clock())
    for healthy in [False] * (TRIP_AFTER - 1) + [True] + [False] * (TRIP_AFTER - 1):
        breaker.leave(Permit.NORMAL, healthy)
    assert breaker.state == "closed"


def test_half_of_many_calls_failing_opens_it_too() -> None:
    breaker = Breaker(Clock())
    for turn in range(20):
        breaker.leave(Permit.NORMAL, turn % 2 == 0)
    assert breaker.state == "open"


def test_old_failures_are_forgotten() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for turn in range(19):
        breaker.leave(Permit.NORMAL, turn % 2 == 1)
    clock.now += 60
    breaker.leave(Permit.NORMAL, False)
    assert breaker.state == "closed"


def test_one_probe_at_a_time_closes_it() -> None:
    clock = Clock()
    breaker = broken(clock)
    clock.now += breaker.wait()
    probe = breaker.enter()
    assert (probe, breaker.enter(), breaker.state) == (Permit.PROBE, None, "half-open")
    breaker.leave(Permit.PROBE, True)
    assert (breaker.state, breaker.enter()) == ("closed", Permit.NORMAL)


def test_a_probe_that_fails_opens_it_for_longer() -> None:
    clock = Clock()
    breaker = broken(clock)
    first = breaker.wait()
    clock.now += first
    breaker.enter()
    breaker.leave(Permit.PROBE, False)
    assert breaker.wait() == pytest.approx(2 * first)


def test_a_probe_that_was_cancelled_leaves_room_for_another() -> None:
    clock = Clock()
    breaker = broken(clock)
    clock.now += breaker.wait()
    breaker.enter()
    breaker.leave(Permit.PROBE, None)
    assert breaker.enter() is Permit.PROBE


def test_calls_from_before_it_opened_do_not_close_it() -> None:
    breaker = broken(Clock())
    breaker.leave(Permit.NORMAL, True)
    assert breaker.state == "open"


def test_a_forced_call_that_succeeds_closes_it() -> None:
    breaker = broken(Clock())
    breaker.leave(Permit.FORCED, True)
    assert breaker.state == "closed"


def test_a_limit_holds_for_as_long_as_asked_and_needs_no_probe() -> None:
    clock = Clock()
    breaker = Breaker(clock, lambda: 1.0)
    breaker.limit(20.0)
    assert (breaker.state, breaker.enter(), breaker.limited) == ("limited", None, True)
    clock.now += 19.9
    assert breaker.enter() is None
    clock.now += 2.2  # a tenth more, at most
    assert breaker.enter() is Permit.NORMAL


def test_nobody_is_left_alone_for_a_day() -> None:
    breaker = Breaker(Clock(), lambda: 0.0)
    breaker.limit(86400.0)
    assert breaker.wait() == 120.0


@UNHURRIED
@given(seed=st.integers(0, 1000), outage=st.floats(1, 10_000))
def test_it_is_back_within_half_a_minute_of_the_recovery(seed: int, outage: float) -> None:
    clock = Clock()
    breaker = Breaker(clock, random.Random(seed).random)
    end = clock.now + outage
    calls = 0
    while breaker.state != "closed" or clock.now < end:
        if (permit := breaker.enter()) is not None:
            calls += 1
            breaker.leave(permit, clock.now >= end)
        clock.now += max(breaker.wait(), 0.01) if breaker.state != "closed" else 0.01
    assert clock.now - end <= LAST_PAUSE * (1 + SPREAD) + 0.1 <= 30
    assert calls <= TRIP_AFTER + 6 + outage / (LAST_PAUSE * (1 - SPREAD))


@UNHURRIED
@given(
    st.lists(
        st.tuples(st.sampled_from(["enter", "fail", "work", "leave", "limit"]), st.floats(0, 40)),
        max_size=60,
    )
)
def test_there_is_never_more_than_one_probe(steps: list[tuple[str, float]]) -> None:
    clock = Clock()
    breaker = Breaker(clock)
    held: list[Permit] = []
    outcomes = {"fail": False, "work": True, "leave": None}
    for step, seconds in steps:
        if step == "enter":
            if (permit := breaker.enter()) is not None:
                held.append(permit)
        elif step == "limit":
            breaker.limit(seconds)
        elif held:
            breaker.leave(held.pop(0), outcomes[step])
        clock.now += seconds
        assert held.count(Permit.PROBE) <= 1
    for permit in held:
        breaker.leave(permit, True)
    clock.now += 200
    assert breaker.enter() is not None  # it never stays shut
