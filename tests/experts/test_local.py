import asyncio
import ctypes
import gc
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

import coterie
from coterie.errors import ExpertError
from coterie.experts.base import Price
from coterie.experts.hosts import WORKERS, Worker
from coterie.experts.local import LocalExpert
from coterie.experts.pages import drop
from coterie.testing import ask
from coterie.types import Completion

EXPERTS = Path(coterie.__file__).parent / "embedded" / "experts"
ADD = EXPERTS / "add-expert.gguf"
T = TypeVar("T")


def with_expert(expert: LocalExpert, use: Callable[[LocalExpert], Awaitable[T]]) -> T:
    async def main() -> T:
        try:
            return await use(expert)
        finally:
            await expert.close()

    return asyncio.run(main())


def faulty(tmp_path: Path, name: str = "weights", **settings: object) -> LocalExpert:
    path = tmp_path / name
    path.touch()
    engine = "coterie.testing:FaultyEngine"
    return LocalExpert("odd", path, engine=engine, **settings)  # type: ignore[arg-type]


def children() -> set[int]:
    """Process ids of our workers that are still there, zombies included."""
    task = Path(f"/proc/{os.getpid()}/task")
    return {int(pid) for t in task.iterdir() for pid in (t / "children").read_text().split()}


def test_it_answers_at_its_price() -> None:
    expert = LocalExpert("add", ADD, price=Price(1.0, 10.0))
    completion = with_expert(expert, lambda e: e.complete(ask(e, "What is 3 plus 5?")))
    assert "=>" in completion.text
    assert completion.cost == 19 + 10 * completion.usage.completion_tokens
    assert -1 < (completion.logprob or 0) < 0


def test_options_of_the_call_precede_those_of_the_expert() -> None:
    expert = LocalExpert("add", ADD, options={"max_tokens": 1, "grammar": 'root ::= "no" "pe"*'})
    completion = with_expert(expert, lambda e: e.complete(ask(e, max_tokens=2)))
    assert completion.text == "no"


def test_choices_bind_answers_and_nothing_else() -> None:
    async def use(expert: LocalExpert) -> list[str]:
        calls = [ask(expert, choices="ABCD"), replace(ask(expert, choices="ABCD"), purpose="judge")]
        return [(await expert.complete(call)).text for call in calls]

    answer, judgement = with_expert(LocalExpert("add", ADD), use)
    assert answer in {"A", "B", "C", "D"}
    assert "=>" in judgement


def test_one_of_binds_the_call_it_comes_with_whatever_its_purpose() -> None:
    async def use(expert: LocalExpert) -> str:
        asked = ask(expert, choices="XYZ", one_of=["add-expert", "sort-expert"])
        return (await expert.complete(replace(asked, purpose="route"))).text

    assert with_expert(LocalExpert("add", ADD), use) in {"add-expert", "sort-expert"}


def test_its_footprint_is_what_loading_adds_to_the_child() -> None:
    async def use(expert: LocalExpert) -> tuple[int, int, int]:
        assert (expert.measured, await expert.footprint()) == (0, 0)
        await expert.load()
        return expert.measured, await expert.footprint(), child_memory()

    measured, footprint, child = with_expert(LocalExpert("add", ADD), use)
    assert ADD.stat().st_size < measured <= footprint < child


def test_memory_stays_flat_over_switches() -> None:
    async def main() -> list[int]:
        seen = []
        experts = [
            LocalExpert(name, EXPERTS / f"{name}-expert.gguf", context=384, slots=2)
            for name in ("add", "sort", "unit")
        ]
        for number in range(60):
            expert = experts[number % 3]
            assert (await expert.complete(ask(expert, max_tokens=4))).error is None
            await expert.unload(keep=True)
            seen.append(child_memory())
        for expert in experts:
            await expert.close()
        return seen

    seen = asyncio.run(main())
    assert max(seen[-10:]) - max(seen[:10]) < 6_000_000


def child_memory() -> int:
    """Resident bytes of our only child."""
    (child,) = children()
    return int(psutil.Process(child).memory_info().rss)


