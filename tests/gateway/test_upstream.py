import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from coterie.experts.openai import OpenAIExpert
from coterie.gateway.attempts import AttemptOptions, Attempts
from coterie.gateway.retries import Deadline
from coterie.gateway.upstream import HttpUpstream, Outgoing
from coterie.gateway.wire import decode_fields

BODY = b'{"x_odd": [1,  2], "model": "auto", "messages": [{"role": "user", "content": "hi"}]}'


@asynccontextmanager
async def echo() -> AsyncIterator[HttpUpstream]:
    async def handler(request: web.Request) -> web.Response:
        body = await request.read()
        return web.Response(body=b'{"choices":[{"message":{}}],"asked": ' + body + b"}")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    upstream = HttpUpstream(OpenAIExpert("far", url, "far-1"))
    try:
        yield upstream
    finally:
        await upstream.close()
        await runner.cleanup()


def test_bytes_pass_through_and_the_model_is_replaced() -> None:
    async def main() -> bytes | None:
        async with echo() as upstream:
            out = Outgoing("/chat/completions", decode_fields(BODY))
            delivery = await Attempts().serve([upstream], out, Deadline(5), AttemptOptions())
            return delivery.reply.body

    body = asyncio.run(main())
    assert body is not None
    assert b'"x_odd":[1,  2],"model":"far-1"' in body
