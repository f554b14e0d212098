import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.types import Answer, Call, Completion, Decision, Query, Usage, derive_seed

CALL = Call("ann", ({"role": "user", "content": "hello"},), options={"seed": 1, "max_tokens": 5})


@given(st.lists(st.one_of(st.integers(), st.text()), max_size=4))
def test_a_seed_is_a_non_negative_number_below_2_to_the_31(parts: list[object]) -> None:
    assert 0 <= derive_seed(*parts) < 2**31
    assert derive_seed(*parts) == derive_seed(*parts)


def test_a_seed_depends_on_the_boundaries_between_its_parts() -> None:
    assert derive_seed("a", "bc") != derive_seed("ab", "c")
    assert len({derive_seed(0, step, index) for step in range(30) for index in range(30)}) == 900


def test_a_seed_is_the_same_in_another_process() -> None:
    code = "from coterie.types import derive_seed; print(derive_seed(7, 'q', '🦙'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) == derive_seed(7, "q", "🦙")


def test_text_is_what_the_user_said_in_order() -> None:
    messages = (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": "second"},
    )
    assert Query("q", messages).text == "first\nsecond"
    assert Query("q", messages[:1]).text == ""


def test_a_query_from_text_keeps_its_request_options() -> None:
    query = Query.from_text("q", "hello", max_tokens=5)
    assert (query.text, dict(query.params)) == ("hello", {"max_tokens": 5})


@pytest.mark.parametrize(
    "other",
    [
        replace(CALL, expert="bob"),
        replace(CALL, purpose="judge"),
        replace(CALL, options={"seed": 2, "max_tokens": 5}),
        replace(CALL, messages=({"role": "user", "content": "hello "},)),
    ],
)
def test_a_digest_tells_different_calls_apart(other: Call) -> None:
    assert other.digest() != CALL.digest()


def test_a_digest_does_not_depend_on_the_order_of_options() -> None:
    turned = replace(CALL, options={"max_tokens": 5, "seed": 1})
    assert turned.digest() == CALL.digest()


def test_half_a_character_has_a_digest_too() -> None:
    half = replace(CALL, messages=({"role": "user", "content": "\ud800"},))
    assert half.digest() != CALL.digest()


@given(st.text(), st.floats(0, 1e9), st.none() | st.text(), st.none() | st.floats(-99, 0))
def test_a_completion_survives_json(
    text: str, cost: float, error: str | None, logprob: float | None
) -> None:
    completion = Completion("ann", text, Usage(3, 4), cost, error=error, logprob=logprob)
    assert Completion.from_dict(json.loads(json.dumps(completion.to_dict()))) == completion
    assert completion.failed == (error is not None)


def test_a_decision_survives_json() -> None:
    decision = Decision("recruit", ("ann", "ann", "bob"), (0.5, 0.5, 0.25), 0.5, "because")
    assert Decision.from_dict(json.loads(json.dumps(decision.to_dict()))) == decision


def test_an_answer_costs_what_everyone_on_the_way_cost() -> None:
    trace = (Completion("ann", cost=1.5, latency=2.0), Completion("bob", cost=0.5, latency=1.0))
    answer = Answer("q", trace[1], trace, Decision("cascade", ("ann", "bob"), (1.0, 1.0)))
    assert (answer.cost, answer.latency) == (2.0, 3.0)


def test_usage_is_prompt_and_completion_together() -> None:
    assert Usage(3, 4).total == 7
    assert Usage().total == 0


def test_values_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        CALL.expert = "bob"  # type: ignore[misc]
