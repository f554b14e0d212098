"""The retrieval benchmark at the size of four documents."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("wing lift wing", "lift of a plate", "insulin dose", "dose of fever medicine")


@pytest.fixture
def retrieval(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("retrieval")
    del sys.modules["retrieval"]


def test_bm25_is_robertsons_formula(retrieval: Any) -> None:
    scores = retrieval.bm25(DOCUMENTS, ["lift of wing", "unknown"])
    lengths, mean = [3, 4, 2, 4], 13 / 4

    def term(count: int, holding: int, length: int) -> float:
        inverse = np.log(1 + (4 - holding + 0.5) / (holding + 0.5))
        return float(inverse * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / mean)))

    assert scores[0, 0] == pytest.approx(term(2, 1, lengths[0]) + term(1, 2, lengths[0]))
    assert scores[0, 3] == pytest.approx(term(1, 2, lengths[3]))
    assert scores[1].tolist() == [0.0] * 4


def test_outcomes_are_the_ndcg_of_every_retriever_on_every_question(retrieval: Any) -> None:
    words = [f"{a} {b} flow wing lift" for a in "uvwxyz" for b in ("heat", "drag", "wing")]
    ids = tuple(f"d{i}" for i in range(len(words)))
    queries = (retrieval.Query.from_text("q0", "drag of u flow"),)
    one = retrieval.Collection("one", ids, tuple(words), queries, ({"d1": 1.0},))
    near = retrieval.bm25(one.documents, ["drag of u flow"])
    assert retrieval.scored(one, near).tolist() == [1.0]
    assert retrieval.scored(one, -near).tolist() == [0.0]


def test_the_gain_of_a_collection_counts_once_whatever_its_size(retrieval: Any) -> None:
    difference = np.array([1.0] * 90 + [0.0] * 10)
    gain = retrieval.macro_gain(difference, [np.arange(90), np.arange(90, 100)])
    assert gain == {"value": 0.5, "low": 0.5, "high": 0.5}


def test_tables_are_put_between_the_markers_of_the_page(retrieval: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    retrieval.put("new\n", page)
    assert page.read_text() == "before\n<!-- results -->\nnew\n<!-- /results -->\nafter\n"


def test_what_minilm_searches_is_named_and_needs_a_cache(retrieval: Any) -> None:
    chosen = retrieval.options(["data", "--cache", "vectors", "--dense", "cacm,cisi"])
    assert (chosen.dense, chosen.cache) == (["cacm", "cisi"], Path("vectors"))
    with pytest.raises(SystemExit):
        retrieval.options(["data", "--dense", "cacm"])
