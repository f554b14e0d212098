"""The log as it leaves the gateway: records to learn from, vectors, and decisions to judge by.

``OUT`` is a folder of records, one row a request that has a score and one expert who answered it.
``OUT.vectors.npz`` holds the queries' embeddings (ids, float16 vectors, the encoder's fingerprint)
and ``OUT.log.jsonl`` every request with its propensity, without keys, sessions and notes. Texts go
along only where content logging was on; elsewhere a query's text is empty, which encoders take for
"nothing known", so that routers fall back to means instead of learning from made-up words.
"""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from coterie.errors import CoterieError, InputError
from coterie.files import replace_file
from coterie.gateway.entries import Attempt, Entry, Feedback
from coterie.gateway.ledger import Ledger, open_ledger
from coterie.records import Records
from coterie.types import FloatArray, Query

ENCODERS = "encoders"  # the ledger's state: since when which encoder made the vectors
NUMBERS = ("quality", "cost", "latency", "prompt_tokens", "completion_tokens", "propensity")


class _Line(msgspec.Struct, omit_defaults=True):
    """One line of ``OUT.log.jsonl``: the head, a request or a score."""

    entry: Entry | None = None
    feedback: Feedback | None = None
    encoder: str | None = None


_encode = msgspec.json.Encoder().encode
_line = msgspec.json.Decoder(_Line)
_changes: msgspec.json.Decoder[list[tuple[float, str]]] = msgspec.json.Decoder(
    list[tuple[float, str]]
)


