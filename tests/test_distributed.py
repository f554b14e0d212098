import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest
from cli_world import Project, without_latency
from ray_world import Noted

from coterie.answers import whole
from coterie.config import make_composition, read_config
from coterie.drivers import actors
from coterie.drivers.actors import PROCESS, RayExpert, Recipe, Replica, import_ray
from coterie.drivers.batch import Progress, Result, answer_all
from coterie.drivers.distributed import Node, connected, distribute
from coterie.errors import CoterieError, ExpertError, InputError
from coterie.experts.base import Expert
from coterie.experts.function import FunctionExpert
from coterie.experts.local import LocalExpert
from coterie.experts.modes import ModeExpert
from coterie.experts.vllm import VLLMExpert
from coterie.pool import Pool
from coterie.questions import embedded_questions
from coterie.runs import answer_row
from coterie.scaling import ScoreMatrix, candidate_groups, split_rows
from coterie.scaling.baselines import Cell, judge_baselines
from coterie.synthetic import World
from coterie.types import Call, Decision, Query

HERE = Path(__file__).parent
T = TypeVar("T")
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra [ray]")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A cluster of one node with two CPUs, whose processes can import the doubles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OPENBLAS_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(HERE))
        ray = import_ray()
        ray.init(
            address="local", num_cpus=2, object_store_memory=100 * 2**20,
            include_dashboard=False, log_to_driver=False, logging_level="error",
        )  # fmt: skip
        yield ray
        ray.shutdown()


def noted(tmp_path: Path, *names: str, **settings: Any) -> dict[str, Expert]:
    return {name: Noted(name, str(tmp_path / "log"), **settings) for name in names}


def log_of(tmp_path: Path) -> Counter[str]:
    return Counter((tmp_path / "log").read_text().splitlines())


def asked(name: str, text: str) -> Call:
    return Call(name, ({"role": "user", "content": text},))


def questions(count: int) -> list[Query]:
    return [Query.from_text(f"q{i}", f"question {i}") for i in range(count)]


def proxied(experts: Mapping[str, Expert]) -> dict[str, RayExpert]:
    return {name: RayExpert(expert) for name, expert in experts.items()}


def closing(experts: Mapping[str, Expert], job: Callable[[], Awaitable[T]]) -> T:
    """What ``job`` returns; the experts are closed on its loop, as a pool is."""

    async def run() -> T:
        try:
            return await job()
        finally:
            await Pool("test", experts).close()

    return asyncio.run(run())


def answered(
    queries: Sequence[Query],
    decisions: Sequence[Decision],
    experts: Mapping[str, Expert],
    report: Callable[[Progress], None] = lambda progress: None,
    extract: str = "whole",
) -> tuple[Result, str]:
    """The result, and the answers as JSONL without the times."""
    pool = Pool("test", experts, extract=extract)
    flow = make_composition(pool, "recruit", "weighted")
    result = closing(
        experts, lambda: answer_all(queries, decisions, flow, experts, capacity=2, report=report)
    )
    rows = [json.dumps(answer_row(answer, pool.extractor)) for answer in result.answers]
    return result, without_latency("\n".join(rows))


def crossed(count: int, names: Sequence[str]) -> list[Decision]:
    """Two experts a question, in turn."""
    return [turn(i, names) for i in range(count)]


def turn(number: int, names: Sequence[str]) -> Decision:
    first, second = number % len(names), (number + 1) % len(names)
    return Decision("recruit", (names[first], names[second]), (0.9, 0.8))


@needs_ray
def test_answers_are_those_of_the_local_driver(tmp_path: Path, ray: Any) -> None:
    experts = noted(tmp_path, *"abc")
    queries, decisions = questions(40), crossed(40, "abc")
    here, expected = answered(queries, decisions, experts)
    before = log_of(tmp_path)
    there, answers = answered(queries, decisions, proxied(experts))
    assert answers == expected
    assert log_of(tmp_path) == before + before
    assert (here.progress.calls, here.progress.loads) == (80, 3)
    assert (there.progress.calls, there.progress.loads) == (80, 3)


