"""The shell of a report and its HTML: one file that makes no request, every text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from coterie.figures import number

SHELL = Path(__file__).parent / "embedded" / "report.html"
LONGEST = 400  # characters of a text that are shown


def page(body: str) -> str:
    """The HTML ``body`` as a whole page with its style and plotly's script."""
    from plotly.offline import get_plotlyjs

    shell = Template(SHELL.read_text(encoding="utf-8"))
    return shell.substitute(plotly=get_plotlyjs(), body=body)


def tag(name: str, text: str, kind: str = "") -> str:
    """An element of this class around the text; nothing where there is no text."""
    attribute = f' class="{kind}"' if kind else ""
    return f"<{name}{attribute}>{escape(text)}</{name}>" if text else ""


def section(heading: str, content: str) -> str:
    """A section whose ``content`` is HTML."""
    return f"<section>{tag('h2', heading)}\n{content}</section>"


def tile(name: str, value: str, marked: bool = False) -> str:
    """One figure of a ``<dl class="tiles">`` with its name."""
    return f"<div{' class=marked' if marked else ''}>{tag('dt', name)}{tag('dd', value)}</div>"


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], words: int, marked: Sequence[int] = ()
) -> str:
    """A table of plain texts; the first ``words`` columns are words, the others numbers."""
    body = "\n".join(_cells("td", row, words, i in marked) for i, row in enumerate(rows))
    top = _cells("th", head, words)
    return f'<div class="wide"><table><thead>{top}</thead><tbody>{body}</tbody></table></div>'


def _cells(name: str, texts: Sequence[str], words: int, marked: bool = False) -> str:
    kinds = ["" if i < words else " class=number" for i in range(len(texts))]
    cells = (f"<{name}{k}>{escape(t)}</{name}>" for k, t in zip(kinds, texts, strict=True))
    return f"<tr{' class=marked' if marked else ''}>{''.join(cells)}</tr>"


def interval(bounds: Sequence[float], shape: str = ".3f") -> str:
    """Both bounds in this shape."""
    low, high = (number(b, shape) for b in bounds)
    return f"{low} to {high}"


def points(value: float) -> str:
    """Hundredths of a score with their sign."""
    return number(100 * value, "+.1f")


def points_interval(low: float, high: float) -> str:
    """Both bounds in hundredths of a score."""
    return interval((100 * low, 100 * high), "+.1f")


def percent(value: float) -> str:
    """A share in percent."""
    return f"{number(100 * value, '.1f')} %"


def p_value(value: float, equals: str = "") -> str:
    """A p-value, after ``equals`` where it is not below what is shown."""
    return "< 0.001" if value < 0.001 else f"{equals}{value:.3f}"


def cut(text: str) -> str:
    """The text, or its beginning where it is long."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
