"""Contracts as checks: run them on your own implementations, as ours do on ours.

``EXPERT_CHECKS``, ``ROUTER_CHECKS`` and ``COMPOSITION_CHECKS`` hold one check per promise.
``make_records`` makes records whose best routing is known.

Each check takes a function that makes a new instance and fails with an AssertionError that says
which promise was broken. With pytest::

    @pytest.mark.parametrize("check", EXPERT_CHECKS)
    def test_my_expert_keeps_the_contract(check):
        check(lambda: MyExpert("mine"))
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from coterie.compositions import Composition
from coterie.errors import ArtifactError, ExpertError, InputError, NotFittedError, NotRecordedError
from coterie.experts.base import Expert, Price
from coterie.experts.engine import Emit, Generated
from coterie.records import NUMBERS, Records
from coterie.routers.base import Router
from coterie.types import Call, Completion, Decision, Estimates, Final, Message, Query, Usage

# ---------------------------------------------------------------------------------------- experts

QUESTION = "What is 37 plus 58?"  # what EXPERT_CHECKS ask; any answer will do
MakeExpert = Callable[[], Expert]


def ask(expert: Expert, text: str = QUESTION, **options: Any) -> Call:
    """A call to ``expert`` with one user message: greedy, seeded and short by default."""
    options = {"max_tokens": 48, "temperature": 0.0, "seed": 1, **options}
    return Call(expert.name, ({"role": "user", "content": text},), options=options)


def check_keeps_its_name(make: MakeExpert) -> None:
    """A completion carries the name of the expert that made it."""
    expert, completion = _run(make, lambda expert: expert.complete(ask(expert)))
    assert isinstance(completion, Completion), f"complete() returned {completion!r}"
    assert completion.expert == expert.name, f"{completion.expert!r} is not {expert.name!r}"


def check_answers(make: MakeExpert) -> None:
    """A plain question is answered with a text, without an error."""
    _, completion = _run(make, lambda expert: expert.complete(ask(expert)))
    assert completion.error is None, completion.error
    assert completion.text, "an empty text has to come with an error"


def check_counts_what_it_used(make: MakeExpert) -> None:
    """Usage and latency are not negative."""
    _, completion = _run(make, lambda expert: expert.complete(ask(expert)))
    usage = completion.usage
    assert min(usage.prompt_tokens, usage.completion_tokens) >= 0, usage
    assert completion.latency >= 0, completion.latency


def check_cost_is_the_price_of_the_usage(make: MakeExpert) -> None:
    """Cost is price times usage; an expert without a price reports what it was told, never < 0."""
    expert, completion = _run(make, lambda expert: expert.complete(ask(expert)))
    due = expert.price.of(completion.usage)
    assert completion.cost >= 0, completion.cost
    assert expert.price == Price() or abs(completion.cost - due) < 1e-9, (completion.cost, due)


def check_reports_failure_instead_of_raising(make: MakeExpert) -> None:
    """A call that makes no sense comes back as a completion (NotRecordedError may be raised)."""

    async def misuse(expert: Expert) -> Completion | None:
        try:
            return await expert.complete(Call(expert.name, ({"role": "user"},)))
        except NotRecordedError:
            return None

    expert, completion = _run(make, misuse)
    assert completion is None or completion.expert == expert.name, completion


def check_streams_what_it_completes(make: MakeExpert) -> None:
    """A stream is pieces of text, then one completion whose text is the pieces joined."""

    async def collect(expert: Expert) -> list[str | Completion]:
        return [piece async for piece in expert.stream(ask(expert))]

    _, streamed = _run(make, collect)
    *pieces, completion = streamed
    assert isinstance(completion, Completion), f"the stream ended with {completion!r}"
    assert all(isinstance(piece, str) for piece in pieces), pieces
    assert "".join(map(str, pieces)) == completion.text, (pieces, completion.text)


def check_survives_an_abandoned_stream(make: MakeExpert) -> None:
    """A listener that leaves after the first piece does no harm to the next call."""

    async def leave(expert: Expert) -> Completion:
        stream = expert.stream(ask(expert))
        await anext(stream)
        if close := getattr(stream, "aclose", None):
            await close()
        return await expert.complete(ask(expert))

    _, completion = _run(make, leave)
    assert completion.error is None, completion.error


def check_loads_and_unloads_twice(make: MakeExpert) -> None:
    """Loading what is loaded and unloading what is not are harmless; loading again works."""

    async def repeat(expert: Expert) -> Completion:
        for step in (expert.unload, expert.load, expert.load, expert.unload, expert.unload):
            await step()
        await expert.load()
        return await expert.complete(ask(expert))

    _, completion = _run(make, repeat)
    assert completion.error is None, completion.error


def check_passes_through_every_tier(make: MakeExpert) -> None:
    """From disk to host memory, to the device and back in any order, and it still answers."""

    async def travel(expert: Expert) -> Completion:
        await expert.unload(keep=True)
        await expert.prefetch()
        await expert.unload()
        for keep in (True, False, True):
            await expert.load()
            await expert.prefetch()
            await expert.unload(keep=keep)
        return await expert.complete(ask(expert))

    _, completion = _run(make, travel)
    assert completion.error is None, completion.error


def check_unloading_waits_for_running_calls(make: MakeExpert) -> None:
    """A call under way is answered although the expert is unloaded meanwhile."""

    async def interrupt(expert: Expert) -> Completion:
        await expert.load()
        running = asyncio.ensure_future(expert.complete(ask(expert)))
        await asyncio.sleep(0.01)
        await expert.unload()
        return await running

    _, completion = _run(make, interrupt)
    assert completion.error is None, completion.error


def check_names_its_backend(make: MakeExpert) -> None:
    """Backend is a name, and equal for two experts made alike."""
    backends = [make().backend for _ in range(2)]
    assert all(isinstance(backend, str) and backend for backend in backends), backends
    assert backends[0] == backends[1], f"two backends for one setting: {backends}"


def check_measures_what_it_takes(make: MakeExpert) -> None:
    """Nothing is measured before the first load; afterwards ``measured`` is what was."""

    async def measure(expert: Expert) -> tuple[int, int, int]:
        before = expert.measured
        await expert.load()
        return before, await expert.footprint(), expert.measured

    _, (before, footprint, measured) = _run(make, measure)
    assert before == 0, f"{before} bytes were measured before the first load"
    assert footprint >= 0, f"a footprint of {footprint} bytes"
    assert footprint == measured, f"measured {measured} bytes, footprint {footprint}"


def check_closes_twice(make: MakeExpert) -> None:
    """Closing an expert that was never used, or twice, is harmless."""
    _run(make, lambda expert: expert.close())


def check_fills_its_slots(make: MakeExpert) -> None:
    """As many calls as there are slots, and two more, are all answered side by side."""

    async def crowd(expert: Expert) -> list[Completion]:
        assert expert.slots >= 1, expert.slots
        calls = [ask(expert) for _ in range(expert.slots + 2)]
        return list(await asyncio.gather(*map(expert.complete, calls)))

    _, completions = _run(make, crowd)
    assert [c.error for c in completions if c.error] == []


def check_repeats_itself(make: MakeExpert) -> None:
    """The same call with the same seed at temperature 0 gives the same text."""

    async def twice(expert: Expert) -> list[str]:
        return [(await expert.complete(ask(expert))).text for _ in range(2)]

    _, (first, second) = _run(make, twice)
    assert first == second, (first, second)


def check_has_a_stable_fingerprint(make: MakeExpert) -> None:
    """The fingerprint is a text that neither use nor a new instance changes."""

    async def around(expert: Expert) -> list[str]:
        before = expert.fingerprint()
        await expert.complete(ask(expert))
        return [before, expert.fingerprint()]

    seen = {mark for _ in range(2) for mark in _run(make, around)[1]}
    assert len(seen) == 1, seen
    assert all(isinstance(mark, str) and mark for mark in seen), seen


EXPERT_CHECKS: tuple[Callable[[MakeExpert], None], ...] = (
    check_keeps_its_name,
    check_answers,
    check_counts_what_it_used,
    check_cost_is_the_price_of_the_usage,
    check_reports_failure_instead_of_raising,
    check_streams_what_it_completes,
    check_survives_an_abandoned_stream,
    check_loads_and_unloads_twice,
    check_passes_through_every_tier,
    check_unloading_waits_for_running_calls,
    check_names_its_backend,
    check_measures_what_it_takes,
    check_closes_twice,
    check_fills_its_slots,
    check_repeats_itself,
    check_has_a_stable_fingerprint,
)


def _run(make: MakeExpert, use: Callable[[Expert], Awaitable[Any]]) -> tuple[Expert, Any]:
    """Make an expert in a new event loop, use it, close it."""

    async def main() -> tuple[Expert, Any]:
        expert = make()
        try:
            return expert, await use(expert)
        finally:
            await expert.close()

    return asyncio.run(main())


class FaultyEngine:
    """An engine that echoes the last message word by word and fails where a word says so.

    ``hang`` sleeps on and on; ``crash`` ends the process by SIGKILL, ``exit`` by code 3;
    ``refuse`` raises ExpertError and ``break`` anything else; ``chatter`` prints to standard
    output; ``nothing`` as the first word answers with no text. Any file will do as weights::

        LocalExpert("odd", path, engine="coterie.testing:FaultyEngine")
    """

    def load(self, path: str, slots: int, threads: int, context: int) -> None:
        """Fails by the name of the file: ``hang`` or ``crash``."""
        self._fail(os.path.basename(path))

    def unload(self) -> None:
        """Nothing to give back."""

    def complete(
        self,
        messages: Sequence[Message],
        options: Mapping[str, Any],
        emit: Emit | None = None,
        stop: threading.Event | None = None,
    ) -> Generated:
        """Echo the last message, or fail on the way."""
        text = str(messages[-1].get("content", ""))
        words = [] if text.startswith("nothing") else text.split(" ")
        for place, word in enumerate(words):
            self._fail(word)
            if emit:
                emit(f" {word}" if place else word)
        return {
            "text": " ".join(words),
            "prompt_tokens": len(text.split()),
            "completion_tokens": len(words),
            "finish_reason": "stop",
            "logprob": None,
            "latency": 0.0,
        }

    def _fail(self, word: str) -> None:
        match word:
            case "hang":
                time.sleep(3600)
            case "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os.write(2, b"cannot go on\n")
                os._exit(3)
            case "refuse":
                raise ExpertError("refused")
            case "break":
                raise ZeroDivisionError("broken")
            case "chatter":
                print("library chatter", flush=True)


# ---------------------------------------------------------------------------- end of experts


# ---------------------------------------------------------------------------------------- routers

MakeRouter = Callable[[], Router]
TOPICS = {
    "sums": "What is {0} plus {1}?",
    "sorting": "Sort these numbers from small to large: {0}, {1}.",
    "reversal": "Write the word {2} backwards, letter by letter.",
}
EXPERTS = (*TOPICS, "generalist")  # experts of make_records, and of COMPOSITION_CHECKS


def make_records(queries: int = 48, *, seed: int = 0) -> Records:
    """Records of a world whose best routing is known, with queries of three topics in turn.

    The expert of the topic's name is right (score 1, cost 1) and other specialists are wrong; the
    ``generalist`` is right on every second query of a topic, at cost 4. So choosing the specialist
    scores 1.0, the best single expert (the generalist) about 0.5, any other a third. Each topic is
    a query's category and only tag.

    >>> make_records(6).quality.tolist()[:2]
    [[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]]
    """
    generator = np.random.default_rng(seed)
    topics = [list(TOPICS)[row % len(TOPICS)] for row in range(queries)]
    made = []
    for row, topic in enumerate(topics):
        word = "".join(generator.choice(list("abdegilmnorst"), 6))
        text = TOPICS[topic].format(*generator.integers(10, 100, 2), word)
        made.append(replace(Query.from_text(f"q{row}", text), tags=(topic,), category=topic))
    right = np.array(
        [[e == t for e in TOPICS] + [row // 3 % 2 == 0] for row, t in enumerate(topics)]
    ).reshape(queries, len(EXPERTS))
    return Records(
        tuple(made),
        EXPERTS,
        quality=right.astype(float),
        cost=np.tile([1.0, 1.0, 1.0, 4.0], (queries, 1)),
        latency=np.ones(right.shape),
        logprob=np.where(right, -0.1, -1.0),
        texts=np.where(right, "=> right", "=> wrong").astype(object),
        references=("right",) * queries,
    )


def with_quality(records: Records, quality: Any, **arrays: Any) -> Records:
    """The same queries and experts with other scores (queries x experts), texts left out."""
    texts = np.full(records.quality.shape, None, object)
    return replace(records, quality=np.asarray(quality, float), texts=texts, **arrays)


def check_constructor_only_stores(make: MakeRouter) -> None:
    """Each parameter becomes the attribute of its name, unchanged, and nothing else does."""
    router = make()
    parameters = set(inspect.signature(type(router)).parameters)
    assert set(vars(router)) == parameters, f"{sorted(vars(router))} are not {sorted(parameters)}"
    again = type(router)(**vars(router))
    changed = [k for k, v in vars(router).items() if getattr(again, k) is not v]
    assert not changed, f"the constructor changed {changed}"


def check_fit_returns_the_router(make: MakeRouter) -> None:
    """``fit`` returns the router itself."""
    router = make()
    assert router.fit(make_records()) is router


def check_fit_keeps_the_parameters(make: MakeRouter) -> None:
    """``fit`` changes no parameter; what it learns goes to attributes that end in ``_``."""
    router = make()
    before = dict(vars(router))
    router.fit(make_records())
    changed = [k for k, v in vars(router).items() if not k.endswith("_") and v is not before.get(k)]
    assert not changed, f"fit changed or added {changed}"


def check_predict_needs_fit(make: MakeRouter) -> None:
    """``predict`` and ``save`` before ``fit`` raise NotFittedError."""
    router = make()
    with _raises(NotFittedError):
        router.predict(make_records().queries)
    with tempfile.TemporaryDirectory() as folder, _raises(NotFittedError):
        router.save(folder)


def check_estimates_have_their_shapes(make: MakeRouter) -> None:
    """Estimates have a row per query and a column per expert, in the order of the records."""
    records = make_records()
    estimates = _fitted(make, records).predict(records.queries[:5])
    assert estimates.experts == records.experts, estimates.experts
    for name, shape in _shapes(estimates, 5).items():
        value = getattr(estimates, name)
        assert value is None or np.shape(value) == shape, f"{name}: {np.shape(value)}"
    assert len(estimates.evidence) in (0, 5), estimates.evidence


def check_estimates_are_scores_and_costs(make: MakeRouter) -> None:
    """Quality is within [0, 1], cost is not negative, and both are finite."""
    records = make_records()
    _check_sane(_fitted(make, records).predict(records.queries))


def check_one_query_and_none(make: MakeRouter) -> None:
    """A single query gives one row, an empty list none."""
    records = make_records()
    router = _fitted(make, records)
    for count in (1, 0):
        quality = router.predict(records.queries[:count]).quality
        assert quality.shape == (count, len(records.experts)), quality.shape


def check_queries_do_not_influence_each_other(make: MakeRouter) -> None:
    """Other queries in the batch, and their order, change nothing."""
    records = make_records()
    router = _fitted(make, records)
    whole = router.predict(records.queries)
    order = np.random.default_rng(1).permutation(len(records))
    shuffled = router.predict([records.queries[i] for i in order])
    _check_same(_rows(whole, order), shuffled, "in another order")
    for row in (0, len(records) - 1):
        alone = router.predict([records.queries[row]])
        _check_same(_rows(whole, [row]), alone, "on its own")


def check_order_of_experts_does_not_matter(make: MakeRouter) -> None:
    """Records with their experts in another order give the same estimates in that order."""
    records = make_records()
    order = [2, 0, 3, 1]
    turned = records.select([records.experts[j] for j in order])
    first = _fitted(make, records).predict(records.queries)
    second = _fitted(make, turned).predict(records.queries)
    _check_same(_columns(first, order), second, "with the experts in another order")


def check_equal_experts_are_judged_alike(make: MakeRouter) -> None:
    """Experts with equal scores get equal estimates, whichever is listed first.

    A router that learns from labels (the best expert, ties to the first) breaks this.
    """
    records = make_records()
    quality = records.quality.copy()
    quality[:, 2] = quality[:, 0]
    quality[:, 3] = 1 - quality[:, 0]
    twins = with_quality(records, quality, cost=np.ones(quality.shape))
    estimates = _fitted(make, twins).predict(records.queries)
    close = np.allclose(estimates.quality[:, 0], estimates.quality[:, 2], atol=1e-6)
    assert close, "two experts with the same scores were judged differently"


def check_fit_forgets(make: MakeRouter) -> None:
    """Fitting again on other records is the same as fitting only on those."""
    records, other = make_records(), make_records(30, seed=1)
    other = other.select(other.experts[::-1])
    twice = _fitted(make, records).fit(other).predict(other.queries)
    _check_same(_fitted(make, other).predict(other.queries), twice, "after an earlier fit")


def check_fit_repeats_itself(make: MakeRouter) -> None:
    """Two fits on the same records agree, whatever the global random state, fingerprints too."""
    records = make_records()
    fitted = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        fitted.append(_fitted(make, records))
    first, second = (router.predict(records.queries) for router in fitted)
    _check_same(first, second, "in a second fit")
    assert fitted[0].fingerprint() == fitted[1].fingerprint(), "fingerprints differ"


def check_fit_and_predict_leave_records_alone(make: MakeRouter) -> None:
    """Neither changes the arrays of the records, nor do estimates share memory with them."""
    records = make_records()
    before = {name: getattr(records, name).copy() for name in NUMBERS}
    estimates = _fitted(make, records).predict(records.queries)
    if estimates.quality.flags.writeable:
        estimates.quality[:] = -1
    for name, array in before.items():
        same = np.array_equal(getattr(records, name), array, equal_nan=True)
        assert same, f"the records' {name} changed"


def check_missing_cells_are_tolerated(make: MakeRouter) -> None:
    """Scores and costs that were not observed, whole experts among them, give sane estimates."""
    records = make_records()
    holes = np.random.default_rng(0).random(records.quality.shape) < 0.5
    holes[:, 1] = True  # never observed
    quality = np.where(holes, np.nan, records.quality)
    for cost in (np.where(holes, np.nan, records.cost), np.full(holes.shape, np.nan)):
        damaged = with_quality(records, quality, cost=cost)
        _check_sane(_fitted(make, damaged).predict(records.queries))


def check_records_without_scores_are_refused(make: MakeRouter) -> None:
    """No queries, or no observed score, raise InputError; the router stays unfitted."""
    records = make_records()
    for empty in (records.take([]), with_quality(records, np.full(records.quality.shape, np.nan))):
        router = make()
        with _raises(InputError):
            router.fit(empty)
        with _raises(NotFittedError):
            router.predict(records.queries)


def check_one_recorded_query_is_enough(make: MakeRouter) -> None:
    """Records of one query and one expert are learnt from."""
    records = make_records().take([0]).select(["sums"])
    _check_sane(_fitted(make, records).predict(records.queries))


def check_unseen_queries_are_estimated(make: MakeRouter) -> None:
    """Queries that are not in the records, odd ones among them, give sane estimates."""
    texts = (
        "",
        "?!",
        "日本語の質問🦙",
        "word " * 30_000,
        "half a character \ud800",
        "Add 2 and 3.",
    )
    queries = [Query.from_text(f"new{i}", text) for i, text in enumerate(texts)]
    _check_sane(_fitted(make, make_records()).predict(queries))


def check_save_and_load_agree(make: MakeRouter) -> None:
    """A loaded router estimates exactly what the saved one does, and has its fingerprint."""
    records = make_records()
    router = _fitted(make, records)
    with tempfile.TemporaryDirectory() as folder:
        router.save(folder)
        again = type(router).load(folder)
    first, second = (r.predict(records.queries) for r in (router, again))
    _check_same(first, second, "after loading", exact=True)
    assert first.evidence == second.evidence, "the evidence differs after loading"
    assert router.fingerprint() == again.fingerprint(), "the fingerprint differs after loading"


def check_damaged_artifacts_are_refused(make: MakeRouter) -> None:
    """A file that is missing, cut short or edited raises ArtifactError on loading."""
    router = _fitted(make, make_records())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        router.save(folder)
        intact = {path: path.read_bytes() for path in folder.iterdir()}
        for path, damaged in _damages(intact):
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            with _raises(ArtifactError):
                type(router).load(folder)
            path.write_bytes(intact[path])
        type(router).load(folder)


ROUTER_CHECKS: tuple[Callable[[MakeRouter], None], ...] = (
    check_constructor_only_stores,
    check_fit_returns_the_router,
    check_fit_keeps_the_parameters,
    check_predict_needs_fit,
    check_estimates_have_their_shapes,
    check_estimates_are_scores_and_costs,
    check_one_query_and_none,
    check_queries_do_not_influence_each_other,
    check_order_of_experts_does_not_matter,
    check_equal_experts_are_judged_alike,
    check_fit_forgets,
    check_fit_repeats_itself,
    check_fit_and_predict_leave_records_alone,
    check_missing_cells_are_tolerated,
    check_records_without_scores_are_refused,
    check_one_recorded_query_is_enough,
    check_unseen_queries_are_estimated,
    check_save_and_load_agree,
    check_damaged_artifacts_are_refused,
)

_ARRAYS = ("quality", "cost", "suitability", "strength")


def _fitted(make: MakeRouter, records: Records) -> Router:
    return make().fit(records)


@contextmanager
def _raises(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind:
        return
    except Exception as error:
        raise AssertionError(f"expected {kind.__name__}, got {error!r}") from error
    raise AssertionError(f"expected {kind.__name__}, nothing was raised")


def _shapes(estimates: Estimates, queries: int) -> dict[str, tuple[int, ...]]:
    whole = (queries, len(estimates.experts))
    return {"quality": whole, "cost": whole, "suitability": whole, "strength": whole[1:]}


def _check_sane(estimates: Estimates) -> None:
    quality, cost = estimates.quality, estimates.cost
    assert np.isfinite(quality).all(), "a quality is not finite"
    assert (quality >= -1e-9).all(), f"a quality is {quality.min()}"
    assert (quality <= 1 + 1e-9).all(), f"a quality is {quality.max()}"
    assert np.isfinite(cost).all(), "a cost is not finite"
    assert (cost >= 0).all(), f"a cost is {cost.min()}"


def _check_same(first: Estimates, second: Estimates, when: str, exact: bool = False) -> None:
    """Equal up to rounding: matrix products round differently in batches of other sizes."""
    assert first.experts == second.experts, f"the experts differ {when}"
    for name in _ARRAYS:
        one, two = getattr(first, name), getattr(second, name)
        assert (one is None) == (two is None), f"{name} is None {when}"
        if one is not None:
            tolerance = 0.0 if exact else 1e-6
            close = np.allclose(one, two, rtol=tolerance, atol=tolerance, equal_nan=True)
            assert close, f"{name} differs {when}"


def _rows(estimates: Estimates, rows: Any) -> Estimates:
    suitability = estimates.suitability
    return replace(
        estimates,
        quality=estimates.quality[rows],
        cost=estimates.cost[rows],
        suitability=None if suitability is None else suitability[rows],
    )


def _columns(estimates: Estimates, order: Sequence[int]) -> Estimates:
    arrays = {n: getattr(estimates, n) for n in _ARRAYS if getattr(estimates, n) is not None}
    turned = {name: array[..., order] for name, array in arrays.items()}
    return replace(estimates, experts=tuple(estimates.experts[j] for j in order), **turned)


def _damages(intact: Mapping[Path, bytes]) -> Iterator[tuple[Path, bytes | None]]:
    """Files with what stands in their place, None for nothing."""
    for path, data in intact.items():
        yield from ((path, None), (path, b""), (path, data[: len(data) // 2]))
        if path.suffix == ".json":
            header = json.loads(data)
            for place in (header, header["params"], header["params"].get("learnt", {})):
                for key in list(place):
                    value = place.pop(key)
                    if key != "coterie":  # the version that wrote it, for people
                        yield path, json.dumps(header).encode()
                    place[key] = value


# ----------------------------------------------------------------------------------- compositions

MakeComposition = Callable[[], Composition]
Reply = Callable[[Call], Completion]

CHECKED = Query.from_text("checked", "What is 37 plus 58?", max_tokens=48)
DECISION = Decision("checked", EXPERTS[:3], (0.9, 0.6, 0.4), utility=0.9)


def say(call: Call) -> Completion:
    """A reply that depends on the call alone; it holds keywords and an answer."""
    text = f"{call.digest()}. Keywords: sums, digits => 95"
    return Completion(call.expert, text, Usage(9, 9), cost=1.0, latency=1.0, logprob=-0.5)


def fail(call: Call) -> Completion:
    """The reply of an expert that is out of order."""
    return Completion(call.expert, finish_reason="error", error=f"{call.expert}: out of order")


def converse(
    composition: Composition,
    reply: Reply = say,
    decision: Decision = DECISION,
    query: Query = CHECKED,
    seed: int = 0,
) -> tuple[list[tuple[Call, ...]], Completion]:
    """Drive a composition to its end: the rounds of calls it made and the answer."""
    flow = composition(query, decision, seed)
    rounds: list[tuple[Call, ...]] = []
    try:
        calls = next(flow)
        while True:
            rounds.append(tuple(calls))
            assert len(rounds) <= 1000, "a thousand rounds, and no end"
            calls = flow.send([reply(call) for call in calls])
    except StopIteration as stop:
        outcome = stop.value
    if isinstance(outcome, Completion):
        return rounds, outcome
    assert isinstance(outcome, Final), f"the flow returned {outcome!r}"
    for attempt in (outcome.call, *outcome.fallbacks):
        if isinstance(attempt, Completion):
            return rounds, attempt
        rounds.append((attempt,))
        answer = reply(attempt)
        if not answer.failed:
            break
    return rounds, answer


def check_nothing_happens_before_it_is_driven(make: MakeComposition) -> None:
    """Calling a composition gives a generator that has not started."""
    flow = make()(CHECKED, DECISION, 0)
    assert inspect.isgenerator(flow), f"expected a generator, got {flow!r}"
    assert inspect.getgeneratorstate(flow) == inspect.GEN_CREATED
    flow.close()


def check_does_no_io(make: MakeComposition) -> None:
    """No file, socket or process from the first call to the answer."""
    composition = make()
    converse(composition)  # imports are allowed the first time
    with _without_io():
        converse(composition)


def check_is_deterministic(make: MakeComposition) -> None:
    """The same query, decision, seed and completions give the same calls and answer."""
    outcomes = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        rounds, answer = converse(make())
        outcomes.append(([[call.digest() for call in calls] for calls in rounds], answer))
    assert outcomes[0] == outcomes[1], "two runs differ"


def check_asks_known_experts(make: MakeComposition) -> None:
    """Every round is a list of at least one call to an expert of the pool, with messages."""
    rounds, _ = converse(make())
    assert rounds, "no expert was asked"
    for calls in rounds:
        assert calls, "a round without calls"
        for call in calls:
            assert isinstance(call, Call), f"expected a Call, got {call!r}"
            assert call.expert in EXPERTS, f"{call.expert!r} is none of {EXPERTS}"
            assert call.messages, "a call without messages"


def check_every_call_has_its_own_seed(make: MakeComposition) -> None:
    """No two calls are the same, even if one expert was recruited three times."""
    thrice = replace(DECISION, experts=("sums",) * 3)
    rounds, _ = converse(make(), decision=thrice)
    seeds = [call.options.get("seed") for calls in rounds for call in calls]
    assert None not in seeds, "a call without a seed"
    assert len(set(seeds)) == len(seeds), f"seeds repeat: {seeds}"


def check_the_seed_of_the_run_counts(make: MakeComposition) -> None:
    """Another seed gives the calls other seeds."""
    first, second = (converse(make(), seed=seed)[0][0][0] for seed in (0, 1))
    assert first.options["seed"] != second.options["seed"], "the seed is ignored"


def check_request_options_reach_the_experts(make: MakeComposition) -> None:
    """The query's own options (here ``max_tokens``) are in every call that is to answer it."""
    rounds, _ = converse(make())
    for call in itertools.chain(*rounds):
        if call.purpose == "answer":
            assert call.options.get("max_tokens") == 48, dict(call.options)


