"""Residency: capacities hold after every move, and look-ahead loads as little as possible."""

from functools import cache
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import ExpertError, InputError
from coterie.residency import (
    LFU,
    LRU,
    CostAware,
    Eviction,
    LookAhead,
    Move,
    Residency,
    Tier,
)

DISK, HOST, DEVICE = Tier.DISK, Tier.HOST, Tier.DEVICE
RULES: list[Eviction] = [LRU(), LFU(), CostAware(), LookAhead(), LookAhead(3)]
NAMES = "abcde"


def of_equal_size(
    device: int, host: int = 0, names: str = NAMES, eviction: Eviction | None = None
) -> Residency:
    residency = Residency(device, host, eviction=eviction)
    for name in names:
        residency.resize(name, 1)
    return residency


def place_all(residency: Residency, names: str, known: bool = False) -> int:
    """Places every name in turn; returns the loads."""
    moves: list[Move] = []
    for at, name in enumerate(names):
        moves += residency.place(name, upcoming=names[at + 1 :] if known else "") or []
    return sum(move.target is DEVICE for move in moves)


def test_a_newcomer_evicts_the_least_recently_used() -> None:
    residency = of_equal_size(2)
    assert place_all(residency, "aba") == 2
    assert residency.place("c") == [Move("b", DEVICE, DISK), Move("c", DISK, DEVICE)]
    assert residency.resident == ("a", "c")
    assert (residency.tier("b"), residency.used(DEVICE), residency.free(DEVICE)) == (DISK, 2, 0)


def test_what_is_there_needs_no_move_and_counts_as_used() -> None:
    residency = of_equal_size(2)
    place_all(residency, "ab")
    assert residency.place("a") == []
    assert residency.resident == ("b", "a")


def test_victims_go_to_the_host_while_it_has_room_for_them() -> None:
    residency = of_equal_size(1, host=1)
    place_all(residency, "a")
    assert residency.place("b") == [Move("a", DEVICE, HOST), Move("b", DISK, DEVICE)]
    assert residency.place("c") == [
        Move("a", HOST, DISK),
        Move("b", DEVICE, HOST),
        Move("c", DISK, DEVICE),
    ]


def test_a_victim_needed_later_than_those_in_the_host_goes_to_disk() -> None:
    residency = of_equal_size(1, host=1, eviction=LookAhead())
    place_all(residency, "ab")
    assert residency.place("c", upcoming="ab") == [Move("b", DEVICE, DISK), Move("c", DISK, DEVICE)]
    assert residency.tier("a") is HOST


def test_an_expert_from_the_host_keeps_its_room_until_it_has_left() -> None:
    residency = of_equal_size(1, host=1)
    place_all(residency, "ab")
    assert residency.place("a") == [Move("b", DEVICE, DISK), Move("a", HOST, DEVICE)]


def test_who_is_busy_stays_and_the_newcomer_waits() -> None:
    residency = of_equal_size(2)
    place_all(residency, "ab")
    assert residency.place("c", busy="ab") is None
    assert residency.resident == ("a", "b")
    assert residency.place("c", busy="a") == [Move("b", DEVICE, DISK), Move("c", DISK, DEVICE)]


def test_the_pinned_stay_until_they_are_unpinned() -> None:
    residency = of_equal_size(2)
    place_all(residency, "ab")
    residency.pin("a")
    place_all(residency, "cde")
    assert residency.resident == ("a", "e")
    residency.unpin("a")
    place_all(residency, "b")
    assert residency.resident == ("e", "b")


def test_an_expert_that_can_never_fit_is_refused_with_the_arithmetic() -> None:
    residency = Residency(1000)
    for name, size in (("small", 300), ("large", 701), ("huge", 1200)):
        residency.resize(name, size)
    residency.pin("small")
    with pytest.raises(ExpertError, match=r"'large' can never fit: 701 \+ 300 of pinned 'small' ="):
        residency.place("large")
    with pytest.raises(ExpertError, match="'huge' can never fit"):
        residency.pin("huge")
    residency.unpin("small")
    residency.check("large")
    with pytest.raises(ExpertError, match="1,200 > 1,000 on the device; enlarge"):
        residency.check("huge")


