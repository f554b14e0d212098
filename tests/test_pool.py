import asyncio
from dataclasses import replace

import pytest

from coterie.answers import number
from coterie.errors import InputError, PluginError
from coterie.experts.base import Expert, Price
from coterie.experts.function import FunctionExpert
from coterie.pool import EVICTIONS, Pool
from coterie.residency import LookAhead
from coterie.types import Call, Completion, Query


class Closing(Expert):
    """Remembers that it was closed."""

    def __init__(self, name: str) -> None:
        self.name, self.closed = name, False

    async def complete(self, call: Call) -> Completion:
        return Completion(self.name, "95")

    async def close(self) -> None:
        self.closed = True


POOL = Pool("mine", {"ann": Closing("ann"), "bob": Closing("bob")}, options={"max_tokens": 9})


def test_a_querys_own_options_win_over_the_pools() -> None:
    queries = (Query.from_text("a", "x"), Query.from_text("b", "y", max_tokens=5, seed=1))
    prepared = POOL.prepare(queries)
    assert dict(prepared[0].params) == {"max_tokens": 9}
    assert dict(prepared[1].params) == {"max_tokens": 5, "seed": 1}
    assert queries[0].params == {}


@pytest.mark.parametrize(
    "other",
    [
        replace(POOL, options={"max_tokens": 10}),
        replace(POOL, experts={"ann": Closing("ann")}),
        replace(POOL, experts={"bob": Closing("bob"), "ann": Closing("ann")}),
        replace(POOL, experts={**POOL.experts, "bob": FunctionExpert("bob", lambda c: "95")}),
    ],
)
def test_a_fingerprint_tells_pools_apart(other: Pool) -> None:
    assert other.fingerprint() != POOL.fingerprint()


def test_a_fingerprint_does_not_depend_on_the_name_or_the_order_of_options() -> None:
    one = replace(POOL, name="one", options={"a": 1, "b": 2})
    two = replace(POOL, name="two", options={"b": 2, "a": 1})
    assert one.fingerprint() == two.fingerprint()


def test_the_extractor_goes_by_its_name() -> None:
    assert replace(POOL, extract="number").extractor is number
    with pytest.raises(PluginError, match="no extractor called 'box'"):
        _ = replace(POOL, extract="box").extractor


def test_closing_a_pool_closes_every_expert() -> None:
    experts = {name: Closing(name) for name in ("ann", "bob")}
    asyncio.run(Pool("mine", experts).close())
    assert [expert.closed for expert in experts.values()] == [True, True]


@pytest.mark.parametrize(
    ("field", "value"), [("memory", 0), ("host_memory", -1), ("eviction", "x"), ("capacity", 0)]
)
def test_room_that_makes_no_sense_is_refused(field: str, value: object) -> None:
    with pytest.raises(InputError, match=f"'{field}': expected .*got '?{value}"):
        replace(POOL, **{field: value})  # type: ignore[arg-type]


def test_the_eviction_rule_goes_by_its_name() -> None:
    assert POOL.rule == LookAhead()
    assert [replace(POOL, eviction=name).rule.order([], []) for name in EVICTIONS] == [[]] * 4


def test_an_expert_without_slots_is_refused() -> None:
    expert = FunctionExpert("idle", lambda call: "95", slots=1)
    expert.slots = 0
    with pytest.raises(InputError, match="'idle' has none"):
        Pool("mine", {"idle": expert})


def test_another_price_is_another_fingerprint_and_another_extractor_is_not() -> None:
    costly = Closing("ann")
    costly.price = Price(1.0, 2.0)
    other = replace(POOL, experts={**POOL.experts, "ann": costly})
    assert other.fingerprint() != POOL.fingerprint()
    assert replace(POOL, extract="number").fingerprint() == POOL.fingerprint()
