"""Commands on records: import, describe, lint, merge, export, suggest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.base import JsonOption, SeedOption, app, show
from coterie.errors import CoterieError

if TYPE_CHECKING:
    from coterie.lint import Finding
    from coterie.records import Records

records_app = typer.Typer(
    help="Outcomes of models on questions: import, inspect, check, merge, export.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(records_app, name="records")

FolderArgument = Annotated[Path, typer.Argument(help="Folder of records.", metavar="FOLDER")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder for the records.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="Exit with 1 on any serious finding.")]
MapOption = Annotated[
    list[str] | None,
    typer.Option(help="FIELD=COLUMN, where a table names its columns otherwise; repeat it."),
]


@records_app.command("import")
def import_records(
    source: Annotated[Path, typer.Argument(help="File or folder with outcomes of models.")],
    output: OutputOption,
    format: Annotated[
        str | None, typer.Option(help="What SOURCE is; by default it is detected.")
    ] = None,
    map: MapOption = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse on any serious finding of lint.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Read outcomes in any known format, check them, and write them as a folder of records.

    What lint finds is printed on every import, with questions that leak across the source's own
    split. With --strict nothing is written where a finding is serious: misaligned, leak,
    duplicates, no text, constant experts.

    Example: coterie records import results.csv -o records --map text=question
    """
    from coterie import formats
    from coterie.lint import lint

    columns = columns_of(map or ())
    name = format or formats.detect(source)
    records = formats.read_records(source, name, columns or None)
    parts = formats.read_split(source, name, columns or None)
    findings = lint(records, [parts.get(query.id) for query in records.queries])
    refused = strict and serious(findings)
    if not refused:
        records.write(output)
    facts = {
        "schema": 1,
        "source": str(source),
        "format": name,
        "queries": len(records),
        "experts": list(records.experts),
        "observed": observed(records),
        "findings": [_plain(finding) for finding in findings],
        "path": None if refused else str(output),
    }
    read = f"{source}: {name}, {len(records)} queries, {len(records.experts)} experts"
    lines = [read, *_finding_lines(findings)]
    if not refused:
        lines.append(f"records: {output}; next: coterie records describe {output}")
    show(facts, as_json, "\n".join(lines))
    if refused:
        raise CoterieError(f"--strict refuses {', '.join(refused)}; nothing is written")


