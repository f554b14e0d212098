import asyncio

from coterie.experts.base import Price
from coterie.experts.function import FunctionExpert
from coterie.testing import ask
from coterie.types import Call, Completion, Usage


async def shout(call: Call) -> str:
    await asyncio.sleep(0)
    return str(call.messages[-1]["content"]).upper()


def fail(call: Call) -> str:
    raise LookupError("no such word")


def test_an_async_function_answers() -> None:
    expert = FunctionExpert("shout", shout, price=Price(1.0, 1.0))
    completion = asyncio.run(expert.complete(ask(expert, "hello you")))
    assert completion.text == "HELLO YOU"
    assert completion.usage == Usage(2, 2)
    assert (completion.estimated, completion.cost) == (True, 4.0)


def test_what_a_function_raises_is_the_error() -> None:
    expert = FunctionExpert("fail", fail)
    assert asyncio.run(expert.complete(ask(expert))).error == "fail: LookupError: no such word"


def test_a_completion_is_taken_over_under_our_name_and_price() -> None:
    made = Completion("other", "hi", Usage(3, 1), cost=99.0, logprob=-0.5)
    expert = FunctionExpert("mine", lambda call: made, price=Price(1.0, 2.0))
    completion = asyncio.run(expert.complete(ask(expert)))
    assert (completion.expert, completion.cost, completion.logprob) == ("mine", 5.0, -0.5)
    assert not completion.estimated


def test_no_text_is_an_error() -> None:
    expert = FunctionExpert("mute", lambda call: "")
    assert asyncio.run(expert.complete(ask(expert))).error == "mute: answered nothing"


def test_another_type_is_an_error() -> None:
    expert = FunctionExpert("odd", lambda call: 7)  # type: ignore[arg-type, return-value]
    error = asyncio.run(expert.complete(ask(expert))).error
    assert error == "odd: TypeError: expected str or Completion, the function returned 7"


def test_the_fingerprint_names_the_function() -> None:
    assert FunctionExpert("shout", shout).fingerprint().endswith(":shout")
