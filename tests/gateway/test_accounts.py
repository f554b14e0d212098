import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from ledger_world import Store

from coterie.gateway.accounts import ANONYMOUS, Accounts, duration
from coterie.gateway.allowances import period_at
from coterie.gateway.entries import Key, Team
from coterie.gateway.keys import allows, make_key
from coterie.gateway.ledger import Balance, Ledger
from coterie.gateway.wire import ApiError

NOON = 1_700_000_000.0  # 2023-11-14 22:13:20, 40 seconds before the next minute


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


async def new_key(ledger: Ledger, **limits: Any) -> Key:
    key, _ = make_key("one", **limits)
    await ledger.put_key(key)
    return key


async def balance(ledger: Ledger, account: str, period: str = "total") -> Balance:
    await ledger.flush()
    (found,) = [b for b in await ledger.balances() if (b.account, b.period) == (account, period)]
    return found


def runs(test: Callable[..., Awaitable[None]]) -> Callable[[Ledger], None]:
    """A test on both stores with accounts whose clock it holds."""

    def run(ledger: Ledger) -> None:
        clock = Clock()
        asyncio.run(test(ledger, Accounts(ledger, clock=clock), clock))  # type: ignore[arg-type]

    run.__name__ = test.__name__
    return run


def refusal(error: pytest.ExceptionInfo[ApiError]) -> tuple[int, str | None, dict[bytes, bytes]]:
    return error.value.status, error.value.code, dict(error.value.headers)


