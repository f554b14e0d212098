"""Skill keywords, expert profiles and skill mapping: stages A to C of Symbolic-MoE.

Two annotators: ``consensus`` over five samples of an annotating expert, as in the paper, and
``TermAnnotator``, which needs no language model: a question's five nearest known questions take
the place of the five samples.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from coterie.features import Encoder
from coterie.index import Index
from coterie.types import FloatArray, IntArray

SAMPLES = 5  # annotations per question (paper, section 3.1)
LONGEST = 20  # characters of a keyword (released code)
MOST = 5  # keywords of one question (the annotation prompt asks for two to five)

PROMPT = """Question: {question}

What core knowledge, subjects or skills are needed to answer this question? Name two to five
keywords, separated by commas, and nothing else. Begin the line with "Keywords:"."""


def parse_keywords(text: str) -> list[str]:
    """Keywords after the last ``Keywords:`` (or of the whole text): lower case, without dots.

    >>> parse_keywords("I think. Keywords: Algebra, number theory.")
    ['algebra', 'number theory']
    """
    listed = text.rsplit("Keywords:", 1)[-1].split(",")
    words = (word.lower().replace(".", "").strip() for word in listed)
    return [word for word in words if word]


def consensus(samples: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Keywords of at most 20 characters that occur more than once in the pooled samples.

    The order is that of first occurrence; the result may be empty.

    >>> consensus([["algebra", "sets"], ["algebra"], ["logic"]])
    ('algebra',)
    """
    counts = Counter(word for sample in samples for word in sample if len(word) <= LONGEST)
    return tuple(word for word, count in counts.items() if count > 1)


def terms(text: str) -> list[str]:
    """Words, operators and digit shapes of a text, lower case.

    >>> terms("Is 37 + 58 due on 2029-11-01?")
    ['is', '00', '+', 'due', 'on', '0000-00-00', '?']
    """
    return list(dict.fromkeys(_TERM.findall(_DIGIT.sub("0", text.lower()))))


_DIGIT = re.compile(r"\d")
_TERM = re.compile(r"\d[\d./:-]*\d|\d|[^\W\d_]+|[^\w\s]")


class TermAnnotator:
    """Keywords without a language model: terms that a question's nearest known questions share.

    Known questions are those given to ``fit``. A new question is compared with them through the
    encoder; terms that occur in more than one of the five nearest are kept, as the paper keeps
    keywords that occur in more than one of five samples, and of these the five rarest. Questions
    without any similarity (cosine of at most 0) are not near.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.vectors: FloatArray = np.empty((0, encoder.dim))
        self.known: list[list[str]] = []
        self.frequency: Counter[str] = Counter()

    def fit(self, texts: Sequence[str]) -> Self:
        """Remember vectors and terms of the known questions."""
        self.vectors = self.encoder.encode(texts)
        self.known = [terms(text) for text in texts]
        self.frequency = Counter(term for known in self.known for term in known)
        return self

    def keywords(self, texts: Sequence[str]) -> list[tuple[str, ...]]:
        """Two to five keywords a text where it resembles known questions, else fewer or none."""
        if not len(self.vectors) or not len(texts):
            return [()] * len(texts)
        rarest = sorted(self.frequency, key=lambda word: (self.frequency[word], word))
        words = [word for word in rarest if len(word) <= LONGEST]
        place = {word: column for column, word in enumerate(words)}
        known = incidence([[place[w] for w in t if w in place] for t in self.known], len(words))
        rows, near = Index(self.vectors).nearest(self.encoder.encode(texts), SAMPLES)
        samples = incidence([r[n > 0] for r, n in zip(rows, near, strict=True)], len(self.known))
        counts = samples @ known  # (texts, words): in how many samples each word occurs
        counts.sort_indices()
        starts = zip(counts.indptr[:-1], counts.indptr[1:], strict=True)
        pooled = (counts.indices[i:j][counts.data[i:j] > 1][:MOST] for i, j in starts)
        return [tuple([words[column] for column in columns]) for columns in pooled]

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What was learnt, as JSON and arrays."""
        return {"known": self.known}, {"vectors": self.vectors}

    @classmethod
    def restore(
        cls, encoder: Encoder, params: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """The inverse of ``state``."""
        annotator = cls(encoder)
        annotator.known = [list(known) for known in params["known"]]
        annotator.vectors = arrays["vectors"]
        annotator.frequency = Counter(term for known in annotator.known for term in known)
        return annotator


def profile(
    scores: FloatArray, keywords: Sequence[Sequence[str]], vocabulary: Sequence[str]
) -> tuple[FloatArray, FloatArray]:
    """Skill points and their number, each of shape (experts, skills).

    A right answer adds 1 to every skill of its question, a wrong one subtracts 1 (stage B); a score
    s between 0 and 1 adds 2 s - 1, a missing one nothing. ``scores`` is queries x experts.
    """
    column = {skill: j for j, skill in enumerate(vocabulary)}
    table = incidence([[column[w] for w in words] for words in keywords], len(vocabulary)).T
    seen = ~np.isnan(scores)
    points = np.where(seen, 2 * np.nan_to_num(scores) - 1, 0.0)
    return (table @ points).T, (table @ seen.astype(float)).T


def incidence(columns: Sequence[Sequence[int] | IntArray], count: int) -> Any:
    """A sparse table of how often each of ``count`` columns is named, a row a sequence."""
    from scipy.sparse import csr_array

    ends = np.cumsum([0, *map(len, columns)])
    flat = np.fromiter(itertools.chain.from_iterable(columns), np.int64, int(ends[-1]))
    table = csr_array((np.ones(len(flat)), flat, ends), shape=(len(columns), count))
    table.sum_duplicates()
    return table


def map_skills(
    keywords: Sequence[Sequence[str]], vocabulary: Sequence[str], encoder: Encoder
) -> list[list[int]]:
    """Each keyword's profile skill: the most similar one, without a threshold.

    A keyword that is a profile skill maps to itself. Ties go to the first skill in ``vocabulary``
    (sorted by the caller; the released code leaves them to hash order). Two keywords that meet in
    one skill count twice, as in the released code.
    """
    position = {skill: j for j, skill in enumerate(vocabulary)}
    unknown = sorted({w for words in keywords for w in words if w not in position})
    if unknown and vocabulary:
        similarity = encoder.encode(unknown) @ encoder.encode(list(vocabulary)).T
        position |= dict(zip(unknown, np.argmax(similarity, axis=1).tolist(), strict=True))
    return [[position[w] for w in words if w in position] for words in keywords]