@needs_ray
def test_real_models_say_the_same_on_ray(ray: Any) -> None:
    pool = read_config("embedded").pool()
    names = ("add-expert", "multiply-expert", "sort-expert")
    experts = {name: pool.experts[name] for name in names}
    for expert in experts.values():
        expert.slots = 1  # side by side, log probabilities depend on who else is in the batch
    queries = pool.prepare(embedded_questions("test").queries[:40])
    decisions = crossed(40, names)
    _, expected = answered(queries, decisions, experts, extract="arrow")
    result, answers = answered(queries, decisions, proxied(experts), extract="arrow")
    assert answers == expected
    assert not any(answer.completion.failed for answer in result.answers)


@needs_ray
def test_a_killed_worker_costs_only_the_calls_it_had(tmp_path: Path, ray: Any) -> None:
    experts = noted(tmp_path, *"ab", slots=4)
    queries, decisions = questions(60), crossed(60, "ab")
    _, expected = answered(queries, decisions, experts)
    whole_run = log_of(tmp_path)
    remote = proxied(experts)
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if remote["a"].pids and not remote["a"].idle and progress.calls >= 20 and not killed:
            killed.extend(remote["a"].pids)
            os.kill(killed[0], signal.SIGKILL)

    result, answers = answered(queries, decisions, remote, kill)
    assert answers == expected
    repeated = log_of(tmp_path) - whole_run - whole_run
    assert len(killed) == 1
    assert 0 < remote["a"].repeated <= 4
    assert repeated.total() <= remote["a"].repeated
    assert (result.progress.calls, remote["b"].repeated) == (120, 0)


@needs_ray
def test_a_call_that_takes_two_workers_down_has_failed(tmp_path: Path, ray: Any) -> None:
    experts = proxied(noted(tmp_path, "a", slots=1, fatal="poison"))
    calls = [asked("a", text) for text in ("one", "poison", "two")]
    job = lambda: asyncio.gather(*map(experts["a"].complete, calls))  # noqa: E731
    first, poisoned, second = closing(experts, job)
    assert (first.failed, second.failed) == (False, False)
    assert poisoned.broke
    assert "two actors were lost with it" in str(poisoned.error)
    assert log_of(tmp_path) == {"a one": 1, "a poison": 2, "a two": 1}


@needs_ray
def test_replicas_take_calls_as_they_get_free(tmp_path: Path, ray: Any) -> None:
    expert = RayExpert(noted(tmp_path, "a", slots=1)["a"], replicas=2)
    calls = [asked("a", text) for text in ("slow", *["who?"] * 12)]
    job = lambda: asyncio.gather(*map(expert.complete, calls))  # noqa: E731
    slow, *others = (completion.text for completion in closing({"a": expert}, job))
    assert expert.slots == 2
    assert len({slow, *others}) == 2
    assert others.count(slow) <= 1  # whoever was at the slow call left the rest to the other


@needs_ray
def test_unloading_ends_the_processes(tmp_path: Path, ray: Any) -> None:
    expert = RayExpert(noted(tmp_path, "a")["a"])

    async def job() -> int:
        await expert.ready()
        (pid,) = expert.pids
        os.kill(pid, 0)
        await expert.unload()
        for _ in range(500):
            if not Path(f"/proc/{pid}").exists():
                break
            await asyncio.sleep(0.02)
        return pid

    pid = closing({"a": expert}, job)
    assert expert.pids == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@needs_ray
def test_what_goes_wrong_in_a_worker_is_said_here(tmp_path: Path, ray: Any) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"no weights at all")
    expert = RayExpert(LocalExpert("broken", path))
    with pytest.raises(ExpertError, match=r"broken on Ray: .*broken\.gguf"):
        closing({"broken": expert}, expert.ready)
    completion = closing({"broken": expert}, lambda: expert.complete(asked("broken", "?")))
    assert completion.broke


