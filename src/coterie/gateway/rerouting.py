"""What another router would have chosen on logged requests, and what that would have earned."""

from __future__ import annotations

import copy
import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from coterie.errors import CoterieError, InputError
from coterie.features import Encoder, Vectors
from coterie.gateway.entries import Entry
from coterie.gateway.exporting import Log, text_of, vector_of
from coterie.offpolicy import Comparison, Logged, compare, supported
from coterie.policies.base import ranked, utilities
from coterie.routers.base import Router
from coterie.types import FloatArray, Query

DIRECT = "direct"  # the policy's name where the client named the expert


@dataclass(frozen=True, eq=False)
class Rerouted:
    """Logged decisions beside those of another router.

    ``entries`` are the requests that count, ``log`` the same for ``offpolicy``, ``target`` the
    router's choices as probabilities, (requests, arms); ``left_out`` says how many requests do not
    count, by why.
    """

    entries: Sequence[Entry]
    log: Logged
    target: FloatArray
    left_out: Mapping[str, int]

    def compare(self, supported_only: bool = False) -> Comparison:
        """The estimates; raises OverlapError where the log cannot tell and all requests count."""
        if not supported_only:
            return compare(self.log, self.target)
        rows = supported(self.log, self.target)
        if not rows.any():
            raise CoterieError("the log and this router overlap on no request at all")
        return compare(self.log.take(rows), self.target[rows])

    def coverage(self) -> dict[str, list[dict[str, Any]]]:
        """Requests, scores and their mean by day (UTC) and by expert asked."""
        days = [_day(entry.time) for entry in self.entries]
        experts = [entry.decided for entry in self.entries]
        chosen = [self.log.arms[j] for j in self.target.argmax(axis=1)]
        by_expert = self._table(experts)
        for row in by_expert:
            row["would be asked"] = chosen.count(row["name"])
        return {"days": self._table(days), "experts": by_expert}

    def _table(self, names: Sequence[str]) -> list[dict[str, Any]]:
        rows, scored = [], self.log.scored
        for name in sorted(set(names)):
            own = np.array([each == name for each in names])
            known = self.log.reward[own & scored]
            mean = float(known.mean()) if len(known) else None
            facts = {"name": name, "requests": int(own.sum()), "scored": len(known)}
            rows.append({**facts, "mean reward": mean})
        return rows


def reroute(log: Log, router: Router, willingness_to_pay: float = math.inf) -> Rerouted:
    """Let the router choose, by utility, on the logged requests that a router decided.

    A request counts where one expert was chosen to answer it, and where its text or its vector was
    kept. Experts that constraints barred then are barred now. The reward is the latest score, less
    cost / ``willingness_to_pay`` where that is finite. Raises InputError where nothing counts.
    """
    entries, left_out = _countable(log.entries)
    readable = [bool(entry.vector or text_of(entry)) for entry in entries]
    left_out["neither text nor vector was kept"] = readable.count(False)
    entries = [entry for entry, can in zip(entries, readable, strict=True) if can]
    if not entries:
        raise InputError(f"no request to judge by: {_listed(left_out)}", field="log")
    queries, lookup = _queries(entries)
    estimates = from_vectors(router, lookup, log.encoder).predict(queries)
    seen = (e for entry in entries for e in (entry.decided, *(c.expert for c in entry.candidates)))
    arms = tuple(dict.fromkeys([*estimates.experts, *seen]))
    quality, cost = _spread(estimates.quality, arms), _spread(estimates.cost, arms)
    allowed = _allowed(entries, arms) & np.isfinite(quality)
    utility = utilities(quality, cost, willingness_to_pay)
    first = ranked(np.where(allowed, utility, -np.inf), cost)[:, 0]
    chosen = np.array([arms.index(entry.decided) for entry in entries])
    first = np.where(allowed.any(axis=1), first, chosen)
    price = 0.0 if math.isinf(willingness_to_pay) else 1 / willingness_to_pay
    reward = np.array([log.scores.get(e.id, np.nan) - price * e.cost for e in entries])
    logged = Logged(
        arms,
        chosen,
        np.array([entry.propensity for entry in entries]),
        reward,
        _context(router, queries, lookup, log.encoder),
        _filled(quality - price * cost, reward),
    )
    kept = {why: count for why, count in left_out.items() if count}
    return Rerouted(entries, logged, np.eye(len(arms))[first], kept)


def _countable(entries: Sequence[Entry]) -> tuple[list[Entry], dict[str, int]]:
    """Requests that a router gave to one expert, and how many are none, by why."""
    reasons: Mapping[str, Callable[[Entry], bool]] = {
        "the client named the expert": lambda e: e.policy == DIRECT,
        "several experts answered together": lambda e: bool(e.composition),
        "nobody was chosen": lambda e: not e.decided,
    }
    left_out, kept = dict.fromkeys(reasons, 0), []
    for entry in entries:
        why = next((why for why, holds in reasons.items() if holds(entry)), None)
        if why is None:
            kept.append(entry)
        else:
            left_out[why] += 1
    return kept, left_out


