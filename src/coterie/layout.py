"""What a text looks like: lengths, punctuation, numbers, formulas, code, options, first words.

Which expert does well often hangs on the form of a question (a line break before the options, a
formula, an unfinished sentence) that sentence vectors do not hold.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from coterie.features import readable
from coterie.types import FloatArray

Measure: TypeAlias = Callable[[str], float]  # of the text without surrounding white space


def _count(pattern: str, flags: int = 0) -> Measure:
    """The log of 1 + the number of matches."""
    found = re.compile(pattern, flags)
    return lambda text: float(np.log1p(len(found.findall(text))))


def _share(pattern: str) -> Measure:
    """The share of characters that match."""
    found = re.compile(pattern)
    return lambda text: len(found.findall(text)) / (len(text) + 1)


def _has(pattern: str) -> Measure:
    """Whether there is a match, capital letters or not."""
    found = re.compile(pattern, re.IGNORECASE)
    return lambda text: float(found.search(text) is not None)


def _word_length(text: str) -> float:
    words = text.split()
    return float(np.mean([len(w) for w in words])) if words else 0.0


def _variety(text: str) -> float:
    words = text.split()
    return len(set(words)) / max(1, len(words))


def _line_length(text: str) -> float:
    return float(np.log1p(np.mean([len(line) for line in text.split("\n")])))


MEASURES: dict[str, Measure] = {
    "characters": lambda text: float(np.log1p(len(text))),
    "words": lambda text: float(np.log1p(len(text.split()))),
    "word length": _word_length,
    "variety of words": _variety,
    "sentences": _count(r"[.!?](?:\s|$)"),
    "lines": _count(r"\n"),
    "line length": _line_length,
    "empty lines": _count(r"\n\n"),
    "wrapped lines": _count(r"[^.?!:\n]{50,}\n"),
    "double spaces": _count(r"  "),
    "digits": _share(r"\d"),
    "numbers": _count(r"\d+"),
    "decimals": _count(r"\d\.\d"),
    "large numbers": _count(r"\d{4,}"),
    "years": _count(r"\b(?:1[5-9]|20)\d\d\b"),
    "prices": _count(r"\$\d"),
    "per cent": _count(r"%"),
    "capitals": _share(r"[A-Z]"),
    "names": _count(r"\b[A-Z][a-z]+"),
    "acronyms": _count(r"\b[A-Z]{2,}\b"),
    "beyond ASCII": _count(r"[^\x00-\x7f]"),
    "dollars": _count(r"\$"),
    "backslashes": _count(r"\\"),
    "fractions": _count(r"frac"),
    "powers": _count(r"\^"),
    "equals": _count(r"="),
    "parentheses": _count(r"\("),
    "brackets": _count(r"\["),
    "braces": _count(r"\{"),
    "commas": _count(r","),
    "semicolons": _count(r";"),
    "colons": _count(r":"),
    "double quotes": _count(r'"'),
    "single quotes": _count(r"'"),
    "underscores": _count(r"_"),
    "blank to fill": _has(r"__"),
    "options": _count(r"^\s*\(?[A-J][).:]", re.MULTILINE),
    "inline options": _count(r"\([A-J]\)"),
    "roman numerals": _has(r"\b(?:I|II|III)\."),
    "code": _has(r"\bdef |\bimport |\breturn\b|\bfunction\b"),
    "docstring": _has(r'"""|\'\'\''),
    "session": _has(r">>>|\bassert\b"),
    "drawing": _has(r"\[asy\]"),
    "ends as a question": _has(r"\?$"),
    "ends as a sentence": _has(r"\.$"),
    "ends with a colon": _has(r":$"),
    "ends in a word": _has(r"\w$"),
    "starts small": lambda text: float(text[:1].islower()),
    "starts with a digit": lambda text: float(text[:1].isdigit()),
    "asks": _has(r"^(?:what|which|who|how|why|when|where|whose)\b"),
    "which of": _has(r"which of the following"),
    "how many": _has(r"how many"),
    "how much": _has(r"how much"),
    "negation": _has(r"\b(?:not|except|false|least)\b"),
    "supposes": _has(r"\b(?:suppose|assume|let|given|consider)\b"),
    "computes": _has(r"\b(?:compute|calculate|find|determine|evaluate|simplify)\b"),
    "form of answer": _has(r"express|in terms of|nearest|decimal|simplest|fraction"),
    "statement": _has(r"statement"),
    "person": _has(r"\b(?:year-old|patient|woman|man)\b"),
}
NAMES = tuple(MEASURES)


def layout(texts: Sequence[str]) -> FloatArray:
    """Measures of form, shape (texts, measures), in the order of ``NAMES``; not scaled.

    >>> layout(["What is 2 plus 3?"])[0, NAMES.index("numbers")].round(3)
    np.float64(1.099)
    """
    rows = [_measured(text) for text in readable(texts)]
    return np.array(rows, float).reshape(len(rows), len(NAMES))


@functools.lru_cache(maxsize=2**16)
def _measured(text: str) -> FloatArray:
    """The measures of one text; kept, since cross-validation asks for the same ones again."""
    stripped = text.strip()
    return np.array([measure(stripped) for measure in MEASURES.values()])