@needs_ray
def test_an_expert_without_room_is_given_up(tmp_path: Path, ray: Any) -> None:
    expert = RayExpert(noted(tmp_path, "a")["a"], patience=0.2)
    expert.cpus = 3
    with pytest.raises(ExpertError, match="no node had room for 3 CPUs"):
        closing({"a": expert}, expert.ready)


@needs_ray
def test_idle_experts_make_room_for_one_that_waits(
    tmp_path: Path, ray: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors, "GRACE", 0.1)
    a, b = (RayExpert(expert) for expert in noted(tmp_path, *"ab").values())
    a.cpus = b.cpus = 2  # all there are, as if a node was lost
    a.others, b.others = [b], [a]

    async def job() -> list[bool]:
        await a.ready()
        await b.ready()
        ended = not a.pids
        return [ended, (await a.complete(asked("a", "again"))).failed]

    assert closing({"a": a, "b": b}, job) == [True, False]


@needs_ray
def test_the_command_answers_alike_and_its_journal_is_good_without_ray(
    tmp_path: Path, ray: Any
) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "ray").mkdir()
    plain, distributed = (
        Project(tmp_path / name, pool_text(tmp_path / name)) for name in ("plain", "ray")
    )
    assert plain.answer().returncode == 0
    run = distributed.answer("answers.jsonl", "--ray", "local")
    assert run.returncode == 0, run.stderr
    assert distributed.answers() == plain.answers()
    assert Counter(distributed.calls()) == Counter(plain.calls())
    run = distributed.answer()
    assert (run.returncode, "10 questions, 0 calls, 30 from the" in run.stderr) == (0, True)
    assert distributed.answers() == plain.answers()


def pool_text(folder: Path) -> str:
    experts = (
        f'[[expert]]\nname = "{name}"\nkind = "cli_world:Logged"\nlog = "{folder}/calls.log"\n'
        for name in "abc"
    )
    return '[pool]\nname = "test"\n' + "".join(experts)


@needs_ray
def test_baselines_judged_on_ray_are_those_judged_here(ray: Any) -> None:
    from coterie.scaling.distributed import judge_on_ray

    world = World(experts=20, items=100, skills=3, dim=8)
    matrix = ScoreMatrix(world.scores())
    groups, parts = candidate_groups(matrix, [3]), split_rows(["one"] * 100)
    quick: dict[str, Any] = {"routers": ("routereval-linear", "routereval-knn"), "seed": 3}
    here = judge_baselines(matrix, world.vectors(), groups, parts, **quick)
    there = judge_on_ray("local", matrix, world.vectors(), groups, parts, **quick)
    assert [timeless(cell) for cell in there] == [timeless(cell) for cell in here]


def timeless(cell: Cell) -> dict[str, Any]:
    return replace(cell, seconds=0.0).to_dict()


@needs_ray
def test_errors_of_judging_come_back_as_they_are(ray: Any) -> None:
    from coterie.scaling.distributed import judge_on_ray

    matrix = ScoreMatrix(World(experts=20, items=50).scores())
    groups = candidate_groups(matrix, [3])
    with pytest.raises(InputError, match="expected 50 vectors"):
        list(judge_on_ray("local", matrix, np.eye(2), groups, split_rows(["one"] * 50)))


def test_modes_of_an_expert_share_its_actors(tmp_path: Path) -> None:
    base = noted(tmp_path, "a")["a"]
    mode = ModeExpert("brief", base, system="Be brief.", samples=3, extract=whole)
    pool = distribute(Pool("p", {"a": base, "brief": mode}, capacity=2), [Node(4, 2**33)], 2)
    made = pool.experts["brief"]
    assert isinstance(made, ModeExpert)
    assert made.expert is pool.experts["a"]
    assert made.slots == pool.experts["a"].slots == 4
    assert pool.fingerprint() == Pool("p", {"a": base, "brief": mode}).fingerprint()


