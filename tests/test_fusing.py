"""Mixture-of-agents, rank and fuse, and the weighted fusion of answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.aggregators import Fusion, Majority
from coterie.answers import number
from coterie.compositions import Composition
from coterie.compositions.mixture import Mixture
from coterie.compositions.rank_and_fuse import RankAndFuse, wins
from coterie.errors import InputError
from coterie.scorers import Scorer
from coterie.testing import Reply, converse, fail
from coterie.types import Call, Completion, Decision, Query

QUERY = Query.from_text("q", "What is 37 plus 58?")
TRIO = Decision("any", ("ann", "bob", "cid"), (0.9, 0.6, 0.4))


def experts(**texts: str) -> Reply:
    """What each expert answers; it merges to its name in brackets; those not named fail."""

    def reply(call: Call) -> Completion:
        if call.expert not in texts:
            return fail(call)
        text = texts[call.expert] if call.purpose == "answer" else f"[{call.expert}]"
        return Completion(call.expert, text)

    return reply


def held(composition: Composition, reply: Reply) -> tuple[list[list[Call]], Completion]:
    rounds, answer = converse(composition, reply, TRIO, QUERY)
    return [[*calls] for calls in rounds], answer


def test_every_layer_reads_the_answers_of_the_layer_before() -> None:
    rounds, answer = held(Mixture(), experts(ann="94", bob="<think>hm</think>95", cid="96"))
    assert [[c.expert for c in calls] for calls in rounds] == [["ann", "bob", "cid"]] * 2 + [
        ["ann"]
    ]
    second, last = rounds[1][2].messages, rounds[2][0].messages
    assert second[0]["role"] == "system"
    assert second[0]["content"].endswith("1. 94\n\n2. 95\n\n3. 96")
    assert last[0]["content"].endswith("1. [ann]\n\n2. [bob]\n\n3. [cid]")
    assert (last[1], answer.text) == (QUERY.messages[0], "[ann]")


def test_a_mixture_goes_on_without_those_that_fail() -> None:
    rounds, answer = held(Mixture(writer="bob"), experts(bob="95"))
    assert rounds[1][0].messages[0]["content"].endswith("1. 95")
    assert answer.text == "[bob]"
    broken, fallen = held(Mixture(2, writer="eve"), experts(ann="94", bob="95", cid="95"))
    assert [calls[0].expert for calls in broken] == ["ann", "eve"]
    assert fallen.text == "95"


def test_a_system_message_of_the_query_stays_first() -> None:
    asked = Query("q", ({"role": "system", "content": "Be brief."}, *QUERY.messages))
    rounds, _ = converse(Mixture(2), experts(ann="95"), TRIO, asked)
    (call,) = rounds[1]
    assert [m["role"] for m in call.messages] == ["system", "user"]
    assert call.messages[0]["content"].startswith("Be brief.\n\nSeveral models")
    with pytest.raises(InputError, match="at least 2, got 1"):
        Mixture(1)


def prefers(*order: str) -> Reply:
    """Experts say their names; the judge likes answers in this order, and fuses to ``fused``."""

    def reply(call: Call) -> Completion:
        if call.purpose == "answer":
            return Completion(call.expert, call.expert)
        if call.purpose == "aggregate":
            return Completion(call.expert, "fused")
        _, first, second = call.messages[0]["content"].split("Answer ", 2)
        places = [order.index(part.split("\n")[1]) for part in (first, second)]
        return Completion(call.expert, "A" if places[0] < places[1] else "B")

    return reply


def test_answers_are_compared_in_both_orders_and_the_best_are_fused() -> None:
    rounds, answer = held(RankAndFuse(top=2), prefers("cid", "ann", "bob"))
    assert [len(calls) for calls in rounds] == [3, 6, 1]
    assert {(*c.options["one_of"],) for c in rounds[1]} == {("A", "B")}
    prompt = rounds[2][0].messages[0]["content"]
    assert "Model 1: cid\nModel 2: ann\n" in prompt
    assert answer.text == "fused"
    assert held(RankAndFuse(top=1), prefers("bob", "cid", "ann"))[1].text == "bob"


def test_a_judge_that_always_says_a_decides_nothing() -> None:
    def reply(call: Call) -> Completion:
        return Completion(call.expert, call.expert if call.purpose == "answer" else "A")

    assert held(RankAndFuse(top=1), reply)[1].text == "ann"
    assert wins(["A"] * 6, 3).tolist() == [2.0, 2.0, 2.0]
    assert wins([None] * 6, 3).tolist() == [2.0, 2.0, 2.0]


def test_equal_answers_are_compared_once_and_one_needs_no_judge() -> None:
    rounds, answer = held(RankAndFuse(extract=number), experts(ann="It is 95", bob="95"))
    assert (len(rounds), answer.expert) == (1, "ann")
    assert held(RankAndFuse(), experts())[1].failed


def test_where_the_fuser_fails_the_best_answer_stands() -> None:
    _, answer = held(RankAndFuse(fuser="eve", judge="ann"), lambda call: (
        fail(call) if call.expert == "eve" else prefers("bob", "cid", "ann")(call)
    ))  # fmt: skip
    assert answer.text == "bob"


def test_a_scorer_ranks_without_calls() -> None:
    coefficients = np.zeros((262, 3))
    coefficients[257] = 9.0  # the length of the text
    scorer = Scorer(TRIO.experts, coefficients, np.zeros(3))
    said = experts(ann="short", bob="the longest", cid="longer")
    rounds, answer = held(RankAndFuse(top=1, scorer=scorer), said)
    assert (len(rounds), answer.text) == (1, "the longest")
    fused, _ = held(RankAndFuse(top=2, scorer=scorer), said)
    assert "Model 1: the longest\nModel 2: longer\n" in fused[1][0].messages[0]["content"]


def voted(qualities: list[float], answers: str, temperature: float) -> str:
    completions = [Completion(str(i), text) for i, text in enumerate(answers)]
    return Fusion(temperature=temperature)(QUERY, completions, qualities, 0).text


def test_the_fusion_adds_up_shares_of_equal_answers() -> None:
    shares = np.exp(np.array([0.9, 0.6, 0.5]) / 0.6)
    assert shares[0] < shares[1] + shares[2]
    assert voted([0.9, 0.6, 0.5], "abb", 0.6) == "b"
    assert voted([0.9, 0.6, 0.5], "abb", 0.3) == "a"


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abc")), min_size=1, max_size=7))
def test_the_limits_of_the_temperature_are_the_best_expert_and_the_majority(
    votes: list[tuple[float, str]],
) -> None:
    qualities, answers = [round(q, 2) for q, _ in votes], "".join(a for _, a in votes)
    best = {a for q, a in zip(qualities, answers, strict=True) if q == max(qualities)}
    assert voted(qualities, answers, 1e-4) in best
    completions = [Completion(str(i), text) for i, text in enumerate(answers)]
    majority = Majority()(QUERY, completions, qualities, 0).text
    counts = {a: answers.count(a) for a in answers}
    assert counts[voted(qualities, answers, 1e6)] == counts[majority]


def test_a_fusion_needs_a_temperature_above_zero() -> None:
    with pytest.raises(InputError, match="above 0, got 0"):
        Fusion(temperature=0)
