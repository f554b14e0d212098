import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import coterie
from coterie.answers import arrow
from coterie.errors import InputError
from coterie.experts.base import Price
from coterie.experts.function import FunctionExpert, Result
from coterie.experts.local import LocalExpert
from coterie.experts.modes import ModeExpert, with_system
from coterie.testing import ask
from coterie.types import Call, Completion, Usage

ADD = Path(coterie.__file__).parent / "embedded" / "experts" / "add-expert.gguf"


class Listening:
    """A function for experts that remembers its calls and answers in turn."""

    def __init__(self, *answers: Result) -> None:
        self.calls: list[Call] = []
        self.answers = list(answers)

    def __call__(self, call: Call) -> Result:
        self.calls.append(call)
        return self.answers[(len(self.calls) - 1) % len(self.answers)]


def run(function: Listening, call: Call | None = None, **settings: Any) -> Completion:
    expert = FunctionExpert("base", function, price=Price(1.0, 10.0), slots=1)
    mode = ModeExpert("mode", expert, **settings)
    return asyncio.run(mode.complete(call or ask(mode)))


def test_its_system_prompt_goes_before_that_of_the_call() -> None:
    listening, user = Listening("95"), {"role": "user", "content": "37 + 58?"}
    system = {"role": "system", "content": "Be brief."}
    run(listening, Call("mode", (user,)), system="Think.")
    run(listening, Call("mode", (system, user)), system="Think.")
    first, second = (call.messages for call in listening.calls)
    assert first == ({"role": "system", "content": "Think."}, user)
    assert second == ({"role": "system", "content": "Think.\n\nBe brief."}, user)
    assert with_system((), "Think.") == ({"role": "system", "content": "Think."},)


def test_its_options_win_over_those_of_the_call() -> None:
    listening = Listening("95")
    budget = {"max_tokens": 4096, "chat_template_kwargs": {"enable_thinking": True}}
    run(listening, options=budget)
    assert dict(listening.calls[0].options) == {"temperature": 0.0, "seed": 1, **budget}


def test_a_call_keeps_its_purpose_and_the_answer_its_name() -> None:
    listening = Listening("95")
    completion = run(listening, Call("mode", ({"role": "user", "content": "?"},), "judge"))
    assert (listening.calls[0].expert, listening.calls[0].purpose) == ("base", "judge")
    assert completion.expert == "mode"


def test_the_majority_of_the_samples_speaks_and_all_are_paid() -> None:
    usage = Usage(20, 2)
    texts = ("37 => 94", "so => 95", "surely => 95", "who knows")
    listening = Listening(*(Completion("", text, usage) for text in texts))
    completion = run(listening, samples=4, extract=arrow)
    assert completion.text == "so => 95"
    assert (completion.usage, completion.cost) == (Usage(80, 8), 160.0)


def test_samples_have_seeds_of_their_own_that_repeat() -> None:
    listening = Listening("95")
    for _ in range(2):
        run(listening, samples=3)
    seeds = [call.options["seed"] for call in listening.calls]
    assert len(set(seeds[:3])) == 3
    assert seeds[:3] == seeds[3:]


def test_only_answers_are_sampled() -> None:
    listening = Listening("95")
    run(listening, Call("mode", ({"role": "user", "content": "?"},), "annotate"), samples=3)
    assert len(listening.calls) == 1


def test_samples_that_fail_do_not_vote() -> None:
    broken = Completion("", finish_reason="error", error="out of order")
    assert run(Listening(broken, broken, "95"), samples=3).text == "95"
    failed = run(Listening(broken), samples=3)
    assert (failed.error, failed.broke) == ("mode: out of order", True)


def test_its_price_is_the_backends_unless_it_has_one() -> None:
    answer = Completion("", "95", Usage(20, 2))
    assert run(Listening(answer)).cost == 40.0
    assert run(Listening(answer), price=Price(2.0, 2.0)).cost == 44.0


def test_its_fingerprint_follows_backend_and_settings() -> None:
    expert = LocalExpert("add", ADD)
    mode = ModeExpert("mode", expert, system="Think.")
    others = [
        ModeExpert("mode", expert),
        ModeExpert("mode", expert, system="Think.", samples=3),
        ModeExpert("mode", expert, system="Think.", samples=3, extract=arrow),
        ModeExpert("mode", expert, system="Think.", options={"max_tokens": 9}),
        ModeExpert("mode", LocalExpert("add", ADD, context=128), system="Think."),
    ]
    assert len({other.fingerprint() for other in [mode, expert, *others]}) == 7
    assert replace(ask(mode)).expert == "mode"


def test_a_mode_shares_the_load_of_its_backend() -> None:
    async def main() -> tuple[bool, bool, int]:
        expert = LocalExpert("add", ADD)
        mode = ModeExpert("mode", expert)
        assert (mode.backend, mode.size) == ("add", expert.size)
        await mode.load()
        loaded, measured = expert.loaded, await mode.footprint()
        await mode.unload(keep=True)
        unloaded = not expert.loaded
        await mode.close()
        return loaded, unloaded, measured

    loaded, unloaded, measured = asyncio.run(main())
    assert (loaded, unloaded) == (True, True)
    assert measured > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "'samples': expected a whole number of at least 1, got 0"),
        ({"samples": "3"}, "'samples': expected a whole number of at least 1, got '3'"),
        ({"system": 3}, "'system': expected a text, got 3"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(Listening("95"), **settings)


def test_a_mode_of_a_mode_is_refused() -> None:
    expert = FunctionExpert("base", lambda call: "95")
    with pytest.raises(InputError, match="'mode' is a mode itself; take its backend 'base'"):
        ModeExpert("again", ModeExpert("mode", expert))
