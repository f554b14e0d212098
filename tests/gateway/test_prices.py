import pytest
from genai_prices import Usage, calc_price
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from coterie.gateway.entries import Tokens
from coterie.gateway.prices import Prices, Rates, cost, most, published
from coterie.gateway.tariffs import Tariffs

MODELS = [("gpt-4o-mini", "openai"), ("claude-sonnet-4-5", "anthropic")]
counts = st.integers(0, 400_000)


@pytest.mark.parametrize(("model", "provider"), MODELS)
@settings(deadline=None, max_examples=50)
@given(prompt=counts, completion=counts, cached=counts)
def test_costs_are_those_that_genai_prices_calculates(
    model: str, provider: str, prompt: int, completion: int, cached: int
) -> None:
    rates = published(model, provider)
    assert rates is not None
    read = min(cached, prompt)
    usage = Usage(input_tokens=prompt, output_tokens=completion, cache_read_tokens=read)
    theirs = calc_price(usage, model, provider_id=provider).total_price
    ours = cost(rates, Tokens(prompt, completion, read))
    assert ours == pytest.approx(float(theirs), rel=1e-9, abs=1e-15)


def test_a_long_prompt_has_rates_of_its_own() -> None:
    rates = Rates(1.0, 2.0, cached=0.5, tiers=((10, Rates(3.0, 4.0)),))
    assert cost(rates, Tokens(10, 1)) == 12.0
    assert cost(rates, Tokens(11, 1)) == 37.0


def test_cached_and_reasoning_tokens_have_their_rates_or_the_common_one() -> None:
    tokens = Tokens(prompt=10, completion=6, cached=4, reasoning=2)
    assert cost(Rates(1.0, 10.0), tokens) == 70.0
    assert cost(Rates(1.0, 10.0, cached=0.25, reasoning=20.0, request=0.5), tokens) == 87.5


def test_more_cached_tokens_than_there_are_never_make_it_cheaper_than_nothing() -> None:
    assert cost(Rates(1.0, 1.0, cached=0.5), Tokens(2, 1, cached=100, reasoning=100)) == 2.0


def test_the_address_of_the_api_says_whose_price_it_is() -> None:
    there = published("gpt-4.1", "https://api.openai.com/v1")
    assert there == published("gpt-4.1", "openai")
    assert there is not None
    assert published("gpt-4.1", "http://127.0.0.1:8000/v1") is None
    assert published("no-such-model", "openai") is None


def test_the_pool_files_price_comes_first() -> None:
    prices = Prices({"mine": Rates(1.0, 2.0)})
    assert prices.of("mine", "gpt-4o-mini", "openai") == Rates(1.0, 2.0)
    assert prices.of("other", "gpt-4o-mini", "openai") == published("gpt-4o-mini", "openai")


def test_an_unknown_price_is_barred_or_free() -> None:
    models = {"a": ("no-such-model", "openai"), "b": ("gpt-4o-mini", "openai")}
    assert Tariffs(Prices(), models).unpriced == {"a"}
    free = Tariffs(Prices(unknown="free"), models)
    assert (free.unpriced, free.cost("a", Tokens(10, 10))) == (frozenset(), 0.0)
    assert Prices().of("local") is None


def test_the_worst_case_thinks_where_that_is_dearer_and_asks_the_dearest() -> None:
    rates = {"a": Rates(1.0, 2.0), "b": Rates(1.0, 2.0, reasoning=3.0), "c": Rates(9.0, 0.0)}
    tariffs = Tariffs(Prices(rates))
    worst = [tariffs.worst("abc", Tokens(1, 10), together) for together in (1, 2, 3)]
    assert worst == [31.0, 52.0, 61.0]


prices = st.floats(0, 10)
flat = st.builds(Rates, prices, prices, st.none() | prices, st.none() | prices, prices)
tiered = st.builds(
    lambda base, tiers: replace(base, tiers=tuple(sorted(tiers.items()))),
    flat,
    st.dictionaries(st.integers(0, 30), flat, max_size=3),
)
few = st.integers(0, 40)


@given(tiered, few, few, few, few, few, few)
def test_the_most_is_never_less_than_what_any_such_request_costs(
    rates: Rates, prompt: int, made: int, less: int, fewer: int, cached: int, thought: int
) -> None:
    used = Tokens(max(prompt - less, 0), max(made - fewer, 0), cached, thought)
    assert cost(rates, used) <= most(rates, Tokens(prompt, made)) * (1 + 1e-12)


def test_a_tier_that_a_prompt_may_be_in_counts_where_it_is_dearer() -> None:
    rates = Rates(2.0, 0.0, tiers=((10, Rates(1.0, 0.0)), (90, Rates(9.0, 0.0))))
    assert most(rates, Tokens(20)) == 40.0
    assert most(rates, Tokens(100)) == 900.0


def test_published_prices_are_looked_up_again_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, asked = [0.0], []

    def look(model: str, provider: str, now: float) -> Rates:
        asked.append(model)
        return Rates(float(len(asked)), 0.0)

    monkeypatch.setattr("coterie.gateway.prices.published", look)
    prices = Prices(clock=lambda: now[0])
    assert [prices.of("a", "m") for _ in "abc"] == [Rates(1.0, 0.0)] * 3
    now[0] = 301.0
    assert prices.of("a", "m") == Rates(2.0, 0.0)
