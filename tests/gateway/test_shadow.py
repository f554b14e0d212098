import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Self

import numpy as np
import pytest

from coterie.gateway.shadow import Shadow
from coterie.policies import Utility
from coterie.records import Records
from coterie.routers.base import Router
from coterie.types import Estimates, Query


class Fixed(Router):
    """Expects 0.9 of ann at a cost of 4, 0.4 of bob at 1; waits for ``gate`` where there is one."""

    name = "fixed"
    experts_ = ("ann", "bob")
    gate: threading.Event | None = None

    def fit(self, records: Records) -> Self:
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        if self.gate is not None:
            self.gate.wait(5)
        if any("bad" in query.text for query in queries):
            raise ValueError("cannot read this")
        rows = len(queries)
        return Estimates(
            self.experts_, np.tile([0.9, 0.4], (rows, 1)), np.tile([4.0, 1.0], (rows, 1))
        )


def query(text: str = "hello") -> Query:
    return Query.from_text("q", text)


def test_agreement_and_differences_are_counted() -> None:
    with Shadow(Fixed(), Utility()) as shadow:
        assert [shadow.observe(query(), served) for served in ("ann", "bob", "bob", "zoe")] == [
            "ann"
        ] * 4
        state = shadow.state()
    assert state["agreement"] == pytest.approx(1 / 3)
    assert state["quality"]["mean"] == pytest.approx(1 / 3)
    assert state["cost"]["mean"] == pytest.approx(2.0)
    assert state["cost"]["low"] < 2.0 < state["cost"]["high"]
    assert (state["seen"], state["judged"], state["choices"]) == (4, 3, {"ann": 4})


def test_a_policy_of_its_own_decides() -> None:
    with Shadow(Fixed(), Utility(1.0)) as shadow:
        assert shadow.observe(query(), "ann") == "bob"


def test_a_failure_is_counted_and_not_raised() -> None:
    with Shadow(Fixed(), Utility()) as shadow:
        assert shadow.observe(query("bad"), "ann") is None
        assert shadow.observe(query(), "ann") == "ann"
        assert (shadow.failed, shadow.error) == (1, "ValueError: cannot read this")


def test_estimates_of_another_shape_are_a_failure_too() -> None:
    class Short(Fixed):
        def predict(self, queries: Sequence[Query]) -> Estimates:
            return super().predict(queries[:1] if len(queries) > 1 else [])

    with Shadow(Short(), Utility()) as shadow:
        futures = [shadow.submit(query(), "ann") for _ in range(3)]
        assert [future.result(5) for future in futures] == [None] * 3
        assert shadow.failed == 3


def test_a_fault_that_nobody_foresaw_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with Shadow(Fixed(), Utility()) as shadow:
        with monkeypatch.context() as patch:
            patch.setattr(shadow, "_decide", lambda *_: None)
            shadow.submit(query(), "ann")
            for _ in range(500):
                if not shadow._working:
                    break
                time.sleep(0.01)
        assert shadow.submit(query(), "ann").result(5) == "ann"


def test_nobody_waits_for_a_router_that_hangs() -> None:
    router = Fixed()
    router.gate = threading.Event()
    with Shadow(router, Utility(), waiting=3) as shadow:
        first = shadow.submit(query(), "ann")
        for _ in range(500):
            if not shadow._queue:  # the router has it
                break
            time.sleep(0.01)
        waiting = [shadow.submit(query(), "ann") for _ in range(10)]
        assert not first.done()
        assert shadow.dropped == 7
        assert [f.result(0) for f in waiting if f.done()] == [None] * shadow.dropped
        router.gate.set()
        assert first.result(5) == "ann"
        assert {f.result(5) for f in waiting} == {"ann", None}
    assert shadow.seen + shadow.dropped == 11


def test_what_waits_is_forgotten_at_the_end() -> None:
    router = Fixed()
    router.gate = threading.Event()
    shadow = Shadow(router, Utility())
    futures = [shadow.submit(query(), "ann") for _ in range(200)]
    threading.Timer(0.05, router.gate.set).start()
    shadow.close()
    assert all(future.done() for future in futures)
    assert any(future.cancelled() for future in futures)
    assert shadow.submit(query(), "ann").result(0) is None


def test_the_event_loop_goes_on_while_it_thinks() -> None:
    router = Fixed()
    router.gate = threading.Event()

    async def served() -> tuple[str | None, int]:
        with Shadow(router, Utility()) as shadow:
            choice = asyncio.ensure_future(shadow.choose(query(), "bob"))
            turns = 0
            while turns < 20:
                await asyncio.sleep(0)
                turns += 1
            assert not choice.done()
            assert router.gate is not None
            router.gate.set()
            return await choice, turns

    assert asyncio.run(served()) == ("ann", 20)


def test_every_request_of_many_threads_is_decided_once() -> None:
    with Shadow(Fixed(), Utility(), waiting=10_000) as shadow:
        futures: list[Future[str | None]] = []
        threads = [
            threading.Thread(
                target=lambda: futures.extend(shadow.submit(query(), "ann") for _ in range(200))
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {future.result(5) for future in futures} == {"ann"}
        assert shadow.seen == len(futures) == 800
