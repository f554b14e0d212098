"""Static votes: the same experts answer every question and the majority decides."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np

from coterie.answers import Extractor, normalise
from coterie.records import Records
from coterie.routers.base import mean_or
from coterie.types import FloatArray, IntArray

EXACT = 500  # subsets that are all tried; beyond, experts join in pairs
CANDIDATES = 20  # experts considered, the best on average


def answer_codes(records: Records, extract: Extractor) -> IntArray | None:
    """Equal numbers where two experts gave a query the same answer, -1 where none was usable.

    Shape (queries, experts); None where more than one cell in a hundred has no recorded answer.
    """
    texts = records.texts
    if not texts.size or np.mean(texts == None) > 0.01:  # noqa: E711 (elementwise)
        return None
    codes = np.full(texts.shape, -1, np.int16)
    for row, answers in enumerate(texts):
        number: dict[str, int] = {}
        for column, text in enumerate(answers):
            if text:
                answer = normalise(extract(text))
                codes[row, column] = number.setdefault(answer, len(number))
    return codes


def winners(codes: IntArray, members: tuple[int, ...]) -> IntArray:
    """The expert column that speaks for the most frequent answer of ``members``, one a query.

    Ties go to the answer of the member named first, as do queries without any answer.
    """
    own = codes[:, list(members)]  # (queries, k)
    agreeing = (own[:, :, None] == own[:, None, :]).sum(axis=2)
    votes = np.where(own >= 0, agreeing, 0)
    chosen: IntArray = np.array(members)[votes.argmax(axis=1)]
    return chosen


def best_vote(codes: IntArray, quality: FloatArray, k: int) -> tuple[int, ...]:
    """The k experts whose majority scores highest on these records, the best single ones first.

    Every subset is tried where there are at most 500; otherwise the best single expert is joined
    by the best pair until there are k.
    """
    means = mean_or(quality, 0.0)
    order = [int(j) for j in np.argsort(-means, kind="stable")[:CANDIDATES]]
    k = min(k, len(order))
    if math.comb(len(order), k) <= EXACT:
        return _best(codes, quality, itertools.combinations(order, k))
    members: tuple[int, ...] = (order[0],)
    while len(members) < k:
        rest = [j for j in order if j not in members]
        more = itertools.combinations(rest, min(2, k - len(members)))
        members = _best(codes, quality, (_sorted(members + pair, order) for pair in more))
    return members


def _sorted(members: tuple[int, ...], order: list[int]) -> tuple[int, ...]:
    return tuple(sorted(members, key=order.index))


def _best(
    codes: IntArray, quality: FloatArray, subsets: Iterable[tuple[int, ...]]
) -> tuple[int, ...]:
    rows = np.arange(len(codes))
    return max(subsets, key=lambda s: float(np.nansum(quality[rows, winners(codes, s)])))