def test_sizes_must_be_known_and_capacities_sensible() -> None:
    with pytest.raises(ExpertError, match="size of 'a' is not known; call resize"):
        Residency(1).place("a")
    with pytest.raises(InputError, match="host"):
        Residency(1, -1)
    with pytest.raises(InputError, match="at least 0"):
        Residency(1).resize("a", -1)
    with pytest.raises(InputError, match="window"):
        LookAhead(-1)


def test_several_small_ones_make_room_and_only_as_many_as_needed() -> None:
    residency = Residency(10)
    for name, size in (("a", 1), ("b", 8), ("c", 1), ("d", 8)):
        residency.resize(name, size)
    place_all(residency, "abc")
    assert residency.place("d") == [Move("b", DEVICE, DISK), Move("d", DISK, DEVICE)]
    assert residency.resident == ("a", "c", "d")


def test_one_that_grew_when_it_was_measured_pushes_others_out() -> None:
    residency = Residency(10)
    for name in "ab":
        residency.resize(name, 4)
    place_all(residency, "ab")
    residency.resize("b", 7, seconds=0.5)
    assert residency.free(DEVICE) == -1
    assert residency.overflow(busy="b") == [Move("a", DEVICE, DISK)]
    assert residency.overflow() == []
    residency.resize("b", 11)
    assert residency.overflow(busy="b") == []
    assert residency.overflow() == [Move("b", DEVICE, DISK)]


def test_one_that_grew_in_the_host_pushes_others_out_of_it() -> None:
    residency = Residency(4, host=4)
    for name in "ab":
        residency.resize(name, 2)
        residency.prefetch(name)
    residency.resize("b", 3)
    assert residency.overflow() == [Move("a", HOST, DISK)]
    assert residency.used(HOST) == 3


def test_a_prefetch_fills_the_host_and_pushes_out_only_what_is_needed_later() -> None:
    residency = of_equal_size(1, host=2)
    assert residency.prefetch("a") == [Move("a", DISK, HOST)]
    assert residency.prefetch("a") == []
    assert residency.prefetch("b", upcoming="ab") == [Move("b", DISK, HOST)]
    assert residency.prefetch("c") == []
    assert residency.prefetch("c", upcoming="abc") == []
    assert residency.prefetch("c", upcoming="acb") == [Move("b", HOST, DISK), Move("c", DISK, HOST)]
    assert residency.place("c") == [Move("c", HOST, DEVICE)]


def test_a_prefetch_leaves_alone_whose_move_is_under_way() -> None:
    residency = of_equal_size(1, host=1)
    residency.prefetch("a")
    assert residency.prefetch("b", upcoming="b", busy="a") == []
    assert residency.prefetch("b", upcoming="b") == [Move("a", HOST, DISK), Move("b", DISK, HOST)]


def test_who_crashed_is_on_disk_and_loads_again() -> None:
    residency = of_equal_size(2)
    place_all(residency, "ab")
    residency.forget("a")
    assert (residency.tier("a"), residency.resident) == (DISK, ("b",))
    assert residency.place("a") == [Move("a", DISK, DEVICE)]


def test_least_frequent_leaves_first() -> None:
    residency = of_equal_size(2, eviction=LFU())
    place_all(residency, "aab")
    residency.place("c")
    assert residency.resident == ("a", "c")


def test_cost_aware_keeps_what_is_slow_to_load_for_its_size() -> None:
    residency = Residency(10, eviction=CostAware())
    for name, seconds in (("quick", 0.1), ("slow", 5.0), ("new", 1.0)):
        residency.resize(name, 5, seconds)
    residency.place("slow")
    residency.place("quick")
    residency.place("new")
    assert residency.resident == ("slow", "new")


def test_cost_aware_minds_what_is_queued_and_guesses_unmeasured_loads() -> None:
    residency = Residency(10, eviction=CostAware())
    residency.resize("quick", 5, 0.1)
    for name in ("other", "new"):
        residency.resize(name, 5)
    residency.place("quick")
    residency.place("other")
    residency.place("new", upcoming=["quick"])
    assert residency.resident == ("quick", "new")


def test_look_ahead_sees_its_window_and_no_farther() -> None:
    for window, kept in ((None, "a"), (2, "a"), (1, "b")):
        residency = of_equal_size(2, eviction=LookAhead(window))
        place_all(residency, "ab")
        residency.place("c", upcoming="da")
        assert residency.resident == (kept, "c"), window


