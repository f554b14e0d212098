"""What the gateway answers to clients that mean no good, and what it never lets through."""

import asyncio
import json
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import SECRET, Response, Served, post, send, served

from coterie.config import read_config
from coterie.errors import ConfigError, CoterieError
from coterie.gateway.asked import read_asked
from coterie.gateway.building import build
from coterie.gateway.guard import Doors, barred, check_address, forwarded
from coterie.gateway.keys import make_key
from coterie.gateway.ledger import open_ledger
from coterie.gateway.server import serve
from coterie.gateway.wire import ApiError

ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"
ADMIN = "an-administrator-0123456789"
START = f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\n".encode()
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"


def body(model: str = "shout", **fields: Any) -> bytes:
    messages = [{"role": "user", "content": "hi"}]
    return json.dumps({"model": model, "messages": messages, **fields}).encode()


def with_field(name: str, value: str) -> bytes:
    return body()[:-1] + f', "{name}": {value}}}'.encode()


def told(response: Response) -> dict[str, Any]:
    """The error, which has to be in OpenAI's shape."""
    assert response.header("content-type").startswith("application/json")
    error: dict[str, Any] = json.loads(response.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"]
    return error


BODIES = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "cut": body()[:-3],
    "deep": with_field("x", "[" * 100_000 + "]" * 100_000),
    "deeper objects": with_field("tools", '{"a":' * 100_000 + "1" + "}" * 100_000),
    "deep wishes": with_field("coterie", "[" * 100_000 + "]" * 100_000),
    "not UTF-8": body().replace(b"hi", b"\xff\xfe"),
    "a lone surrogate": body().replace(b"hi", b"\\ud800"),
    "a surrogate in the model": body().replace(b"shout", b"\\ud800"),
    "a number out of range": with_field("temperature", "1e999"),
    "a long number": with_field("max_tokens", "9" * 5000),
    "a negative bound": with_field("max_tokens", "-1"),
    "a second bound": with_field("max_tokens", '5, "max_output_tokens": 99999999999'),
    "many choices": with_field("n", "1000000"),
    "no choice": with_field("n", "0"),
    "an odd seed": with_field("seed", '{"a": 1}'),
    "an odd temperature": with_field("temperature", '"hot"'),
    "an odd stop": with_field("stop", "[5]"),
    "an odd stream": with_field("stream", '"yes"'),
    "odd stream options": with_field("stream_options", "7"),
    "odd fallbacks": with_field("models", '{"a": 1}'),
    "no messages": body(messages=[]),
    "odd messages": body(messages=[[]]),
    "a message without a role": body(messages=[{"content": "hi"}]),
    "an unknown wish": body(coterie={"api_base": "http://evil.example"}),
    "a wish of another type": body(coterie={"max_cost": "much"}),
    "a worth below zero": body("auto", coterie={"willingness_to_pay": -1}),
    "composed, a number out of range": with_field("seed", "1e999").replace(b"shout", b"recruit:2"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_wrong_is_a_400_of_openais_shape(gateway: Served, name: str) -> None:
    response = post(gateway.port, CHAT, BODIES[name])
    assert response.status == 400
    assert told(response)["type"] == "invalid_request_error"


def test_every_kind_of_value_in_every_field_is_answered_or_refused(gateway: Served) -> None:
    names = ("model", "messages", "stream", "n", "max_tokens", "stop", "tools", "coterie", "models")
    for name in (*names, "stream_options", "response_format", "logprobs", "seed"):
        for value in ("null", "true", "-1", "1e999", '"x"', '"\\u0000"', "[]", "{}", "[[1]]"):
            response = post(gateway.port, CHAT, with_field(name, value))
            assert response.status < 500, (name, value, response.body)
            if response.status != 200:
                told(response)


def test_a_refusal_of_every_expert_of_a_composition_is_no_fault_of_the_server(
    gateway: Served,
) -> None:
    response = post(gateway.port, CHAT, body("recruit:2", coterie={"experts": ["filtered"]}))
    assert (response.status, told(response)["code"]) == (400, "content_filter")


def test_a_composition_embeds_nothing(gateway: Served) -> None:
    for path in ("/v1/embeddings", "/v1/responses"):
        response = post(gateway.port, path, b'{"model": "recruit:2", "input": "hi"}')
        assert (response.status, told(response)["param"]) == (400, "model")


def test_a_prompt_is_what_is_completed_whatever_else_is_there(gateway: Served) -> None:
    both = b'{"model": "shout", "prompt": "hi", "messages": 5}'
    answer = json.loads(post(gateway.port, "/v1/completions", both).body)
    assert answer["choices"][0]["text"] == "HI"


@pytest.mark.parametrize(
    "model",
    [
        "", "a:b", "auto:", "auto:nobody", "auto:a\r\nx-evil: 1", "recruit:", "recruit:0",
        "recruit:17", "recruit:" + "9" * 5000, "recruit:\u0663", "recruit:3:3", "recruit:-1",
        "\0", "shout\0", "shout\n", "../shout", "\u202eshout", "x" * 100_000,
    ],
    ids=lambda name: repr(name[:20]),
)  # fmt: skip
def test_the_name_of_a_model_gets_nowhere_but_into_the_message(gateway: Served, model: str) -> None:
    response = post(gateway.port, CHAT, body(model))
    if model not in ("auto:", "recruit:"):
        assert response.status in (400, 404)
        told(response)
    assert response.status < 500
    assert not response.header("x-evil")


FRAMES = {
    "no HTTP": b"\x16\x03\x01\x02\x00\r\n\r\n",
    "an unknown version": b"GET / HTTP/9.9\r\n\r\n",
    "an unknown method": b"BREW / HTTP/1.1\r\n\r\n",
    "a length below zero": START + b"content-length: -5\r\n\r\n",
    "a length that is none": START + b"content-length: 0x10\r\n\r\n",
    "two lengths": START + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "length and chunks": START
    + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bad chunk": START + CHUNKED + b"zz\r\n",
    "a folded header": START + b"x: a\r\n b\x01\r\n\r\n",
    "a NUL in a header": START + b"x: a\0b\r\n\r\n",
}


@pytest.mark.parametrize("name", FRAMES)
def test_what_is_no_http_is_refused_in_openais_shape_too(gateway: Served, name: str) -> None:
    response = send(gateway.port, FRAMES[name])
    assert response.status == 400
    assert told(response)["code"] == "invalid_http"


def test_a_flood_of_headers_is_cut_off_before_it_fills_memory(gateway: Served) -> None:
    before = gateway.process.memory_info().rss
    many = START + b"a: b\r\n" * 100_000 + b"\r\n"
    long = START + b"a: " + b"b" * 30_000_000
    trailer = START + CHUNKED + b"0\r\na: " + b"b" * 30_000_000
    for data in (many, long):
        response = send(gateway.port, data)
        assert (response.status, told(response)["code"]) == (431, "headers_too_long")
    assert send(gateway.port, trailer).status in (400, 431)
    assert gateway.process.memory_info().rss - before < 20_000_000


def test_a_body_over_the_bound_is_a_413_whether_its_length_is_said_or_not(gateway: Served) -> None:
    said = post(gateway.port, CHAT, b"x" * 1_100_000)
    chunk = b"80000\r\n" + b"x" * 0x80000 + b"\r\n"
    unsaid = send(gateway.port, START + CHUNKED + chunk * 3)
    claimed = send(gateway.port, START + b"content-length: 99999999999999999\r\n\r\n")
    assert [one.status for one in (said, unsaid, claimed)] == [413] * 3
    assert told(unsaid)["code"] == "request_too_large"


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "identity, gzip", "x"])
def test_a_compressed_body_is_not_unpacked(gateway: Served, encoding: str) -> None:
    response = post(gateway.port, CHAT, body(), ("content-encoding", encoding))
    assert (response.status, told(response)["code"]) == (415, "unsupported_encoding")