@dataclass(frozen=True)
class Log:
    """Requests, oldest first, and the scores that were given to them.

    ``encoder`` is the fingerprint of the encoder that made the requests' vectors, "" if unknown.
    """

    entries: Sequence[Entry]
    feedback: Sequence[Feedback] = ()
    encoder: str = ""
    scores: Mapping[str, float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        latest = {f.id: f.score for f in sorted(self.feedback, key=lambda f: f.time)}
        known = {entry.id for entry in self.entries}
        scores = {id: score for id, score in latest.items() if id in known}
        object.__setattr__(self, "scores", scores)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def scored(self) -> list[Entry]:
        """Requests with a score that one expert answered: a merged answer is nobody's own."""
        return [e for e in self.entries if e.id in self.scores and e.expert and not e.composition]


def text_of(entry: Entry) -> str:
    """What routers read of a request; empty where content logging was off."""
    content = entry.content or {}
    messages = content.get("messages")
    if messages is None:
        said = content.get("prompt", content.get("input", ""))
        messages = [said] if isinstance(said, str) else said
    return "\n".join(filter(None, map(_said, messages or ())))


def _said(message: Any) -> str:
    """The text of a user's message, or of a prompt."""
    if isinstance(message, str):
        return message
    if not isinstance(message, dict) or message.get("role", "user") != "user":
        return ""
    parts = message.get("content")
    if isinstance(parts, str):
        return parts
    texts = [part.get("text") for part in parts or () if isinstance(part, dict)]
    return "\n".join(text for text in texts if text)


def answer_of(entry: Entry) -> str | None:
    """The text of the answer, from a whole reply or a stream; None where it was not kept."""
    kept = (entry.content or {}).get("answer")
    if not isinstance(kept, str):
        return None
    lines = [line[6:] for line in kept.splitlines() if line.startswith("data: ")]
    texts = [text for line in lines or [kept] if (text := _choice(line)) is not None]
    return "".join(texts) if texts else None


def _choice(body: str) -> str | None:
    """The text of the first choice of a completion or of a part of one."""
    try:
        choice = msgspec.json.decode(body)["choices"][0]
    except (msgspec.DecodeError, LookupError, TypeError):
        return None
    said = choice.get("message") or choice.get("delta") or choice
    text = said.get("content", said.get("text"))
    return text if isinstance(text, str) else None


def vector_of(entry: Entry) -> FloatArray | None:
    """The query's embedding, (dim,); None where there is none."""
    return np.frombuffer(entry.vector, "<f2").astype(np.float32) if entry.vector else None


def to_records(log: Log) -> Records:
    """Scores, costs, latencies and tokens of who answered; everything else is unobserved.

    A propensity is given where the expert that was decided on is the one that answered. Raises
    InputError where no request has a score.
    """
    entries = log.scored
    if not entries:
        message = f"none of {len(log)} requests has a score; send some to /v1/feedback"
        raise InputError(message, field="feedback")
    experts = tuple(dict.fromkeys([*_pool(log.entries), *(e.expert for e in entries)]))
    cells = {name: np.full((len(entries), len(experts)), np.nan) for name in NUMBERS}
    texts = np.full((len(entries), len(experts)), None, object)
    for row, entry in enumerate(entries):
        column = experts.index(entry.expert)
        for name, value in _numbers(entry, log.scores[entry.id]).items():
            cells[name][row, column] = value
        texts[row, column] = answer_of(entry)
    queries = tuple(Query.from_text(entry.id, text_of(entry)) for entry in entries)
    quality, cost, latency, prompt, completion, propensity = (cells[name] for name in NUMBERS)
    return Records(
        queries, experts, quality, cost, latency, prompt, completion,
        texts=texts, propensity=propensity,
    )  # fmt: skip


def _pool(entries: Iterable[Entry]) -> list[str]:
    """Every expert that was a candidate, in order."""
    return list(dict.fromkeys(c.expert for entry in entries for c in entry.candidates))


def _numbers(entry: Entry, score: float) -> dict[str, float]:
    """What is known of the answer: of the attempt that gave it, where attempts were kept."""
    own = [a for a in entry.attempts if a.expert == entry.expert and not a.kind]
    last = own[-1] if own else Attempt(entry.expert, "", 200, entry.latency, None, entry.cost)
    tokens = last.tokens or entry.tokens
    found = {"quality": score, "cost": last.cost, "latency": last.seconds}
    found |= {"prompt_tokens": tokens.prompt, "completion_tokens": tokens.completion}
    return found | ({"propensity": entry.propensity} if entry.decided == entry.expert else {})


def beside(folder: str | Path, ending: str) -> Path:
    """The file beside a folder of records, such as ``records.log.jsonl``."""
    path = Path(folder)
    return path.with_name(f"{path.name}.{ending}")


def write_log(log: Log, folder: str | Path) -> dict[str, Any]:
    """Write records, vectors and the log itself; returns what was written, as JSON values."""
    records = to_records(log)
    records.write(folder)
    rows = [(e.id, vector) for e in log.entries if (vector := vector_of(e)) is not None]
    dim = Counter(len(vector) for _, vector in rows).most_common(1)[0][0] if rows else 0
    kept = [(id, vector) for id, vector in rows if len(vector) == dim]
    buffer = io.BytesIO()
    np.savez(
        buffer,
        ids=np.array([id for id, _ in kept], str),
        vectors=np.array([v for _, v in kept], np.float16).reshape(len(kept), dim),
        encoder=np.array(log.encoder),
    )
    replace_file(beside(folder, "vectors.npz"), buffer.getvalue())
    replace_file(beside(folder, "log.jsonl"), (_encode(each) + b"\n" for each in _lines(log)))
    return {
        "requests": len(log),
        "scored": len(log.scores),
        "records": len(records),
        "experts": list(records.experts),
        "texts": sum(bool(query.text) for query in records.queries),
        "vectors": len(kept),
        "encoder": log.encoder,
    }


def _lines(log: Log) -> Iterable[_Line]:
    yield _Line(encoder=log.encoder)
    for entry in log.entries:
        yield _Line(entry=msgspec.structs.replace(entry, key="", session=""))
    for one in log.feedback:
        if one.id in log.scores:
            yield _Line(feedback=msgspec.structs.replace(one, key="", note=""))


def read_log(source: str | Path, *, since: float = 0.0, key: str = "", team: str = "") -> Log:
    """Requests and scores of a ledger (file or address) or of what ``write_log`` left.

    ``key`` is a key's id, name or prefix. Raises InputError or ArtifactError for anything else.
    """
    text, path = str(source), Path(source)
    if not text.startswith(("postgres://", "postgresql://")):
        if path.is_dir():
            path = beside(path, "log.jsonl")
        if not path.is_file():
            message = "no such log; expected the gateway's store or what 'coterie log export' wrote"
            raise InputError(message, path=path)
        if path.suffix == ".jsonl":
            log = _read_lines(path)
            return _filtered(log, lambda e: e.time >= since and team in ("", e.team), key)
    with ExitStack() as stack:
        scratch = stack.enter_context(TemporaryDirectory())  # the gateway's spool is not ours
        ledger = stack.enter_context(open_ledger(source, Path(scratch) / "spool"))
        return asyncio.run(_read_ledger(ledger, since, key, team))


def _filtered(log: Log, wanted: Callable[[Entry], bool], key: str) -> Log:
    if key:
        raise CoterieError("an exported log holds no keys; name the key when you export it")
    return Log([entry for entry in log.entries if wanted(entry)], log.feedback, log.encoder)


def _read_lines(path: Path) -> Log:
    """The log in a file, line by line."""
    entries, feedback, encoder = [], [], ""
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                line = _line.decode(text)
            except msgspec.DecodeError as error:
                raise InputError(str(error), path=path, line=number) from None
            encoder = line.encoder or encoder
            entries += [line.entry] if line.entry else []
            feedback += [line.feedback] if line.feedback else []
    return Log(entries, feedback, encoder)


async def _read_ledger(ledger: Ledger, since: float, key: str, team: str) -> Log:
    ids = await _key_ids(ledger, key) if key else frozenset[str]()
    entries = [
        entry
        async for entry in ledger.entries(since)
        if (not key or entry.key in ids) and team in ("", entry.team)
    ]
    changes = _changes.decode(await ledger.get_state(ENCODERS) or b"[]")
    from_then, encoder = changes[-1] if changes else (0.0, "")
    for entry in entries:
        if entry.time < from_then:
            entry.vector = b""  # of another encoder
    return Log(entries, await ledger.feedback_since(since), encoder)


async def _key_ids(ledger: Ledger, key: str) -> frozenset[str]:
    keys, _ = await ledger.owners()
    found = frozenset(k.id for k in keys if key in (k.id, k.name, k.prefix))
    if not found:
        known = ", ".join(k.name for k in keys) or "no keys at all"
        raise InputError(f"no key {key!r}; there are {known}", field="key")
    return found


async def note_encoder(ledger: Ledger, fingerprint: str, time: float) -> None:
    """Remember which encoder makes the vectors from now on, where it is another than before."""
    changes = _changes.decode(await ledger.get_state(ENCODERS) or b"[]")
    if not changes or changes[-1][1] != fingerprint:
        ledger.put_state(ENCODERS, _encode([*changes, (time, fingerprint)]))
