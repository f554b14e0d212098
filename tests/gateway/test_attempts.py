import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
from fault_upstream import FaultUpstream
from gateway_world import ALL, HASTY, USED, Outcome, ask, carry_out, outgoing, run
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.experts.limits import RateLimit
from coterie.gateway import attempts as module
from coterie.gateway.attempts import AttemptOptions, Attempts, Delivery, Exhausted
from coterie.gateway.entries import Attempt, Tokens
from coterie.gateway.failures import UpstreamError, failure
from coterie.gateway.replies import FramedReply, Outgoing, Reply, Upstream
from coterie.gateway.retries import Deadline
from coterie.gateway.slots import Slots

Step = Callable[[], Awaitable[Reply]]
PLAIN = AttemptOptions()


async def answer() -> Reply:
    return Reply("m", b"{}", Tokens(1, 1))


def after(seconds: float, then: Step = answer) -> Step:
    async def step() -> Reply:
        await asyncio.sleep(seconds)
        return await then()

    return step


def fails(kind: str, **given: Any) -> Step:
    async def step() -> Reply:
        raise UpstreamError(failure(kind, kind, **given))

    return step


class Pieces(FramedReply):
    """A stream that ends with a failure, or never; ``closed`` says that it was aborted."""

    def __init__(self, *frames: bytes, kind: str = "", shown: bool = True) -> None:
        super().__init__(list(frames), "m", Tokens(3, 1))
        self._kind, self._is_shown = kind, shown
        self.closed = False

    async def events(self) -> AsyncGenerator[bytes, None]:
        for frame in self._frames:
            self.shown = self._is_shown
            yield frame
        if self._kind == "hang":
            await asyncio.sleep(60)
        if self._kind:
            raise UpstreamError(failure(self._kind, self._kind))

    async def aclose(self) -> None:
        self.closed = True


class Script:
    """An expert that does these steps, the last one again and again."""

    def __init__(self, name: str, *steps: Step, slots: int | None = None, **given: Any) -> None:
        self.name, self.slots, self.steps = name, slots, list(steps) or [answer]
        self.calls = self.running = self.most = 0
        vars(self).update(given)

    async def open(self, out: Outgoing, deadline: Deadline) -> Reply:
        step = self.steps[min(self.calls, len(self.steps) - 1)]
        self.calls += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return await step()
        finally:
            self.running -= 1

    async def close(self) -> None:
        """There is nothing to close."""


def streaming(reply: Reply) -> Step:
    async def step() -> Reply:
        return reply

    return step


def serve(
    *upstreams: Upstream,
    options: AttemptOptions = PLAIN,
    owner: Attempts | None = None,
    seconds: float = 5.0,
    out: Outgoing | None = None,
) -> list[Attempt]:
    """The attempts of one request, whether it was answered or not."""
    attempts: list[Attempt] = []

    async def main() -> None:
        using = owner or Attempts(draw=lambda: 0.0)
        asked = out or outgoing(False)
        try:
            delivery = await using.serve(upstreams, asked, Deadline(seconds), options, attempts)
        except Exhausted:
            return
        try:
            async for _ in delivery.events():
                pass
        except UpstreamError:
            pass
        finally:
            await delivery.aclose()
        check_all_given_back(using)

    run(main())
    return attempts


def check_all_given_back(owner: Attempts) -> None:
    for deployment in owner.deployments.values():
        assert (deployment.slots.running, deployment.slots.waiting) == (0, 0)


def kinds(attempts: list[Attempt]) -> list[tuple[str, str]]:
    return [(attempt.expert, attempt.kind) for attempt in attempts]


def test_a_silent_expert_is_not_asked_twice() -> None:
    attempts = serve(Script("a", fails("timeout_first")), Script("b"))
    assert kinds(attempts) == [("a", "timeout_first"), ("b", "")]


def test_an_expert_alone_is_asked_three_times_and_twice_beside_others() -> None:
    assert len(serve(Script("a", fails("reset")))) == 3
    assert kinds(serve(Script("a", fails("reset")), Script("b")))[1:] == [("a", "reset"), ("b", "")]


def test_an_error_of_the_client_ends_it() -> None:
    other = Script("b")
    assert kinds(serve(Script("a", fails("bad_request")), other)) == [("a", "bad_request")]
    assert other.calls == 0


@pytest.mark.parametrize(("window", "asked"), [(4096, 0), (8192, 0), (None, 0), (16384, 1)])
def test_a_text_that_is_too_long_goes_to_larger_windows_only(
    window: int | None, asked: int
) -> None:
    small = Script("small", fails("context_length"), context_length=8192)
    other = Script("other", context_length=window)
    serve(small, other)
    assert other.calls == asked