HEADERS = {
    "x-coterie-max-cost": "much",
    "x-coterie-nonsense": "1",
    "x-coterie-": "1",
    "x-coterie-explore": "maybe",
    "x-coterie-mid-stream": "stop",
    "x-coterie-tags": "\xff",
    "x-coterie-willingness-to-pay": "nan",
}


@pytest.mark.parametrize("name", HEADERS)
def test_wishes_in_headers_that_make_no_sense_are_a_400(gateway: Served, name: str) -> None:
    response = post(gateway.port, CHAT, body("auto"), (name, HEADERS[name]))
    assert response.status == 400
    assert told(response)["param"] == "coterie"


@pytest.mark.parametrize("given", ["a\tb", "\xe4", "x" * 65, "", "a b;c=d"])
def test_a_request_id_comes_back_whole_or_not_at_all(gateway: Served, given: str) -> None:
    response = post(gateway.port, CHAT, body(), ("x-request-id", given))
    assert response.status == 200
    assert response.header("x-request-id") in (given, response.header("x-coterie-decision-id"))


def test_unknown_paths_and_methods_are_answered_in_openais_shape(gateway: Served) -> None:
    for path in ("/", "/v1", "/v1/nothing", "/v1/../etc/passwd", "//evil/x", "/%00", "*"):
        response = post(gateway.port, path, b"", method="PUT")
        assert response.status in (404, 405), path
        told(response)
    for method in ("GET", "DELETE", "OPTIONS", "PATCH"):
        response = post(gateway.port, CHAT, b"", method=method)
        assert (response.status, response.header("allow")) == (405, "POST")
        assert told(response)["code"] == "method_not_allowed"


