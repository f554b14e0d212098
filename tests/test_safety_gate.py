"""A gate between a usable and a cautious expert; no test here says that anything is safe."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coterie.artifacts import write_artifact
from coterie.compositions.safety_gate import SafetyGate
from coterie.drivers.live import answer
from coterie.drivers.replay import replay
from coterie.errors import ArtifactError, InputError, NotRecordedError
from coterie.experts.function import FunctionExpert
from coterie.gates import EMBEDDED, Gate, embedded_gate, load_gate
from coterie.testing import COMPOSITION_CHECKS, converse, fail, make_records
from coterie.types import Call, Completion, Decision, Query

PAIR = Decision("safety-gate", ("glad", "wary"), (0.9, 0.5))
QUERY = Query.from_text("q", "How do I build a bomb?", max_tokens=48)
CARD = json.loads((EMBEDDED / "card.json").read_text())["held out"]


def fixed(score: float) -> Any:
    return lambda query: score


def words(call: Call) -> Completion:
    """Word by word, cut at the call's ``max_tokens``; goes on from an assistant's words."""
    said = f"{call.expert} says that this is the answer".split()
    begun = call.messages[-1]["content"].split() if call.messages[-1]["role"] != "user" else []
    rest, most = said[len(begun) :], call.options["max_tokens"]
    text = " ".join(rest[:most])
    return Completion(call.expert, text, finish_reason="length" if len(rest) > most else "stop")


@pytest.mark.parametrize(("score", "expert"), [(0.0, "glad"), (0.49, "glad"), (0.5, "wary")])
def test_the_score_decides_who_answers(score: float, expert: str) -> None:
    rounds, _ = converse(SafetyGate(fixed(score)), decision=PAIR, query=QUERY)
    assert [[call.expert for call in calls] for calls in rounds] == [[expert]]


def test_in_between_the_cautious_expert_begins_and_the_usable_one_goes_on() -> None:
    gate = SafetyGate(fixed(0.5), low=0.3, high=0.7, tokens=3, handover={"going": "on"})
    rounds, _ = converse(gate, words, PAIR, QUERY)
    (opening,), (rest,) = rounds
    assert (opening.expert, opening.options["max_tokens"]) == ("wary", 3)
    assert (rest.expert, rest.options["max_tokens"], rest.options["going"]) == ("glad", 45, "on")
    assert rest.messages[-1] == {"role": "assistant", "content": "wary says that"}


def test_the_whole_answer_begins_with_the_opening() -> None:
    experts = {name: FunctionExpert(name, words) for name in ("glad", "wary")}
    gate = SafetyGate(fixed(0.5), low=0.3, high=0.7, tokens=3)
    made = asyncio.run(answer(QUERY, PAIR, gate, experts))
    assert made.completion.text.startswith("wary says that")
    assert made.completion.text.endswith("this is the answer")
    assert [c.expert for c in made.trace] == ["wary", "glad"]


def test_a_short_refusal_is_not_continued() -> None:
    gate = SafetyGate(fixed(0.5), low=0.3, high=0.7, tokens=20)
    rounds, made = converse(gate, words, PAIR, QUERY)
    assert (len(rounds), made.expert) == (1, "wary")


@pytest.mark.parametrize("score", [0.5, 0.9])
def test_the_usable_expert_never_stands_in_for_a_failing_cautious_one(score: float) -> None:
    gate = SafetyGate(fixed(score), low=0.3, high=0.7)
    reply = lambda call: fail(call) if call.expert == "wary" else words(call)  # noqa: E731
    rounds, made = converse(gate, reply, PAIR, QUERY)
    assert made.failed
    assert [call.expert for calls in rounds for call in calls] == ["wary"]


def test_the_cautious_expert_stands_in_for_a_failing_usable_one() -> None:
    reply = lambda call: fail(call) if call.expert == "glad" else words(call)  # noqa: E731
    assert converse(SafetyGate(fixed(0.0)), reply, PAIR, QUERY)[1].expert == "wary"


@pytest.mark.parametrize("score", [0.1, 0.5, 0.9])
def test_every_branch_keeps_the_contract_of_a_composition(score: float) -> None:
    for check in COMPOSITION_CHECKS:
        check(lambda: SafetyGate(fixed(score), low=0.3, high=0.7))


def test_it_runs_in_replay_but_for_the_mixture() -> None:
    records = make_records(6)
    decisions = [Decision("safety-gate", ("sums", "sorting"), (0.5, 0.5))] * 6
    for score, expert in ((0.0, "sums"), (1.0, "sorting")):
        answers = replay(records.queries, decisions, SafetyGate(fixed(score)), records)
        assert {a.completion.expert for a in answers} == {expert}
    with pytest.raises(NotRecordedError, match="route call to 'sorting'"):
        replay(records.queries, decisions, SafetyGate(fixed(0.5), low=0.1, high=0.9), records)


def test_the_gate_is_a_logistic_head_and_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    coefficients = np.random.default_rng(0).normal(size=129)
    gate = Gate(coefficients)
    texts = ["How do I make a bomb?", "How do I make bread?"]
    logits = gate.encoder.encode(texts) @ coefficients[:-1] + coefficients[-1]
    assert gate.scores(texts) == pytest.approx(1 / (1 + np.exp(-logits)))
    assert gate(Query.from_text("q", texts[1])) == pytest.approx(gate.scores(texts)[1])
    gate.save(tmp_path)
    assert repr(load_gate(tmp_path)) == repr(gate)
    write_artifact(tmp_path, "gate", {"encoder": "other"}, {"coefficients": coefficients})
    with pytest.raises(ArtifactError, match="another static encoder"):
        load_gate(tmp_path)
    write_artifact(tmp_path, "gate", {}, {})
    with pytest.raises(ArtifactError, match="coefficients are missing"):
        load_gate(tmp_path)


def test_the_embedded_gate_errs_on_new_wording_as_its_card_says() -> None:
    from training.gate_prompts import FREE

    facts = CARD["written without frames"]
    for label, key in (("cautious", "missed"), ("usable", "false alarms")):
        scores = embedded_gate().scores(FREE[label].split("|"))
        wrong = np.mean(scores < 0.5 if label == "cautious" else scores >= 0.5)
        assert wrong == pytest.approx(facts["at 0.5"][key], abs=0.001)
        assert wrong < 0.35


def test_shuffled_labels_make_a_gate_that_tells_nothing_apart() -> None:
    control = CARD["control: shuffled labels"]["at 0.5"]
    assert control["missed"] + control["false alarms"] > 0.8
    trained = CARD["unseen frames and fills"]["at 0.5"]
    assert trained["missed"] + trained["false alarms"] < 0.5


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"low": 1.5}, "low"), ({"low": 0.8}, "high"), ({"tokens": 0}, "tokens")],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=field):
        SafetyGate(fixed(0.5), **settings)
