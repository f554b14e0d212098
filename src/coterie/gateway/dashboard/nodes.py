"""Elements of the page: made once here, written as HTML by ``render`` or sent to its script.

The script builds the same elements from their JSON, so what a page shows is put together in one
place, and every text is escaped in one place (here) or set as text (there).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, TypeAlias

import msgspec

Node: TypeAlias = "Element | str"
VOID = frozenset({"input"})


class Element(msgspec.Struct, array_like=True, frozen=True):
    """A tag with attributes and what is in it."""

    tag: str
    attributes: dict[str, str]
    children: tuple[Any, ...] = ()


def element(tag: str, *children: Node | None, **attributes: Any) -> Element:
    """An element; attributes that are None or False are left out, ``class_`` is ``class``.

    >>> render(element("p", "1 < 2", class_="note", data_x=True))
    '<p class="note" data-x="">1 &lt; 2</p>'
    """
    named = {
        name.rstrip("_").replace("_", "-"): "" if value is True else str(value)
        for name, value in attributes.items()
        if value is not None and value is not False
    }
    return Element(tag, named, tuple(child for child in children if child not in (None, "")))


def render(*nodes: Node) -> str:
    """The nodes as HTML."""
    return "".join([escape(node) if isinstance(node, str) else _rendered(node) for node in nodes])


def _rendered(node: Element) -> str:
    given = "".join([f' {name}="{escape(text)}"' for name, text in node.attributes.items()])
    end = "" if node.tag in VOID else f"{render(*node.children)}</{node.tag}>"
    return f"<{node.tag}{given}>{end}"


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[Node]],
    words: int,
    empty: str = "nothing yet",
) -> Element:
    """A table; the first ``words`` columns are words, the others numbers."""
    kinds = [None if column < words else "number" for column in range(len(head))]
    heads = [
        element("th", text, scope="col", class_=kind)
        for text, kind in zip(head, kinds, strict=True)
    ]
    lines = [
        element(
            "tr", *[element("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)]
        )
        for row in rows
    ]
    if not lines:
        lines = [element("tr", element("td", empty, colspan=len(head), class_="note"))]
    made = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *heads)),
        element("tbody", *lines),
    )
    label = f"table: {caption}"  # a section of the page may have the caption's name
    return element("div", made, class_="wide", tabindex=0, role="region", aria_label=label)


def facts(pairs: Mapping[str, Node | None]) -> Element:
    """Names with their values; those without a value are left out."""
    shown = {name: value for name, value in pairs.items() if value not in (None, "")}
    rows = [element("div", element("dt", name), element("dd", v)) for name, v in shown.items()]
    return element("dl", *rows, class_="facts")


def tile(name: str, value: str, note: str = "") -> Element:
    """One figure with its name."""
    small = element("dd", note, class_="note") if note else None
    return element("div", element("dt", name), element("dd", value), small)


def badge(text: str, kind: str = "") -> Element:
    """A short mark; ``kind`` is good, bad, warn or none."""
    return element("span", text, class_=f"badge {kind}".strip())


def number(value: float | None, digits: int = 3) -> str:
    """A quantity in so many significant digits.

    >>> number(0.0001234), number(1234567.0), number(None), number(2.0)
    ('0.000123', '1,234,567', '–', '2')
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if value and abs(value) < 1e-6:
        return f"{value:.{digits - 1}e}"
    text = f"{value:#.{digits}g}"
    if "e" in text:
        text = f"{value:.{digits + 5}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def seconds(value: float | None) -> str:
    """A duration for people.

    >>> seconds(0.0123), seconds(3.21), seconds(125.0)
    ('12 ms', '3.2 s', '2 min 5 s')
    """
    if value is None:
        return "–"
    if value < 1:
        return f"{value * 1000:.0f} ms" if value >= 0.01 else f"{value * 1000:.1f} ms"
    if value < 60:
        return f"{value:.1f} s"
    return f"{int(value) // 60} min {int(value) % 60} s"


def percent(share: float | None) -> str:
    """A share in percent."""
    return "–" if share is None or math.isnan(share) else f"{100 * share:.1f} %"


def moment(at: float, shape: str = "%H:%M:%S") -> Element:
    """A time of day, in UTC, with its date behind it."""
    whole = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    return element("time", time.strftime(shape, time.gmtime(at)), datetime=stamp, title=whole)