def cached(path: Path) -> float:
    """The share of a file that is in the page cache, without touching it."""
    if not sys.platform.startswith("linux"):
        pytest.skip("mincore is not the same everywhere")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as view:
        pages = bytearray(-(-len(view) // mmap.PAGESIZE))
        first = ctypes.c_char.from_buffer(view)
        address = ctypes.c_void_p(ctypes.addressof(first))
        vector = ctypes.c_char.from_buffer(pages)
        failed = ctypes.CDLL(None).mincore(
            address, ctypes.c_size_t(len(view)), ctypes.byref(vector)
        )
        del first, vector
    assert not failed
    return sum(page & 1 for page in pages) / len(pages)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A copy of the weights that is on disk and not in the page cache."""
    path = tmp_path / "copy.gguf"
    with path.open("wb") as file:
        file.write(ADD.read_bytes())
        file.flush()
        os.fsync(file.fileno())
    drop(path)
    if cached(path):
        pytest.skip("this file system does not drop files from the page cache")
    return path


def test_prefetching_brings_the_file_to_memory_and_unloading_gives_it_back(weights: Path) -> None:
    async def use(expert: LocalExpert) -> list[float]:
        seen = [cached(weights)]
        steps = (expert.prefetch, expert.load, partial(expert.unload, keep=True), expert.unload)
        for step in steps:
            await step()
            seen.append(cached(weights))
        return seen

    expert = LocalExpert("add", weights)
    assert with_expert(expert, use) == [0, 1, 1, 1, 0]


def test_a_file_that_another_expert_uses_stays_in_memory(weights: Path) -> None:
    async def use(first: LocalExpert) -> list[float]:
        second, seen = LocalExpert("second", weights), []
        await first.load()
        await second.prefetch()
        for expert in (first, second):
            await expert.unload()
            seen.append(cached(weights))
        return seen

    assert with_expert(LocalExpert("first", weights), use) == [1, 0]


def test_closing_leaves_the_file_to_the_next_process(weights: Path) -> None:
    with_expert(LocalExpert("add", weights), lambda e: e.load())
    assert cached(weights) == 1


def test_a_platform_without_advice_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fadvise", raising=False)

    async def use(expert: LocalExpert) -> Completion:
        await expert.load()
        await expert.unload()
        return await expert.complete(ask(expert))

    assert with_expert(LocalExpert("add", ADD), use).error is None


def test_prefetching_a_file_that_is_not_there_is_left_to_loading() -> None:
    with_expert(LocalExpert("add", "nowhere.gguf"), lambda e: e.prefetch())


def test_its_size_is_that_of_the_file() -> None:
    assert LocalExpert("add", ADD).size == ADD.stat().st_size
    assert LocalExpert("add", "nowhere.gguf").size == 0


def test_its_fingerprint_follows_weights_and_options(tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(ADD.read_bytes())
    original = LocalExpert("add", ADD).fingerprint()
    assert LocalExpert("other", copy).fingerprint() == original
    assert LocalExpert("add", ADD, options={"seed": 1}).fingerprint() != original
    copy.write_bytes(ADD.read_bytes() + b"\0")
    assert LocalExpert("add", copy).fingerprint() != original


def test_a_missing_file_fails_the_load_and_the_call() -> None:
    expert = LocalExpert("add", "nowhere.gguf")
    with pytest.raises(ExpertError, match=r"nowhere\.gguf: there is no such file"):
        with_expert(expert, lambda e: e.load())
    completion = with_expert(expert, lambda e: e.complete(ask(e)))
    assert (
        completion.error
        == "add: nowhere.gguf: there is no such file; check the path of the weights"
    )


def test_a_corrupt_file_fails_the_load_but_not_the_worker(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(ADD.read_bytes()[:100_000])

    async def use(good: LocalExpert) -> set[int]:
        bad = LocalExpert("bad", damaged)
        with pytest.raises(ExpertError, match=r"damaged\.gguf: cut off: 100000 bytes"):
            await bad.load()
        before = children()
        await good.load()
        await bad.close()
        return before ^ children()

    assert with_expert(LocalExpert("add", ADD), use) == set()


@pytest.mark.parametrize("isolate", [True, False])
def test_a_hang_becomes_an_error_and_the_next_call_works(tmp_path: Path, isolate: bool) -> None:
    async def use(expert: LocalExpert) -> list[Completion]:
        return [await expert.complete(ask(expert, text)) for text in ("hang", "all well")]

    hung, well = with_expert(faulty(tmp_path, timeout=2, isolate=isolate), use)
    assert hung.error == "odd: hung for 2 s and was given up"
    assert (well.text, well.error) == ("all well", None)


def test_a_hanging_load_is_given_up(tmp_path: Path) -> None:
    expert = faulty(tmp_path, "hang", timeout=0.5)
    with pytest.raises(ExpertError, match=r"hang: loading hung for 0\.5 s; raise the timeout"):
        with_expert(expert, lambda e: e.load())
    assert children() == set()


def test_a_crash_fails_every_call_of_the_child_and_no_later_one(tmp_path: Path) -> None:
    async def use(expert: LocalExpert) -> list[Completion]:
        calls = [ask(expert, text) for text in ("hang", "hang", "crash")]
        crashed = await asyncio.gather(*map(expert.complete, calls))
        assert not expert.loaded
        return [*crashed, await expert.complete(ask(expert, "all well"))]

    *crashed, well = with_expert(faulty(tmp_path), use)
    assert {c.error for c in crashed} == {"odd: its process was ended by SIGKILL"}
    assert well.text == "all well"


def test_an_exit_is_told_with_its_last_words(tmp_path: Path) -> None:
    expert = faulty(tmp_path)
    completion = with_expert(expert, lambda e: e.complete(ask(e, "exit")))
    assert completion.error == "odd: its process exited with code 3; its last words: cannot go on"


def test_a_crash_while_loading_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExpertError, match="its process was ended by SIGKILL"):
        with_expert(faulty(tmp_path, "crash"), lambda e: e.load())


def test_a_child_killed_from_outside_is_replaced() -> None:
    async def use(expert: LocalExpert) -> Completion:
        await expert.load()
        (child,) = children()
        os.kill(child, signal.SIGKILL)
        await asyncio.sleep(0.05)
        return await expert.complete(ask(expert))

    assert with_expert(LocalExpert("add", ADD), use).error is None


@pytest.mark.parametrize("isolate", [True, False])
@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("nothing", "odd: answered nothing"),
        ("refuse", "odd: refused"),
        ("break", "odd: ZeroDivisionError: broken"),
    ],
)
def test_other_failures_are_errors_too(
    tmp_path: Path, text: str, error: str, isolate: bool
) -> None:
    expert = faulty(tmp_path, isolate=isolate)
    assert with_expert(expert, lambda e: e.complete(ask(e, text))).error == error


def test_what_a_library_prints_does_not_disturb_the_answers(tmp_path: Path) -> None:
    completion = with_expert(faulty(tmp_path), lambda e: e.complete(ask(e, "chatter all day")))
    assert completion.text == "chatter all day"


def test_long_questions_pass_in_parts(tmp_path: Path) -> None:
    text = "word " * 100_000
    completion = with_expert(faulty(tmp_path), lambda e: e.complete(ask(e, text)))
    assert completion.text == text


@pytest.mark.parametrize("isolate", [True, False])
def test_a_cancelled_call_leaves_the_expert_usable(isolate: bool) -> None:
    async def use(expert: LocalExpert) -> str:
        await expert.load()
        long = asyncio.create_task(expert.complete(ask(expert, max_tokens=200, ignore_eos=True)))
        await asyncio.sleep(0.01)
        long.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long
        return (await expert.complete(ask(expert))).text

    assert "=>" in with_expert(LocalExpert("add", ADD, isolate=isolate, slots=1), use)


@pytest.mark.parametrize("isolate", [True, False])
def test_cancelling_a_stream_stops_the_engine(isolate: bool) -> None:
    async def use(expert: LocalExpert) -> float:
        stream = expert.stream(ask(expert, max_tokens=4000, ignore_eos=True))
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        start = asyncio.get_running_loop().time()
        await expert.unload()  # waits for running calls
        return asyncio.get_running_loop().time() - start

    assert with_expert(LocalExpert("add", ADD, isolate=isolate), use) < 1


def test_a_stream_that_breaks_off_keeps_its_pieces(tmp_path: Path) -> None:
    async def use(expert: LocalExpert) -> list[str | Completion]:
        return [piece async for piece in expert.stream(ask(expert, "one two crash"))]

    *pieces, completion = with_expert(faulty(tmp_path), use)
    assert pieces == ["one", " two"]
    assert isinstance(completion, Completion)
    assert completion.text == "one two"
    assert completion.error == "odd: its process was ended by SIGKILL"


def test_a_stream_has_the_timeout_from_piece_to_piece(tmp_path: Path) -> None:
    async def use(expert: LocalExpert) -> list[str | Completion]:
        return [piece async for piece in expert.stream(ask(expert, "one hang"))]

    piece, completion = with_expert(faulty(tmp_path, timeout=2), use)
    assert piece == "one"
    assert isinstance(completion, Completion)
    assert completion.error == "odd: hung for 2 s and was given up"


def test_experts_share_spare_children_and_leave_none_behind() -> None:
    async def main() -> list[set[int]]:
        seen = []
        first, second = LocalExpert("a", ADD), LocalExpert("b", ADD)
        for expert in (first, second, first):
            await expert.load()
            seen.append(children())
            await expert.unload()
        await first.close()
        await second.close()
        return seen

    seen = asyncio.run(main())
    assert seen[0] == seen[1] == seen[2]
    assert children() == set()


def test_an_expert_can_be_used_in_one_event_loop_after_another() -> None:
    expert = LocalExpert("add", ADD)
    texts = {asyncio.run(expert.complete(ask(expert))).text for _ in range(3)}
    asyncio.run(expert.close())
    assert len(texts) == 1
    assert children() == set()


def test_the_child_ends_with_its_parents_pipe() -> None:
    worker = Worker()
    assert worker._process.stdin is not None
    worker._process.stdin.close()
    assert worker._process.wait(5) == 0
    worker.kill("the test is over")


def test_a_killed_parent_leaves_no_orphan() -> None:
    script = (
        "import asyncio, sys\n"
        "from coterie.experts.local import LocalExpert\n"
        "async def main():\n"
        "    expert = LocalExpert('add', sys.argv[1])\n"
        "    await expert.load()\n"
        "    print(expert._host.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", script, str(ADD)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        parent.kill()
    deadline = time.monotonic() + 5
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    """True unless the process is gone, or dead with nobody to reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_nothing_is_left_to_the_garbage_collector(tmp_path: Path) -> None:
    expert = faulty(tmp_path)
    with_expert(expert, lambda e: e.complete(ask(e, "crash")))
    del expert
    gc.collect()  # a ResourceWarning would be an error
    assert WORKERS._spare == []


@pytest.mark.parametrize("isolate", [True, False])
def test_an_unknown_engine_is_told_with_the_nearest_name(isolate: bool) -> None:
    expert = LocalExpert("add", ADD, engine="lama", isolate=isolate)
    with pytest.raises(ExpertError, match="no engine called 'lama'; did you mean 'llama'"):
        with_expert(expert, lambda e: e.load())
    completion = with_expert(expert, lambda e: e.complete(ask(e)))
    assert completion.error == "add: no engine called 'lama'; did you mean 'llama'?"


def test_options_that_no_json_holds_are_an_error() -> None:
    completion = with_expert(LocalExpert("add", ADD), lambda e: e.complete(ask(e, seed={1})))
    assert completion.error == "add: TypeError: Object of type set is not JSON serializable"
