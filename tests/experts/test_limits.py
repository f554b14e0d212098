import asyncio
import time

import pytest

from coterie.errors import InputError
from coterie.experts.limits import RateLimit, Window


def times_of(window: Window, amounts: list[int]) -> list[float]:
    """Seconds after which each of these amounts was let through, all asking at once."""

    async def main() -> list[float]:
        start = time.monotonic()

        async def take(amount: int) -> float:
            await window.take(amount)
            return time.monotonic() - start

        return await asyncio.gather(*map(take, amounts))

    return asyncio.run(main())


def test_no_window_of_the_period_holds_more_than_the_limit() -> None:
    times = times_of(Window(4, period=0.2), [1] * 12)
    assert max(times[:4]) < 0.1
    assert all(later - earlier >= 0.199 for earlier, later in zip(times, times[4:], strict=False))


def test_nobody_overtakes_one_who_waits_for_much() -> None:
    times = times_of(Window(10, period=0.2), [8, 10, 1])
    assert times[0] < 0.1
    assert 0.2 <= times[1] < times[2]


def test_an_amount_above_the_limit_passes_alone() -> None:
    times = times_of(Window(10, period=0.1), [50, 1])
    assert times[0] < 0.05
    assert times[1] >= 0.1


def test_what_was_not_used_is_free_at_once() -> None:
    async def main() -> float:
        window = Window(10, period=60)
        entry = await window.take(10)
        waiting = asyncio.ensure_future(window.take(5))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        window.settle(entry, 5)
        start = time.monotonic()
        await waiting
        return time.monotonic() - start

    assert asyncio.run(main()) < 0.5


def test_what_was_used_beyond_the_estimate_is_owed() -> None:
    async def main() -> float:
        limit = RateLimit(tokens=10, period=0.2)
        start = time.monotonic()
        limit.settle(await limit.take(1), 10)
        await limit.take(1)
        return time.monotonic() - start

    assert asyncio.run(main()) >= 0.2


def test_one_who_gives_up_waiting_takes_nothing() -> None:
    async def main() -> float:
        limit = RateLimit(requests=1, tokens=10, period=0.3)
        await limit.take(1)
        impatient = asyncio.ensure_future(limit.take(9))
        await asyncio.sleep(0.05)
        impatient.cancel()
        start = time.monotonic()
        await limit.take(9)
        return time.monotonic() - start

    assert asyncio.run(main()) < 0.3


def test_without_a_limit_nothing_waits() -> None:
    assert max(times_of(Window(None), [10**9] * 100)) < 0.5


def test_the_limit_holds_across_event_loops() -> None:
    window = Window(2, period=0.3)
    times_of(window, [2])
    assert times_of(window, [1])[0] > 0.1


@pytest.mark.parametrize("value", [0, -1, 1.5, "60", True])
def test_a_limit_is_a_whole_number(value: object) -> None:
    with pytest.raises(InputError, match="'tokens_per_minute': expected a whole number"):
        RateLimit(tokens=value)  # type: ignore[arg-type]