# Who may come in.


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/route", "/v1/feedback", "/metrics"])
@pytest.mark.parametrize(
    "header",
    [
        ("Host", "evil.example"),
        ("Host", "127.0.0.1.evil.example"),
        ("Host", "["),
        ("Host", ""),
        ("Origin", "http://evil.example"),
        ("Origin", "null"),
        ("Origin", "http://["),
    ],
    ids=lambda header: "=".join(header),
)
def test_a_page_of_another_site_cannot_call(
    gateway: Served, path: str, header: tuple[str, str]
) -> None:
    method = "GET" if path in ("/v1/models", "/metrics") else "POST"
    response = post(gateway.port, path, body(), header, method=method)
    assert (response.status, told(response)["code"]) == (403, "forbidden")


def refusal(action: Callable[[], Any]) -> ApiError | None:
    """How the gateway refuses, None where it does not; anything else raised is a fault."""
    try:
        action()
    except ApiError as error:
        return error
    return None


def test_given_hosts_bind_the_administration_whatever_their_names_are() -> None:
    foreign = {b"host": b"elsewhere.example"}
    Doors("0.0.0.0").check(foreign, admin=True)
    assert refusal(lambda: Doors("0.0.0.0", ["localhost"]).check(foreign, admin=True))


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_the_doors_let_in_or_refuse_and_never_fail(host: bytes, origin: bytes) -> None:
    error = refusal(lambda: Doors("127.0.0.1").check({b"host": host, b"origin": origin}))
    assert error is None or error.status == 403


@given(st.dictionaries(st.sampled_from([b"traceparent", b"cookie", b"authorization"]), st.binary()))
def test_only_tracing_headers_are_handed_on(headers: dict[bytes, bytes]) -> None:
    assert set(forwarded(headers)) <= {"traceparent"}


@given(st.binary(max_size=300) | st.from_regex(rb'\{"model": ?"a", ?"messages": ?.{0,40}\}'))
def test_reading_a_request_fails_only_in_our_words(data: bytes) -> None:
    for path in ("/chat/completions", "/completions", "/embeddings", "/responses"):
        headers = {b"x-coterie-tags": data}
        error = refusal(lambda: read_asked(path, data, headers, 10**6, 8))  # noqa: B023
        assert error is None or (error.status, b"message" in error.body()) == (400, True)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    """A gateway with an administrator's key, and an inference key for it."""
    folder = tmp_path_factory.mktemp("guarded")
    with served(folder, 'keys = "required"', COTERIE_ADMIN_KEY=ADMIN) as gateway:
        yield gateway, key_in(folder)


