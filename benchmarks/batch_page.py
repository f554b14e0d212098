"""Puts the figures of batch.json into docs/fifty-experts.md, and draws its two plots.

    python benchmarks/batch_page.py --results benchmarks/results/batch.json --docs docs

Only what is between ``<!-- figures: NAME -->`` and ``<!-- end -->`` is replaced, so no figure is
typed by hand. Without results the blocks say how to make them.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from plots import bars, curves

from coterie.files import replace_file
from coterie.simulation import NODES, batch_latency

Found: TypeAlias = Mapping[str, Any]
PAGE, WAYS, KNEE = "fifty-experts.md", "fifty-experts.svg", "fifty-experts-knee.svg"
MISSING = "Not measured yet: `make bench-batch` fills this in."
BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
POOLS = {"embedded": "embedded pool", "larger": "larger experts, untrained"}
ROWS = (  # key, what it is, goal
    ("wall_over_ideal", "wall time over the ideal", "≤ 1.05"),
    ("speedup_vs_naive", "times faster than question by question", "≥ 5"),
    ("loads", "loads", "the next row"),
    ("distinct_experts", "distinct experts", ""),
    ("lookahead_gap_closed", "LRU's gap to Belady closed by look-ahead", "≥ 0.75"),
    ("overhead_us_per_call", "driver's own time a call, µs", "≤ 50"),
    ("rss_growth_mb", "memory, a million questions over ten thousand, MB", "≤ 300"),
    ("journal_share", "journal's share of the wall time", "≤ 0.03"),
)


def refreshed(page: str, found: Found | None) -> str:
    """The page with its blocks made anew; KeyError for a block of unknown name."""

    def fill(match: re.Match[str]) -> str:
        lines = BLOCKS[match[2]](found) if found else [MISSING]
        return f"{match[1]}\n" + "\n".join(lines) + f"\n\n{match[3]}"

    return BLOCK.sub(fill, page)


def goals(found: Found) -> list[str]:
    lines = ["| | measured | goal | |", "|---|--:|--:|---|"]
    for key, name, goal in ROWS:
        reached = {True: "met", False: "missed", None: ""}[found["met"].get(key)]
        lines.append(f"| {name} (`{key}`) | {number(found[key])} | {goal} | {reached} |")
    machine = found["machine"]
    load = f"{machine['cores']} cores, load {machine['load']:.1f} at the start"
    return [*lines, "", f"Measured on {load}, Python {machine['python']}."]


def lanes(found: Found) -> list[str]:
    one, naive = found["details"]["lanes"], found["details"]["lanes"]["naive"]
    few = naive["questions"]
    return [
        "| | seconds | loads |",
        "|---|--:|--:|",
        f"| ideal, room for two | {number(one['ideal_s'])} | {one['distinct_experts']} |",
        f"| batch driver, room for two | {number(one['wall_s'])} | {one['loads']} |",
        f"| ideal, room for one | {number(one['serial_ideal_s'])} | {one['distinct_experts']} |",
        f"| batch driver, room for one | {number(one['serial_wall_s'])} | |",
        f"| first {few} questions, one by one | {number(naive['seconds'])} | {naive['loads']} |",
        f"| first {few} questions, batch driver | {number(naive['grouped_seconds'])} "
        f"| {naive['grouped_loads']} |",
        "",
        f"{one['questions']:,} questions, {one['calls']:,} calls. Run over ideal, one pair after "
        f"the other: {', '.join(number(ratio) for ratio in one['ratios'])}; with room for one "
        f"{number(one['wall_over_serial_ideal'])}.",
    ]


def ways(found: Found) -> list[str]:
    lines = ["| pool | way | loads | seconds |", "|---|---|--:|--:|"]
    for pool, name in POOLS.items():
        for way, one in found["details"][pool]["ways"].items():
            lines.append(f"| {name} | {way} | {one['loads']} | {number(one['seconds'])} |")
    for pool, name in POOLS.items():
        one = found["details"][pool]
        files, sizes = (" to ".join(map(number, one[k])) for k in ("file_mb", "measured_mb"))
        lines += [
            "",
            f"{name.capitalize()}: {one['experts']} experts, files of {files} MB that take {sizes} "
            f"MB of memory; room for {number(one['room_mb'])} MB; {one['requests']} requests, "
            f"{one['calls']} calls to {one['distinct_experts']} experts.",
        ]
    return [*lines, "", f"![Loads and seconds of four ways]({WAYS})"]


def fifty(found: Found) -> list[str]:
    one = found["details"]["fifty"]
    return [
        f"{one['questions']:,} questions over {one['experts']} experts with room for "
        f"{one['room']}: {one['loads']} loads in {number(one['seconds'])} s; question by question "
        f"with the same room it would be {one['naive_loads']:,} loads. All processes together took "
        f"{number(one['early_mb'])} MB early in the run, {number(one['late_mb'])} MB late, "
        f"{number(one['peak_mb'])} MB at most.",
    ]


def overhead(found: Found) -> list[str]:
    lines = ["| run | calls | µs a call | CPU µs a call | peak MB |", "|---|--:|--:|--:|--:|"]
    for name, one in found["details"]["overhead"]["runs"].items():
        times = f"{number(one['us_per_call'])} | {number(one['cpu_us_per_call'])}"
        lines.append(f"| {name} | {one['calls']:,} | {times} | {number(one['peak_mb'])} |")
    return lines


def journal(found: Found) -> list[str]:
    one = found["details"]["journal"]
    lines = ["| commit of | journal | add, µs | find, µs | open, s | bytes |", f"|{'---|' * 6}"]
    groups = {name: facts for name, facts in one.items() if name.startswith("group ")}
    for group, sides in groups.items():
        for side, facts in sides.items():
            keys = ("add_us", "find_us", "open_s", "bytes_per_completion")
            values = " | ".join(number(facts[key]) for key in keys)
            lines.append(f"| {group.removeprefix('group ')} | {side} | {values} |")
    slower = [
        f"{number(sides['sqlite'][key] - sides['segments'][key])} µs to {key.removesuffix('_us')}"
        for sides in groups.values()
        for key in ("add_us", "find_us")
    ]
    share = number(100 * found["journal_share"])
    run = found["details"]["lanes"]
    return [
        *lines,
        "",
        f"{one['completions']:,} completions. SQLite minus segments, in the order of the table: "
        f"{', '.join(slower)}. On the embedded pool the SQLite journal takes {share} % of the wall "
        f"time, {number(run['journal_us_per_call'])} µs a call "
        f"({number(run['journal_cpu_us_per_call'])} µs of CPU), "
        f"{number(run['completions_per_commit'])} completions a commit.",
    ]


BLOCKS: dict[str, Callable[[Found], list[str]]] = {
    block.__name__: block for block in (goals, lanes, ways, fifty, overhead, journal)
}


def number(value: float | None) -> str:
    """Three figures for people, four from 1 to 2, where ratios are compared with their goals."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.4g}" if 1 <= abs(value) < 2 else f"{value:.3g}"


def plot_ways(found: Found) -> str:
    """Loads and seconds of every way, for both pools."""
    panels = []
    for pool, name in POOLS.items():
        served = found["details"][pool]["ways"]
        for key in ("loads", "seconds"):
            panels.append((f"{name}: {key}", {way: one[key] for way, one in served.items()}))
    return bars(panels)


def plot_knee() -> str:
    """Seconds of a batch over the number of experts, for the three published nodes."""
    lines: dict[str, Sequence[tuple[float, float]]] = {}
    for node in NODES:
        latencies = ((experts, batch_latency(node, experts)) for experts in range(10, 171, 10))
        lines[node.name] = [(x, one.seconds) for x, one in latencies if one.seconds is not None]
    return curves(lines, "experts", "seconds a batch")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/batch.json"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    args = parser.parse_args()
    found = json.loads(args.results.read_text()) if args.results.exists() else None
    page = args.docs / PAGE
    replace_file(page, refreshed(page.read_text(encoding="utf-8"), found))
    replace_file(args.docs / KNEE, plot_knee())
    if found:
        replace_file(args.docs / WAYS, plot_ways(found))


if __name__ == "__main__":
    main()
