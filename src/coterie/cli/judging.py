"""Commands that judge routers: evaluate."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.base import SeedOption, app, check_file

if TYPE_CHECKING:
    from coterie.panel import Entrant, Panel
    from coterie.panel.trials import Report
    from coterie.panel_report import HeldOut
    from coterie.records import Records


@app.command()
def evaluate(
    records: Annotated[str, typer.Argument(help="Folder of records.")] = "",
    routers: Annotated[
        str,
        typer.Option(help="Routers, like 'knn(k=50),linear' or module:Attr; 'all' for every one."),
    ] = "knn,linear",
    policies: Annotated[
        str,
        typer.Option(
            help="Policies besides the highest expected quality, for every router. 'certified' is "
            "calibrated on a quarter of the training records, which its router does not see."
        ),
    ] = "",
    compositions: Annotated[
        str,
        typer.Option(
            help="Compositions that the default router leads, answered from the records; 'all' for "
            "every one. Those whose calls were not recorded are named."
        ),
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
    jobs: Annotated[
        int, typer.Option(min=1, help="Processes that share the folds; the results are the same.")
    ] = 1,
    to_json: Annotated[
        str | None, typer.Option("--json", help="Also write JSON to this file; '-' prints it.")
    ] = None,
    to_report: Annotated[
        str | None,
        typer.Option("--report", help="Also write one HTML page with figures to this file."),
    ] = None,
    transfer: Annotated[
        bool, typer.Option("--transfer", help="Also hold out whole categories.")
    ] = False,
    cold_start: Annotated[
        bool, typer.Option("--cold-start", help="Also learn new experts from few labels; slow.")
    ] = False,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Also perturb the questions and count flips.")
    ] = False,
    off_policy: Annotated[
        str | None,
        typer.Option(
            help="Instead of RECORDS, a gateway's log: its store, or what 'log export' wrote. "
            "Estimates what --router would have earned on it."
        ),
    ] = None,
    router: Annotated[
        Path | None, typer.Option(help="With --off-policy: folder written by 'coterie fit'.")
    ] = None,
    willingness_to_pay: Annotated[
        float | None,
        typer.Option(
            "--willingness-to-pay", "-w", help="With --off-policy: what a score of 1 is worth."
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="With --off-policy: a time ago like 7d, or a date.")
    ] = None,
    overlap_only: Annotated[
        bool,
        typer.Option(
            "--overlap-only",
            help="With --off-policy: judge only requests on which the log's choice was open.",
        ),
    ] = False,
) -> None:
    """Judge routers by cross-validation against best single, votes, tables and oracles.

    Always printed: random, best single (chosen in training), static votes, the table by category,
    the default router, oracles and the oracle of an additive null, with paired intervals.

    Where every question compares two of several experts, rankings are judged instead: log loss
    and accuracy on held-out battles, against one Bradley-Terry ranking for all questions.

    With --off-policy LOG --router FOLDER: what that router would have earned on logged traffic, by
    IPS, SNIPS and doubly robust estimates; refused where the log left nothing to chance.

    Example: coterie evaluate records --routers knn,linear --group-by category --json panel.json
    """
    from rich.console import Console

    from coterie.answers import extractor
    from coterie.cli.rerouting import judge_log
    from coterie.errors import CoterieError
    from coterie.files import replace_file
    from coterie.panel import judge
    from coterie.panel.battles import is_pairwise
    from coterie.panel.composing import composition_entrants
    from coterie.panel.specs import make_entrants
    from coterie.panel.table import show
    from coterie.panel.values import check_group
    from coterie.records import Records

    if off_policy is not None:
        if records:
            raise CoterieError(f"--off-policy judges a log, not records; leave {records} out")
        judge_log(off_policy, router, willingness_to_pay, since, overlap_only, to_json)
        return
    if not records:
        raise CoterieError("name a folder of RECORDS, or a gateway's log with --off-policy")
    check_group(group_by)
    _check_report(to_report, records, to_json)
    entrants, default = make_entrants(routers, policies, encoder, extractor(extract))
    make = next(entrant.make_router for entrant in entrants if entrant.name == default)
    entrants += composition_entrants(compositions, default, make, extractor(extract))
    known = Records.read(records)
    asked = {"transfer": transfer, "cold_start": cold_start, "robustness": robustness}
    if is_pairwise(known) and not keep:
        needless = {
            "policies": policies,
            "compositions": compositions,
            "group_by": group_by,
            "report": to_report,
            **asked,
        }
        _refuse([name for name, value in needless.items() if value])
        _judge_battles(known, routers, encoder, folds, seed, jobs, to_json)
        return
    with _progress() as report:
        panel = judge(
            known,
            entrants,
            folds,
            seed,
            default=default,
            keep=[name.strip() for name in keep.split(",") if name.strip()],
            extract=extractor(extract),
            tolerant="all" in (routers.strip(), compositions.strip()),
            report=report,
            jobs=jobs,
        )
        more = _held_out(panel, entrants, [name for name, on in asked.items() if on], report)
        html = None if to_report is None else _report(panel, entrants, more.values(), report)
    document = panel.to_dict(group_by) | {name: each.to_dict() for name, each in more.items()}
    if to_report is not None and html is not None:
        replace_file(to_report, html)
    _write(document, to_json)
    if to_json == "-":
        return
    out = Console()
    show(panel, out, group_by)
    for each in more.values():
        each.show(out, panel.default)


def _refuse(options: Sequence[str]) -> None:
    """Raise CoterieError for options that judging battles has no use for."""
    from coterie.errors import CoterieError

    if options:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in options)
        raise CoterieError(
            f"{named}: every question compares two experts here, and rankings are judged; leave "
            "it out, or choose two experts with --keep"
        )


def _judge_battles(
    records: Records,
    routers: str,
    encoder: str,
    folds: int,
    seed: int,
    jobs: int,
    to_json: str | None,
) -> None:
    """Judge rankings on pairwise records; routers that rank nobody are named in a note."""
    from rich.console import Console

    from coterie.panel import judge_battles
    from coterie.panel.specs import ranking_entrants
    from coterie.panel.table import show_battles

    entrants = ranking_entrants(routers, encoder)
    with _progress() as report:
        panel = judge_battles(
            records, entrants, folds, seed, tolerant=True, report=report, jobs=jobs
        )
    _write(panel.to_dict(), to_json)
    if to_json != "-":
        show_battles(panel, Console())


def _write(document: dict[str, Any], to_json: str | None) -> None:
    """The JSON document to a file, to standard output ("-"), or nowhere."""
    from coterie.files import replace_file

    facts = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    if to_json == "-":
        print(facts)
    elif to_json is not None:
        replace_file(to_json, facts + "\n")


def _held_out(
    panel: Panel, entrants: Sequence[Entrant], wanted: Sequence[str], report: Report
) -> dict[str, HeldOut]:
    """What else is wanted, by its key in the JSON document."""
    from coterie.holdouts import transfer
    from coterie.newcomers import cold_start
    from coterie.perturbations import robustness

    judges: dict[str, Callable[..., HeldOut]]
    judges = {"transfer": transfer, "cold_start": cold_start, "robustness": robustness}
    return {name: judges[name](panel, entrants, report=report) for name in wanted}


def _check_report(report: str | None, records: str, to_json: str | None) -> None:
    """Raise CoterieError where a file would overwrite an input or the other, or is none."""
    from coterie.errors import CoterieError

    if to_json is not None:
        check_file(to_json, "--json", records)
    if report is None:
        return
    if report == "-":
        raise CoterieError(f"--report {report}: expected the name of a file")
    check_file(report, "--report", records)
    if to_json not in (None, "-") and Path(report).resolve() == Path(str(to_json)).resolve():
        raise CoterieError(f"{report} is the file of --json too; choose another --report")


def _report(
    panel: Panel, entrants: Sequence[Entrant], more: Iterable[HeldOut], report: Report
) -> str:
    """The page, with the default's learning curve where there is a default."""
    from coterie import panel_report
    from coterie.learning import halving_curve

    default = next((entrant for entrant in entrants if entrant.name == panel.default), None)
    learned = None if default is None else halving_curve(panel, default, report)
    return panel_report.render(panel, learned, more)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr over folds and routers; a line twice a minute where that is no terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    console = Console(stderr=True)
    shown = time.monotonic()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("baselines", total=None)

        def report(name: str, done: int, total: int) -> None:
            nonlocal shown
            bars.update(task, description=escape(name[:40]), completed=done, total=total)
            if not console.is_terminal and time.monotonic() - shown > 30:
                shown = time.monotonic()
                console.print(f"{done} of {total} fits, {name}", markup=False, highlight=False)

        yield report
