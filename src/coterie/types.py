"""The values that flow through Coterie: frozen, typed, free of I/O. Imports nothing of ours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.floating[Any]]
IntArray: TypeAlias = NDArray[np.integer[Any]]
Message: TypeAlias = Mapping[str, Any]  # {"role": ..., "content": ...}, as the OpenAI API has it
Seed: TypeAlias = int
ONE_OF = "one_of"  # option of a call: the texts of which its answer must be one, if the expert can
ROUTING = "routing"  # the request option that speaks to policies; experts never see it
_quoted = json.encoder.encode_basestring_ascii
_canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode
Purpose: TypeAlias = Literal["answer", "aggregate", "annotate", "judge", "route"]


def derive_seed(*parts: object) -> Seed:
    """A seed in [0, 2**31) that depends on every part and on nothing else.

    >>> derive_seed(0, "q1") == derive_seed(0, "q1") != derive_seed(1, "q1")
    True
    """
    # The JSON of a list of texts, put together by hand at a third of the time.
    texts = ", ".join([f'"{p}"' if type(p) is int else _quoted(str(p)) for p in parts])
    return int.from_bytes(hashlib.sha256(f"[{texts}]".encode()).digest()[:4], "big") >> 1


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass as they are: ``asdict`` copies deeply, at ten times the cost."""
    return {name: getattr(value, name) for name in value.__slots__}


@dataclass(frozen=True, slots=True)
class Query:
    """One question: what was asked, without its reference answer.

    ``params`` are request options for the expert that answers (``max_tokens``, ``temperature``),
    and ``routing`` for policies.
    ``category`` and ``subject`` are given by whoever asks or labelled; routers that read them say
    so in ``reads``.
    """

    id: str
    messages: tuple[Message, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    category: str | None = None
    subject: str | None = None

    def __hash__(self) -> int:
        return hash(self.id)

    @classmethod
    def from_text(cls, id: str, text: str, **params: Any) -> Query:
        """A query of one user message."""
        return cls(id, ({"role": "user", "content": text},), params)

    @property
    def options(self) -> dict[str, Any]:
        """The request options that experts see: all but ``routing``."""
        return {name: value for name, value in self.params.items() if name != ROUTING}

    @property
    def text(self) -> str:
        """What routers read: the contents of the user messages, one below the other."""
        return "\n".join(
            [str(m.get("content", "")) for m in self.messages if m.get("role") == "user"]
        )


@dataclass(frozen=True, slots=True)
class Call:
    """One request to one expert. ``options`` go to the expert as they are."""

    expert: str
    messages: tuple[Message, ...]
    purpose: Purpose = "answer"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(self.digest())

    def digest(self) -> str:
        """A short hash of everything in the call, equal for equal calls."""
        content = [self.expert, [dict(m) for m in self.messages], self.purpose, dict(self.options)]
        text = _canonical(content)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one completion, as the expert reported them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Completion:
    """What one call came to: a text, or an error that says why there is none.

    ``cost`` is in the unit of the pool, ``latency`` in seconds, ``logprob`` the mean natural log
    probability of the sampled tokens (None where the expert gives none). ``estimated`` marks
    usage that was computed here because the expert reported none.

    Only calls with the option ``top_logprobs`` of at least 2 get ``logprobs``, those of every
    token, and ``margin``, by how much the first token's likeliest reading beat the second
    (probabilities).
    """

    expert: str
    text: str = ""
    usage: Usage = Usage()
    cost: float = 0.0
    latency: float = 0.0
    finish_reason: str = "stop"
    error: str | None = None
    estimated: bool = False
    logprob: float | None = None
    logprobs: tuple[float, ...] = ()
    margin: float | None = None

    @property
    def failed(self) -> bool:
        """True where there is no text to use."""
        return self.error is not None

    @property
    def broke(self) -> bool:
        """Whether the expert itself failed: an empty answer fails too, but by the question."""
        return self.failed and self.finish_reason == "error"

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON."""
        return {**_fields(self), "usage": _fields(self.usage)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Completion:
        """The inverse of ``to_dict``."""
        lists = {"logprobs": tuple(data.get("logprobs", ()))}
        return cls(**{**data, **lists, "usage": Usage(**data["usage"])})


@dataclass(frozen=True, slots=True, eq=False)
class Support:
    """The recorded queries that estimates rest on, for paired comparisons and as evidence.

    ``rows`` and ``weights`` have shape (queries, k), nearest first: row numbers into ``quality``
    (recorded queries x experts, NaN unobserved) and ``texts``, with non-negative weights.
    """

    rows: IntArray
    weights: FloatArray
    quality: FloatArray
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Estimates:
    """What a router expects: arrays of shape (queries, experts); cost in the pool's unit.

    ``error`` is the standard error of ``quality`` as an estimate of the expected score (not the
    spread of single outcomes), ``support`` the recorded queries behind it; None where a router has
    none. ``suitability`` (queries x experts) and ``strength`` (experts) are the local and global
    skill scores of Symbolic-MoE; ``evidence`` holds one sentence a query.
    """

    experts: tuple[str, ...]
    quality: FloatArray
    cost: FloatArray
    suitability: FloatArray | None = None
    strength: FloatArray | None = None
    evidence: tuple[str, ...] = ()
    error: FloatArray | None = None
    support: Support | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Who is to answer and how: ``experts`` in order of preference, repeated if recruited twice.

    ``weights`` belong to ``experts``; ``reason`` is evidence a person can read, ``evidence`` the
    same for machines (JSON values).
    """

    composition: str
    experts: tuple[str, ...]
    weights: tuple[float, ...]
    utility: float = 0.0
    reason: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.composition, self.experts, self.weights))

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON."""
        return _fields(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Decision:
        """The inverse of ``to_dict``."""
        lists = {"experts": tuple(data["experts"]), "weights": tuple(data["weights"])}
        return cls(**{**data, **lists})


@dataclass(frozen=True, slots=True)
class Final:
    """The last call of a flow: its completion is the answer, so a driver may stream it.

    ``prefix`` is text that precedes the completion. On failure ``fallbacks`` are tried in order: a
    call is made, a completion stands as it is.
    """

    call: Call
    prefix: str = ""
    fallbacks: tuple[Call | Completion, ...] = ()


Flow: TypeAlias = Generator[Sequence[Call], Sequence[Completion], Completion | Final]


@dataclass(frozen=True, slots=True)
class Answer:
    """The completion that answers, every completion on the way, and the decision behind it."""

    query_id: str
    completion: Completion
    trace: tuple[Completion, ...]
    decision: Decision

    @property
    def cost(self) -> float:
        """Sum over the trace, in the pool's unit."""
        return sum(c.cost for c in self.trace)

    @property
    def latency(self) -> float:
        """Sum over the trace, in seconds of expert time."""
        return sum(c.latency for c in self.trace)
