"""The batch benchmark at small sizes: its ways agree, its files load, its page is up to date."""

import asyncio
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coterie.drivers.rooms import by_count
from coterie.experts.base import Expert
from coterie.experts.gguf import read_header
from coterie.experts.local import LocalExpert
from coterie.types import Call, Completion

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    known = set(sys.modules)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(ROOT / "benchmarks")):
            del sys.modules[name]


def benchmark(name: str) -> Any:
    return importlib.import_module(name)


class Echo(Expert):
    """Answers with its name while it is loaded."""

    slots = 1
    loaded = False

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def size(self) -> int:
        return 1

    async def load(self) -> None:
        self.loaded = True

    async def unload(self, keep: bool = False) -> None:
        self.loaded = False

    async def complete(self, call: Call) -> Completion:
        await asyncio.sleep(0)
        assert self.loaded
        return Completion(self.name, self.name)


def requests(*names: str) -> list[list[Call]]:
    return [[Call(name, ()) for name in request] for request in names]


def test_a_server_with_room_for_two_loads_what_lru_loads() -> None:
    switching, experts = benchmark("switching"), {name: Echo(name) for name in "abc"}
    asked = requests("ab", "ca", "ab")
    served = asyncio.run(switching.serve(asked, experts, by_count(experts, 2)))
    assert served.texts == list("abcaab")
    assert served.loads == 4
    assert not any(expert.loaded for expert in experts.values())


def test_the_naive_way_loads_for_every_call() -> None:
    switching, experts = benchmark("switching"), {name: Echo(name) for name in "ab"}
    served = asyncio.run(switching.serve_naively(requests("ab", "aa"), experts))
    assert (served.loads, served.texts) == (4, list("abaa"))


def test_a_request_of_more_experts_than_there_is_room_for_is_answered() -> None:
    switching, experts = benchmark("switching"), {name: Echo(name) for name in "abcd"}
    served = asyncio.run(switching.serve(requests("abcd"), experts, by_count(experts, 2), 16))
    assert (served.loads, served.texts) == (4, list("abcd"))


def test_untrained_weights_load_and_answer_as_the_grammar_has_it(tmp_path: Path) -> None:
    weights = benchmark("weights")
    path = tmp_path / "small.gguf"
    weights.write_weights(path, weights.Shape(1, width=64, hidden=96, heads=2), seed=1)
    assert read_header(path).tensors == 2 + 9
    expert = LocalExpert("small", path, context=128, isolate=False)
    query = weights.question(3)
    call = Call("small", query.messages, "answer", query.params)
    completion = asyncio.run(answer_and_close(expert, call))
    assert re.fullmatch(f"[a-z]{{{weights.LETTERS}}}", completion.text), completion


async def answer_and_close(expert: Expert, call: Call) -> Completion:
    completion = await expert.complete(call)
    await expert.close()
    return completion


def test_segments_find_what_was_added_also_after_a_kill_in_the_middle_of_a_line(
    tmp_path: Path,
) -> None:
    journal = benchmark("journal")
    kept = journal.Segments(tmp_path / "lines", 3)
    for number in (2, 0):
        kept.add(number, 0, 0, journal.call(number), journal.completion(number))
    kept.close()
    with (tmp_path / "lines").open("ab") as file:
        file.write(b"[1, 0,")
    again = journal.Segments(tmp_path / "lines", 3)
    again.add(1, 0, 0, journal.call(1), journal.completion(1))
    found = [again.find(number, 0, (journal.call(number),)) for number in range(3)]
    again.close()
    assert found == [[journal.completion(number)] for number in range(3)]


def test_the_ideal_makes_the_calls_that_the_driver_makes() -> None:
    lanes = benchmark("lanes")
    pool = lanes.read_config("embedded").pool()
    work = lanes.embedded_work(pool, 40)
    queues = work.queues()
    assert sum(map(len, queues.values())) == 40 * lanes.RECRUITS
    assert set(queues) == set(work.experts)
    assert len(work.first(5).requests()) == 5


def test_the_overhead_run_answers_everything_and_loads_each_expert_once() -> None:
    overhead = benchmark("overhead")
    found = overhead.run(300, 3)
    assert (found["calls"], found["loads"]) == (900, overhead.EXPERTS)
    assert found["us_per_call"] > 0
    assert found["peak_mb"] > 10


def test_goals_are_met_or_missed_or_not_measured() -> None:
    batch = benchmark("batch")
    figures = dict.fromkeys(batch.FIGURES) | {"wall_over_ideal": 1.05, "speedup_vs_naive": 4.9}
    found = batch.met(figures)
    assert found["wall_over_ideal"] is True
    assert found["speedup_vs_naive"] is False
    assert found["journal_share"] is None


def test_the_page_has_the_figures_of_the_results() -> None:
    page_of = benchmark("batch_page")
    path = ROOT / "benchmarks" / "results" / "batch.json"
    found = json.loads(path.read_text()) if path.exists() else None
    page = (ROOT / "docs" / page_of.PAGE).read_text(encoding="utf-8")
    again = "run python benchmarks/batch_page.py"
    assert page == page_of.refreshed(page, found), again
    assert (ROOT / "docs" / page_of.KNEE).read_text() == page_of.plot_knee(), again
    assert set(re.findall(r"figures: (\w+)", page)) == set(page_of.BLOCKS)


def test_bars_are_as_long_as_their_values() -> None:
    drawn = benchmark("plots").bars([("loads", {"naive": 400.0, "grouped <16>": 100.0})])
    long, short = map(float, re.findall(r'<rect .*?width="([\d.]+)"', drawn))
    assert long == pytest.approx(4 * short, rel=0.01)
    assert "grouped &lt;16&gt;" in drawn
