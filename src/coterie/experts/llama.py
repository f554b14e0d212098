"""llama.cpp in this process, through the xllamacpp wheel."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coterie.errors import ExpertError
from coterie.experts.engine import Emit, Generated, token_facts
from coterie.experts.gguf import read_header

if TYPE_CHECKING:
    from coterie.types import Message  # at run time it would bring numpy into every worker

# Pieces are made inside only for answers that may be longer than this: short ones are over before
# stopping them would pay, and making pieces costs up to half of the throughput of a tiny model.
LONG_ANSWER = 512  # tokens


def size(path: str | Path) -> int:
    """Bytes the weights take; 0 where there is no such file (loading says so)."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


class LlamaEngine:
    """One GGUF model behind llama.cpp's own server; safe for ``slots`` threads at a time.

    llama.cpp's threads spin while they wait, so one thread is the fastest choice on a busy machine.

    >>> engine = LlamaEngine()
    >>> engine.unload()  # harmless: nothing is loaded
    """

    def __init__(self) -> None:
        import xllamacpp  # 100 MB of library: only processes that host a model load it

        self._library = xllamacpp
        self._server: Any = None
        self._context = 0

    def load(self, path: str, slots: int = 8, threads: int = 1, context: int = 4096) -> None:
        """Load ``path``; ``context`` tokens a slot, at most what the model was trained for."""
        # llama.cpp opens a loopback port with every model; a key nobody knows keeps it closed.
        self._open(path, slots, threads, context, secrets.token_hex(16))

    def serve(
        self, path: str, slots: int = 8, threads: int = 1, context: int = 4096, api_key: str = ""
    ) -> str:
        """Load ``path`` and return the base URL of its OpenAI-compatible server on loopback."""
        self._open(path, slots, threads, context, api_key)
        return f"{self._server.listening_address}/v1"

    def unload(self) -> None:
        """Give the memory back once the last running call has ended."""
        self._server = None

    def complete(
        self,
        messages: Sequence[Message],
        options: Mapping[str, Any],
        emit: Emit | None = None,
        stop: threading.Event | None = None,
    ) -> Generated:
        """The answer of the loaded model; raises ExpertError with llama.cpp's own message.

        ``options`` are those of llama.cpp's chat endpoint (``max_tokens``, ``temperature``,
        ``seed``, ``stop``, ``grammar``, ``response_format`` ...). Without them decoding is greedy.
        ``choices`` (a text of letters, or texts) makes the answer exactly one of them.
        ``logprobs: False`` saves a softmax a token and leaves ``logprob`` None.
        """
        server = self._server  # keeps the model alive until this call ends
        if server is None:
            raise ExpertError("no model is loaded; call load(path) first")
        body = {"temperature": 0, "logprobs": True, **options, "stream": False}
        if (choices := body.pop("choices", None)) is not None:
            body["grammar"] = choice_grammar(choices)
        body["messages"] = [dict(message) for message in messages]
        if body["logprobs"]:
            body.setdefault("top_logprobs", 1)  # llama.cpp would list 20 a token
        start = time.perf_counter()
        pieces = emit is not None or (stop is not None and self._longest(options) > LONG_ANSWER)
        answer = _Pieces(emit, stop).run(server, body) if pieces else _whole(server, body)
        return {**answer, "latency": time.perf_counter() - start}

    def _open(self, path: str, slots: int, threads: int, context: int, api_key: str) -> None:
        header = read_header(path)
        self._context = min(context, header.context_length or context)
        self._server = None  # first give back what another model takes
        cells = slots * self._context
        self._server = _server(self._library, path, slots, threads, cells, api_key)

    def _longest(self, options: Mapping[str, Any]) -> int:
        asked = int(options.get("max_tokens") or -1)  # -1: as much as fits, as llama.cpp has it
        return self._context if asked < 0 else min(asked, self._context)


def choice_grammar(choices: str | Sequence[str]) -> str:
    r"""The GBNF grammar of exactly one of ``choices``: the letters of a text, or whole texts.

    Raises ExpertError where there is none, or one that is no text.

    >>> print(choice_grammar("AB"), choice_grammar(["yes", 'say "no"']), sep="\n")
    root ::= "A" | "B"
    root ::= "yes" | "say \"no\""
    """
    if not isinstance(choices, str | Sequence) or not choices:
        raise ExpertError(f"choices: expected letters or a list of texts, got {choices!r}")
    if not all(isinstance(choice, str) and choice for choice in choices):
        raise ExpertError(f"choices: expected texts that are not empty, got {choices!r}")
    return "root ::= " + " | ".join(_literal(choice) for choice in choices)


