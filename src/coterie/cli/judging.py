"""Commands that judge routers: evaluate."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from coterie.cli.base import SeedOption, app


@app.command()
def evaluate(
    records: Annotated[str, typer.Argument(help="Folder of records.")],
    routers: Annotated[
        str,
        typer.Option(help="Routers, like 'knn(k=50),linear' or module:Attr; 'all' for every one."),
    ] = "knn,linear",
    policies: Annotated[
        str, typer.Option(help="Policies besides the highest expected quality, for every router.")
    ] = "",
    folds: Annotated[int, typer.Option(min=2, help="Parts that are held out in turn.")] = 5,
    group_by: Annotated[
        str | None, typer.Option(help="Also a table by 'category' or 'subject'.")
    ] = None,
    encoder: Annotated[str, typer.Option(help="Encoder of routers that name none.")] = "static",
    extract: Annotated[
        str, typer.Option(help="How votes read an answer: whole, choice, number, boxed, arrow.")
    ] = "whole",
    keep: Annotated[
        str, typer.Option(help="Experts to judge although they were observed too seldom.")
    ] = "",
    seed: SeedOption = 0,
    to_json: Annotated[
        str | None, typer.Option("--json", help="Also write JSON to this file; '-' prints it.")
    ] = None,
) -> None:
    """Judge routers by cross-validation against best single, votes, tables and oracles.

    Always printed: random, best single (chosen in training), static votes, the table by category,
    the default router, oracles and the oracle of an additive null, with paired intervals.

    Example: coterie evaluate records --routers knn,linear --group-by category --json panel.json
    """
    from rich.console import Console

    from coterie.answers import extractor
    from coterie.files import replace_file
    from coterie.panel import judge
    from coterie.panel.specs import make_entrants
    from coterie.panel.table import show
    from coterie.panel.values import check_group
    from coterie.records import Records

    check_group(group_by)
    entrants, default = make_entrants(routers, policies, encoder, extractor(extract))
    known = Records.read(records)
    with _progress() as report:
        panel = judge(
            known,
            entrants,
            folds,
            seed,
            default=default,
            keep=[name.strip() for name in keep.split(",") if name.strip()],
            extract=extractor(extract),
            tolerant=routers.strip() == "all",
            report=report,
        )
    facts = json.dumps(panel.to_dict(group_by), indent=1, ensure_ascii=False, allow_nan=False)
    if to_json == "-":
        print(facts)
        return
    if to_json is not None:
        replace_file(to_json, facts + "\n")
    show(panel, Console(), group_by)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr over folds and routers."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("baselines", total=None)
        yield lambda name, done, total: bars.update(
            task, description=name[:40], completed=done, total=total
        )
