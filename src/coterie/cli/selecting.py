"""Commands that choose what to own: select."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from coterie.cli.base import JsonOption, SeedOption, app
from coterie.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from coterie.records import Records
    from coterie.selection import Limits

Purpose = Literal["routing", "voting", "oracle"]
Measure = Literal["size", "parameters", "active", "cost"]
SHOWN, FURTHER = 15, 5  # points of a frontier, and further experts, printed for people


@app.command()
def select(
    records: Annotated[Path, typer.Argument(help="Folder of records.")],
    size: Annotated[int | None, typer.Option(min=1, help="Own at most so many experts.")] = None,
    params: Annotated[
        float | None, typer.Option(help="Own at most so many billions of parameters in total.")
    ] = None,
    active: Annotated[
        float | None, typer.Option(help="Use at most so many billions on an average query.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Spend at most so much on an average query.")
    ] = None,
    purpose: Annotated[
        Purpose, typer.Option("--for", help="What the experts are for.")
    ] = "routing",
    parameters: Annotated[
        list[str] | None,
        typer.Option("--parameters", help="NAME=BILLIONS of an expert; repeat for others."),
    ] = None,
    general: Annotated[
        float, typer.Option(min=0, max=0.99, help="Share of queries of uncertain category.")
    ] = 0.0,
    extract: Annotated[
        str, typer.Option(help="Where votes find the answer: whole, choice, boxed, number, arrow.")
    ] = "whole",
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Which experts to own: who answers which category within a budget, or who votes.

    Routing owns experts and gives each category to one of them, exactly; limits combine. Voting and
    oracle take --size only. The gain is cross-validated against the best single expert.

    Example: coterie select records --size 3
    """
    from coterie.records import Records
    from coterie.selection import Limits

    found = Records.read(records)
    if purpose != "routing":
        _check_plain(purpose, size, {"params": params, "active": active, "budget": budget})
        facts = _by_number(found, size or 1, purpose, extract, folds, seed)
    else:
        limits, sizes = Limits(size, params, active, budget), _sizes(found, parameters or [])
        kept, left_out = _measured(found, limits, sizes)
        facts = _by_category(kept, limits, sizes, general, folds, seed) | {"left_out": left_out}
    if as_json:
        import json

        print(json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        _show(facts)


def _check_plain(purpose: str, size: int | None, limits: dict[str, float | None]) -> None:
    """Voting and oracle know nothing but a number of experts."""
    for name, value in limits.items():
        if value is not None:
            message = f"--for {purpose} chooses by number; use --size, or --for routing"
            raise InputError(message, field=name)
    if size is None:
        raise InputError(f"--for {purpose} needs --size", field="size")


def _sizes(records: Records, given: list[str]) -> dict[str, float]:
    """Billions of parameters from the records, overridden by the options."""
    from coterie.selection import parameters_of

    sizes = parameters_of(records)
    for entry in given:
        name, _, value = entry.rpartition("=")
        if name not in records.experts:
            message = f"{entry!r} names no expert; there are {', '.join(records.experts)}"
            raise InputError(message, field="parameters")
        try:
            sizes[name] = float(value)
        except ValueError:
            message = f"expected NAME=BILLIONS, got {entry!r}"
            raise InputError(message, field="parameters") from None
        if not 0 < sizes[name] < float("inf"):
            raise InputError(f"expected a number above 0, got {value!r}", field="parameters")
    return sizes


def _measured(
    records: Records, limits: Limits, sizes: dict[str, float]
) -> tuple[Records, list[str]]:
    """The records of experts whose size or cost is known where it is limited; names of the rest."""
    import numpy as np

    unknown: set[str] = set()
    if limits.parameters is not None or limits.active is not None:
        unknown |= set(records.experts) - set(sizes)
        hint = "give some: --parameters NAME=BILLIONS"
    if limits.cost is not None:
        silent = np.flatnonzero(np.isnan(records.cost).all(axis=0))
        unknown |= {records.experts[j] for j in silent}
        hint = "leave --budget out"
    kept = [e for e in records.experts if e not in unknown]
    if not kept:
        raise InputError(f"the records hold none for any expert; {hint}", field=_measure(limits))
    return (records.select(kept) if unknown else records), sorted(unknown)


def _by_category(
    records: Records,
    limits: Limits,
    sizes: dict[str, float],
    general: float,
    folds: int,
    seed: int,
) -> dict[str, Any]:
    """Experts and mapping within the limits, the frontier, and what they are worth."""
    from coterie.selection import category_table, choose, cross_validate, frontier
    from coterie.selection.mapping import affordable
    from coterie.selection.subsets import Outcomes
    from coterie.selection.validation import marginal_values

    table = category_table(records, sizes, general)
    choice = choose(table, limits)
    by = _measure(limits)

    def again(training: Records) -> Any:
        made = choose(category_table(training, sizes, general), limits)
        return made.experts, made.scores

    checked = cross_validate(records, again, affordable(table, limits), folds, seed)
    outcomes = Outcomes.plain(records)
    values = marginal_values(outcomes, records, choice.experts, checked.chosen, "routing", seed)
    return {
        "for": "routing",
        "limits": limits._asdict(),
        "choice": choice.to_dict(),
        "frontier": {"by": by, "points": [c.to_dict() for c in frontier(table, by)]},
        "validation": checked.to_dict(),
        "marginal": values.to_dict(),
    }


def _measure(limits: Limits) -> Measure:
    """What the frontier is over: the first limit given that is not a number of experts."""
    if limits.parameters is not None:
        return "parameters"
    if limits.active is not None:
        return "active"
    return "size" if limits.cost is None else "cost"


def _by_number(
    records: Records, size: int, purpose: Purpose, extract: str, folds: int, seed: int
) -> dict[str, Any]:
    """The experts of largest value, what they are worth, and what others would add."""
    from coterie.answers import extractor
    from coterie.selection import choose_subset, marginal_values
    from coterie.selection.subsets import Outcomes
    from coterie.selection.validation import validate_subset

    outcomes = Outcomes.of(records, extractor(extract))
    subset = choose_subset(outcomes, size, purpose)
    checked = [
        validate_subset(outcomes, records, count, purpose, folds, seed).to_dict()
        for count in range(1, size + 1)
    ]
    chosen = checked[-1]["chosen"]
    values = marginal_values(outcomes, records, subset.experts, chosen, purpose, seed)
    choice = {"experts": list(subset.experts), "quality": subset.value, "method": subset.method}
    return {
        "for": purpose,
        "limits": {"size": size},
        "choice": choice,
        "sizes": [{"size": n, **facts} for n, facts in enumerate(checked, 1)],
        "validation": checked[-1],
        "marginal": values.to_dict(),
    }


def _show(facts: dict[str, Any]) -> None:
    """Print frontier, choice, mapping, values and gain for people."""
    from rich.console import Console

    out = Console(highlight=False, emoji=False)
    if "frontier" in facts:
        out.print(_frontier_table(facts["frontier"]))
    if "sizes" in facts:
        out.print(_size_table(facts["sizes"]))
    if facts.get("left_out"):
        names = ", ".join(facts["left_out"])
        out.print(f"left out, size or cost unknown: {names}", markup=False, soft_wrap=True)
    choice, checked = facts["choice"], facts["validation"]
    out.print(f"own: {', '.join(choice['experts'])}", markup=False, soft_wrap=True)
    for category, expert in choice.get("mapping", {}).items():
        out.print(f"  {category}: {expert}", markup=False, soft_wrap=True)
    out.print(_marginal_table(facts["marginal"]))
    low, high = checked["gain_ci"]
    out.print(
        f"in sample {choice['quality']:.3f}, held out {checked['quality']:.3f}; gain over the best "
        f"single expert {checked['gain']:+.3f} [{low:+.3f}, {high:+.3f}] on "
        f"{checked['queries']} queries{'' if low > 0 else ': does not beat it'}",
        soft_wrap=True,
    )


def _frontier_table(frontier: dict[str, Any]) -> Table:
    """Budgets that buy something, at most 15 of them, evenly taken."""
    from rich.table import Table
    from rich.text import Text

    points = frontier["points"]
    step = max(1, -(-len(points) // SHOWN))
    kept = [p for i, p in enumerate(points) if (len(points) - 1 - i) % step == 0]
    shown = f"{len(kept)} of {len(points)}" if len(kept) < len(points) else str(len(points))
    table = Table(title=f"frontier by {frontier['by']}: {shown} budgets", title_justify="left")
    for name in ("experts", "total B", "active B", "cost", "quality"):
        table.add_column(name, justify="right")
    table.add_column("own")
    for point in kept:
        values = (point["parameters"], point["active"], point["cost"])
        numbers = ["-" if v is None else f"{v:.4g}" for v in values]
        names, quality = point["experts"], f"{point['quality']:.4f}"
        table.add_row(str(len(names)), *numbers, quality, Text(", ".join(names)))
    return table


def _size_table(sizes: list[dict[str, Any]]) -> Table:
    """What choosing so many is worth on held-out queries, and how often the folds agree."""
    from rich.table import Table

    table = Table(title="held out, by number of experts", title_justify="left")
    for name in ("experts", "quality", "vs best single", "different choices"):
        table.add_column(name, justify="right")
    for row in sizes:
        low, high = row["gain_ci"]
        gain = f"{row['gain']:+.4f} [{low:+.4f}, {high:+.4f}]"
        different = len({tuple(names) for names in row["chosen"]})
        folds = f"{different} in {len(row['chosen'])} folds"
        table.add_row(str(row["size"]), f"{row['quality']:.4f}", gain, folds)
    return table


def _marginal_table(marginal: dict[str, Any]) -> Table:
    """What each owned expert adds, and the best of those that could be added.

    ``folds`` is how many folds chose it too, without the queries that judge it.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title="held-out value of one expert", title_justify="left")
    table.add_column("expert")
    table.add_column("now")
    table.add_column("folds", justify="right")
    table.add_column("adds", justify="right")
    table.add_column("95 %", justify="right")
    for name, most in (("owned", SHOWN), ("further", FURTHER)):
        for expert, fact in list(marginal[name].items())[:most]:
            value, bounds = "-", "judged in no fold"
            if fact["gain"] is not None:
                low, high = fact["ci"]
                value, bounds = f"{fact['gain']:+.4f}", f"{low:+.4f} .. {high:+.4f}"
            table.add_row(Text(expert), name, str(fact["chosen_in_folds"]), value, bounds)
    return table