def test_a_retry_that_would_miss_the_deadline_is_not_made() -> None:
    late = fails("rate_limited", retry_after=3.0)
    assert len(serve(Script("a", late), seconds=1.0)) == 1


def test_an_expert_that_asks_for_time_is_left_while_another_is_free() -> None:
    attempts = serve(Script("a", fails("rate_limited", retry_after=2.0)), Script("b"))
    assert kinds(attempts) == [("a", "rate_limited"), ("b", "")]


def test_nobody_asks_a_limited_expert_again_before_its_time() -> None:
    owner, a, b = Attempts(), Script("a", fails("rate_limited", retry_after=60.0)), Script("b")
    for _ in range(10):
        serve(a, b, owner=owner)
    assert (a.calls, b.calls) == (1, 10)


def test_an_expert_without_quota_is_told_of_as_such_until_it_is_asked_again() -> None:
    owner, a = Attempts(), Script("a", fails("quota", type="insufficient_quota"))

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(Exhausted) as told:
                await owner.serve([a], outgoing(False), Deadline(9), PLAIN)
            assert told.value.to_api_error().code == "insufficient_quota"
        assert told.value.failure.retry_after == pytest.approx(60, rel=0.2)
        late = failure("rate_limited", "slow down", retry_after=1.0)  # it says less
        module._heed(owner.deployment(a), late)
        with pytest.raises(Exhausted) as told:
            await owner.serve([a], outgoing(False), Deadline(9), PLAIN)
        assert told.value.failure.kind == "quota"

    run(main())
    assert a.calls == 1


def test_limited_experts_alone_are_told_of_with_the_time_to_wait() -> None:
    owner, a = Attempts(), Script("a", fails("rate_limited", retry_after=60.0))
    serve(a, owner=owner)

    async def main() -> Exhausted:
        with pytest.raises(Exhausted) as error:
            await owner.serve([a], outgoing(False), Deadline(5), PLAIN)
        return error.value

    told = asyncio.run(main())
    assert a.calls == 1
    assert told.failure.kind == "rate_limited"
    assert 55 < (told.failure.retry_after or 0) <= 66
    assert (b"x-should-retry", b"false") in told.to_api_error().headers


def test_an_ill_expert_is_left_alone_and_probed_once_when_its_pause_is_over() -> None:
    now = [0.0]
    owner = Attempts(clock=lambda: now[0], draw=lambda: 0.5)
    a, b = Script("a", fails("timeout_first")), Script("b")
    for _ in range(50):
        serve(a, b, owner=owner)
    assert a.calls == 5
    now[0] += 30
    for _ in range(10):
        serve(a, b, owner=owner)
    assert a.calls == 6
    a.steps = [answer]
    now[0] += 30
    for _ in range(10):
        serve(a, b, owner=owner)
    assert a.calls == 16


def test_when_all_are_ill_the_least_bad_is_tried() -> None:
    owner = Attempts()
    a = Script("a", *[fails("timeout_first")] * 5, answer)
    for _ in range(5):
        serve(a, owner=owner)
    assert owner.deployments["a"].breaker.state == "open"
    assert kinds(serve(a, owner=owner)) == [("a", "")]
    assert owner.deployments["a"].breaker.state == "closed"


def test_retries_stay_within_their_budget() -> None:
    owner = Attempts(draw=lambda: 0.0)
    a = Script("a", *[fails("conflict")] * 100, answer)  # says nothing about health
    for _ in range(40):
        serve(a, owner=owner)
    assert 40 < a.calls <= 40 + 3 + 8


def test_no_more_calls_run_at_once_than_there_are_slots() -> None:
    a = Script("a", after(0.01), slots=3)

    async def main() -> None:
        owner = Attempts()
        asked = [owner.serve([a], outgoing(False), Deadline(5), PLAIN) for _ in range(20)]
        await asyncio.gather(*asked)
        check_all_given_back(owner)

    asyncio.run(main())
    assert (a.calls, a.most) == (20, 3)


def test_slots_follow_the_settings_and_the_breaker_outlives_them() -> None:
    owner = Attempts()
    serve(Script("a", fails("timeout_first"), slots=1), owner=owner)
    for _ in range(4):
        serve(Script("a", fails("timeout_first"), slots=7), owner=owner)
    assert owner.deployments["a"].slots.size == 7
    assert owner.deployments["a"].breaker.state == "open"