@records_app.command()
def describe(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """Show size and density, every expert, every category, and what routing could win.

    Example: coterie records describe records --json
    """
    import json

    from coterie.describing import describe as described
    from coterie.records import Records

    facts = described(Records.read(folder, texts=False))
    if as_json:
        print(json.dumps(facts, indent=1, ensure_ascii=False, default=str))
    else:
        _show_description(facts)


@records_app.command("lint")
def lint_records(
    folder: FolderArgument,
    split: Annotated[
        Path | None,
        typer.Option(help="File with the split of each question: a table with id and split."),
    ] = None,
    map: MapOption = None,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check records for what makes judging routers on them misleading.

    With --split also questions that stand, the same or nearly, in several splits; any format that
    marks a split will do. With --strict serious findings exit with 1: misaligned, leak, duplicates,
    no text, constant experts.

    Example: coterie records lint records --split folds.csv --strict
    """
    from coterie.lint import lint
    from coterie.records import Records

    columns = columns_of(map or ())
    if columns and split is None:
        raise CoterieError("--map names columns of the file of --split; give that too")
    records = Records.read(folder, texts=False)
    parts = None if split is None else _split_of(records, split, columns)
    findings = lint(records, parts)
    facts = {"schema": 1, "findings": [_plain(finding) for finding in findings]}
    show(facts, as_json, "\n".join(_finding_lines(findings)))
    if strict and (refused := serious(findings)):
        raise CoterieError(f"{folder}: --strict refuses {', '.join(refused)}")


@records_app.command()
def merge(
    folders: Annotated[list[Path], typer.Argument(help="Folders of records.", metavar="FOLDER...")],
    output: OutputOption,
    as_json: JsonOption = False,
) -> None:
    """Join records on query id: experts and queries are united, open cells filled.

    Two folders that say different things of one query, expert or cell are an error that names both.

    Example: coterie records merge first second -o both
    """
    from coterie.merging import merge as merged
    from coterie.records import Records

    records = merged([Records.read(folder) for folder in folders], [str(f) for f in folders])
    records.write(output)
    facts = {
        "schema": 1,
        "queries": len(records),
        "experts": list(records.experts),
        "observed": observed(records),
        "path": str(output),
    }
    shape = f"{len(records)} queries, {len(records.experts)} experts"
    show(facts, as_json, f"{shape}, {observed(records)} cells: {output}")


@records_app.command()
def export(
    folder: FolderArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    format: Annotated[
        str | None,
        typer.Option(help="csv, parquet (wide), jsonl or llmrouter (long); default: the ending."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write records as one file for other programs.

    Example: coterie records export records -o records.csv
    """
    from coterie.exports import export as exported
    from coterie.records import Records

    records = Records.read(folder)
    name = exported(records, output, format)
    facts = {
        "schema": 1,
        "format": name,
        "queries": len(records),
        "experts": len(records.experts),
        "path": str(output),
    }
    show(
        facts, as_json, f"{name}, {len(records)} queries, {len(records.experts)} experts: {output}"
    )


@records_app.command()
def suggest(
    folder: FolderArgument,
    size: Annotated[int, typer.Option(min=1, help="How many questions.")] = 50,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File for the questions; without it they are printed."),
    ] = None,
    encoder: Annotated[str, typer.Option(help="Encoder whose similarity counts.")] = "static",
    emphasis: Annotated[
        float, typer.Option(min=0.0, help="Extra weight of questions on which experts differ.")
    ] = 0.0,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Choose the questions to label for a new expert: few that stand for all.

    What is written is JSONL for 'coterie profile', the most useful question first.

    Example: coterie records suggest records --size 50 -o questions.jsonl
    """
    from rich.console import Console

    from coterie.files import replace_file
    from coterie.records import Records
    from coterie.suggesting import suggest as suggested

    if output is not None:
        _check_apart(output, folder)
    records = Records.read(folder, texts=False)
    found = suggested(records, size, seed, encoder=encoder, emphasis=emphasis)
    lines = found.jsonl(records)
    if output is not None:
        replace_file(output, lines)
    if as_json:
        path = None if output is None else str(output)
        show(found.to_dict() | {"path": path}, True, "")
    elif output is None:
        print(lines, end="")
    else:
        Console(highlight=False).print(found.table())
        print(f"coverage {found.coverage:.3f}, at least {found.guarantee:.0%} of the best possible")
        print(f"questions: {output}; next: coterie profile POOL {output} -o RECORDS")


def _check_apart(output: Path, folder: Path) -> None:
    """Raise CoterieError where the output is a folder or lies in that of the records."""
    if output.is_dir():
        raise CoterieError(f"{output} is a folder; --output is a file for the questions")
    if output.resolve().is_relative_to(folder.resolve()):
        raise CoterieError(f"{output} lies in the folder of the records; choose another --output")


def columns_of(pairs: Sequence[str]) -> dict[str, str]:
    """``text=question`` and so on as a mapping; raises CoterieError for anything else."""
    columns: dict[str, str] = {}
    for pair in pairs:
        field, equals, column = pair.partition("=")
        if not (field and equals and column):
            raise CoterieError(f"--map {pair!r}: expected FIELD=COLUMN, for example text=question")
        if field in columns:
            raise CoterieError(f"--map {pair!r}: {field!r} is already {columns[field]!r}")
        columns[field] = column
    return columns


def serious(findings: Sequence[Finding]) -> list[str]:
    """The checks whose findings forbid to trust results on the records."""
    from coterie.lint import SERIOUS

    return [finding.check for finding in findings if finding.check in SERIOUS]


def _split_of(records: Records, path: Path, columns: dict[str, str]) -> list[str | None]:
    """The split of each question, None where the file says nothing of it.

    Raises CoterieError where the file marks no split, or those of other questions only.
    """
    from coterie.formats import read_split

    parts = read_split(path, columns=columns or None)
    if not parts:
        hint = "expected a table with the columns id and split; --map split=COLUMN names another"
        raise CoterieError(f"{path}: marks no split; {hint}")
    found = [parts.get(query.id) for query in records.queries]
    if not any(found):
        some = ", ".join(repr(id) for id in list(parts)[:3])
        raise CoterieError(f"{path}: no question of the records is in it; its ids are {some}, ...")
    return found


def observed(records: Records) -> int:
    """How many cells have a score."""
    return int(records.observed.sum())


def _plain(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "message": finding.message,
        "count": finding.count,
        "examples": list(finding.examples),
    }


def _finding_lines(findings: Sequence[Finding]) -> list[str]:
    """One line a finding, with what it was found in."""
    if not findings:
        return ["lint: nothing found"]
    lines = []
    for finding in findings:
        shown = f" For example: {', '.join(finding.examples)}" if finding.examples else ""
        lines.append(f"lint: {finding.check}: {finding.message}{shown}")
    return lines


def _show_description(facts: dict[str, Any]) -> None:
    """Three tables on standard output."""
    from rich.console import Console
    from rich.table import Table

    out = Console(highlight=False)
    experts = Table("expert", "queries", "score", "cost")
    for row in facts["per_expert"]:
        experts.add_row(
            row["expert"], str(row["queries"]), _short(row["score"]), _short(row["cost"])
        )
    categories = Table("category", "queries", "random", "best single", "oracle", "which")
    categories.columns[-1].overflow = "fold"
    for row in facts["per_category"]:
        name, queries, best = row["category"] or "-", str(row["queries"]), row["best_single"]
        numbers = _short(row["random"]), _short(best["quality"])
        categories.add_row(name, queries, *numbers, _short(row["oracle"]), best["expert"])
    size = f"{facts['queries']} queries, {facts['experts']} experts"
    out.print(f"{size}, {facts['observed']} cells ({facts['density']:.1%})", soft_wrap=True)
    for table in (_figures_table(facts["figures"]), experts, categories):
        out.print(table)


def _figures_table(figures: dict[str, Any]) -> Any:
    """Figures on all that was observed and, where that differs, on the complete rows."""
    from rich.table import Table

    shown = {"all observed": figures["observed"]}
    if figures["complete"] != figures["observed"]:
        shown["complete rows"] = figures["complete"]
    kept = {name: values for name, values in shown.items() if values}
    table = Table("mean score", *kept)
    for key in ("queries", "random", "best_single", "category_best", "oracle", "headroom"):
        table.add_row(key.replace("_", " "), *(_figure(values[key]) for values in kept.values()))
    for key in ("all_right", "all_wrong"):
        label = key.replace("_", " ")
        table.add_row(f"share {label}", *(_figure(values[key]) for values in kept.values()))
    return table


def _figure(value: Any) -> str:
    if isinstance(value, dict):
        return f"{_short(value['quality'])} ({value['expert']})"
    return str(value) if isinstance(value, int) else _short(value)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
