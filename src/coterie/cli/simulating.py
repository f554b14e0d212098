"""Commands that simulate serving: simulate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.base import JsonOption, SeedOption, app, show

if TYPE_CHECKING:
    from coterie.simulation import Trace

GIGABYTE = 1e9
SPANS = (1, 4, 16, 64, 256)  # steps a segment, and requests grouped


@app.command()
def simulate(
    trace: Annotated[
        str | None,
        typer.Option(help="Records to replay a router's choices from, instead of the nodes."),
    ] = None,
    experts: Annotated[
        str | None, typer.Option(help="Only these experts of the records, split by commas.")
    ] = None,
    counts: Annotated[
        str, typer.Option(help="Numbers of experts on the nodes, split by commas.")
    ] = "10,20,30,40,50,60,80,100,120,140,150,200,400,850",
    size: Annotated[float, typer.Option(help="Gigabytes of an expert on the nodes.")] = 13.5,
    batch: Annotated[int, typer.Option(min=1, help="Prompts a batch on the nodes.")] = 8,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens generated a prompt there.")] = 20,
    router: Annotated[
        str, typer.Option(help="Router of the trace, like 'linear' or 'knn(k=50)' or module:Attr.")
    ] = "linear",
    recruits: Annotated[int, typer.Option(min=1, help="Experts recruited for each request.")] = 3,
    requests: Annotated[int, typer.Option(min=1, help="Requests replayed, at most.")] = 3000,
    capacities: Annotated[
        str, typer.Option(help="Experts that fit on the device, split by commas.")
    ] = "4,6,8",
    window: Annotated[int, typer.Option(min=1, help="Requests of the queue that are known.")] = 16,
    patience: Annotated[
        int, typer.Option(min=1, help="How often a request is overtaken at most, if at all.")
    ] = 15,
    load_seconds: Annotated[float, typer.Option(min=0, help="Seconds to load an expert.")] = 1.0,
    work_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds an expert works on a request.")
    ] = 1.0,
    utilization: Annotated[
        float, typer.Option(help="Share of the time that a server under LRU would be busy.")
    ] = 0.95,
    report: Annotated[
        Path | None, typer.Option(help="Write the tables and curves to this HTML file.")
    ] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Serving many experts from little memory: on three published nodes, or for your own requests.

    Alone: the latency of a batch against the number of equal experts on an SN40L node, a DGX A100
    and a DGX H100. With --trace: a router learns from half of the records and recruits for the
    other half; hit rates, loads and waits under several eviction rules follow.

    Example: coterie simulate --trace records --router linear --capacities 4,8 --window 16
    """
    if trace is None:
        facts = _nodes(_numbers(counts, "counts"), size * GIGABYTE, batch, tokens, seed)
    else:
        sizes = _numbers(capacities, "capacities")
        found = _trace(trace, experts, router, recruits, requests, seed)
        timing = {"load": load_seconds, "work": work_seconds, "utilization": utilization}
        queue = {"window": window, "patience": patience, "seed": seed}
        facts = {"schema": 1, "source": trace, "router": router, **_metrics(found, seed)}
        facts |= {"settings": {**timing, **queue}}
        facts["capacities"] = [_capacity(found, one, timing, queue) for one in sizes]
        facts["curves"] = _curves(found, window)
    if report is not None:
        from coterie.files import replace_file

        replace_file(report, _page(facts))
    text = _node_text(facts) if trace is None else _trace_text(facts)
    show(facts, as_json, text if report is None else f"{text}\n\nreport: {report}")


def _numbers(text: str, field: str) -> list[int]:
    """Positive numbers in the order given; raises InputError for anything else."""
    from coterie.errors import InputError

    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and int(part) for part in parts):
        message = f"expected numbers of at least 1, split by commas, got {text!r}"
        raise InputError(message, field=field)
    return list(dict.fromkeys(map(int, parts)))


def _nodes(
    experts: Sequence[int], size: float, batch: int, tokens: int, seed: int
) -> dict[str, Any]:
    from coterie.errors import InputError
    from coterie.simulation import NODES, batch_latency

    if not size > 0:
        raise InputError(f"expected gigabytes above 0, got {size / GIGABYTE:g}", field="size")
    nodes = [
        {"name": n.name, "fits": n.fits(size), "holds": n.holds(size), "copy": n.copy(size)}
        for n in NODES
    ]
    rows = [
        batch_latency(n, m, size, batch, tokens, seed)._asdict() for m in experts for n in NODES
    ]
    settings = {"size": size, "batch": batch, "tokens": tokens}
    return {"schema": 1, "settings": settings, "nodes": nodes, "latencies": rows}


