"""A resumable run: questions through router, policy and composition, with everything journaled."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from coterie import __version__
from coterie.answers import Extractor
from coterie.caching import Cache
from coterie.compositions import Composition
from coterie.deciding import decide
from coterie.drivers.batch import WINDOW, Progress, answer_each, left
from coterie.drivers.limits import Caps
from coterie.drivers.rooms import residency_of
from coterie.errors import CoterieError
from coterie.files import Closing
from coterie.paging import Paged
from coterie.policies import Policy
from coterie.pool import Pool
from coterie.profiling import profile_pool
from coterie.questions import Questions
from coterie.records import Records
from coterie.routers.base import Router
from coterie.store import Journal
from coterie.types import Answer, Query, Seed


async def answer_questions(
    pool: Pool,
    queries: Sequence[Query],
    router: Router,
    policy: Policy,
    composition: Composition,
    take: Callable[[int, Answer], None],
    *,
    journal: Path | str = ":memory:",
    seed: Seed = 0,
    caps: Caps | None = None,
    cache: Cache | None = None,
    window: int = WINDOW,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Answer the queries; a run over the same journal goes on where the last one stopped.

    ``take(position, answer)`` gets the answers in the order they end, those of queries that the
    ``caps`` left unanswered included; the queries may be read from disk. Raises ResumeError where
    the journal belongs to other queries, experts, router or settings.
    """
    prepared = Paged(len(queries), lambda first, stop: pool.prepare(queries[first:stop]))
    header = run_header(pool, prepared, router, policy, composition, seed)
    with Journal(journal, header) as kept:
        decisions = decide(prepared, pool, router, policy, kept, caps)
        answered = bytearray(len(queries))

        def note(position: int, answer: Answer) -> None:
            answered[position] = True
            take(position, answer)

        progress = await answer_each(
            prepared,
            decisions,
            composition,
            pool.experts,
            note,
            seed=seed,
            capacity=pool.capacity,
            residency=residency_of(pool),
            journal=kept,
            caps=caps,
            cache=cache,
            window=window,
            report=report,
        )
        for position in range(len(queries)):
            if not answered[position]:
                take(position, left(prepared[position], decisions[position]))
        return progress


async def profile_questions(
    pool: Pool,
    questions: Questions,
    *,
    journal: Path | str = ":memory:",
    seed: Seed = 0,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Records:
    """Profile the pool; a run over the same journal asks only what is missing.

    How answers are read (``Pool.extract``) may change between runs: texts are journaled.
    """
    header = {
        "coterie": __version__,
        "profile": fingerprint(pool.prepare(questions.queries)),
        "pool": pool.fingerprint(),
        "samples": json.dumps(dict(pool.samples), sort_keys=True),
        "seed": str(seed),
    }
    with Journal(journal, header) as kept:
        return await profile_pool(pool, questions, seed=seed, journal=kept, report=report)


def run_header(
    pool: Pool,
    queries: Sequence[Query],
    router: Router,
    policy: Policy,
    composition: Composition,
    seed: Seed,
) -> dict[str, str]:
    """Fingerprints of everything that the answers depend on."""
    return {
        "coterie": __version__,
        "questions": fingerprint(queries),
        "pool": pool.fingerprint(),
        "extract": pool.extract,
        "router": router.fingerprint(),
        "policy": _plain(policy),
        "composition": describe(composition),
        "seed": str(seed),
    }


def fingerprint(queries: Iterable[Query]) -> str:
    """Equal where ids, messages and options are equal.

    Tags are left out: they only steer decisions, which are journaled before any call.
    """
    digest = hashlib.sha256()
    for q in queries:
        asked = [q.id, [dict(m) for m in q.messages], dict(q.params)]
        digest.update(json.dumps(asked, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()[:16]


def describe(composition: Composition) -> str:
    """A composition with its settings as text, equal in every process."""
    inner = getattr(composition, "func", composition)
    return f"{inner.__module__}:{_plain(composition)}"


def _plain(value: Any) -> str:
    """Text without memory addresses: functions go by their name and what they enclose."""
    if isinstance(value, functools.partial):
        settings = [*map(_plain, value.args)]
        settings += [f"{k}={_plain(v)}" for k, v in sorted(value.keywords.items())]
        return f"{_plain(value.func)}({', '.join(settings)})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k}: {_plain(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if hasattr(value, "__qualname__"):
        cells = getattr(value, "__closure__", None) or ()
        enclosed = ", ".join(_plain(cell.cell_contents) for cell in cells)
        return f"{value.__qualname__}({enclosed})" if enclosed else str(value.__qualname__)
    fields = getattr(value, "__dataclass_fields__", None)
    if fields is None and not repr(value).startswith("<"):
        return repr(value)
    names = fields if fields is not None else vars(value)
    inside = ", ".join(f"{name}={_plain(getattr(value, name))}" for name in names)
    return f"{type(value).__name__}({inside})"


def answer_row(answer: Answer, extract: Extractor) -> dict[str, Any]:
    """One answer as JSON values: who gave it, what it cost, decision and trace."""
    completion = answer.completion
    return {
        "id": answer.query_id,
        "answer": None if completion.failed else extract(completion.text),
        "text": completion.text,
        "expert": completion.expert,
        "error": completion.error,
        "cost": answer.cost,
        "latency": answer.latency,
        "decision": answer.decision.to_dict(),
        "trace": [c.to_dict() for c in answer.trace],
    }


class AnswerFile(Closing):
    """Answers as JSONL in the order of the questions, however they come.

    Lines go to a scratch file as they come; ``lines`` puts them in order.
    """

    def __init__(self, count: int, extract: Extractor) -> None:
        self.extract = extract
        self.failed: Answer | None = None  # the first of them
        self.failures = 0  # questions that a cap left unanswered are none
        self._lines = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as this object)
        self._places = array("q", [-1]) * count

    def take(self, position: int, answer: Answer) -> None:
        """Keep one answer."""
        if answer.completion.failed and answer.completion.finish_reason != "left":
            self.failures += 1
            self.failed = self.failed or answer
        row = json.dumps(answer_row(answer, self.extract), ensure_ascii=False)
        with self._explained():
            self._places[position] = self._lines.seek(0, os.SEEK_END)
            self._lines.write(row.encode("utf-8", "backslashreplace") + b"\n")

    def lines(self) -> Iterator[bytes]:
        """The lines in the order of the questions."""
        for place in self._places:
            with self._explained():
                self._lines.seek(place)
                line = self._lines.readline()
            yield line

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CoterieError(
                f"the scratch file of the answers in {tempfile.gettempdir()} cannot be written: "
                f"{error.strerror}; make room or set TMPDIR. No output was touched, and what was "
                "journaled is kept"
            ) from None

    def close(self) -> None:
        """Drop the scratch file."""
        with suppress(OSError):  # what was not written is not wanted
            self._lines.close()