def test_a_queue_that_is_full_turns_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coterie.gateway.attempts.QUEUE", 2)
    a = Script("a", after(0.05), slots=1)

    async def main() -> list[Any]:
        owner = Attempts()
        asked = [owner.serve([a], outgoing(False), Deadline(5), PLAIN) for _ in range(5)]
        return await asyncio.gather(*asked, return_exceptions=True)

    results = asyncio.run(main())
    away = [one for one in results if isinstance(one, Exhausted)]
    assert (len(away), a.calls) == (2, 3)
    error = away[0].to_api_error()
    assert (error.status, error.headers) == (503, [(b"retry-after", b"1")])


def test_requests_above_the_pools_own_limit_wait_in_line() -> None:
    a = Script("a", limit=RateLimit(requests=2, period=0.2))

    async def main() -> float:
        owner, start = Attempts(), asyncio.get_running_loop().time()
        for _ in range(3):
            await owner.serve([a], outgoing(False), Deadline(5), PLAIN)
        return asyncio.get_running_loop().time() - start

    assert asyncio.run(main()) >= 0.19


def test_an_expert_whose_limits_are_used_up_is_not_asked() -> None:
    owner = Attempts()

    async def main() -> None:
        async with FaultUpstream() as server:
            for _ in range(3):
                models = ["limit-used-up", "ok"]
                await carry_out(models, outgoing(False), server.url, PLAIN, result, owner)
            result.log = server.log

    result = Outcome()
    run(main())
    assert result.asked == ["limit-used-up", "ok", "ok"]


@pytest.mark.parametrize("kind", ["", "cut"])
def test_a_stream_is_closed_however_it_ends(kind: str) -> None:
    pieces = Pieces(b"data: 1\n\n", kind=kind)
    assert kinds(serve(Script("a", streaming(pieces)))) == [("a", kind)]
    assert pieces.closed


def test_a_refused_stream_is_closed_before_another_is_opened() -> None:
    pieces = Pieces(b"data: 1\n\n")
    pieces.finish = "content_filter"
    serve(Script("a", streaming(pieces)), Script("b"), options=AttemptOptions(refusals=True))
    assert pieces.closed


RESTART = AttemptOptions(midstream="restart")


def test_a_stream_that_only_thought_goes_on_elsewhere() -> None:
    result = ask("thinks-then-hangs", "ok", options=RESTART, times=HASTY)
    assert (result.kind, result.text, result.expert) == ("", ALL, "ok")
    assert [attempt.kind for attempt in result.attempts] == ["stall", ""]
    assert result.attempts[0].tokens == Tokens(10, 1, estimated=True)
    assert (result.log[0].left, result.billed) == (True, USED)


def test_a_stream_that_said_something_does_not_go_on_elsewhere_unasked() -> None:
    result = ask("truncated-stream", "ok", options=RESTART)
    assert (result.kind, result.asked) == ("cut", ["truncated-stream"])


def test_a_stream_that_said_something_goes_on_elsewhere_on_demand() -> None:
    options = AttemptOptions(midstream="restart", restart_shown=True)
    result = ask("truncated-stream", "ok", options=options)
    assert (result.kind, result.text) == ("", "one two three " + ALL)
    assert b"\n\n: restarted\n\n" in result.body


def test_nothing_goes_on_elsewhere_by_default() -> None:
    assert ask("thinks-then-hangs", "ok", times=HASTY).asked == ["thinks-then-hangs"]


HEDGE = AttemptOptions(hedge=0.02)


def test_a_slow_expert_is_raced_and_the_loser_ended() -> None:
    slow, fast = Script("slow", after(5.0)), Script("fast")
    attempts = serve(slow, fast, options=HEDGE)
    assert kinds(attempts) == [("fast", ""), ("slow", "hedged")]
    assert attempts[1].tokens == Tokens(10, 0, estimated=True)
    assert slow.running == 0


def test_a_quick_expert_is_not_raced() -> None:
    other = Script("other")
    assert kinds(serve(Script("quick"), other, options=HEDGE)) == [("quick", "")]
    assert other.calls == 0


def test_a_race_whose_second_fails_waits_for_the_first() -> None:
    attempts = serve(Script("a", after(0.1)), Script("b", fails("quota")), options=HEDGE)
    assert kinds(attempts) == [("b", "quota"), ("a", "")]


@pytest.mark.parametrize("fields", [{"tools": []}, {"n": 2}])
def test_what_has_side_effects_is_not_raced(fields: dict[str, Any]) -> None:
    other = Script("other")
    out = outgoing(False, **fields)
    assert kinds(serve(Script("slow", after(0.05)), other, options=HEDGE, out=out)) == [
        ("slow", "")
    ]
    assert other.calls == 0


