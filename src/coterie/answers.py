"""From a completion's text to the answer in it, and from two answers to a score.

Extractors follow the released code of Symbolic-MoE (multiple choice, boxed) where it has them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TypeAlias

from coterie.errors import PluginError

Extractor: TypeAlias = Callable[[str], str]


def whole(text: str) -> str:
    """The text without surrounding white space."""
    return text.strip()


def arrow(text: str) -> str:
    """What follows the last ``=>``, or the whole text without one.

    >>> arrow("59 => 95")
    '95'
    """
    return text.rsplit("=>", 1)[-1].strip()


def choice(text: str) -> str:
    """The last letter A to J before a ``)``, else the last bare one, else ``N/A``.

    A bare I counts as a word, not as an option.

    >>> choice("Not (B). The answer is (C)."), choice("It is D"), choice("no idea")
    ('C', 'D', 'N/A')
    """
    found = re.findall(r"([A-J])\)", text) or re.findall(r"\b([A-HJ])\b", text)
    return found[-1] if found else "N/A"


def boxed(text: str) -> str:
    r"""The content of the last ``\boxed{}`` or ``\fbox{}``, braces matched, else the whole text.

    >>> boxed(r"so \boxed{\frac{1}{2}} holds")
    '\\frac{1}{2}'
    """
    start = max(text.rfind(r"\boxed{"), text.rfind(r"\fbox{"))
    if start < 0:
        return text.strip()
    begin = text.index("{", start) + 1
    depth = 1
    for end in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[begin:end]
    return text.strip()


def number(text: str) -> str:
    """The last number in the text, thousands separators removed, else the whole text.

    >>> number("3 boxes hold 1,200 pens.")
    '1200'
    """
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return found[-1].replace(",", "") if found else text.strip()


EXTRACTORS: dict[str, Extractor] = {f.__name__: f for f in (whole, arrow, choice, boxed, number)}


def extractor(name: str) -> Extractor:
    """The extractor called ``name``; raises PluginError that lists them."""
    if name not in EXTRACTORS:
        raise PluginError(f"no extractor called {name!r}; there are {', '.join(EXTRACTORS)}")
    return EXTRACTORS[name]


def normalise(answer: str) -> str:
    """Answers that differ only in case, white space or a final full stop become equal.

    >>> normalise(" 936  Inches. ") == normalise("936 inches")
    True
    """
    return " ".join(answer.casefold().split()).removesuffix(".").rstrip()


def score(text: str, reference: str, extract: Extractor) -> float:
    """1.0 where the extracted answer is the reference, else 0.0.

    Compared are normalised texts, and numbers by value. The reference may be written like an answer
    (``(C)``, ``1,200``): then what is extracted from it counts.

    >>> score("It is (C).", "(C)", choice), score("1,200 pens", "1200.0", number)
    (1.0, 1.0)
    """
    given = normalise(extract(text))
    wanted = {normalise(reference), normalise(extract(reference))} - {normalise("N/A")}
    values = {value for w in wanted if (value := _value(w)) is not None}
    return float(given in wanted or _value(given) in values)


def _value(text: str) -> float | None:
    """The text as a number, if it is one."""
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
