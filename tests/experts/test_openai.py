import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import coterie
from coterie.errors import InputError
from coterie.experts.base import Price
from coterie.experts.hosts import Worker
from coterie.experts.openai import OpenAIExpert
from coterie.experts.retries import FIRST_DELAY, delay, retry_after
from coterie.testing import ask
from coterie.types import Completion, Usage

ADD = Path(coterie.__file__).parent / "embedded" / "experts" / "add-expert.gguf"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ANSWER = {"choices": [{"message": {"content": "hello there"}, "finish_reason": "stop"}]}


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    """A real HTTP server on loopback; yields its base URL."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def complete(handler: Handler, text: str = "hello?", **settings: Any) -> Completion:
    async def main() -> Completion:
        async with server(handler) as url:
            expert = OpenAIExpert("far", url, "m", **settings)
            completion = await expert.complete(ask(expert, text))
            await expert.close()
            return completion

    return asyncio.run(main())


def stream(handler: Handler, **settings: Any) -> list[str | Completion]:
    async def main() -> list[str | Completion]:
        async with server(handler) as url:
            expert = OpenAIExpert("far", url, "m", **settings)
            pieces = [piece async for piece in expert.stream(ask(expert))]
            await expert.close()
            return pieces

    return asyncio.run(main())


def answering(*responses: tuple[int, Any], headers: dict[str, str] | None = None) -> Handler:
    """A handler that gives these statuses and bodies in turn."""
    rest = iter(responses)

    async def handler(_: web.Request) -> web.StreamResponse:
        status, body = next(rest)
        return web.json_response(body, status=status, headers=headers)

    return handler


def events(*chunks: Any) -> Handler:
    """A handler that streams these chunks as server-sent events."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            data = chunk if isinstance(chunk, str) else f"data: {json.dumps(chunk)}"
            await response.write(data.encode() + b"\n\n")
        return response

    return handler


def delta(text: str) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": None}]}


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    """The URL of a real llama.cpp server that asks for the key "sesame"."""
    worker = Worker()
    yield asyncio.run(worker.serve("llama", str(ADD), 4, 1, 256, api_key="sesame"))
    worker.kill("the test is over")


