"""Commands at the scale of RouterEval: scale."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.base import JsonOption, SeedOption, app, check_file, show

if TYPE_CHECKING:
    from coterie.scaling import Curve
    from coterie.scaling.baselines import Cell
    from coterie.scaling.sources import Source

POINTS = 300  # of a curve that are drawn


@app.command()
def scale(
    source: Annotated[
        Path,
        typer.Argument(help="Folder of records, folder of coterie.synthetic, or .npy of scores."),
    ],
    experts: Annotated[
        str | None, typer.Option(help="Only these experts of the records, split by commas.")
    ] = None,
    sizes: Annotated[
        str, typer.Option("--sizes", "-m", help="Numbers of candidates, split by commas.")
    ] = "3,5,10,100,1000",
    routers: Annotated[
        bool, typer.Option("--routers", help="Also train RouterEval's baselines on its groups.")
    ] = False,
    published: Annotated[
        bool,
        typer.Option("--published", help="Train networks as published: one query at a time, slow."),
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Write the curves to this HTML file.")] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Judge on this Ray cluster: local, auto or HOST:PORT."),
    ] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Quality against the number of candidate experts: oracle, r_o(0.5), random, and routers.

    The curves are exact expectations over random candidates. With --routers, RouterEval's candidate
    groups (all_strong, all_weak, strong_to_weak) are built and its baseline routers judged on a
    tenth of the items.

    Example: coterie scale records --sizes 3,5,10 --routers --plot scale.html
    """
    from coterie.files import replace_file
    from coterie.scaling import scaling_curve
    from coterie.scaling.sources import open_source

    if plot is not None:
        check_file(plot, "--plot", source)
    found = open_source(source, _listed(experts))
    curve = scaling_curve(found.matrix)
    asked = _numbers(sizes)
    wanted = [m for m in asked if m <= found.matrix.experts]
    cells = _judged(found, wanted, published, seed, ray) if routers else []
    if plot is not None:
        replace_file(plot, _page(curve, cells))
    facts = {
        "schema": 1,
        "source": str(source),
        "items": curve.items,
        "skipped": curve.skipped,
        "experts": found.matrix.experts,
        "too_large": [m for m in asked if m not in wanted],
        "random": curve.random,
        "curve": _rows(curve, wanted),
        "routers": [cell.to_dict() for cell in cells],
    }
    show(facts, as_json, _text(facts, cells, plot))


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _numbers(text: str) -> list[int]:
    """Positive numbers in the order given; raises InputError for anything else."""
    from coterie.errors import InputError

    parts = _listed(text)
    if not parts or not all(part.isdecimal() and int(part) for part in parts):
        message = f"expected numbers of at least 1, split by commas, got {text!r}"
        raise InputError(message, field="sizes")
    return list(dict.fromkeys(map(int, parts)))


def _judged(
    source: Source, sizes: Sequence[int], published: bool, seed: int, ray: str | None
) -> list[Cell]:
    from coterie.errors import InputError
    from coterie.scaling import candidate_groups, feasible_sizes, split_rows
    from coterie.scaling.baselines import judge_baselines

    if source.vectors is None:
        message = "holds scores alone; routers need texts or embeddings.npy beside them"
        raise InputError(message, path=source.matrix.path)
    groups = candidate_groups(source.matrix, feasible_sizes(source.matrix, sizes), seed=seed)
    parts = split_rows(source.categories, groups=source.groups)
    variant = "published" if published else "minibatch"
    vectors = source.vectors()
    judge: Callable[..., Iterable[Cell]] = judge_baselines
    if ray is not None:
        from coterie.scaling.distributed import judge_on_ray

        judge = partial(judge_on_ray, ray)
    return list(judge(source.matrix, vectors, groups, parts, variant=variant, seed=seed))


def _rows(curve: Curve, sizes: Sequence[int]) -> list[dict[str, Any]]:
    shown = sorted({1, *sizes, len(curve.oracle)})
    half = curve.mixed(0.5)
    return [
        {"m": m, "oracle": float(curve.oracle[m - 1]), "r_o(0.5)": float(half[m - 1])}
        for m in shown
    ]


def _text(facts: dict[str, Any], cells: Sequence[Cell], plot: Path | None) -> str:
    lines = [f"{facts['items']} items, {facts['experts']} experts, random {facts['random']:.4f}"]
    if facts["skipped"]:
        lines.append(f"{facts['skipped']} items without a score of every expert were left out")
    if facts["too_large"]:
        lines.append(f"more than there are experts: {', '.join(map(str, facts['too_large']))}")
    lines += ["", f"{'m':>6} {'oracle':>8} {'r_o(0.5)':>9}   of m random experts, exact"]
    lines += [f"{r['m']:>6} {r['oracle']:>8.4f} {r['r_o(0.5)']:>9.4f}" for r in facts["curve"]]
    lines += _cell_lines(cells)
    if plot is not None:
        lines += ["", f"curves: {plot}"]
    return "\n".join(lines)


def _cell_lines(cells: Sequence[Cell]) -> list[str]:
    """One line a router and group; E_p is a dash where a router has no chances."""
    if not cells:
        return []
    lines = ["", f"{'group':<15} {'m':>5} {'router':<31} {'mu':>6} {'V_B':>6} {'E_p':>6}"]
    for cell in cells:
        name = f"{cell.router} ({cell.variant})" if cell.variant else cell.router
        bias = "–" if cell.bias != cell.bias else f"{cell.bias:.2f}"
        figures = f"{cell.quality:>6.4f} {cell.against_best:>6.3f} {bias:>6}"
        lines.append(f"{cell.kind:<15} {cell.size:>5} {name:<31} {figures}")
    return lines


def _page(curve: Curve, cells: Sequence[Cell]) -> str:
    """One HTML file that makes no request: quality against m on a logarithmic axis."""
    from plotly.io import to_html

    axis = {"title": {"text": "number of candidates m"}, "type": "log"}
    quality = {"title": {"text": "quality"}, "rangemode": "tozero"}
    layout = {"xaxis": axis, "yaxis": quality, "height": 640}
    figure = {"data": [*_lines(curve), *_points(cells)], "layout": layout}
    page: str = to_html(figure, include_plotlyjs=True, full_html=True, validate=False)
    return page


def _lines(curve: Curve) -> list[dict[str, Any]]:
    import numpy as np

    top = len(curve.oracle)
    sizes = np.unique(np.geomspace(1, top, min(POINTS, top)).round().astype(int))
    named = {"oracle": 1.0, "r_o(0.5)": 0.5, "random": 0.0}
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"{name} of m random experts",
            "x": sizes.tolist(),
            "y": curve.mixed(p)[sizes - 1].tolist(),
        }
        for name, p in named.items()
    ]


def _points(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A line a router and kind of group, through its sizes."""
    found: dict[str, dict[str, Any]] = {}
    for cell in cells:
        name = f"{cell.router}, {cell.kind}"
        new: dict[str, Any] = {"type": "scatter", "mode": "lines+markers", "name": name}
        trace = found.setdefault(name, {**new, "x": [], "y": [], "visible": "legendonly"})
        trace["x"].append(cell.size)
        trace["y"].append(cell.quality)
        if cell.kind == "strong_to_weak":
            trace["visible"] = True
    return list(found.values())
