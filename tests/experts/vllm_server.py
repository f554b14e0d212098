"""A server that speaks vLLM's sleep-mode protocol: ``python vllm_server.py``.

It prints its port. A completion while it sleeps, or with weights that were not reloaded after
level 2, is refused, so that no test passes by accident. ``/states`` tells what it was asked;
``/reset?fault=...`` begins anew, with ``no-sleep`` (mode), a ``broken-wake`` or a ``hanging-wake``.
"""

import asyncio
import json
import sys
from collections import Counter

from aiohttp import web


class Server:
    """Where the weights and the cache are, as vLLM's executor keeps book of it."""

    def __init__(self) -> None:
        self.begin("")

    def begin(self, fault: str) -> None:
        self.fault = fault
        self.asleep: set[str] = set()  # tags that are not on the device
        self.garbage = False  # weights were forgotten and not yet reloaded
        self.busy = 0
        self.counts: Counter[str] = Counter()
        self.bodies: list[object] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.complete)
        app.router.add_get("/states", self.states)
        app.router.add_get("/reset", self.reset)
        app.router.add_post("/sleep", self.sleep)
        app.router.add_post("/wake_up", self.wake_up)
        app.router.add_get("/is_sleeping", self.is_sleeping)
        app.router.add_post("/collective_rpc", self.collective_rpc)
        return app

    async def sleep(self, request: web.Request) -> web.Response:
        level = request.query["level"]
        self.counts[f"sleep {level}"] += 1
        self.counts["sleep at work"] += bool(self.busy)
        if not self.asleep:  # the real one ignores a second sleep, too
            self.asleep, self.garbage = {"weights", "kv_cache"}, level == "2"
        return web.Response()

    async def wake_up(self, request: web.Request) -> web.Response:
        tags = request.query.getall("tags", [])
        self.counts[" ".join(["wake", *tags])] += 1
        if self.fault == "hanging-wake":
            await asyncio.sleep(3600)
        if self.fault == "broken-wake":
            raise web.HTTPInternalServerError(text="CUDA out of memory")
        self.asleep -= set(tags or self.asleep)
        return web.Response()

    async def is_sleeping(self, request: web.Request) -> web.Response:
        if self.fault == "no-sleep":
            raise web.HTTPNotFound
        return web.json_response({"is_sleeping": bool(self.asleep)})

    async def collective_rpc(self, request: web.Request) -> web.Response:
        method = (await request.json())["method"]
        self.counts[method] += 1
        if method == "reload_weights" and "weights" not in self.asleep:
            self.garbage = False
        return web.json_response({"results": [None]})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        if self.asleep or self.garbage:
            raise web.HTTPServiceUnavailable(text="the engine sleeps, or its weights are garbage")
        if not isinstance(body["messages"][-1].get("content"), str):
            raise web.HTTPBadRequest(text="a message without content")
        self.busy += 1
        try:
            await asyncio.sleep(0.02)
            return await self.answer(request, body["stream"])
        finally:
            self.busy -= 1

    async def answer(self, request: web.Request, stream: bool) -> web.StreamResponse:
        usage = {"prompt_tokens": 20, "completion_tokens": 2}
        if not stream:
            choice = {"message": {"content": "37 => 95"}, "finish_reason": "stop"}
            return web.json_response({"choices": [choice], "usage": usage})
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in (b"37 =>", b" 95"):
            event = b'data: {"choices": [{"delta": {"content": "%b"}}]}\n\n' % piece
            await response.write(event)
        await response.write(b'data: {"choices": [], "usage": %b}\n\n' % json.dumps(usage).encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    async def reset(self, request: web.Request) -> web.Response:
        self.begin(request.query.get("fault", ""))
        return web.Response()

    async def states(self, request: web.Request) -> web.Response:
        counts = {name: count for name, count in self.counts.items() if count}
        asleep = sorted(self.asleep)
        return web.json_response({"counts": counts, "asleep": asleep, "bodies": self.bodies})


async def main() -> None:
    runner = web.AppRunner(Server().app(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)  # ends with the test that started it


if __name__ == "__main__":
    asyncio.run(main())
