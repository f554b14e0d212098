import hashlib
import json
from pathlib import Path

import pytest

from coterie.aggregators import ByExpert
from coterie.answers import arrow
from coterie.config import EMBEDDED, read_config
from coterie.demo import TEMPLATE
from coterie.questions import embedded_questions
from training.families import FAMILIES, aggregation_prompt, split_of
from training.questions import SIZES, problems
from training.recipes import recipes

EXPERTS = EMBEDDED.parent / "experts"
CARDS = sorted(EXPERTS.glob("*.card.json"))


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.name.removesuffix(".card.json"))
def test_weights_are_those_of_their_card(path: Path) -> None:
    card = json.loads(path.read_text())
    weights = (EXPERTS / f"{card['name']}.gguf").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == card["sha256"]
    assert card["steps"] == recipes()[card["name"]].steps
    assert set(card["test_accuracy"]) == set(FAMILIES)


def test_every_expert_of_the_pool_has_a_card() -> None:
    pool = read_config("embedded").pool()
    assert {path.name.removesuffix(".card.json") for path in CARDS} == {*pool.experts} - {"smollm2"}


def test_weights_stay_under_fifteen_megabytes() -> None:
    assert sum(path.stat().st_size for path in EMBEDDED.parent.rglob("*") if path.is_file()) < 15e6


@pytest.mark.parametrize("split", SIZES)
def test_questions_come_from_the_generator_and_their_keys_from_their_split(split: str) -> None:
    made = problems(split, SIZES[split])
    asked = embedded_questions(split)
    assert [p.prompt for p in made] == [q.text for q in asked.queries]
    assert [p.reference for p in made] == list(asked.references)
    assert {split_of(p.key) for p in made} == {split}


def test_the_aggregator_is_asked_as_it_was_trained() -> None:
    candidates = ["59 => 95", "85", "5 => 95"]
    prompt = ByExpert("x", arrow, TEMPLATE, brief=True).prompt("37 + 58 = ?", candidates)
    assert prompt == aggregation_prompt("37 + 58 = ?", ["95", "85", "95"])