def _listed(left_out: Mapping[str, int]) -> str:
    return "; ".join(f"{count} where {why}" for why, count in left_out.items() if count) or "none"


def _queries(entries: Sequence[Entry]) -> tuple[list[Query], dict[str, FloatArray]]:
    """Queries with their text, or their id in its place, and the vectors of those."""
    queries, lookup = [], {}
    for entry in entries:
        text, vector = text_of(entry), vector_of(entry)
        queries.append(Query.from_text(entry.id, text or entry.id))
        if not text and vector is not None:
            lookup[entry.id] = vector
    return queries, lookup


def _spread(values: FloatArray, arms: Sequence[str]) -> FloatArray:
    """The router's columns, then NaN for experts that it does not know."""
    wide = np.full((len(values), len(arms)), np.nan)
    wide[:, : values.shape[1]] = values
    return wide


def _allowed(entries: Sequence[Entry], arms: Sequence[str]) -> NDArray[np.bool_]:
    allowed = np.ones((len(entries), len(arms)), bool)
    column_of = {name: column for column, name in enumerate(arms)}
    for row, entry in enumerate(entries):
        for candidate in entry.candidates:
            allowed[row, column_of[candidate.expert]] = not candidate.barred
    return allowed


def _filled(expected: FloatArray, reward: FloatArray) -> FloatArray:
    """Expected rewards, the mean reward where the router expects nothing."""
    mean = float(np.nanmean(reward)) if np.isfinite(reward).any() else 0.0
    return np.where(np.isfinite(expected), expected, mean)


def _context(
    router: Router, queries: Sequence[Query], lookup: Mapping[str, FloatArray], fingerprint: str
) -> FloatArray | None:
    """Vectors for the reward model, None where the router has no encoder."""
    found = encoders(router)
    if not found:
        return None
    encoder = Stored(found[0], lookup, fingerprint)
    return np.asarray(encoder.encode([query.text for query in queries]), float)


class Stored(Encoder):
    """An encoder that takes some texts' vectors from a table: those whose text was not kept."""

    name: ClassVar[str] = "stored"

    def __init__(self, inner: Encoder, table: Mapping[str, FloatArray], made_by: str = "") -> None:
        self.inner, self.table, self.dim = inner, table, inner.dim
        sizes = {len(vector) for vector in table.values()}
        if sizes - {inner.dim}:
            message = f"vectors of {min(sizes - {inner.dim})} numbers, the router reads {inner.dim}"
            raise InputError(f"{message}: another encoder made them", field="vector")
        if table and made_by and made_by != inner.fingerprint():
            message = f"made by encoder {made_by[:12]}, the router has {inner.fingerprint()[:12]}"
            raise InputError(f"{message}; judge a router that was fitted with it", field="vector")

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Vectors of texts, or of the ids that stand for texts."""
        vectors = np.zeros((len(texts), self.dim), np.float32)
        unknown = [row for row, text in enumerate(texts) if text not in self.table]
        if unknown:
            vectors[unknown] = self.inner.encode([texts[row] for row in unknown])
        for row, text in enumerate(texts):
            if text in self.table:
                vectors[row] = self.table[text]
        return vectors

    def fingerprint(self) -> str:
        """That of the encoder inside."""
        return self.inner.fingerprint()

    def to_arrays(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Refused: it is for one log."""
        raise CoterieError("vectors of a log are never saved with a router")

    @classmethod
    def from_arrays(cls, params: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Stored:
        """Refused, see ``to_arrays``."""
        raise CoterieError("vectors of a log are never saved with a router")


def encoders(router: Router) -> list[Encoder]:
    """The encoders of a fitted router and its members."""
    found = [v for k, v in vars(router).items() if k.endswith("_") and isinstance(v, Encoder)]
    for member in _members(router):
        found += encoders(member)
    return found


def from_vectors(router: Router, table: Mapping[str, FloatArray], made_by: str = "") -> Router:
    """The router, reading ids in ``table`` as the queries whose vectors these are."""
    if not table:
        return router
    twin = copy.copy(router)
    for name, value in vars(router).items():
        if isinstance(value, Encoder):
            setattr(twin, name, Stored(value, table, made_by))
        elif name.endswith("_") and isinstance(value, tuple) and _members(router):
            members = [from_vectors(m, table, made_by) if isinstance(m, Router) else m
                       for m in value]  # fmt: skip
            setattr(twin, name, tuple(members))
    return twin


def _members(router: Router) -> list[Router]:
    values = vars(router).values()
    return [
        m for value in values if isinstance(value, tuple) for m in value if isinstance(m, Router)
    ]


def _day(time: float) -> str:
    return datetime.datetime.fromtimestamp(time, datetime.UTC).date().isoformat()
