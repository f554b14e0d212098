import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import coterie
from coterie.errors import ExpertError
from coterie.experts.engine import Generated
from coterie.experts.llama import LlamaEngine

ADD = Path(coterie.__file__).parent / "embedded" / "experts" / "add-expert.gguf"


@pytest.fixture(scope="module")
def engine() -> Iterator[LlamaEngine]:
    engine = LlamaEngine()
    engine.load(str(ADD))
    yield engine
    engine.unload()


def ask(engine: LlamaEngine, text: str, **options: object) -> Generated:
    return engine.complete([{"role": "user", "content": text}], {"max_tokens": 32, **options})


def test_it_answers_with_usage_and_confidence(engine: LlamaEngine) -> None:
    answer = ask(engine, "What is 3 plus 5?")
    assert "=>" in answer["text"]
    assert answer["prompt_tokens"] == len("What is 3 plus 5?") + 2  # <s> and <sep>
    assert answer["completion_tokens"] == len(answer["text"]) + 1  # </s>
    assert answer["finish_reason"] == "stop"
    assert -1 < (answer["logprob"] or 0) < 0 < answer["latency"]


def test_log_probabilities_can_be_switched_off(engine: LlamaEngine) -> None:
    assert ask(engine, "What is 3 plus 5?", logprobs=False)["logprob"] is None


def test_what_is_known_of_every_token_comes_where_two_readings_are_asked_for(
    engine: LlamaEngine,
) -> None:
    question = [{"role": "user", "content": "What is 3 plus 5?"}]
    options = {"logprobs": True, "top_logprobs": 2}
    whole = engine.complete(question, options)
    pieces = engine.complete(question, options, emit=lambda piece: None)
    assert len(whole["logprobs"]) == len(whole["text"])
    assert sum(whole["logprobs"]) / len(whole["logprobs"]) == pytest.approx(whole["logprob"])
    assert 0 < (whole["margin"] or 0) <= 1
    assert pieces["logprobs"] == pytest.approx(whole["logprobs"])
    assert "margin" not in engine.complete(question, {})


def test_an_answer_can_be_cut_short(engine: LlamaEngine) -> None:
    assert ask(engine, "What is 3 plus 5?", max_tokens=2)["finish_reason"] == "length"
    assert "=>" not in ask(engine, "What is 3 plus 5?", stop=["=>"])["text"]


def test_a_grammar_bounds_the_answer(engine: LlamaEngine) -> None:
    assert ask(engine, "Is it?", grammar='root ::= ("yes"|"no")')["text"] in {"yes", "no"}


@pytest.mark.parametrize("choices", ["ABCD", ["yes", "no"], ['a\n"b"', "c\\d\t"], "ÄÖ"])
def test_choices_leave_exactly_one_of_them(engine: LlamaEngine, choices: Any) -> None:
    answers = {
        ask(engine, f"What is {i} plus 5?", choices=choices, temperature=2, seed=i)["text"]
        for i in range(12)
    }
    assert answers <= set(choices)
    assert len(answers) == 2 or choices == "ABCD"


@pytest.mark.parametrize("choices", ["", [], 3, ["A", 3], ["A", ""], {"A": 1}])
def test_choices_that_are_none_are_refused(engine: LlamaEngine, choices: Any) -> None:
    with pytest.raises(ExpertError, match="choices: expected"):
        ask(engine, "Which?", choices=choices)


def test_a_schema_makes_the_answer_json(engine: LlamaEngine) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    answer = ask(engine, "What is 3 plus 5?", max_tokens=200, response_format=wanted)
    assert json.loads(answer["text"])["n"] in {1, 2}


def test_a_seed_repeats_a_sampled_answer(engine: LlamaEngine) -> None:
    first, second = (ask(engine, "Tell me", temperature=1.5, seed=7)["text"] for _ in range(2))
    assert first == second
    assert len({ask(engine, "Tell me", temperature=1.5, seed=i)["text"] for i in range(5)}) > 1


def test_pieces_add_up_to_the_answer(engine: LlamaEngine) -> None:
    pieces: list[str] = []
    question = [{"role": "user", "content": "What is 3 plus 5?"}]
    answer = engine.complete(question, {}, emit=pieces.append)
    whole = ask(engine, "What is 3 plus 5?")
    assert "".join(pieces) == answer["text"] == whole["text"]
    assert answer["logprob"] == pytest.approx(whole["logprob"])
    assert answer["completion_tokens"] == whole["completion_tokens"]


def test_neighbours_in_the_slots_do_not_change_an_answer(engine: LlamaEngine) -> None:
    questions = [f"What is {i} plus {3 * i}?" for i in range(24)]
    alone = [ask(engine, question)["text"] for question in questions]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda q: ask(engine, q)["text"], questions))
    assert together == alone


def test_a_long_answer_ends_early_when_told_to(engine: LlamaEngine) -> None:
    stop = threading.Event()
    stop.set()
    wide = LlamaEngine()
    wide.load(str(ADD), slots=1, context=256)
    pieces: list[str] = []
    question = [{"role": "user", "content": "What is 3 plus 5?"}]
    answer = wide.complete(question, {"ignore_eos": True}, pieces.append, stop)
    assert answer["finish_reason"] == "cancelled"
    assert len(pieces) <= 2


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ({"role": "user"}, "must contain 'content'"),
        ({"role": "user", "content": "x" * 300}, "exceeds the available context size"),
    ],
)
def test_a_refused_call_says_why(
    engine: LlamaEngine, message: dict[str, str], complaint: str
) -> None:
    with pytest.raises(ExpertError, match=complaint):
        engine.complete([message], {})
    with pytest.raises(ExpertError, match=complaint):
        engine.complete([message], {}, emit=print)


def test_without_a_model_it_says_what_to_do() -> None:
    with pytest.raises(ExpertError, match=r"call load\(path\) first"):
        ask(LlamaEngine(), "Hello")


def test_what_llama_cpp_refuses_is_named(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(ADD.read_bytes().replace(b"llama", b"lambo"))
    with pytest.raises(ExpertError, match=r"odd\.gguf: llama.cpp refused the file"):
        LlamaEngine().load(str(path))


def test_a_model_can_be_unloaded_as_soon_as_it_is_loaded() -> None:
    engine = LlamaEngine()
    for _ in range(40):
        engine.load(str(ADD), slots=1, context=256)
        engine.unload()
    with pytest.raises(ExpertError):
        ask(engine, "Hello")