def check_answers_with_a_completion(make: MakeComposition) -> None:
    """Where every expert answers, so does the composition, in the name of one it asked."""
    rounds, answer = converse(make())
    assert isinstance(answer, Completion), f"the flow ended with {answer!r}"
    assert answer.error is None, answer.error
    assert answer.expert in {call.expert for calls in rounds for call in calls}, answer.expert


def check_one_expert_is_enough(make: MakeComposition) -> None:
    """A decision for a single expert is carried out."""
    _, answer = converse(make(), decision=Decision("checked", EXPERTS[:1], (0.9,)))
    assert answer.error is None, answer.error


def check_some_experts_may_fail(make: MakeComposition) -> None:
    """Whichever experts fail, the flow ends with a completion and raises nothing."""
    for count in range(1, len(EXPERTS)):
        for broken in itertools.combinations(EXPERTS, count):
            _, answer = converse(make(), _all_but(broken))
            assert isinstance(answer, Completion), f"{broken} failed: {answer!r}"


def check_every_expert_failing_is_a_failed_answer(make: MakeComposition) -> None:
    """Where all fail the answer is a failed completion that says why, not an exception."""
    _, answer = converse(make(), fail)
    assert answer.failed, f"nobody answered, yet the answer is {answer.text!r}"
    assert answer.error, "the failed answer does not say why"