def _node_table(facts: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    nodes = facts["nodes"]
    cells = {(row["experts"], row["node"]): row["seconds"] for row in facts["latencies"]}
    counts = dict.fromkeys(row["experts"] for row in facts["latencies"])
    rows = [[str(m), *(_seconds(cells[m, node["name"]]) for node in nodes)] for m in counts]
    rows.append(["fit on the device", *(f"{node['fits']}" for node in nodes)])
    rows.append(["fit into the host", *(f"{node['holds']}" for node in nodes)])
    rows.append(["seconds of a copy", *(f"{node['copy']:.4f}" for node in nodes)])
    return ["experts", *(node["name"] for node in nodes)], rows


def _node_title(facts: Mapping[str, Any]) -> str:
    settings = facts["settings"]
    what = "{batch} prompts of {tokens} tokens".format(**settings)
    return f"Seconds for {what}, experts of {settings['size'] / GIGABYTE:g} GB"


def _node_text(facts: Mapping[str, Any]) -> str:
    return "\n".join([_node_title(facts), "", *_aligned(*_node_table(facts))])


def _seconds(value: float | None) -> str:
    return "out of memory" if value is None else f"{value:.2f}"


def _trace(
    source: str, experts: str | None, router: str, recruits: int, requests: int, seed: int
) -> Trace:
    from coterie.errors import InputError
    from coterie.formats import read_records
    from coterie.panel.specs import parse_specs, router_factory
    from coterie.simulation import recruit_trace

    specs = parse_specs(router)
    if len(specs) != 1:
        raise InputError(f"expected one router, got {router!r}", field="router")
    records, make = read_records(source), router_factory(specs[0], "static")
    names = [part.strip() for part in (experts or "").split(",") if part.strip()]
    kept = records.select(names) if names else records
    return recruit_trace(kept, make, recruits, requests, seed)


def _metrics(trace: Trace, seed: int) -> dict[str, Any]:
    from coterie.traces import grouped_loads, load_balance, segment_routing

    balance = load_balance(trace.steps, len(trace.experts))
    spans = [m for m in SPANS if 1 < m <= len(trace.steps)]
    return {
        "requests": len(trace.steps),
        "experts": list(trace.experts),
        "shares": balance.shares.tolist(),
        "entropy": balance.entropy,
        "imbalance": balance.imbalance,
        "srp": [
            {"m": m, **segment_routing(trace.steps, len(trace.experts), m, seed)._asdict()}
            for m in spans
        ],
        "grouped": [
            {"window": window, "loads_per_1000": grouped_loads(trace.steps, window)}
            for window in SPANS
        ],
    }


def _capacity(
    trace: Trace, capacity: int, timing: Mapping[str, float], queue: Mapping[str, int]
) -> dict[str, Any]:
    from coterie.simulation import compare_queues, compare_rules

    arrival = [
        {**_loads(one.replay), "rule": one.rule, "gap_closed": one.gap_closed}
        for one in compare_rules(trace, capacity, queue["window"])
    ]
    services = compare_queues(trace, capacity, **timing, **queue)  # type: ignore[arg-type]
    live = [
        {
            **_loads(one.replay),
            "rule": name,
            "mean_wait": float(one.waits.mean()),
            "longest_wait": float(one.waits.max()),
            "overtaken": one.overtaken,
        }
        for name, one in services.items()
    ]
    return {"capacity": capacity, "known_window": arrival, "live_queue": live}


def _loads(replay: Any) -> dict[str, Any]:
    rates = {"hit_rate": replay.hit_rate, "warm_hit_rate": replay.warm_hit_rate}
    return {"rule": "", **rates, "loads": replay.loads}


def _curves(trace: Trace, window: int) -> dict[str, list[float]]:
    """Hit rates of every rule at every capacity from 1, cold fills as misses."""
    from coterie.traces import RULES, hit_curve

    return {
        rule: [one.hit_rate for one in hit_curve(trace.steps, len(trace.experts), rule, window)]
        for rule in RULES
    }


def _trace_text(facts: Mapping[str, Any]) -> str:
    settings = facts["settings"]
    lines = [
        f"{facts['requests']} requests to {len(facts['experts'])} experts, recruited by "
        f"{facts['router']}",
        f"entropy {facts['entropy']:.2f} bits, imbalance {facts['imbalance']:.2f}",
        *(
            f"SRP({one['m']}) {one['srp']:.3f} ({one['low']:.3f} to {one['high']:.3f})"
            for one in facts["srp"]
        ),
        "loads per 1000 requests, grouped in windows: "
        + ", ".join(f"{one['window']}: {one['loads_per_1000']:.0f}" for one in facts["grouped"]),
    ]
    for one in facts["capacities"]:
        known = f"room for {one['capacity']}, the next {settings['window']} requests always known"
        lines += ["", known, *_aligned(*_known_table(one["known_window"]))]
        live = (
            f"room for {one['capacity']}, live queue, {settings['utilization']:.0%} busy under LRU"
        )
        lines += ["", live, *_aligned(*_live_table(one["live_queue"]))]
    return "\n".join(lines)


def _known_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    head = ["rule", "hit rate", "cold as hits", "loads", "gap closed"]
    shapes = {"hit_rate": ".3f", "warm_hit_rate": ".3f", "loads": "d", "gap_closed": ".1%"}
    return head, [[row["rule"], *_shown(row, shapes)] for row in rows]


def _live_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    head = ["rule", "hit rate", "loads", "mean wait, s", "longest", "overtaken"]
    shapes = {"hit_rate": ".3f", "loads": "d", "mean_wait": ".1f", "longest_wait": ".1f"}
    return head, [[row["rule"], *_shown(row, {**shapes, "overtaken": "d"})] for row in rows]


def _shown(row: Mapping[str, Any], shapes: Mapping[str, str]) -> list[str]:
    return [format(row[key], shape) for key, shape in shapes.items()]


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"  {name:<22}" + "".join(f"{text:>15}" for text in rest) for name, *rest in (head, *rows)
    ]