def _literal(text: str) -> str:
    r"""A GBNF literal; its escapes \" \\ \n \t and \x00 to \x1F are those of llama.cpp."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    controls = (f"\\x{ord(char):02X}" if ord(char) < 32 else char for char in escaped)
    return f'"{"".join(controls)}"'


def _server(xllamacpp: Any, path: str, slots: int, threads: int, cells: int, api_key: str) -> Any:
    """A started xllamacpp.Server with ``cells`` key-value cells, shared equally by its slots."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel, params.n_ctx = slots, cells
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.api_keys = [api_key] if api_key else []
    params.cors_origins = ""  # no web page may talk to it
    params.verbosity = 1  # errors only
    params.endpoint_metrics = True  # see handle_metrics below
    params.warmup = params.fit_params = params.ui = params.endpoint_slots = False
    params.cache_ram_mib = 0  # else prompts of gone calls pile up, up to 8 GB
    params.n_threads_http = slots + 1
    try:
        server = xllamacpp.Server(params)
    except (RuntimeError, ValueError) as error:
        remedy = "its architecture may be unknown to this xllamacpp, or the file is cut off"
        raise ExpertError(f"{path}: llama.cpp refused the file ({error}) {remedy}") from None
    server.handle_metrics()  # waits for its loop: a server dropped before it runs never ends
    return server


def _whole(server: Any, body: dict[str, Any]) -> Generated:
    try:
        response = server.handle_chat_completions(body)
    except (RuntimeError, ValueError) as error:
        raise ExpertError(f"llama.cpp refused the call: {error}") from None
    _check(response)
    choice, usage = response["choices"][0], response["usage"]
    return {
        "text": choice["message"].get("content") or "",
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "finish_reason": choice["finish_reason"],
        "logprob": mean(_logprobs(choice)),
        "latency": 0.0,
        **token_facts(_tokens(choice), body),
    }


class _Pieces:
    """Collects one streamed answer; llama.cpp calls it with each chunk, on the caller's thread."""

    def __init__(self, emit: Emit | None, stop: threading.Event | None) -> None:
        self.emit, self.stop = emit, stop
        self.texts: list[str] = []
        self.tokens: list[dict[str, Any]] = []
        self.usage: dict[str, int] = {}
        self.finish_reason = "cancelled"
        self.error: ExpertError | None = None

    def run(self, server: Any, body: dict[str, Any]) -> Generated:
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        try:
            server.handle_chat_completions(body, self)
        except (RuntimeError, ValueError) as error:
            raise ExpertError(f"llama.cpp refused the call: {error}") from None
        if self.error:
            raise self.error
        return {
            "text": "".join(self.texts),
            "prompt_tokens": self.usage.get("prompt_tokens", 0),
            "completion_tokens": self.usage.get("completion_tokens", len(self.texts)),
            "finish_reason": self.finish_reason,
            "logprob": mean([token["logprob"] for token in self.tokens]),
            "latency": 0.0,
            **token_facts(self.tokens, body),
        }

    def __call__(self, chunk: dict[str, Any]) -> bool:
        """Take one chunk; True makes llama.cpp give the slot back."""
        try:
            _check(chunk)
        except ExpertError as error:
            self.error = error
            return True
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk["choices"]:
            self._take(choice)
        return self.stop is not None and self.stop.is_set()

    def _take(self, choice: dict[str, Any]) -> None:
        self.finish_reason = choice["finish_reason"] or self.finish_reason
        self.tokens += _tokens(choice)
        if piece := choice["delta"].get("content"):
            self.texts.append(piece)
            if self.emit:
                self.emit(piece)


def _check(response: dict[str, Any]) -> None:
    if "error" in response:
        raise ExpertError(f"llama.cpp refused the call: {response['error']['message']}")


def _logprobs(choice: Mapping[str, Any]) -> list[float]:
    return [token["logprob"] for token in _tokens(choice)]


def _tokens(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those that are text: the end token is listed, with no bytes, but never streamed."""
    tokens = (choice.get("logprobs") or {}).get("content") or []
    return [token for token in tokens if token["bytes"]]


def mean(values: Sequence[float]) -> float | None:
    """The mean, None of nothing."""
    return sum(values) / len(values) if values else None
