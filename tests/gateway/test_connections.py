"""HTTP to experts: what comes in which form, and what becomes of the connection."""

import asyncio
import random
import shutil
import socket
import ssl
import struct
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from coterie.gateway import connections as module
from coterie.gateway.connections import (
    BadResponse,
    Connections,
    ConnectTimeout,
    NotConnected,
)
from coterie.gateway.http_response import Response

OK = b"HTTP/1.1 200 OK\r\n"
WHOLE = OK + b"content-length: 2\r\n\r\nhi"
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS, autouse=True)
def loop_factory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOOPS, "now", LOOPS[request.param])


class Server:
    """Answers the requests of each connection with ``answers``, each a list of pieces; then ends.

    ``made`` counts connections, ``asked`` has heads and bodies.
    """

    def __init__(self, *answers: list[bytes], hang: bool = False) -> None:
        self.answers, self.hang = answers, hang
        self.made, self.asked = 0, list[bytes]()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made += 1
        for pieces in self.answers:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            self.asked.append(head + await reader.readexactly(length))
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
        if self.hang:
            await reader.read()


def run(
    server: Answer,
    client: Callable[[Connections], Awaitable[Any]],
    tls: ssl.SSLContext | None = None,
    **options: Any,
) -> Any:
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(cast(asyncio.Task[None], asyncio.current_task()))
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await server(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def main() -> Any:
        listening = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
        port = listening.sockets[0].getsockname()[1]
        connections = Connections(f"http://127.0.0.1:{port}/v1", **options)
        try:
            return await asyncio.wait_for(client(connections), 10)
        finally:
            connections.close()
            listening.close()
            await asyncio.wait_for(asyncio.gather(*handlers), 5)

    with asyncio.Runner(loop_factory=LOOPS["now"]) as runner:
        return runner.run(main())


async def body_of(response: Response) -> bytes:
    pieces = []
    while piece := await response.read():
        pieces.append(piece)
    assert response.ended
    return b"".join(pieces)


async def asked(connections: Connections, body: bytes = b"{}") -> bytes:
    return await body_of(await connections.post("/chat", {"x-one": "1"}, body))


def test_a_request_has_its_length_its_host_and_the_headers_given() -> None:
    server = Server([WHOLE])
    assert run(server, asked) == b"hi"
    head, _, body = server.asked[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"\r\nx-one: 1\r\n" in head
    assert body == b"{}"


FORMS = {
    "cut anywhere": [bytes([byte]) for byte in WHOLE],
    "chunked": [OK + b"transfer-encoding: chunked\r\n\r\n1\r\nh\r\n", b"1\r\ni\r\n0\r\n\r\n"],
    "trailers": [OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-more: 1\r\n\r\n"],
    "until the end": [OK + b"content-type: text/plain\r\n\r\nh", b"i"],
    "http/1.0": [b"HTTP/1.0 200 OK\r\n\r\nhi"],
    "early hints": [b"HTTP/1.1 103 Early Hints\r\nx: 1\r\n\r\n", WHOLE],
    "continue": [b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_body_comes_in_many_forms(form: str) -> None:
    assert run(Server(FORMS[form]), asked) == b"hi"


BROKEN: dict[str, tuple[list[bytes], type[Exception]]] = {
    "nothing": ([], ConnectionError),
    "no HTTP": ([b"SSH-2.0-x\r\n"], BadResponse),
    "half a head": ([OK], ConnectionError),
    "half a body": ([OK + b"content-length: 9\r\n\r\nhi"], ConnectionError),
    "half a chunk, told late": (
        [OK + b"transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n"],
        ConnectionError,
    ),
    "length and chunks": (
        [OK + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\nhi\r\n0\r\n\r\n"],
        BadResponse,
    ),
    "endless hints": ([b"HTTP/1.1 103 Early Hints\r\n\r\n" * 9_000 + WHOLE], BadResponse),
    "half a chunk": ([OK + b"transfer-encoding: chunked\r\n\r\n9\r\nhi"], ConnectionError),
    "no size of a chunk": ([OK + b"transfer-encoding: chunked\r\n\r\nhi\r\n"], BadResponse),
    "two lengths": ([OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\nhi"], BadResponse),
    "another protocol": (
        [b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"],
        BadResponse,
    ),
    "an endless head": ([OK + b"x: " + b"a" * 300_000], BadResponse),
    "endless headers": ([OK + b"x: 1\r\n" * 50_000], BadResponse),
}


@pytest.mark.parametrize("form", BROKEN)
def test_what_is_no_whole_response_is_an_error(form: str) -> None:
    pieces, error = BROKEN[form]
    with pytest.raises(error):
        run(Server(pieces), asked)


def test_a_connection_is_used_again() -> None:
    async def twice(connections: Connections) -> None:
        assert await asked(connections) == await asked(connections) == b"hi"

    server = Server([WHOLE], [WHOLE])
    run(server, twice)
    assert server.made == 1


@pytest.mark.parametrize(
    "first",
    [
        [WHOLE.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")],
        [b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi"],
        [WHOLE + WHOLE],  # what nobody asked for must not answer the next request
        [WHOLE, WHOLE],
    ],
    ids=["closed", "http/1.0", "two at once", "one more"],
)
def test_a_connection_that_may_not_be_used_again_is_not(first: list[bytes]) -> None:
    async def twice(connections: Connections) -> None:
        assert await asked(connections) == b"hi"
        await asyncio.sleep(0.05)
        assert await asked(connections) == b"hi"

    server = Server(first, [OK + b"content-length: 3\r\n\r\nbad"])
    run(server, twice)
    assert server.made == 2


def test_a_connection_that_was_idle_for_long_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 0.05)

    async def client(connections: Connections) -> None:
        await asked(connections)
        await asyncio.sleep(0.2)
        assert not connections._idle
        await asked(connections)

    server = Server([WHOLE], [WHOLE])
    run(server, client)
    assert server.made == 2


def test_one_timer_looks_after_all_idle_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 0.1)
    swept: list[float] = []

    async def client(connections: Connections) -> None:
        sweep = connections._sweep

        def counted() -> None:
            swept.append(0.0)
            sweep()

        monkeypatch.setattr(connections, "_sweep", counted)
        until = connections.loop.time() + 0.5
        while connections.loop.time() < until:
            await asked(connections)

    run(Server(*[[WHOLE]] * 1000), client)
    assert 0 < len(swept) <= 6


def closing(times: list[int], after: float) -> Answer:
    """Answers one request of each connection, and ends it at the next or so much later."""

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        times.append(0)
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(WHOLE)
        await reader.readuntil(b"\r\n\r\n{}")
        await asyncio.sleep(after)

    return server


def test_a_request_that_meets_a_connection_that_was_closed_is_sent_again() -> None:
    async def client(connections: Connections) -> None:
        assert await asked(connections) == await asked(connections) == b"hi"

    made: list[int] = []
    run(closing(made, 0.0), client)
    assert len(made) == 2


def test_a_server_that_had_time_to_begin_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "UNHEARD", 0.05)

    async def client(connections: Connections) -> None:
        await asked(connections)
        with pytest.raises(ConnectionError):
            await asked(connections)

    made: list[int] = []
    run(closing(made, 0.1), client)
    assert len(made) == 1


def test_a_server_that_answers_in_part_is_not_asked_again() -> None:
    async def client(connections: Connections) -> None:
        await asked(connections)
        with pytest.raises(ConnectionError):
            await asked(connections)

    server = Server([WHOLE], [b"HTTP"])
    run(server, client)
    assert server.made == 1


def test_a_connection_on_which_a_request_was_not_read_is_not_used_again() -> None:
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await writer.drain()
        await gone.wait()

    gone = asyncio.Event()

    async def client(connections: Connections) -> None:
        assert await asked(connections, b"x" * (32 << 20)) == b"no"
        assert not connections._idle
        assert not connections._busy
        gone.set()

    run(server, client)


def test_a_name_is_looked_up_once_for_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    async def client(connections: Connections) -> None:
        known = await connections._looked_up()
        connections._addresses = (-60.0, [])

        async def slow() -> Any:
            looked.append("")
            await asyncio.sleep(0.05)
            return known

        monkeypatch.setattr(connections, "_looked_up", slow)
        one = asyncio.ensure_future(asked(connections))
        rest = [asyncio.ensure_future(asked(connections)) for _ in range(20)]
        await asyncio.sleep(0.01)
        one.cancel()
        assert await asyncio.gather(*rest) == [b"hi"] * 20

    run(Server([WHOLE]), client)
    assert len(looked) == 1


def test_a_server_that_hangs_up_before_it_is_asked_is_a_connection_error() -> None:
    async def client(connections: Connections) -> None:
        made = await connections._made()
        await asyncio.sleep(0.05)
        connections._busy.add(made)  # as when it was lost before it was there
        with pytest.raises(ConnectionError, match="at once"):
            await made.ask(b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n", b"")
        assert not connections._busy

    run(Server(), client)


def test_requests_at_once_have_connections_of_their_own() -> None:
    async def client(connections: Connections) -> None:
        assert await asyncio.gather(*[asked(connections) for _ in range(5)]) == [b"hi"] * 5
        await asked(connections)

    server = Server([WHOLE], [WHOLE])
    run(server, client)
    assert server.made == 5


async def moody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Gives back each request's body, in the way that its first letter says."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        body = await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
        how, length = body[:1], OK + b"content-length: %d\r\n\r\n" % len(body)
        hints = b"HTTP/1.1 103 Early Hints\r\n\r\n" if how == b"h" else b""
        if how == b"c":
            pieces = [b"%x\r\n%b\r\n" % (1, body[i : i + 1]) for i in range(len(body))]
            pieces = [OK + b"transfer-encoding: chunked\r\n\r\n", *pieces, b"0\r\n\r\n"]
        elif how == b"e":
            pieces = [OK + b"\r\n", body]
        else:
            pieces = [hints + length + body[:3], body[3:] if how != b"t" else b""]
        pieces.append(b"rubbish" if how == b"g" else b"")
        for piece in pieces:
            if writer.is_closing():  # where uvloop's raises RuntimeError
                return
            writer.write(piece)
            await asyncio.sleep(0.02 if how == b"s" else 0)
        if how in b"etx":
            return


@pytest.mark.parametrize("seed", [0, 1])
def test_no_request_ever_gets_the_answer_to_another(seed: int) -> None:
    draw = random.Random(seed)

    async def client(connections: Connections) -> None:
        async def one(number: int) -> str:
            body = f"{draw.choice('lcehtgsx')} {number}".encode()
            try:
                async with asyncio.timeout(draw.choice([5, 5, draw.random() / 30])):
                    answer = await asked(connections, body)
            except (ConnectionError, BadResponse, TimeoutError) as error:
                return type(error).__name__
            assert answer == body
            return "answered"

        for _ in range(40):
            ends = await asyncio.gather(*[one(draw.randrange(10**9)) for _ in range(10)])
            outcomes.update(ends)
        assert not connections._busy

    outcomes = Counter[str]()
    run(moody, client)
    assert outcomes["answered"] > 200
    assert outcomes["TimeoutError"] > 5
    assert outcomes["ConnectionResetError"] > 20


def test_a_server_waits_while_nobody_reads() -> None:
    big = b"x" * (64 << 20)
    sent: list[int] = []

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(OK + b"content-length: %d\r\n\r\n" % len(big))
        for start in range(0, len(big), 1 << 20):
            writer.write(big[start : start + (1 << 20)])
            await writer.drain()
            sent.append(start)

    async def client(connections: Connections) -> None:
        response = await connections.post("/chat", {}, b"{}")
        await asyncio.sleep(0.3)
        assert len(sent) < 40
        assert len(await body_of(response)) == len(big)

    run(server, client)


def test_closing_a_response_breaks_the_connection_off() -> None:
    gone = asyncio.Event()

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(OK + b"content-length: 9\r\n\r\nhi")
        await reader.read()
        gone.set()

    async def client(connections: Connections) -> None:
        response = await connections.post("/chat", {}, b"{}")
        response.close()
        await asyncio.wait_for(gone.wait(), 5)

    run(server, client)


def test_whoever_waits_hears_that_all_connections_are_closed() -> None:
    async def client(connections: Connections) -> None:
        waiting = asyncio.ensure_future(asked(connections))
        await asyncio.sleep(0.05)
        connections.close()
        with pytest.raises(ConnectionAbortedError):
            await asyncio.wait_for(waiting, 5)

    run(Server([], hang=True), client)


def test_a_request_that_is_cancelled_breaks_the_connection_off() -> None:
    async def client(connections: Connections) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asked(connections), 0.1)
        assert not connections._idle
        assert not connections._busy

    run(Server([], hang=True), client)


def test_a_request_cancelled_as_its_answer_comes_leaves_the_next_one_alone() -> None:
    async def client(connections: Connections) -> None:
        await asked(connections)
        (connection,) = connections._idle
        first = asyncio.ensure_future(connections.post("/chat", {}, b"{}"))
        await asyncio.sleep(0)
        connection.data_received(WHOLE)  # as if it came just before the cancellation
        second = asyncio.ensure_future(asked(connections))
        first.cancel()
        assert await second == b"hi"
        assert not connections._busy

    server = Server([WHOLE], [], [WHOLE])
    run(server, client)
    assert server.made == 1


def test_what_a_reader_is_made_to_fail_with_comes_after_what_was_there() -> None:
    async def client(connections: Connections) -> None:
        response = await connections.post("/chat", {}, b"{}")
        await asyncio.sleep(0.05)
        response.fail(TimeoutError())
        assert await response.read() == b"hi"
        with pytest.raises(TimeoutError):
            await response.read()

    run(Server([OK + b"content-length: 9\r\n\r\nhi"], hang=True), client)


def test_a_reset_is_a_connection_error() -> None:
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    with pytest.raises(ConnectionError):
        run(server, asked)


def test_nobody_listening_is_told_apart() -> None:
    async def client(_: Connections) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            nobody = Connections(f"http://127.0.0.1:{probe.getsockname()[1]}")
            with pytest.raises(NotConnected):
                await asked(nobody)

    run(Server(), client)


def test_a_connection_that_takes_too_long_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*args: Any, **options: Any) -> socket.socket:
        await asyncio.sleep(60)
        raise AssertionError

    monkeypatch.setattr(module, "start_connection", never)
    with pytest.raises(ConnectTimeout):
        run(Server(), asked, connect=0.05)


def test_a_name_that_leads_to_a_private_address_is_not_connected_to() -> None:
    async def client(_: Connections) -> None:
        with pytest.raises(NotConnected, match="no address that is allowed"):
            await asked(Connections("http://localhost:1/v1", private=False))

    run(Server(), client)


def test_headers_take_no_line_breaks() -> None:
    async def client(connections: Connections) -> None:
        with pytest.raises(ValueError, match="line break"):
            await connections.post("/chat", {"x": "1\r\nhost: evil"}, b"{}")

    run(Server(), client)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("openssl is not installed, which makes the certificate")
    made, key = folder / "server.pem", folder / "server.key"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "1", "-subj", "/CN=localhost", "-keyout", str(key)]
    names = ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, *names, "-out", str(made)], check=True, capture_output=True)
    return made, key


def secured(folder: Path, monkeypatch: pytest.MonkeyPatch, known: bool = True) -> ssl.SSLContext:
    """What a server needs to speak TLS; clients trust it where it is ``known``."""
    made, key = certificate(folder)
    if known:
        monkeypatch.setenv("SSL_CERT_FILE", str(made))
    monkeypatch.setattr(module, "_context", module._context.__wrapped__)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made, key)
    return context


def test_a_request_may_be_cancelled_at_any_step_to_a_secure_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = secured(tmp_path, monkeypatch)

    async def client(connections: Connections) -> None:
        secure = Connections(f"https://localhost:{connections._port}/v1")
        await secure._resolved()
        for steps in range(40):
            task = asyncio.ensure_future(asked(secure))
            for _ in range(steps):
                await asyncio.sleep(0)
            if not task.done():
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
        assert await asked(secure) == b"hi"
        assert not secure._busy
        secure.close()

    run(Server([WHOLE]), client, tls=context)


@pytest.mark.parametrize("known", [True, False])
def test_a_certificate_is_checked(
    known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = secured(tmp_path, monkeypatch, known)

    async def client(connections: Connections) -> bytes:
        secure = Connections(f"https://localhost:{connections._port}/v1")
        try:
            return await asked(secure)
        finally:
            secure.close()

    if known:
        assert run(Server([WHOLE]), client, tls=context) == b"hi"
    else:
        with pytest.raises(NotConnected, match="CERTIFICATE_VERIFY_FAILED"):
            run(Server([WHOLE]), client, tls=context)
