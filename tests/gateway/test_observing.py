"""What is noted of a query beside its answer, and what follows from it."""

import asyncio
import json
import time
from pathlib import Path

import numpy as np
import pytest

from coterie.errors import ConfigError
from coterie.features import StaticEncoder
from coterie.gateway.asked import Asked, read_asked
from coterie.gateway.building import Gateway, build
from coterie.gateway.entries import Attempt, Entry, Tokens
from coterie.gateway.observing import Memory
from coterie.gateway.tracing import Tracing
from coterie.records import Records
from coterie.routers.linear import Linear
from coterie.routers.neighbors import KNN
from coterie.types import Query

POOL = """
[pool]
name = "two"
[[expert]]
name = "cheap"
kind = "function"
function = "tests.gateway.test_observing:answer"
[[expert]]
name = "dear"
kind = "function"
function = "tests.gateway.test_observing:answer"
[router]
path = "router"
[policy]
name = "utility"
[gateway]
store = "log.sqlite"
"""


def answer(call: object) -> str:
    return "yes"


def sums(count: int) -> tuple[Query, ...]:
    texts = (f"What is {i} plus {3 * i}?" for i in range(count))
    return tuple(Query.from_text(f"q{i}", text) for i, text in enumerate(texts))


def records(count: int = 120) -> Records:
    quality = np.tile([0.4, 0.9], (count, 1))
    return Records(sums(count), ("cheap", "dear"), quality, cost=np.tile([1.0, 5.0], (count, 1)))


def world(folder: Path, more: str = "", router: Linear | KNN | None = None) -> Gateway:
    (folder / "pool.toml").write_text(POOL + more)
    (router or Linear()).fit(records()).save(folder / "router")
    return build(str(folder / "pool.toml"), None, None)


def asked(text: str, model: str = "auto") -> Asked:
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    return read_asked("/chat/completions", json.dumps(body).encode(), {}, 10**6, 8)


def test_a_vector_is_made_once_for_router_and_log() -> None:
    router = Linear().fit(records())
    memory, calls = Memory(router), []
    inner = memory._encode
    memory._encode = lambda texts: calls.append(texts) or inner(texts)  # type: ignore[func-returns-value]
    router.predict([Query.from_text("q", "What is 2 plus 2?")])
    vector = memory.vector("What is 2 plus 2?")
    assert len(calls) == 1
    assert vector is not None
    assert np.array_equal(vector, StaticEncoder().encode(["What is 2 plus 2?"])[0])


def test_an_entry_holds_hash_and_vector_but_no_text(tmp_path: Path) -> None:
    gateway = world(tmp_path)
    entry = Entry("req_1", 0.0)
    gateway.live.services.routing.plan(asked("What is 2 plus 2?"), "req_1", ())
    gateway.live.services.routing.observing.note(entry, "What is 2 plus 2?")
    assert len(np.frombuffer(entry.vector, "<f2")) == 128
    assert len(entry.digest) == 24
    asyncio.run(gateway.close())


def test_traffic_away_from_the_records_is_sent_to_the_refuge(tmp_path: Path) -> None:
    gateway = world(tmp_path, '[gateway.drift]\nfallback = "cheap"\n', KNN())
    routing = gateway.live.services.routing
    assert routing.plan(asked("What is 5 plus 15?"), "a", ()).experts[0] == "dear"
    for number in range(300):
        plan = routing.plan(asked(f"Write a sonnet on the {number}th heron in the reeds."), "b", ())
    assert plan.experts == ("cheap", "dear")
    assert plan.drift is not None
    assert "drift" in plan.constraints
    assert routing.plan(asked("A sonnet, please.", "dear"), "c", ()).experts == ("dear",)
    asyncio.run(gateway.close())


def test_a_router_without_vectors_learns_the_region_from_records(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"keeps no vectors.*name their folder"):
        world(tmp_path, "[gateway.drift]\n")
    records().write(tmp_path / "known")
    (tmp_path / "log.sqlite").unlink()
    gateway = world(tmp_path, '[gateway.drift]\nrecords = "known"\n')
    assert gateway.live.services.routing.observing.monitor is not None
    asyncio.run(gateway.close())


def test_a_shadow_router_decides_and_is_not_heard(tmp_path: Path) -> None:
    other = Records(sums(120), ("cheap", "dear"), np.tile([0.9, 0.1], (120, 1)))
    Linear().fit(other).save(tmp_path / "other")
    gateway = world(tmp_path, 'shadow = "other"\n')
    routing = gateway.live.services.routing
    plan = routing.plan(asked("What is 7 plus 7?"), "a", ())
    assert plan.query is not None
    future = routing.observing.submit(plan.query, plan.experts[0])
    assert future is not None
    assert (plan.experts[0], future.result(5)) == ("dear", "cheap")
    asyncio.run(gateway.close())


def test_a_request_becomes_a_span_with_one_for_every_attempt() -> None:
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracing = Tracing(SimpleSpanProcessor(spans), reader)
    tries = [Attempt("a", "reset", 502, 0.2), Attempt("b", seconds=0.5)]
    entry = Entry(
        "req_1", time.time(), asked="auto", expert="b", attempts=tries,
        tokens=Tokens(10, 5), latency=0.8,
    )  # fmt: skip
    tracing.record(entry, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    first, second, whole = spans.get_finished_spans()
    assert [first.name, second.name, whole.name] == ["chat a", "chat b", "chat auto"]
    assert first.attributes is not None
    assert first.attributes["error.type"] == "reset"
    assert first.parent is not None
    assert first.parent.span_id == whole.context.span_id
    assert f"{whole.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert whole.attributes is not None
    assert whole.attributes["gen_ai.usage.output_tokens"] == 5
    names = [m.name for m in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics]  # type: ignore[union-attr]
    assert sorted(names) == ["gen_ai.client.operation.duration", "gen_ai.client.token.usage"]
    tracing.close()
