"""Small plots as SVG files: they show on a page without a script, in light and in dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

STYLE = """<style>
text { font: 12px sans-serif; fill: #333 } .title { font-weight: bold }
path, line { fill: none; stroke-width: 2 } .axis { stroke: #999; stroke-width: 1 }
@media (prefers-color-scheme: dark) { text { fill: #ddd } }
</style>"""
COLOURS = ("#8b95a3", "#d9772b", "#4a9a6c", "#3f7fbf")
WIDTH, ROW, NAMES, FIGURES = 340, 22, 90, 55


def svg(width: float, height: float, parts: Sequence[str]) -> str:
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    inside = "\n".join([STYLE, *parts])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{inside}\n</svg>\n'


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def bars(panels: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Horizontal bars, two panels a row; every panel has a scale of its own."""
    high = max(len(values) for _, values in panels) * ROW + 50
    parts = []
    for at, (title, values) in enumerate(panels):
        parts += _bars(at % 2 * (WIDTH + 20), at // 2 * high, title, values)
    return svg(2 * WIDTH + 20, (len(panels) + 1) // 2 * high, parts)


def _bars(left: float, top: float, title: str, values: Mapping[str, float]) -> list[str]:
    parts = [text(left, top + 20, title, "title")]
    scale = (WIDTH - NAMES - FIGURES) / max(max(values.values()), 1e-9)
    for row, (name, value) in enumerate(values.items()):
        y, wide, colour = top + 32 + row * ROW, value * scale, COLOURS[row % len(COLOURS)]
        shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        box = f'x="{left + NAMES:g}" y="{y:g}" width="{wide:.1f}" height="{ROW - 6}"'
        parts.append(text(left + NAMES - 6, y + 12, name, anchor="end"))
        parts.append(f'<rect {box} fill="{colour}"/>')
        parts.append(text(left + NAMES + wide + 5, y + 12, shown))
    return parts


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str, width: float = 560
) -> str:
    """Lines over one scale from 0, each with its name at its end."""
    height, left, base = 260.0, 50.0, 220.0
    across = max(px for points in lines.values() for px, _ in points)
    up = max(py for points in lines.values() for _, py in points)
    sx, sy = (width - left - 110) / across, (base - 25) / up
    parts = [
        f'<line class="axis" x1="{left}" y1="{base}" x2="{left + across * sx:g}" y2="{base}"/>',
        f'<line class="axis" x1="{left}" y1="25" x2="{left}" y2="{base}"/>',
        text(left, 15, y),
        text(left + across * sx / 2, base + 34, x, anchor="middle"),
    ]
    for tick in range(0, round(across) + 1, 50):
        parts.append(text(left + tick * sx, base + 16, f"{tick}", anchor="middle"))
    for tick in range(round(up) + 1):
        parts.append(text(left - 8, base - tick * sy + 4, f"{tick}", anchor="end"))
    for colour, (name, points) in zip(COLOURS[1:], lines.items(), strict=False):
        places = [(left + px * sx, base - py * sy) for px, py in points]
        way = " L".join(f"{px:.1f} {py:.1f}" for px, py in places)
        parts.append(f'<path d="M{way}" stroke="{colour}"/>')
        parts.append(text(places[-1][0] + 6, places[-1][1] + 4, name))
    return svg(width, height, parts)