def key_in(folder: Path, **limits: Any) -> str:
    key, secret = make_key("client", **limits)
    with open_ledger(folder / "gateway.sqlite") as ledger:
        asyncio.run(ledger.put_key(key))
    return secret


def test_an_inference_key_cannot_administrate_nor_the_other_infer(
    guarded: tuple[Served, str],
) -> None:
    gateway, secret = guarded
    bearer, admin = ("authorization", f"Bearer {secret}"), ("authorization", f"Bearer {ADMIN}")
    for key in (bearer, ("authorization", "Bearer \xff"), ("x-nothing", "")):
        response = post(gateway.port, "/metrics", b"", key, method="GET")
        assert (response.status, told(response)["code"]) == (401, "invalid_admin_key")
    assert post(gateway.port, "/metrics", b"", admin, method="GET").status == 200
    refused = post(gateway.port, CHAT, body(), admin)
    assert (refused.status, told(refused)["code"]) == (401, "invalid_api_key")


def test_without_a_key_nothing_is_read_nor_asked(guarded: tuple[Served, str]) -> None:
    gateway, _ = guarded
    for path in (CHAT, "/v1/route", "/v1/feedback"):
        claimed = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 900000\r\n\r\n"
        response = send(gateway.port, claimed.encode())
        assert (response.status, told(response)["code"]) == (401, "invalid_api_key")
    assert not gateway.log


def test_a_gateway_open_to_the_network_without_a_key_does_not_start(tmp_path: Path) -> None:
    expert = '[[expert]]\nname = "a"\nkind = "served:Shout"\n'
    (tmp_path / "pool.toml").write_text(f'[pool]\nname = "p"\n{expert}')
    gateway = build(str(tmp_path / "pool.toml"), None, None, host="0.0.0.0", port=0)
    with pytest.raises(CoterieError, match="coterie keys create"):
        asyncio.run(serve(gateway, print))


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest", "http://metadata.google.internal/x", "http://[fe80::1]/v1",
        "http://[fd00:ec2::254]/v1", "http://[::ffff:169.254.169.254]/v1", "http://0.0.0.0/v1",
        "http://224.0.0.1/v1", "http://2852039166/latest", "http://0xa9fea9fe/", "http://[::]/v1",
    ],
)  # fmt: skip
def test_no_configuration_leads_to_a_metadata_service(url: str) -> None:
    with pytest.raises(ConfigError):
        check_address(url, True, "base_url", "pool.toml")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/v1", "http://10.1.2.3/v1", "http://192.168.0.1/v1", "http://[::1]/v1",
        "http://172.16.0.1/v1", "http://[fd12::1]/v1", "http://[::ffff:10.0.0.1]/v1",
        "http://2130706433/v1", "http://0x7f.1/v1", "http://127.1/v1", "http://100.64.0.1/v1",
        "http://[64:ff9b::10.0.0.1]/v1", "http://[2002:0a00:0001::]/v1", "http://localhost/v1",
    ],
)  # fmt: skip
def test_private_addresses_are_reached_only_where_that_is_allowed(url: str) -> None:
    with pytest.raises(ConfigError):
        check_address(url, False, "base_url", "pool.toml")


@given(st.ip_addresses())
def test_every_address_is_judged(address: Any) -> None:
    if address.is_loopback or address.is_link_local:
        assert barred(str(address), False)


# What goes on to experts, and what comes back from them.


def test_credentials_cookies_and_hop_by_hop_headers_stay_here(gateway: Served) -> None:
    secret = {
        "authorization": "Bearer sk-client-1234",
        "x-api-key": "sk-client-1234",
        "cookie": "session=sk-client-1234",
        "proxy-authorization": "Basic sk-client-1234",
        "x-forwarded-for": "10.0.0.1",
        "te": "trailers",
        "keep-alive": "timeout=99",
        "openai-organization": "org-sk-client-1234",
        "x-coterie-session": "sk-client-1234",
    }
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    mine = body("faithful", user="who-asks")
    post(gateway.port, CHAT, mine, *secret.items(), *trace.items())
    (seen,) = (one for one in gateway.log if b"who-asks" in one.raw)
    assert seen.headers["authorization"] == f"Bearer {SECRET}"
    assert seen.headers["traceparent"] == trace["traceparent"]
    assert "sk-client-1234" not in str(seen.headers)
    assert not {"cookie", "x-api-key", "te", "keep-alive", "x-forwarded-for"} & set(seen.headers)