def test_races_are_few() -> None:
    owner, other = Attempts(), Script("other")
    for _ in range(20):
        serve(Script("slow", after(0.03)), other, options=HEDGE, owner=owner)
    assert other.calls <= 3


async def leave(owner: Attempts, upstream: Upstream, after: float, attempts: list[Attempt]) -> None:
    """Ask for a stream and leave after so many seconds, as a client does."""

    async def consume() -> None:
        delivery: Delivery | None = None
        out = outgoing(True)
        try:
            delivery = await owner.serve([upstream], out, Deadline(5), PLAIN, attempts)
            async for _ in delivery.events():
                pass
        finally:
            if delivery is not None:
                await delivery.aclose()

    task = asyncio.ensure_future(consume())
    await asyncio.sleep(after)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_client_that_leaves_before_the_answer_frees_everything() -> None:
    attempts: list[Attempt] = []
    owner, a = Attempts(), Script("a", after(60), slots=1)
    asyncio.run(leave(owner, a, 0.02, attempts))
    assert kinds(attempts) == [("a", "cancelled")]
    assert attempts[0].tokens == Tokens(10, 0, estimated=True)
    check_all_given_back(owner)


def test_a_client_that_leaves_in_the_middle_frees_everything() -> None:
    attempts: list[Attempt] = []
    pieces = Pieces(b"data: 1\n\n", kind="hang")
    owner, a = Attempts(), Script("a", streaming(pieces), slots=1)
    asyncio.run(leave(owner, a, 0.02, attempts))
    assert (kinds(attempts), pieces.closed) == ([("a", "cancelled")], True)
    assert attempts[0].tokens == Tokens(3, 1)
    check_all_given_back(owner)


def test_a_client_that_leaves_the_line_frees_its_place() -> None:
    attempts: list[Attempt] = []
    owner, a = Attempts(), Script("a", after(0.05), slots=1)

    async def main() -> None:
        first = asyncio.ensure_future(owner.serve([a], outgoing(False), Deadline(5), PLAIN))
        await asyncio.sleep(0)
        await leave(owner, a, 0.01, attempts)
        await first

    asyncio.run(main())
    assert (attempts, a.calls) == ([], 1)
    check_all_given_back(owner)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", ["hang", "hang-mid-stream", "slow-drip"])
def test_an_upstream_notices_that_the_client_left(model: str, stream: bool) -> None:
    result = Outcome()

    async def main() -> None:
        async with FaultUpstream() as server:
            asked = carry_out([model], outgoing(stream), server.url, PLAIN, result)
            task = asyncio.ensure_future(asked)
            while not server.log:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.06)
            task.cancel()
            await asyncio.wait([task])
            await asyncio.sleep(0.02)
            result.log = server.log

    run(main())
    assert result.log[0].left
    assert [attempt.kind for attempt in result.attempts] == ["cancelled"]
    assert result.billed is not None
    assert result.billed.estimated


def test_a_breaker_is_not_told_about_clients_that_leave() -> None:
    owner, a = Attempts(), Script("a", after(60))

    async def main() -> None:
        for _ in range(10):
            await leave(owner, a, 0.001, [])

    asyncio.run(main())
    assert owner.deployments["a"].breaker.state == "closed"


@given(st.lists(st.tuples(st.floats(0, 0.01), st.floats(0, 0.01)), min_size=1, max_size=12))
@settings(max_examples=20, deadline=None)
def test_slots_are_never_lost(times: list[tuple[float, float]]) -> None:
    slots = Slots(2, 5)

    async def use(seconds: float) -> None:
        if await slots.take(0.005):
            try:
                assert slots.running <= 2
                await asyncio.sleep(seconds)
            finally:
                slots.give()

    async def main() -> None:
        tasks = [asyncio.ensure_future(use(seconds)) for seconds, _ in times]
        for task, (_, leave) in zip(tasks, times, strict=True):
            asyncio.get_running_loop().call_later(leave, task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    assert (slots.running, slots.waiting) == (0, 0)


def test_a_slot_that_comes_to_one_who_leaves_is_not_lost() -> None:
    async def main() -> None:
        slots = Slots(1, 5)
        assert slots.take_now()
        waiter = asyncio.ensure_future(slots.take(5))
        await asyncio.sleep(0)
        slots.give()
        waiter.cancel()
        await asyncio.wait([waiter])
        assert (slots.running, slots.waiting) == (0, 0)

    asyncio.run(main())