def fewest_loads(names: str, capacity: int) -> int:
    """By trying every victim at every load."""

    @cache
    def best(at: int, there: frozenset[str]) -> int:
        if at == len(names):
            return 0
        if names[at] in there:
            return best(at + 1, there)
        rest = [there] if len(there) < capacity else [there - {one} for one in there]
        return 1 + min(best(at + 1, kept | {names[at]}) for kept in rest)

    return best(0, frozenset())


@settings(max_examples=150, deadline=None)
@given(st.text("abcde", max_size=14), st.integers(1, 4))
def test_look_ahead_loads_as_little_as_any_choice_of_victims(names: str, capacity: int) -> None:
    loads = place_all(of_equal_size(capacity, eviction=LookAhead()), names, known=True)
    assert loads == fewest_loads(names, capacity)


def test_least_recent_does_not() -> None:
    names = "abcabcabc"
    assert place_all(of_equal_size(2), names) == 9
    assert fewest_loads(names, 2) == 6


SIZES = st.fixed_dictionaries({name: st.integers(0, 5) for name in NAMES})
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["place", "place", "prefetch", "forget", "pin", "unpin", "grow"]),
        st.sampled_from(NAMES),
        st.text(NAMES, max_size=2),
        st.text(NAMES, max_size=5),
        st.integers(0, 5),
    ),
    max_size=25,
)


def run(residency: Residency, step: tuple[Any, ...], pinned: set[str]) -> list[Move]:
    """One step of the property test; pins that cannot fit are refused by the residency."""
    kind, name, busy, upcoming, size = step
    if kind == "place":
        return residency.place(name, busy=busy, upcoming=upcoming) or []
    if kind == "prefetch":
        return residency.prefetch(name, upcoming=upcoming)
    if kind == "grow":
        residency.resize(name, size)
        return residency.overflow(upcoming=upcoming)
    if kind == "pin":
        residency.pin(name)
        pinned.add(name)
    elif kind == "unpin":
        residency.unpin(name)
        pinned.discard(name)
    else:
        residency.forget(name)
    return []


@settings(max_examples=200, deadline=None)
@given(SIZES, STEPS, st.sampled_from(RULES), st.integers(0, 6))
def test_moves_never_exceed_a_capacity_nor_evict_the_pinned(
    sizes: dict[str, int], steps: list[tuple[Any, ...]], eviction: Eviction, host: int
) -> None:
    residency, tiers, pinned = (
        Residency(7, host, eviction=eviction),
        dict.fromkeys(sizes, DISK),
        set[str](),
    )
    for name, size in sizes.items():
        residency.resize(name, size)
    for step in steps:
        kind, name, busy, _, size = step
        if kind == "grow" and name in pinned:
            continue  # the pinned alone may exceed the capacity then
        try:
            moves = run(residency, step, pinned)
        except ExpertError:
            continue
        sizes[name] = size if kind == "grow" else sizes[name]
        if kind == "forget":
            tiers[name] = DISK
        for move in moves:
            assert tiers[move.name] is move.source is not move.target
            assert move.target is DEVICE or move.source is DISK or move.name not in pinned
            assert kind != "place" or move.name not in set(busy) - {name}
            tiers[move.name] = move.target
            for tier, capacity in ((DEVICE, 7), (HOST, host)):
                held = sum(sizes[one] for one in sizes if tiers[one] is tier)
                assert held <= capacity or kind == "grow"
        assert all(residency.tier(one) is tiers[one] for one in sizes)
        assert residency.used(DEVICE) <= 7
        assert residency.used(HOST) <= host
        assert kind != "place" or residency.tier(name) is not DEVICE or residency.place(name) == []


@pytest.mark.parametrize(("device", "host"), list(product((1, 2), (0, 2))))
def test_every_rule_places_everything_it_is_asked_for(device: int, host: int) -> None:
    for eviction in RULES:
        residency = of_equal_size(device, host, eviction=eviction)
        for name in "abcdeabdceab":
            assert residency.place(name) is not None
            assert residency.resident[-1] == name


def test_beyond_the_known_queue_another_rule_decides() -> None:
    for beyond, kept in ((LRU(), "bc"), (LFU(), "ac")):
        residency = of_equal_size(2, eviction=LookAhead(beyond=beyond))
        place_all(residency, "aab")
        residency.place("c", upcoming="d")
        assert "".join(residency.resident) == kept
        residency.place("d", upcoming="c")
        assert residency.resident == ("c", "d")
