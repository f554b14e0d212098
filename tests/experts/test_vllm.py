import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest

import coterie
from coterie.compositions import single
from coterie.drivers.batch import Result, answer_all
from coterie.drivers.rooms import by_size
from coterie.errors import ExpertError, InputError
from coterie.experts.base import Expert
from coterie.experts.local import LocalExpert
from coterie.experts.vllm import VLLMExpert
from coterie.testing import ask
from coterie.types import Call, Completion, Decision, Query

ADD = Path(coterie.__file__).parent / "embedded" / "experts" / "add-expert.gguf"
SERVER = Path(__file__).with_name("vllm_server.py")
FORGOTTEN = {"wake weights": 1, "reload_weights": 1, "wake kv_cache": 1}
T = TypeVar("T")


@pytest.fixture(scope="module")
def process() -> Iterator[str]:
    """A server process on loopback, by its base URL."""
    pipe = subprocess.PIPE
    command = [sys.executable, str(SERVER)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        process.kill()


@pytest.fixture
def url(process: str) -> str:
    get(process, "/reset")
    return process


def get(url: str, path: str) -> bytes:
    async def main() -> bytes:
        address = url.removesuffix("/v1") + path
        async with aiohttp.ClientSession() as session, session.get(address) as response:
            return await response.read()

    return asyncio.run(main())


def use(url: str, steps: Callable[[VLLMExpert], Awaitable[T]], **settings: Any) -> T:
    async def main() -> T:
        expert = VLLMExpert("far", url, "m", memory="2 GB", **settings)
        try:
            return await steps(expert)
        finally:
            await expert.close()

    return asyncio.run(main())


def states(url: str) -> Any:
    return json.loads(get(url, "/states"))


def test_its_size_is_the_declared_memory() -> None:
    assert VLLMExpert("far", "http://x/v1", "m", memory="14 GB").size == 14_000_000_000
    with pytest.raises(InputError, match=r"'memory'.*such as \"14 GB\".*got 'lots'"):
        VLLMExpert("far", "http://x/v1", "m", memory="lots")


def test_a_server_that_is_awake_answers_at_once(url: str) -> None:
    completion = use(url, lambda e: e.complete(ask(e)))
    assert completion.text == "37 => 95"
    assert states(url)["counts"] == {}


def test_weights_that_were_kept_come_back_without_reloading(url: str) -> None:
    async def steps(expert: VLLMExpert) -> Completion:
        await expert.load()
        await expert.unload(keep=True)
        await expert.load()
        return await expert.complete(ask(expert))

    assert use(url, steps).error is None
    assert states(url)["counts"] == {"sleep 1": 1, "wake": 1}


def test_weights_that_were_given_up_are_reloaded_before_the_cache_is_allocated(url: str) -> None:
    async def steps(expert: VLLMExpert) -> Completion:
        await expert.load()
        await expert.unload()
        return await expert.complete(ask(expert))  # the first call loads

    assert use(url, steps).error is None
    assert states(url)["counts"] == {"sleep 2": 1, **FORGOTTEN}


def test_a_server_found_asleep_is_reloaded_because_its_level_is_unknown(url: str) -> None:
    use(url, lambda e: e.unload(keep=True))
    assert states(url)["asleep"] == ["kv_cache", "weights"]
    assert use(url, lambda e: e.complete(ask(e))).error is None
    assert states(url)["counts"] == {"sleep 1": 1, **FORGOTTEN}


def test_a_server_sent_to_sleep_by_others_is_woken_by_the_next_load(url: str) -> None:
    async def steps(expert: VLLMExpert) -> Completion:
        await expert.load()
        other = VLLMExpert("other", url, "m", memory=1)
        await other.unload()
        await other.close()
        await expert.load()
        return await expert.complete(ask(expert))

    assert use(url, steps).error is None


def test_from_host_memory_it_is_not_driven_over_the_device(url: str) -> None:
    async def steps(expert: VLLMExpert) -> None:
        await expert.load()
        await expert.unload(keep=True)
        await expert.unload()

    use(url, steps)
    assert states(url)["counts"] == {"sleep 1": 1}


def test_it_is_never_put_to_sleep_at_work(url: str) -> None:
    async def steps(expert: VLLMExpert) -> list[Completion]:
        calls = [asyncio.ensure_future(expert.complete(ask(expert))) for _ in range(6)]
        await asyncio.sleep(0.01)
        await expert.unload()
        more = [asyncio.ensure_future(expert.complete(ask(expert))) for _ in range(6)]
        await asyncio.gather(expert.unload(keep=True), expert.load(), expert.unload())
        return await asyncio.gather(*calls, *more)

    assert {c.error for c in use(url, steps)} == {None}
    assert "sleep at work" not in states(url)["counts"]


def test_a_server_without_sleep_mode_is_told_with_the_remedy(url: str) -> None:
    get(url, "/reset?fault=no-sleep")
    with pytest.raises(ExpertError, match=r"offers no /is_sleeping; start vLLM with --enable"):
        use(url, lambda e: e.load())
    assert "offers no /is_sleeping" in str(use(url, lambda e: e.complete(ask(e))).error)


def test_a_wake_that_fails_is_told_and_tried_anew(url: str) -> None:
    async def steps(expert: VLLMExpert) -> Completion:
        await expert.unload(keep=True)
        with pytest.raises(ExpertError, match=r"^far: .*/wake_up: status 500: CUDA out of memory"):
            await expert.load()
        return await expert.complete(ask(expert))

    get(url, "/reset?fault=broken-wake")
    assert "tags=weights: status 500" in str(use(url, steps).error)


def test_a_wake_that_hangs_is_given_up(url: str) -> None:
    async def steps(expert: VLLMExpert) -> None:
        await expert.unload()
        await expert.load()

    get(url, "/reset?fault=hanging-wake")
    with pytest.raises(ExpertError, match=r"tags=weights within 0\.2 s; raise load_timeout"):
        use(url, steps, load_timeout=0.2)


def test_a_server_that_is_not_there_is_an_error() -> None:
    completion = use("http://127.0.0.1:9/v1", lambda e: e.complete(ask(e)))
    assert "far: http://127.0.0.1:9/is_sleeping: Cannot connect" in str(completion.error)


def test_choices_bind_answers_and_nothing_else(url: str) -> None:
    async def steps(expert: VLLMExpert) -> None:
        for purpose in ("answer", "annotate"):
            await expert.complete(Call("far", ask(expert).messages, purpose))

    use(url, steps, options={"choices": "ABCD"})
    answer, annotation = states(url)["bodies"]
    assert answer["structured_outputs"] == {"choice": ["A", "B", "C", "D"]}
    assert not {"choices", "structured_outputs"} & set(annotation)
    assert "choices" not in answer


def test_one_of_binds_a_call_of_any_purpose(url: str) -> None:
    async def steps(expert: VLLMExpert) -> None:
        await expert.complete(Call("far", ask(expert).messages, "route", {"one_of": ["a", "b"]}))

    use(url, steps, options={"choices": "ABCD"})
    (body,) = states(url)["bodies"]
    assert body["structured_outputs"] == {"choice": ["a", "b"]}
    assert not {"choices", "one_of"} & set(body)


def test_a_batch_puts_it_to_sleep_when_another_expert_needs_the_device(url: str) -> None:
    queries = [Query.from_text(str(i), "What is 37 plus 58?", max_tokens=8) for i in range(6)]
    decisions = [Decision(q.id, (("far", "add")[i % 2],), (1.0,)) for i, q in enumerate(queries)]

    async def steps(far: VLLMExpert) -> Result:
        experts: dict[str, Expert] = {"far": far, "add": LocalExpert("add", ADD)}
        room = by_size(experts, device=far.size, host=0)
        result = await answer_all(queries, decisions, single, experts, residency=room)
        await experts["add"].close()
        return result

    result = use(url, steps)
    assert {answer.completion.error for answer in result.answers} == {None}
    assert result.progress.loads == 2
    assert states(url)["asleep"] == ["kv_cache", "weights"]
