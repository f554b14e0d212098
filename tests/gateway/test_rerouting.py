from collections.abc import Callable

import numpy as np
import pytest
from log_world import COST, POOL, entry, records, traffic

from coterie.errors import InputError
from coterie.gateway.entries import Candidate, Feedback
from coterie.gateway.exporting import Log
from coterie.gateway.rerouting import reroute
from coterie.offpolicy import OverlapError
from coterie.routers.base import Router
from coterie.routers.baselines import Always
from coterie.routers.linear import Linear
from coterie.routers.neighbors import KNN
from coterie.routers.stack import Stack

VALUE = 0.9  # of a router that is always right
ASKED = 0.4 * 0.55 + 0.6 * (0.55 + 0.55 + 0.2) / 3  # of the policy that was logged


def test_the_value_of_another_router_is_found_on_logged_traffic() -> None:
    seen = reroute(traffic(1500), Linear().fit(records()))
    found = seen.compare()
    for name in ("ips", "snips", "doubly robust"):
        assert found.values[name].low <= VALUE <= found.values[name].high
    assert found.logged.value == pytest.approx(ASKED, abs=0.04)
    assert found.shown
    assert found.difference.low > 0.2


@pytest.mark.parametrize("make", [Linear, KNN, lambda: Stack(("knn", "linear"))])
def test_vectors_stand_in_for_texts_that_were_not_kept(make: Callable[[], Router]) -> None:
    router = make().fit(records())
    open_, hidden = (reroute(traffic(300, hidden=h), router) for h in (False, True))
    assert (open_.target == hidden.target).mean() > 0.99  # halves of 16 bits may break a tie
    assert hidden.log.vectors is not None
    assert open_.log.vectors is not None
    assert np.abs(hidden.log.vectors - open_.log.vectors).max() < 1e-3


def test_vectors_of_another_encoder_are_refused() -> None:
    log = traffic(20, hidden=True)
    with pytest.raises(InputError, match="made by encoder abc"):
        reroute(Log(log.entries, log.feedback, "abc"), Linear().fit(records()))
    for one in log.entries:
        one.vector = one.vector[:64]
    with pytest.raises(InputError, match="vectors of 32 numbers, the router reads 128"):
        reroute(log, Linear().fit(records()))


def test_costs_count_as_the_willingness_to_pay_says() -> None:
    log, router = traffic(40), Linear().fit(records())
    assert set(reroute(log, router).target.argmax(axis=1)) == {0, 1}
    cheap = reroute(log, router, 0.01)
    assert set(cheap.target.argmax(axis=1)) == {POOL.index("cid")}
    one = log.entries[0]
    assert cheap.log.reward[0] == pytest.approx(log.scores[one.id] - COST[one.expert] / 0.01)


def test_who_was_barred_then_is_barred_now() -> None:
    log = traffic(40)
    for one in log.entries:
        one.candidates[1] = Candidate("bob", 0.5, barred="lacks tools")
    seen = reroute(log, Linear().fit(records()))
    assert "bob" not in {POOL[j] for j in seen.target.argmax(axis=1)}


def test_requests_that_no_router_decided_are_left_out_and_counted() -> None:
    log = traffic(40)
    entries = list(log.entries)
    entries[0].policy, entries[1].composition, entries[2].decided = "direct", "recruit", ""
    entries[3].content = None
    seen = reroute(log, Linear().fit(records()))
    assert len(seen.entries) == 36
    assert sorted(seen.left_out.values()) == [1, 1, 1, 1]
    with pytest.raises(InputError, match="1 where the client named the expert"):
        reroute(Log(entries[:1]), Linear().fit(records()))


def test_a_log_without_chance_is_refused_and_what_overlaps_is_judged() -> None:
    log = traffic(60, rate=0.0)
    with pytest.raises(OverlapError, match="bob"):
        reroute(log, Always("bob").fit(records())).compare()
    router = Linear().fit(records())
    with pytest.raises(OverlapError):
        reroute(log, router).compare()
    part = reroute(log, router).compare(supported_only=True)
    assert part.requests == 30
    assert not part.shown


def test_an_expert_that_nobody_asked_is_named() -> None:
    log = traffic(30)
    asked = [one for one in log.entries if one.decided != "cid"]
    with pytest.raises(OverlapError, match="ask cid, of which the log has no reward"):
        reroute(Log(asked, log.feedback), Always("cid").fit(records())).compare()


def test_coverage_is_told_by_day_and_by_expert() -> None:
    log = traffic(2000)
    half = Log(log.entries, [f for i, f in enumerate(log.feedback) if i % 2])
    days, experts = reroute(half, Always("bob").fit(records())).coverage().values()
    assert [day["name"] for day in days] == ["2026-11-02", "2026-11-03"]
    assert sum(day["requests"] for day in days) == 2000
    assert sum(row["scored"] for row in experts) == 1000
    assert {row["name"]: row["would be asked"] for row in experts} == {
        "ann": 0,
        "bob": 2000,
        "cid": 0,
    }


def test_constraints_that_leave_one_expert_keep_it() -> None:
    only = [Candidate(name, 0.5, barred="" if name == "cid" else "no") for name in POOL]
    one = entry(0, "What is 1 plus 1?", "cid", 1.0, candidates=only)
    found = reroute(Log([one] * 3, [Feedback(one.id, 0.5, 1.0)]), Linear().fit(records())).compare()
    assert found.values["ips"].value == found.logged.value == 0.5