def check_odd_answers_are_tolerated(make: MakeComposition) -> None:
    """Empty, huge and strange texts, braces and tags among them, raise nothing."""
    for text in ("", " \n", "{question} {0} {", "</think>", "x" * 100_000, "\ud800", "Keywords:,,"):
        _, answer = converse(make(), _always(text))
        assert isinstance(answer, Completion), f"{text[:20]!r} gave {answer!r}"


def _all_but(broken: Sequence[str]) -> Reply:
    return lambda call: fail(call) if call.expert in broken else say(call)


def _always(text: str) -> Reply:
    return lambda call: Completion(call.expert, text)


COMPOSITION_CHECKS: tuple[Callable[[MakeComposition], None], ...] = (
    check_nothing_happens_before_it_is_driven,
    check_does_no_io,
    check_is_deterministic,
    check_asks_known_experts,
    check_every_call_has_its_own_seed,
    check_the_seed_of_the_run_counts,
    check_request_options_reach_the_experts,
    check_answers_with_a_completion,
    check_one_expert_is_enough,
    check_some_experts_may_fail,
    check_every_expert_failing_is_a_failed_answer,
    check_odd_answers_are_tolerated,
)

_watch = threading.local()
_IO = ("open", "socket.", "subprocess.", "os.", "shutil.", "sqlite3.", "urllib.")


def _forbid_io(event: str, args: tuple[Any, ...]) -> None:
    if getattr(_watch, "on", False) and event.startswith(_IO):
        _watch.on = False
        raise AssertionError(f"a composition must do no I/O, this one did: {event} {args!r:.80}")


@contextmanager
def _without_io() -> Iterator[None]:
    """Raise AssertionError for I/O of this thread inside the block (an audit hook stays)."""
    if not hasattr(_watch, "on"):
        sys.addaudithook(_forbid_io)
    _watch.on = True
    try:
        yield
    finally:
        _watch.on = False


# ---------------------------------------------------------------- end of routers and compositions
