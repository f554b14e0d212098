"""An expert names who answers: the prompt, the tolerant reading, and a reply that names nobody."""

import pytest

from coterie.compositions.prompted import Prompted, named
from coterie.errors import InputError
from coterie.testing import Reply, converse, fail
from coterie.types import Call, Completion, Decision, Query

NAMES = ("code", "code-large", "Math", "legal")
QUERY = Query.from_text("q", "Sort {a, b}.", max_tokens=400)
POOL = Decision("prompted", ("boss", "code", "Math"), (0.9, 0.5, 0.4))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("code", "code"),
        ("  **Math**.\n", "Math"),
        ("math", "Math"),
        ("I would ask code-large, it is good at this.", "code-large"),
        ("<think>code? legal?</think> legal", "legal"),
        ('{"route": "code"}', "code"),
        ('Here: {"id": "Math", "reason": "not code"}', "Math"),
        ('{"route": "other"} code', None),
        ("either code or Math", None),
        ("decode mathematics", None),
        ("{code}", "code"),
        ('{"confidence": 1} legal', "legal"),
        ("", None),
    ],
)
def test_a_reply_is_read_tolerantly_and_never_guessed(text: str, name: str | None) -> None:
    assert named(text, NAMES) == name


def boss(text: str | None) -> Reply:
    """The boss names this, or is out of order; others answer with their name."""

    def reply(call: Call) -> Completion:
        if call.expert == "boss" and call.purpose == "route":
            return fail(call) if text is None else Completion("boss", text)
        return Completion(call.expert, call.expert)

    return reply


@pytest.mark.parametrize(
    ("said", "answers"),
    [("Math", "Math"), ("code", "code"), ("nobody", "boss"), (None, "boss"), ("", "boss")],
)
def test_the_named_expert_answers_else_the_preferred_one(said: str | None, answers: str) -> None:
    assert converse(Prompted(), boss(said), POOL, QUERY)[1].text == answers


def test_a_category_stands_for_its_expert_and_several_for_one() -> None:
    table = {"maths": "Math", "algebra": "Math", "law": "lawyer"}
    routed = Prompted(categories=table)
    answers = {c: converse(routed, boss(c), POOL, QUERY)[1].text for c in table}
    assert answers == {"maths": "Math", "algebra": "Math", "law": "boss"}


def test_the_chooser_reads_descriptions_and_is_held_to_the_names() -> None:
    told = Prompted("Math", {"code": "Writes {programs}."})
    rounds, _ = converse(told, boss(""), POOL, QUERY)
    (call,) = rounds[0]
    assert (call.expert, call.purpose, call.options["one_of"]) == (
        "Math",
        "route",
        [*POOL.experts],
    )
    assert (call.options["max_tokens"], call.options["temperature"]) == (64, 0.0)
    content = call.messages[0]["content"]
    assert "- code: Writes {programs}.\n- Math\n" in content
    assert "Sort {a, b}." in content


def test_where_the_named_expert_fails_the_others_stand_in() -> None:
    def reply(call: Call) -> Completion:
        if call.purpose == "route":
            return Completion("boss", "code")
        return fail(call) if call.expert == "code" else Completion(call.expert, call.expert)

    rounds, answer = converse(Prompted(), reply, POOL, QUERY)
    assert [calls[0].expert for calls in rounds] == ["boss", "code", "boss"]
    assert answer.text == "boss"


def test_nobody_is_asked_whom_to_ask_where_there_is_one_expert() -> None:
    alone = Decision("prompted", ("boss",), (1.0,))
    assert len(converse(Prompted(), boss("x"), alone, QUERY)[0]) == 1


def test_a_table_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="expected a table of texts by name"):
        Prompted(categories={"maths": 3})  # type: ignore[dict-item]
