"""Embeddings of a server with an OpenAI-compatible ``/embeddings``."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from coterie.errors import ArtifactError, CoterieError, InputError
from coterie.features import Encoder, Vectors, _unit, readable

if TYPE_CHECKING:
    import aiohttp

URL, MODEL = "COTERIE_EMBEDDINGS_URL", "COTERIE_EMBEDDINGS_MODEL"
PROBE = "What is 2 plus 3?"  # its vector stands for the model behind the address
SAME = 0.999  # cosine above which two vectors of the probe are one model's
FIRST_DELAY = 0.25  # seconds before the first repetition; doubles with each
RETRIED = frozenset({408, 429, *range(500, 600)})
LARGEST = 1e30  # below the range of float32
REMEMBERED = 100_000  # texts whose vectors are kept, the latest


class EndpointEncoder(Encoder):
    """Vectors of the model ``model`` at ``base_url`` (as OpenAI clients have it, with /v1).

    The key is read from the environment variable ``api_key_env`` for each request and never shown
    or saved. Connection errors, 408, 429 and 5xx are repeated up to ``retries`` times; ``timeout``
    is in seconds a try, ``batch`` in texts a request. The vector of a text is asked for once. The
    first request asks for a probe text too: its vector is the model's mark in the fingerprint.

    An encoder that was loaded with a router sends texts only to the address that the environment
    variable COTERIE_EMBEDDINGS_URL names, as a router from elsewhere could name any. That variable
    and COTERIE_EMBEDDINGS_MODEL also stand in for arguments left out.

    Raises
    ------
    InputError
        Where address or model are missing, or a limit makes no sense.
    """

    name = "endpoint"

    def __init__(
        self,
        base_url: str | None = None,
        model: str | None = None,
        *,
        api_key_env: str | None = None,
        batch: int = 64,
        retries: int = 2,
        timeout: float = 60.0,
    ) -> None:
        base_url, model = base_url or os.environ.get(URL), model or os.environ.get(MODEL)
        if not base_url or not base_url.startswith(("http://", "https://")):
            message = f"expected an http or https address, got {base_url!r}; or set {URL}"
            raise InputError(message, field="base_url")
        if not model:
            raise InputError(f"expected the model's name; or set {MODEL}", field="model")
        if batch < 1 or retries < 0 or timeout <= 0:
            message = f"expected at least 1, 0 and above 0, got {batch}, {retries} and {timeout}"
            raise InputError(message, field="batch, retries, timeout")
        self.base_url, self.model, self.api_key_env = base_url.rstrip("/"), model, api_key_env
        self.batch, self.retries, self.timeout = batch, retries, timeout
        self._probe: Vectors | None = None
        self._checked, self._loaded = False, False
        self._known: dict[str, Vectors] = {}

    @property
    def dim(self) -> int:  # type: ignore[override]  # known once the server has answered
        """Length of the server's vectors; asks for the probe's if there was none yet."""
        return len(self._probe_vector())

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of shape (texts, dim); a blank text gives zeros and is not sent.

        Raises CoterieError where the server gives no vectors, ArtifactError where the model behind
        the address is not the one the encoder was saved with.
        """
        kept = readable(texts)
        wanted = dict.fromkeys(t for t in kept if t.strip() and t not in self._known)
        found = dict(self._known)
        for text, vector in zip(wanted, self._ask(list(wanted)), strict=True):
            found[text] = self._known[text] = vector
        vectors = np.zeros((len(kept), self.dim), dtype=np.float32)
        for row, text in enumerate(kept):
            if text.strip():
                vectors[row] = found[text]
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return vectors

    def fingerprint(self) -> str:
        """A hash of address, model and the probe's vector, rounded to two digits."""
        rounded = np.round(self._probe_vector(), 2) + 0.0  # no negative zeros
        content = f"{self.base_url}\n{self.model}\n".encode() + rounded.tobytes()
        return hashlib.sha256(content).hexdigest()

    def to_arrays(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Address, model, limits and the probe's vector; the key's variable by name."""
        names = ("base_url", "model", "api_key_env", "batch", "retries", "timeout")
        return {name: getattr(self, name) for name in names}, {"probe": self._probe_vector()}

    @classmethod
    def from_arrays(cls, params: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The encoder; it asks the server nothing before its first text."""
        encoder = cls(**params)
        encoder._probe = np.asarray(arrays["probe"], dtype=np.float32)
        encoder._loaded = True
        return encoder

    def _probe_vector(self) -> Vectors:
        if self._probe is None:
            self._ask([PROBE])
        assert self._probe is not None
        return self._probe

    def _ask(self, texts: list[str]) -> Vectors:
        """Unit vectors of texts, from the server; the first time with the probe."""
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        self._check_address()
        extra = [] if self._checked else [PROBE]
        with ThreadPoolExecutor(1) as pool:  # an event loop may be running in this thread
            raw = pool.submit(asyncio.run, self._request([*extra, *texts])).result()
        vectors = _unit(np.asarray(raw, dtype=np.float32))
        if extra:
            self._check_model(vectors[0])
        elif vectors.shape[1] != self.dim:
            raise CoterieError(
                f"{self.base_url} sent vectors of {vectors.shape[1]}, not {self.dim}"
            )
        return vectors[len(extra) :]

    def _check_address(self) -> None:
        allowed = os.environ.get(URL, "").rstrip("/")
        if self._loaded and allowed != self.base_url:
            raise CoterieError(
                f"this router sends every question to {self.base_url} for its vector; if that is "
                f"meant, set the environment variable {URL}={self.base_url}"
            )

    def _check_model(self, probe: Vectors) -> None:
        if self._probe is not None:
            same = probe.shape == self._probe.shape and float(probe @ self._probe) > SAME
            if not same:
                raise ArtifactError(
                    f"the model {self.model!r} of {self.base_url} is not the one this encoder was "
                    "saved with: the vector of its probe differs; fit the router again"
                )
        else:
            self._probe = probe
        self._checked = True

    async def _request(self, texts: list[str]) -> list[list[float]]:
        import aiohttp

        limit = aiohttp.ClientTimeout(total=self.timeout)
        async with aiohttp.ClientSession(timeout=limit) as session:
            rows = [row for part in self._batches(texts) for row in await self._try(session, part)]
        if len({len(row) for row in rows}) > 1:
            raise CoterieError(f"{self.base_url} sent vectors of different lengths")
        return rows

    def _batches(self, texts: list[str]) -> Iterator[list[str]]:
        return (texts[i : i + self.batch] for i in range(0, len(texts), self.batch))

    async def _try(self, session: aiohttp.ClientSession, texts: list[str]) -> list[list[float]]:
        """One batch's vectors, after at most ``retries`` repetitions."""
        import aiohttp

        for attempt in range(self.retries + 1):
            try:
                return await self._post(session, texts)
            except TimeoutError:
                why, again = f"no answer within {self.timeout:g} s", True
            except aiohttp.ClientError as error:
                why, again = str(error), True
            except _Refusal as refusal:
                why, again = str(refusal), refusal.again
            if not again or attempt == self.retries:
                raise CoterieError(f"no embeddings from {self.base_url}: {self._without_key(why)}")
            await asyncio.sleep(FIRST_DELAY * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _post(self, session: aiohttp.ClientSession, texts: list[str]) -> list[list[float]]:
        body = {"model": self.model, "input": texts, "encoding_format": "float"}
        url, headers = f"{self.base_url}/embeddings", self._headers()
        async with session.post(url, json=body, headers=headers, allow_redirects=False) as response:
            content = await response.read()
            if response.status != 200:
                detail = content.decode(errors="replace").strip()[:300]
                again = response.status in RETRIED
                raise _Refusal(f"status {response.status}: {detail}", again=again)
        return parse(content, len(texts))

    def _headers(self) -> dict[str, str]:
        if self.api_key_env is None:
            return {}
        if key := os.environ.get(self.api_key_env):
            return {"Authorization": f"Bearer {key}"}
        raise _Refusal(f"the environment variable {self.api_key_env} with its key is not set")

    def _without_key(self, message: str) -> str:
        key = os.environ.get(self.api_key_env or "", "")
        return message.replace(key, "***") if key else message


class _Refusal(CoterieError):
    """No vectors: why, and whether asking again may help."""

    def __init__(self, message: str, *, again: bool = False) -> None:
        super().__init__(message)
        self.again = again


def parse(content: bytes, count: int) -> list[list[float]]:
    """The vectors of a response in the order of its ``index``; CoterieError if it is none."""
    try:
        items = json.loads(content)["data"]
        rows = {item["index"]: [float(x) for x in item["embedding"]] for item in items}
        ordered = [rows[index] for index in range(count)]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _Refusal(f"not an embedding response ({type(error).__name__}: {error})") from None
    if len(items) != count or not all(
        row and all(abs(x) < LARGEST for x in row) for row in ordered
    ):
        raise _Refusal(f"expected {count} vectors of finite numbers, got {len(items)}")
    return ordered
