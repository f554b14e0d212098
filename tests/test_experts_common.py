"""Every kind of expert keeps the contract that we ship for strangers' experts."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import coterie
from coterie.experts.base import Expert, Price
from coterie.experts.function import FunctionExpert
from coterie.experts.hosts import Worker
from coterie.experts.local import LocalExpert
from coterie.experts.openai import OpenAIExpert
from coterie.experts.recorded import RecordedExpert
from coterie.testing import EXPERT_CHECKS, QUESTION, MakeExpert
from coterie.types import Completion, Usage

ADD = Path(coterie.__file__).parent / "embedded" / "experts" / "add-expert.gguf"
PRICE = Price(prompt=2.0, completion=3.0)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    worker = Worker()
    yield asyncio.run(worker.serve("llama", str(ADD), slots=8, threads=1, context=256))
    worker.kill("the test is over")


def local(_: str) -> Expert:
    return LocalExpert("add", ADD, price=PRICE)


def local_in_process(_: str) -> Expert:
    return LocalExpert("add", ADD, price=PRICE, isolate=False)


def remote(url: str) -> Expert:
    return OpenAIExpert("add", url, "add-expert", price=PRICE)


def function(_: str) -> Expert:
    return FunctionExpert("add", lambda call: call.messages[-1]["content"].upper(), price=PRICE)


def recorded(_: str) -> Expert:
    return RecordedExpert("add", {QUESTION: Completion("add", "95", Usage(20, 2), cost=0.5)})


@pytest.mark.parametrize("kind", [local, local_in_process, remote, function, recorded])
@pytest.mark.parametrize("check", EXPERT_CHECKS)
def test_an_expert_keeps_its_promise(
    check: Callable[[MakeExpert], None], kind: Callable[[str], Expert], url: str
) -> None:
    check(lambda: kind(url))