def _page(facts: Mapping[str, Any]) -> str:
    """One HTML file that makes no request."""
    from coterie.page import page, section, table, tag

    parts = [tag("h1", "Many experts, little memory")]
    if "nodes" in facts:
        drawn = _plot("nodes", _node_figure(facts))
        parts.append(section(_node_title(facts), drawn + table(*_node_table(facts), 1)))
        return page("\n".join(parts))
    parts.append(section("Hit rate against capacity", _plot("curves", _curve_figure(facts))))
    for one in facts["capacities"]:
        tables = tag("p", f"The next {facts['settings']['window']} requests always known:")
        tables += table(*_known_table(one["known_window"]), 1)
        tables += tag("p", "Live queue:") + table(*_live_table(one["live_queue"]), 1)
        parts.append(section(f"Room for {one['capacity']} experts", tables))
    return page("\n".join(parts))


def _plot(name: str, figure: dict[str, Any]) -> str:
    from coterie.figures import embed

    return embed(name, figure)


def _node_figure(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds against experts; a line ends where the next count is out of memory."""
    lines = {
        node["name"]: [
            (row["experts"], row["seconds"])
            for row in sorted(facts["latencies"], key=lambda row: int(row["experts"]))
            if row["node"] == node["name"] and row["seconds"] is not None
        ]
        for node in facts["nodes"]
    }
    return _line_figure(lines, "number of experts", "seconds a batch", logarithmic=True)


def _curve_figure(facts: Mapping[str, Any]) -> dict[str, Any]:
    lines = {rule: list(enumerate(rates, 1)) for rule, rates in facts["curves"].items()}
    return _line_figure(lines, "experts on the device", "hit rate, cold fills as misses")


def _line_figure(
    lines: Mapping[str, Sequence[tuple[int, float]]], x: str, y: str, logarithmic: bool = False
) -> dict[str, Any]:
    data = [
        {"type": "scatter", "mode": "lines+markers", "name": name}
        | {"x": [point[0] for point in points], "y": [point[1] for point in points]}
        for name, points in lines.items()
    ]
    clear = "rgba(0,0,0,0)"
    layout = {
        **{"height": 460, "paper_bgcolor": clear, "plot_bgcolor": clear},
        "margin": {"l": 10, "r": 24, "t": 20, "b": 10},
        "xaxis": {"title": {"text": x}, "type": "log" if logarithmic else "linear"}
        | {"automargin": True},
        "yaxis": {"title": {"text": y}, "rangemode": "tozero", "automargin": True},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    }
    return {"data": data, "layout": layout}
