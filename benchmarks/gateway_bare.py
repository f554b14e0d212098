"""The least a gateway in Python can do: an ASGI application that passes requests on by aiohttp.

    python benchmarks/gateway_bare.py PORT UPSTREAM_PORT

No keys, no router, no budget, no log, no metrics, no error handling: what the gateway is measured
against. The same server, event loop and client library as the gateway's.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

import aiohttp
import uvicorn

Message: TypeAlias = MutableMapping[str, Any]


class Bare:
    """POST anything; it goes upstream and comes back."""

    def __init__(self, upstream: int) -> None:
        self._url = f"http://127.0.0.1:{upstream}/v1/chat/completions"
        self._session: aiohttp.ClientSession | None = None

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """One request."""
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {"content-type": "application/json"}
        async with self._session.post(self._url, data=body, headers=headers) as response:
            kind = (b"content-type", response.headers["content-type"].encode())
            start: Message = {
                "type": "http.response.start",
                "status": response.status,
                "headers": [kind],
            }
            if "event-stream" not in response.headers["content-type"]:
                whole = await response.read()
                start["headers"] = [kind, (b"content-length", str(len(whole)).encode())]
                await send(start)
                await send({"type": "http.response.body", "body": whole})
                return
            await send(start)
            async for chunk in response.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    port, upstream = int(sys.argv[1]), int(sys.argv[2])
    uvicorn.run(
        Bare(upstream), host="127.0.0.1", port=port, loop="uvloop", http="httptools",
        lifespan="off", access_log=False, log_level="error",
    )  # fmt: skip
