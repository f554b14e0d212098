"""What ``coterie evaluate --off-policy`` prints."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coterie.cli.keys import aligned, moment, plain
from coterie.errors import CoterieError

if TYPE_CHECKING:
    from coterie.gateway.rerouting import Rerouted
    from coterie.offpolicy import Comparison, Value


def judge_log(
    log: str,
    router: Path | None,
    willingness_to_pay: float | None,
    since: str | None,
    overlap_only: bool,
    to_json: str | None,
) -> None:
    """Judge a router on logged decisions; print tables, write JSON to a file or print it ("-")."""
    from coterie.files import replace_file
    from coterie.gateway.exporting import read_log
    from coterie.gateway.rerouting import reroute
    from coterie.offpolicy import OverlapError
    from coterie.routers.base import load_router

    if router is None:
        raise CoterieError("--off-policy judges one fitted router; name its folder with --router")
    worth = math.inf if willingness_to_pay is None else willingness_to_pay
    if not worth > 0:
        raise CoterieError(f"--willingness-to-pay {worth}: expected a number above 0")
    start = 0.0 if since is None else moment(since, -1, "since")
    seen = reroute(read_log(log, since=start), load_router(router), worth)
    try:
        found = seen.compare(overlap_only)
    except OverlapError as error:
        raise CoterieError(f"{error} (--overlap-only)") from None
    facts = found.to_dict() | {"left_out": dict(seen.left_out), "coverage": seen.coverage()}
    facts |= {"willingness_to_pay": willingness_to_pay, "judged": found.requests / len(seen.log)}
    document = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False)
    if to_json == "-":
        print(document)
        return
    if to_json is not None:
        replace_file(to_json, document + "\n")
    print("\n".join(_page(found, seen, worth)))


def _page(found: Comparison, seen: Rerouted, worth: float) -> Iterator[str]:
    price = "" if math.isinf(worth) else f" less cost / {worth:g}"
    share = found.scored / found.requests
    yield (
        f"{found.requests:,} requests, {found.scored:,} with a score ({share:.0%}); reward: the "
        f"latest score{price}"
    )
    if (rest := len(seen.log) - found.requests) > 0:
        yield f"{rest:,} requests do not overlap and are not judged"
    for reason, count in seen.left_out.items():
        yield f"left out: {count:,} requests ({reason})"
    rows = [(name, *_cells(value)) for name, value in found.values.items()]
    rows += [("logged policy", *_cells(found.logged)), ("difference", *_cells(found.difference))]
    yield ""
    yield aligned(("estimator", "value", "95 %", "error"), rows)
    yield ""
    for name, table in seen.coverage().items():
        yield _table(name.removesuffix("s"), table)
        yield ""
    yield (
        f"the weights are worth {found.effective:,.0f} requests, the largest is "
        f"{found.max_weight:.3g}, their mean {found.mean_weight.value:.3f} (1 is right)"
    )
    yield f"the router does what was done on {found.agreement:.0%} of the requests"
    yield from (f"doubtful: {doubt}" for doubt in found.doubts)
    yield _verdict(found)


def _cells(value: Value) -> tuple[str, str, str]:
    error = f"{value.error:.4f}" if math.isfinite(value.error) else ""
    known = math.isfinite(value.low)
    return f"{value.value:.4f}", f"{value.low:.4f} .. {value.high:.4f}" if known else "", error


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    head = (name, *[key for key in rows[0] if key != "name"])
    return aligned(head, [[_cell(row[key]) for key in row] for row in rows])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return plain(f"{value:,}" if isinstance(value, int) else str(value or "-"))


def _verdict(found: Comparison) -> str:
    """In a sentence, by the doubly robust estimate, as declared in advance."""
    low, high = found.difference.low, found.difference.high
    interval = f"[{low:+.4f}, {high:+.4f}]"
    if not found.shown:
        return (
            f"no difference shown: the router's value less the logged policy's is within "
            f"{interval}, which includes 0"
        )
    word = "more" if low > 0 else "less"
    gain = abs(found.difference.value)
    return f"the router would have earned {gain:.4f} {word} a request than what was done {interval}"