@pytest.mark.parametrize(
    "field", ["api_base", "base_url", "api_key", "extra_headers", "extra_body"]
)
def test_no_field_of_a_request_changes_where_it_goes(gateway: Served, field: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0.2)
        url = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/v1"
        assert post(gateway.port, CHAT, body("faithful", **{field: url})).status == 200
        with pytest.raises(TimeoutError):
            elsewhere.accept()


@pytest.mark.parametrize("model", ["401", "500", "html-502", "redirect"])
@pytest.mark.parametrize("stream", [False, True])
def test_no_error_shows_a_key_an_address_or_a_page(
    gateway: Served, model: str, stream: bool
) -> None:
    response = post(gateway.port, CHAT, body(model, stream=stream))
    shown = response.body.decode() + str(response.headers)
    assert told(response)
    for secret in (SECRET, "sk-proj-abcdef", "127.0.0.1", "<html", "Traceback", str(ROOT)):
        assert secret not in shown


def test_thousands_of_malformed_requests_get_no_5xx_and_leave_nothing_behind(
    gateway: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from gateway_malformed import Sender, fault_of, malformed

    draw, statuses, faults = random.Random(5), Counter[int](), []
    models = ("shout", "count", "faithful", "auto", "recruit:2")

    async def client(count: int) -> None:
        sender = Sender(gateway.port)
        for _ in range(count):
            bad = malformed(draw, gateway.port, models)
            if (answer := await sender.send(bad)) is None:
                continue
            statuses[answer.status] += 1
            if why := fault_of(answer):
                faults.append((why, bad.data[:500]))
        sender.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(client(250) for _ in range(8)))

    files = gateway.process.num_fds()
    asyncio.run(all_of_them())
    assert not faults, faults[:3]
    assert statuses.total() > 1800
    assert {200, 400, 403, 404, 405, 415} <= set(statuses)
    assert gateway.alive
    assert gateway.process.num_fds() <= files + 20
    metrics = post(gateway.port, "/metrics", b"", method="GET").body
    assert b"coterie_in_flight 0.0" in metrics
    assert b'coterie_refused_total{code="invalid_http"}' in metrics


def test_a_gateway_that_is_told_to_end_writes_its_log_and_gives_back_its_leases(
    tmp_path: Path,
) -> None:
    secret = key_in(tmp_path, budget=1000.0)
    with served(tmp_path, faulty=()) as gateway:
        for _ in range(3):
            key = ("authorization", f"Bearer {secret}")
            assert post(gateway.port, CHAT, body("faithful"), key).status == 200
    with open_ledger(tmp_path / "gateway.sqlite") as ledger:
        (balance,) = asyncio.run(ledger.balances())
        (spent,) = asyncio.run(ledger.spend("key"))
    assert (balance.reserved, spent.requests) == (0, 3)
    assert balance.settled == pytest.approx(spent.cost)


@pytest.mark.parametrize("name", ["a\\r\\nx-evil: 1", "\\u0000", "a\\u0085", ""])
def test_no_name_in_a_pool_file_can_end_a_header(tmp_path: Path, name: str) -> None:
    path = tmp_path / "pool.toml"
    policy = f'[gateway.policies."{name}"]\nname = "utility"\n'
    for named, more in ((name, ""), ("a", policy)):
        expert = f'[[expert]]\nname = "{named}"\nkind = "served:Shout"\n'
        path.write_text(f'[pool]\nname = "p"\n{expert}{more}')
        with pytest.raises(ConfigError):
            read_config(path)
