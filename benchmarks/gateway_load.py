"""Requests over kept connections, each read to its end: as little work as a client can do."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field

VERBS = ("explain", "compare", "translate", "summarise", "compute", "list", "sort", "prove")
NOUNS = ("rivers", "engines", "poems", "integrals", "molecules", "contracts", "stars", "recipes")


@dataclass
class Load:
    """What came of some requests: seconds of each, and how many were not 200."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0

    def percentile(self, share: float) -> float:
        """Milliseconds that this share of the requests stayed under."""
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def prompt(draw: random.Random) -> str:
    """A question of some 200 characters that no other one repeats."""
    words = [f"{draw.choice(VERBS)} {draw.choice(NOUNS)}" for _ in range(11)]
    return f"{draw.randrange(10**9)}: {', then '.join(words)[:190]}?"


def request(port: int, model: str, stream: bool, key: str, text: str) -> bytes:
    """The bytes of one chat request."""
    content = {"model": model, "stream": stream, "max_tokens": 64}
    body = json.dumps({**content, "messages": [{"role": "user", "content": text}]})
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        f"host: 127.0.0.1:{port}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        f"authorization: Bearer {key}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


async def send(
    port: int,
    count: int,
    connections: int,
    *,
    model: str = "auto",
    stream: bool = False,
    key: str = "none",
    seed: int = 0,
    rate: float | None = None,
) -> Load:
    """``count`` requests over ``connections``, at ``rate`` a second where one is given."""
    draw = random.Random(seed)
    load, left = Load(), iter(range(count))
    begin = time.perf_counter()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in left:
            if rate is not None:
                await asyncio.sleep(max(begin + number / rate - time.perf_counter(), 0.0))
            start = time.perf_counter()
            writer.write(request(port, model, stream, key, prompt(draw)))
            if not await whole(reader):
                load.failed += 1
            load.seconds.append(time.perf_counter() - start)
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return load


async def whole(reader: asyncio.StreamReader) -> bool:
    """Read one response to its end; whether it was a success."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if b"transfer-encoding: chunked" in head:
        ended = False
        while size := int(await reader.readline(), 16):
            chunk = await reader.readexactly(size + 2)
            ended = ended or b"[DONE]" in chunk
        await reader.readline()
        return ended and b" 200 " in head[:20]
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    return b" 200 " in head[:20]