@runs
async def test_a_secret_opens_until_it_is_revoked_or_expires(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    key, secret = make_key("one", expires=NOON + 60, clock=NOON)
    await ledger.put_key(key)
    await accounts.refresh()
    assert accounts.authenticate(secret) == key
    for wrong in (None, "", secret[:-1], secret + "x", key.prefix, "sk-co-\ud800"):
        with pytest.raises(ApiError) as error:
            accounts.authenticate(wrong)
        assert refusal(error)[:2] == (401, "invalid_api_key")
    clock.now += 61
    with pytest.raises(ApiError, match="expired"):
        accounts.authenticate(secret)


@runs
async def test_another_process_revokes_a_key_within_two_seconds(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    key, secret = make_key("one")
    await accounts.start()
    await ledger.put_key(key)
    for revoked in (None, NOON):
        await ledger.put_key(Key(**{**_fields(key), "revoked": revoked}))
        end = time.monotonic() + 2.5
        while time.monotonic() < end and _opens(accounts, secret) != (revoked is None):
            await asyncio.sleep(0.02)
        assert _opens(accounts, secret) == (revoked is None)
    await accounts.close()


def _fields(key: Key) -> dict[str, Any]:
    return {name: getattr(key, name) for name in key.__struct_fields__}


def _opens(accounts: Accounts, secret: str) -> bool:
    try:
        accounts.authenticate(secret)
    except ApiError:
        return False
    return True


@runs
async def test_no_key_is_needed_where_there_is_none_or_keys_are_off(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    accounts.keys = "auto"
    assert accounts.authenticate("sk-anything") is ANONYMOUS
    (await accounts.reserve(ANONYMOUS, 1.0, 5)).settle(0.5, 3)
    assert (await balance(ledger, "key:")).settled == 0.5
    await new_key(ledger)
    await accounts.refresh()
    with pytest.raises(ApiError, match="Incorrect"):
        accounts.authenticate("sk-anything")
    accounts.keys = "off"
    assert accounts.authenticate(None) is ANONYMOUS


def test_a_key_asks_only_its_experts() -> None:
    assert allows(make_key("one", experts=("a",))[0], "a")
    assert not allows(make_key("one", experts=("a",))[0], "b")
    assert allows(make_key("one")[0], "b")


@runs
async def test_what_is_reserved_cannot_be_spent_twice_and_comes_back(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    key = await new_key(ledger, budget=1.0)
    one = await accounts.reserve(key, 0.75, 10)
    with pytest.raises(ApiError) as error:
        await accounts.reserve(key, 0.5, 10)
    status, code, headers = refusal(error)
    assert (status, code) == (429, "insufficient_quota")
    assert headers[b"retry-after"] == b"1"  # what is reserved may come back
    one.settle(0.25, 4)
    one.settle(0.25, 4)  # only the first counts
    other = await accounts.reserve(key, 0.75, 10)
    other.release()
    (await accounts.reserve(key, 0.75, 10)).settle(0.75, 10)
    with pytest.raises(ApiError) as error:
        await accounts.reserve(key, 0.01, 10)
    assert refusal(error)[2] == {b"x-should-retry": b"false"}
    assert (await balance(ledger, f"key:{key.id}")).settled == 1.0


@runs
async def test_a_reservation_is_extended_where_every_budget_has_that_much_left(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    await ledger.put_team(Team("lab", budget=2.0))
    key = await new_key(ledger, team="lab", budget=1.0)
    await accounts.refresh()
    held = await accounts.reserve(key, 0.25, 1)
    await accounts.extend(held, 0.5)
    said = r"budget of this key, 1, .* may cost up to 1\.25; 0 is"
    with pytest.raises(ApiError, match=said) as error:
        await accounts.extend(held, 0.5)
    assert refusal(error)[:2] == (429, "insufficient_quota")
    with pytest.raises(ApiError):  # the first part is not free for others
        await accounts.reserve(key, 0.5, 1)
    held.settle(0.125, 1)
    (await accounts.reserve(key, 0.875, 1)).release()
    for account in (f"key:{key.id}", "team:lab"):
        assert (await balance(ledger, account)).settled == 0.125


@runs
async def test_spending_above_the_reservation_is_recorded_in_full(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    key = await new_key(ledger, budget=1.0)
    (await accounts.reserve(key, 0.5, 10)).settle(2.5, 10)
    found = await balance(ledger, f"key:{key.id}")
    assert (found.settled, found.reserved) == (2.5, 0.0)
    with pytest.raises(ApiError, match=r"2\.5 is spent"):
        await accounts.reserve(key, 0.5, 10)
    (await accounts.reserve(key, 0.0, 10)).settle(0.0, 10)  # what is free is never too dear


@runs
async def test_a_cost_that_is_no_number_counts_as_the_worst_case(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    key = await new_key(ledger, budget=1.0)
    (await accounts.reserve(key, 0.5, 10)).settle(float("nan"), 10)
    assert (await balance(ledger, f"key:{key.id}")).settled == 0.5


@runs
async def test_the_keys_of_a_team_share_its_budget(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    await ledger.put_team(Team("lab", budget=1.0))
    one, other = [await new_key(ledger, team="lab", budget=b) for b in (5.0, None)]
    await accounts.refresh()
    (await accounts.reserve(one, 0.75, 1)).settle(0.75, 1)
    with pytest.raises(ApiError, match="budget of this team, 1,"):
        await accounts.reserve(other, 0.5, 1)
    (await accounts.reserve(other, 0.25, 1)).settle(0.25, 1)
    assert (await balance(ledger, "team:lab")).settled == 1.0
    assert (await balance(ledger, f"key:{other.id}")).settled == 0.25


@runs
async def test_a_budget_given_later_counts_what_was_spent_before(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    key = await new_key(ledger)
    (await accounts.reserve(key, 3.0, 1)).settle(3.0, 1)
    await ledger.flush()
    limited = Key(**{**_fields(key), "budget": 4.0})
    with pytest.raises(ApiError, match="budget of this key, 4,"):
        await accounts.reserve(limited, 2.0, 1)
    (await accounts.reserve(limited, 1.0, 1)).release()


@runs
async def test_a_day_begins_at_midnight_and_old_reservations_stay_in_theirs(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    key = await new_key(ledger, budget=1.0, period="day")
    late = await accounts.reserve(key, 1.0, 1)
    with pytest.raises(ApiError) as error:
        await accounts.reserve(key, 1.0, 1)
    clock.now += 2 * 3600  # 2023-11-15
    early = await accounts.reserve(key, 1.0, 1)
    late.settle(0.5, 1)
    early.settle(0.25, 1)
    with pytest.raises(ApiError) as error:
        await accounts.reserve(key, 1.0, 1)
    assert refusal(error)[2][b"retry-after"] == str(24 * 3600 - 800).encode()
    assert (await balance(ledger, f"key:{key.id}", "2023-11-14")).settled == 0.5
    assert (await balance(ledger, f"key:{key.id}", "2023-11-15")).settled == 0.25


def test_months_and_days_have_their_ends() -> None:
    assert period_at("month", NOON) == ("2023-11", 1_701_388_800.0)
    assert period_at("month", 1_703_000_000.0) == ("2023-12", 1_704_067_200.0)
    assert period_at("day", NOON) == ("2023-11-14", 1_700_006_400.0)
    assert period_at("minute", NOON)[1] == NOON + 40


@runs
async def test_requests_and_tokens_a_minute_are_limited_and_told(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    key = await new_key(ledger, rpm=3, tpm=1000)
    first = await accounts.reserve(key, 0.0, 400)
    assert dict(first.headers) == {
        b"x-ratelimit-limit-requests": b"3",
        b"x-ratelimit-remaining-requests": b"2",
        b"x-ratelimit-reset-requests": b"40s",
        b"x-ratelimit-limit-tokens": b"1000",
        b"x-ratelimit-remaining-tokens": b"600",
        b"x-ratelimit-reset-tokens": b"40s",
    }
    first.settle(0.0, 100)
    assert dict(first.headers)[b"x-ratelimit-remaining-tokens"] == b"900"
    (await accounts.reserve(key, 0.0, 900)).settle(0.0, 1100)  # more than it was thought to be
    with pytest.raises(ApiError) as error:
        await accounts.reserve(key, 0.0, 1)
    assert (error.value.type, *refusal(error)[:2]) == ("tokens", 429, "rate_limit_exceeded")
    assert refusal(error)[2][b"retry-after"] == b"51"  # the minute's 40, until 201 of 1200 faded
    assert refusal(error)[2][b"x-ratelimit-reset-tokens"] == b"51s"
    clock.now += 40 + 30
    half = dict((await accounts.reserve(key, 0.0, 5)).headers)
    assert half[b"x-ratelimit-remaining-tokens"] == b"395"  # with what was not reserved
    clock.now += 90
    full = dict((await accounts.reserve(key, 0.0, 5)).headers)
    assert full[b"x-ratelimit-remaining-tokens"] == b"995"


@runs
async def test_two_bursts_at_the_turn_of_a_minute_are_not_let_in(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    key = await new_key(ledger, rpm=20)

    async def burst() -> int:
        for count in range(40):
            try:
                (await accounts.reserve(key, 0.0, 1)).release()
            except ApiError as error:
                waits.append(int(dict(error.headers)[b"retry-after"]))
                return count
        return 40

    waits: list[int] = []
    counts = [await burst()]
    for seconds in (41, 29, 1, 2):  # a minute begins in 40
        clock.now += seconds
        await asyncio.sleep(0.3)  # until a refusal is asked for again
        counts.append(await burst())
    assert counts == [20, 0, 10, 0, 1]
    assert waits[:4] == [43, 2, 3, 2]


@runs
async def test_what_a_minute_had_leased_and_not_used_does_not_count_in_the_next(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    key = await new_key(ledger, tpm=1000)
    (await accounts.reserve(key, 0.0, 900)).settle(0.0, 50)
    clock.now += 41
    (await accounts.reserve(key, 0.0, 950)).settle(0.0, 950)


@runs
async def test_what_was_used_beyond_the_reserved_long_ago_is_forgotten(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    key = await new_key(ledger, tpm=1000)
    late = await accounts.reserve(key, 0.0, 900)
    clock.now += 600
    await accounts.tend()
    late.settle(0.0, 5000)
    clock.now += 600
    await ledger.flush()
    await ledger.forget_leases(clock.now)
    assert not [one for one in await ledger.balances() if "tpm" in one.account]


@runs
async def test_a_request_that_cost_nothing_counts_as_a_request(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    key = await new_key(ledger, rpm=2)
    for _ in "ab":
        (await accounts.reserve(key, 0.0, 1)).release()
    with pytest.raises(ApiError) as error:
        await accounts.reserve(key, 0.0, 1)
    assert (error.value.type, error.value.code) == ("requests", "rate_limit_exceeded")


@runs
async def test_a_request_above_the_limit_itself_is_not_to_be_repeated(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    key = await new_key(ledger, tpm=1000)
    with pytest.raises(ApiError) as error:
        await accounts.reserve(key, 0.0, 1001)
    assert refusal(error)[2][b"x-should-retry"] == b"false"


@runs
async def test_only_so_many_requests_at_a_time(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    key = await new_key(ledger, concurrency=2)
    one, _ = [await accounts.reserve(key, 0.0, 1) for _ in "ab"]
    with pytest.raises(ApiError, match="2 requests at a time") as error:
        await accounts.reserve(key, 0.0, 1)
    assert refusal(error)[2][b"retry-after"] == b"1"
    one.release()
    (await accounts.reserve(key, 0.0, 1)).settle(0.0, 1)


@runs
async def test_a_denied_request_reserves_nothing(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    key = await new_key(ledger, budget=1.0, rpm=10, tpm=10, concurrency=1)
    for cost, tokens in ((2.0, 1), (0.5, 11)):
        with pytest.raises(ApiError):
            await accounts.reserve(key, cost, tokens)
    (await accounts.reserve(key, 1.0, 10)).release()


@runs
async def test_idle_leases_go_back_and_closing_leaves_none(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    key = await new_key(ledger, budget=1000.0)
    account = f"key:{key.id}"
    (await accounts.reserve(key, 1.0, 1)).settle(1.0, 1)
    assert (await balance(ledger, account)).reserved > 8
    clock.now += 10
    await accounts.tend()
    assert (await balance(ledger, account)).reserved == 0
    held = await accounts.reserve(key, 1.0, 1)
    await accounts.close()
    assert (await balance(ledger, account)).reserved == pytest.approx(1.0)
    held.settle(0.5, 1)
    assert (await balance(ledger, account)).settled == 1.5


@runs
async def test_most_reservations_wait_for_nothing(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    key = await new_key(ledger, budget=1000.0, rpm=100_000, tpm=10**9, concurrency=64)
    waited = 0
    for _ in range(300):
        asked = accounts.reserve(key, 0.01, 100)
        try:
            asked.send(None)
        except StopIteration as done:
            done.value.settle(0.01, 100)
        else:
            asked.close()
            waited += 1
            (await accounts.reserve(key, 0.01, 100)).settle(0.01, 100)
    assert waited <= 10


@runs
async def test_a_client_that_leaves_while_a_lease_is_asked_for_loses_nothing(
    ledger: Ledger, accounts: Accounts, clock: Clock
) -> None:
    key = await new_key(ledger, budget=1.0)
    for _ in range(20):
        task = asyncio.ensure_future(accounts.reserve(key, 1.0, 1))
        await asyncio.sleep(0)
        if not task.cancel():
            task.result().release()
    await asyncio.sleep(0.1)
    (await accounts.reserve(key, 1.0, 1)).settle(1.0, 1)
    assert (await balance(ledger, f"key:{key.id}")).settled == 1.0


def test_two_replicas_share_budgets_limits_and_slots(store: Store) -> None:
    async def main() -> None:
        with store.open() as one, store.open() as other:
            key = await new_key(one, budget=10.0, rpm=5, concurrency=2)
            both = [Accounts(ledger, clock=Clock()) for ledger in (one, other)]
            held = [await accounts.reserve(key, 4.0, 1) for accounts in both]
            for accounts in both:
                with pytest.raises(ApiError):
                    await accounts.reserve(key, 1.0, 1)
            for reservation in held:
                reservation.settle(4.0, 1)
            for accounts in both:
                with pytest.raises(ApiError, match="budget"):
                    await accounts.reserve(key, 3.0, 1)
            (await both[0].reserve(key, 2.0, 1)).settle(2.0, 1)
            await one.flush()
            assert (await balance(other, f"key:{key.id}")).settled == 10.0

    asyncio.run(main())


def test_durations_are_written_as_openai_does() -> None:
    assert [duration(s) for s in (0.2, 59.1, 360, 3661, -5)] == [
        *("1s", "1m0s", "6m0s", "1h1m1s", "0s")
    ]