def test_a_real_llama_cpp_server_answers(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_KEY", "sesame")
    price = Price(1.0, 10.0)

    async def main() -> list[str | Completion]:
        expert = OpenAIExpert("add", llama, "add", api_key_env="LLAMA_KEY", price=price)
        question = ask(expert, "What is 3 plus 5?", logprobs=True)
        whole = await expert.complete(question)
        pieces = [piece async for piece in expert.stream(question)]
        await expert.close()
        return [whole, *pieces]

    whole, *pieces, streamed = asyncio.run(main())
    assert isinstance(whole, Completion)
    assert isinstance(streamed, Completion)
    assert whole.cost == 19 + 10 * whole.usage.completion_tokens
    assert (whole.text, whole.usage, whole.estimated) == (streamed.text, streamed.usage, False)
    assert len(pieces) > 3
    assert -1 < (whole.logprob or 0) < 0


def test_a_wrong_key_is_refused_and_not_shown(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_KEY", "open-barley")

    async def main() -> Completion:
        expert = OpenAIExpert("add", llama, "add", api_key_env="LLAMA_KEY")
        completion = await expert.complete(ask(expert))
        await expert.close()
        return completion

    completion = asyncio.run(main())
    assert completion.error == "add: status 401: Invalid API Key"


def test_a_key_that_the_server_repeats_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", "sk-secret")
    refusal = answering((401, {"error": {"message": "Incorrect API key: sk-secret"}}))
    completion = complete(refusal, api_key_env="FAR_KEY")
    assert completion.error == "far: status 401: Incorrect API key: ***"


def test_a_key_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAR_KEY", raising=False)
    completion = complete(answering((200, ANSWER)), api_key_env="FAR_KEY")
    assert completion.error == "far: the environment variable FAR_KEY with its key is not set"


def test_the_request_holds_model_messages_and_options() -> None:
    seen: dict[str, Any] = {}

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.update(await request.json(), authorization=request.headers.get("Authorization"))
        return web.json_response(ANSWER)

    complete(handler, "hello?", options={"seed": 5, "reasoning_effort": "low"})
    assert seen == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello?"}],
        "stream": False,
        "max_tokens": 48,
        "temperature": 0.0,
        "seed": 1,
        "reasoning_effort": "low",
        "authorization": None,
    }


def test_usage_that_is_missing_is_estimated() -> None:
    completion = complete(answering((200, ANSWER)), "x" * 40, price=Price(1.0, 1.0))
    assert completion.usage == Usage(10, 2)
    assert (completion.estimated, completion.cost) == (True, 12.0)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again(status: int) -> None:
    busy = (status, {"error": {"message": "busy"}})
    handler = answering(busy, busy, (200, ANSWER), headers={"Retry-After": "0"})
    assert complete(handler).text == "hello there"


def test_repetitions_are_spread_over_a_bound_that_doubles() -> None:
    delays = [[delay(attempt) for _ in range(200)] for attempt in range(4)]
    for attempt, drawn in enumerate(delays):
        bound = FIRST_DELAY * 2**attempt
        assert 0 <= min(drawn) < 0.1 * bound
        assert 0.9 * bound < max(drawn) <= bound
    assert delay(50, draw=lambda: 1.0) == 30


def test_nobody_comes_back_before_retry_after() -> None:
    delays = [delay(0, after=20) for _ in range(50)]
    assert min(delays) >= 20
    assert len(set(delays)) > 40


def test_retry_after_is_waited_for() -> None:
    handler = answering((429, {}), (200, ANSWER), headers={"Retry-After": "0.3"})
    completion = complete(handler)
    assert (completion.error, completion.latency > 0.3) == (None, True)


def test_requests_keep_to_the_rate_limit() -> None:
    arrivals: list[float] = []

    async def handler(_: web.Request) -> web.StreamResponse:
        arrivals.append(time.monotonic())
        return web.json_response({}, status=500 if len(arrivals) == 1 else 200)

    async def main() -> list[Completion]:
        async with server(handler) as url:
            expert = OpenAIExpert("far", url, "m", requests_per_minute=2)
            expert.limit.requests.period = 0.4
            completions = await asyncio.gather(*(expert.complete(ask(expert)) for _ in range(4)))
            await expert.close()
            return completions

    completions = asyncio.run(main())
    assert len(arrivals) == 5  # the repetition counts
    assert all(b - a > 0.39 for a, b in zip(arrivals, arrivals[2:], strict=False))
    assert max(completion.latency for completion in completions) < 0.75  # without the waiting


def test_tokens_are_counted_as_the_server_reports_them() -> None:
    usage = {"prompt_tokens": 60, "completion_tokens": 40}

    async def main() -> list[int]:
        async with server(answering(*[(200, {**ANSWER, "usage": usage})] * 2)) as url:
            expert = OpenAIExpert("far", url, "m", tokens_per_minute=1000)
            await expert.complete(ask(expert, max_tokens=800))
            await expert.complete(ask(expert, max_tokens=800))
            await expert.close()
            return [entry.amount for entry in expert.limit.tokens._entries]

    assert asyncio.run(main()) == [100, 100]


def test_choices_are_not_sent() -> None:
    seen: list[Any] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(await request.json())
        return web.json_response(ANSWER)

    complete(handler, options={"choices": "AB", "one_of": ["a", "b"]})
    assert not {"choices", "one_of"} & set(seen[0])


def test_what_does_not_pass_is_told_with_status_and_message() -> None:
    busy = (503, {"error": {"message": "overloaded"}})
    completion = complete(answering(*[busy] * 3, headers={"Retry-After": "0"}))
    assert completion.error == "far: status 503: overloaded"
    assert (completion.usage, completion.cost) == (Usage(), 0.0)


def test_a_refusal_is_not_repeated() -> None:
    handler = answering((400, {"error": "no such model"}), (200, ANSWER))
    assert complete(handler).error == "far: status 400: no such model"


def test_retry_after_beyond_the_timeout_is_not_waited_for() -> None:
    handler = answering((429, {"detail": "quota"}), headers={"Retry-After": "3600"})
    assert complete(handler).error == "far: status 429: {'detail': 'quota'}"


def test_retry_after_may_be_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < (retry_after({"retry-after": soon}) or 0) <= 30
    assert retry_after({"retry-after": "2"}) == 2
    assert retry_after({"Retry-After": "whenever"}) is None


def test_token_probabilities_are_read_where_two_readings_are_asked_for() -> None:
    readings = [{"token": "9", "logprob": math.log(p)} for p in (0.6, 0.3)]
    content = [
        {"token": "9", "logprob": math.log(0.6), "top_logprobs": readings},
        {"token": "5", "logprob": -0.1, "top_logprobs": []},
    ]
    choice = {"message": {"content": "95"}, "logprobs": {"content": content}}

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response({"choices": [choice]})

    async def main(**options: Any) -> Completion:
        async with server(handler) as url:
            expert = OpenAIExpert("it", base_url=url, model="m")
            try:
                return await expert.complete(ask(expert, **options))
            finally:
                await expert.close()

    completion = asyncio.run(main(logprobs=True, top_logprobs=2))
    assert completion.logprobs == pytest.approx((math.log(0.6), -0.1))
    assert completion.margin == pytest.approx(0.3)
    plain = asyncio.run(main(logprobs=True))
    assert (plain.logprobs, plain.margin) == ((), None)
    assert plain.logprob == completion.logprob


def test_a_server_that_is_not_there_is_an_error() -> None:
    async def main() -> Completion:
        expert = OpenAIExpert("far", "http://127.0.0.1:9/v1", "m", retries=0)
        completion = await expert.complete(ask(expert))
        await expert.close()
        return completion

    assert "Cannot connect to host 127.0.0.1:9" in str(asyncio.run(main()).error)


def test_a_server_that_hangs_is_an_error() -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    completion = complete(handler, timeout=0.2)
    assert str(completion.error).endswith("/v1 within 0.2 s")


@pytest.mark.parametrize("body", [[], {}, {"choices": [{}]}, {"choices": [{"message": None}]}])
def test_an_answer_of_another_shape_is_an_error(body: Any) -> None:
    assert "sent no chat completion" in str(complete(answering((200, body))).error)


def test_an_answer_without_text_is_an_error() -> None:
    empty = {"choices": [{"message": {"content": None}}], "usage": {"prompt_tokens": 3}}
    completion = complete(answering((200, empty)), price=Price(1.0, 1.0))
    assert (completion.error, completion.cost) == ("far: answered nothing", 3.0)


def test_a_stream_is_read_with_its_comments_and_usage() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
    chunks = events(": ping", delta("hel"), delta("lo"), usage, "data: [DONE]")
    *pieces, completion = stream(chunks)
    assert pieces == ["hel", "lo"]
    assert isinstance(completion, Completion)
    assert (completion.text, completion.usage) == ("hello", Usage(7, 2))


def test_a_stream_that_breaks_keeps_what_came() -> None:
    *pieces, completion = stream(events(delta("hel"), {"error": {"message": "out of memory"}}))
    assert pieces == ["hel"]
    assert isinstance(completion, Completion)
    assert (completion.text, completion.error) == ("hel", "far: out of memory")


def test_a_stream_that_was_refused_is_tried_again() -> None:
    first = iter([True])
    good = events(delta("hello"), "data: [DONE]")

    async def handler(request: web.Request) -> web.StreamResponse:
        if next(first, False):
            return web.json_response({}, status=500, headers={"Retry-After": "0"})
        return await good(request)

    assert stream(handler)[0] == "hello"


def test_a_listener_that_leaves_hangs_up() -> None:
    gone = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(f"data: {json.dumps(delta('x'))}\n\n".encode())
                await asyncio.sleep(0.01)
        finally:
            gone.set()

    async def main() -> None:
        async with server(handler) as url:
            expert = OpenAIExpert("far", url, "m")
            pieces = expert.stream(ask(expert))
            assert await anext(pieces) == "x"
            await pieces.aclose()  # type: ignore[attr-defined]
            async with asyncio.timeout(5):
                await gone.wait()
            await expert.close()

    asyncio.run(main())


def test_a_cancelled_call_gives_its_slot_back() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if (await request.json())["messages"][0]["content"] == "slow":
            await asyncio.sleep(60)
        return web.json_response(ANSWER)

    async def main() -> Completion:
        async with server(handler) as url:
            expert = OpenAIExpert("far", url, "m", slots=1)
            slow = asyncio.create_task(expert.complete(ask(expert, "slow")))
            await asyncio.sleep(0.1)
            slow.cancel()
            completion = await expert.complete(ask(expert, "quick"))
            await expert.close()
            return completion

    assert asyncio.run(main()).text == "hello there"


def test_it_can_be_used_in_one_event_loop_after_another() -> None:
    assert {complete(answering((200, ANSWER))).text for _ in range(2)} == {"hello there"}


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://host:99999/v1", "http or https address"),
        ("http://host:port/v1", "http or https address"),
        ("http://a..b/v1", "http or https address"),
        ("http:///v1", "http or https address"),
        ("ftp://host/v1", "http or https address"),
        ("https://host/v1?api-version=1", "without"),
        ("https://me:hunter2@host/v1", "api_key_env"),
    ],
)
def test_an_address_that_is_none_is_refused_without_its_secrets(url: str, why: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        OpenAIExpert("it", base_url=url, model="m")
    assert "hunter2" not in str(caught.value)
    assert OpenAIExpert("it", base_url="http://[::1]:8000/v1", model="m").base_url
