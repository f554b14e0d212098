"""Every kind of expert keeps the contract that we ship for strangers' experts."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import coterie
from coterie.experts.base import Expert, Price
from coterie.experts.function import FunctionExpert
from coterie.experts.hosts import WORKERS, Worker
from coterie.experts.local import LocalExpert
from coterie.experts.modes import ModeExpert
from coterie.experts.openai import OpenAIExpert
from coterie.experts.recorded import RecordedExpert
from coterie.experts.retriever import RetrieverExpert
from coterie.experts.vllm import VLLMExpert
from coterie.testing import EXPERT_CHECKS, QUESTION, MakeExpert
from coterie.types import Completion, Usage

ADD = Path(coterie.__file__).parent / "embedded" / "experts" / "add-expert.gguf"
PRICE = Price(prompt=2.0, completion=3.0)


SLEEPING = Path(__file__).parent / "experts" / "vllm_server.py"


class Servers(NamedTuple):
    """Base URLs of a llama.cpp server and of one that speaks vLLM's sleep mode."""

    llama: str
    vllm: str


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    worker, pipe = Worker(), subprocess.PIPE
    keeper = LocalExpert("keeper", ADD)  # while it is open, spare children wait for the next check
    WORKERS.give(WORKERS.take(keeper))
    command = [sys.executable, str(SLEEPING)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        llama = asyncio.run(worker.serve("llama", str(ADD), slots=8, threads=1, context=256))
        assert process.stdout is not None
        yield Servers(llama, f"http://127.0.0.1:{int(process.stdout.readline())}/v1")
        process.kill()
    worker.kill("the test is over")
    asyncio.run(keeper.close())


def local(_: Servers) -> Expert:
    return LocalExpert("add", ADD, price=PRICE)


def local_in_process(_: Servers) -> Expert:
    return LocalExpert("add", ADD, price=PRICE, isolate=False)


def remote(servers: Servers) -> Expert:
    return OpenAIExpert("add", servers.llama, "add-expert", price=PRICE)


def limited(servers: Servers) -> Expert:
    url = servers.llama
    return OpenAIExpert(
        "add", url, "m", price=PRICE, requests_per_minute=99, tokens_per_minute=9999
    )


def sleeping(servers: Servers) -> Expert:
    return VLLMExpert("add", servers.vllm, "m", memory="1 GB", price=PRICE)


def function(_: Servers) -> Expert:
    return FunctionExpert("add", lambda call: call.messages[-1]["content"].upper(), price=PRICE)


def recorded(_: Servers) -> Expert:
    return RecordedExpert("add", {QUESTION: Completion("add", "95", Usage(20, 2), cost=0.5)})


def mode(servers: Servers) -> Expert:
    return ModeExpert("careful", local(servers), system="Take care.")


def mode_of_a_server(servers: Servers) -> Expert:
    return ModeExpert("brief", sleeping(servers), options={"max_tokens": 8}, price=Price(1.0, 1.0))


def sampled_mode(servers: Servers) -> Expert:
    return ModeExpert("many", function(servers), samples=3, options={"temperature": 0.5})


def retriever(_: Servers) -> Expert:
    return RetrieverExpert("add", lambda question, k: ["d2", "d7"], price=PRICE)


KINDS = [
    local,
    local_in_process,
    remote,
    limited,
    sleeping,
    function,
    recorded,
    mode,
    mode_of_a_server,
    sampled_mode,
    retriever,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("check", EXPERT_CHECKS)
def test_an_expert_keeps_its_promise(
    check: Callable[[MakeExpert], None], kind: Callable[[Servers], Expert], servers: Servers
) -> None:
    check(lambda: kind(servers))