def test_endpoints_are_asked_from_here(tmp_path: Path) -> None:
    vllm = VLLMExpert("v", "http://127.0.0.1:1/v1", "m", memory="1 GB")
    function = FunctionExpert("f", lambda call: "yes")
    only = Pool("p", {"v": vllm, "f": function})
    assert distribute(only, []) is only
    mixed = Pool("p", {"v": vllm, "f": function, **noted(tmp_path, "a")})
    made = distribute(mixed, [Node(4, 2**33)])
    assert (made.experts["v"], made.experts["f"]) == (vllm, function)
    assert isinstance(made.experts["a"], RayExpert)


@pytest.mark.parametrize(
    ("settings", "nodes", "replicas", "expected"),
    [
        ({"capacity": 2}, [Node(8, 2**40)], 1, 2),
        ({"capacity": 2}, [Node(8, 2**40), Node(8, 2**40)], 1, 4),
        ({"capacity": 9}, [Node(3, 2**40), Node(4, 2**40)], 1, 7),
        ({"capacity": 9}, [Node(3, 2**40), Node(4, 2**40)], 2, 3),
        ({"capacity": 9}, [Node(8, 3 * (PROCESS + 100) - 1)], 1, 2),
        ({"memory": 350}, [Node(8, 2**40), Node(2, 2**40)], 1, 5),
    ],
)
def test_capacity_is_what_all_nodes_have_room_for(
    tmp_path: Path, settings: dict[str, int], nodes: list[Node], replicas: int, expected: int
) -> None:
    pool = distribute(Pool("p", noted(tmp_path, *"ab"), **settings), nodes, replicas)  # type: ignore[arg-type]
    assert (pool.capacity, pool.memory) == (expected, None)


def test_too_small_a_cluster_is_refused_with_the_arithmetic(tmp_path: Path) -> None:
    pool = Pool("p", noted(tmp_path, "a"), capacity=4)
    with pytest.raises(InputError, match=r"3 replicas of 1 CPUs .* the nodes offer 2 CPUs"):
        distribute(pool, [Node(2, 2**40)], replicas=3)
    with pytest.raises(InputError, match="expected at least 1, got 0"):
        distribute(pool, [Node(2, 2**40)], replicas=0)


def test_an_expert_is_made_anew_from_what_its_constructor_took(monkeypatch: Any) -> None:
    monkeypatch.chdir(HERE)
    expert = LocalExpert("a", "weights.gguf", slots=3, options={"choices": "AB"})
    made = Recipe.of(expert).make()
    assert isinstance(made, LocalExpert)
    assert (made.path, made.slots) == (HERE / "weights.gguf", 3)
    assert (made.options, made.name) == ({"choices": "AB"}, "a")


def test_another_file_on_a_node_is_refused(tmp_path: Path) -> None:
    replica = Replica(Recipe.of(noted(tmp_path, "a")["a"]))
    assert asyncio.run(replica.load(99)) == {"error": "100 bytes on the node, expected 99"}


class Forgetful(Noted):
    def __init__(self, name: str, secret: int) -> None:
        super().__init__(name, "log")


def test_an_expert_that_cannot_be_made_anew_is_refused() -> None:
    with pytest.raises(InputError, match="Forgetful keeps no attribute 'secret'"):
        RayExpert(Forgetful("a", 1))
    with pytest.raises(InputError, match="cannot be sent to another process"):
        RayExpert(FunctionExpert("a", lambda call: "yes"))


def test_without_ray_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CoterieError, match=r"pip install 'coterie\[ray\]'"):
        import_ray()


def test_a_cluster_that_is_not_there_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = SimpleNamespace(is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "ray", absent)
    with (
        pytest.raises(CoterieError, match=r"no Ray cluster at '127\.0\.0\.1:1'.*--head"),
        connected("127.0.0.1:1"),
    ):
        pass


def test_replicas_need_a_cluster(tmp_path: Path) -> None:
    run = Project(tmp_path).answer("answers.jsonl", "--replicas", "2")
    assert (run.returncode, "name a cluster with --ray" in run.stderr) == (1, True)
