"""Commands on records: import, describe, lint, merge, export, suggest."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.base import JsonOption, SeedOption, app, check_file, check_records, show
from coterie.errors import CoterieError

if TYPE_CHECKING:
    from coterie.formats.base import Unmapped
    from coterie.lint import Finding
    from coterie.records import Records

NAMED = 10  # experts or columns named in one line
records_app = typer.Typer(
    help="Outcomes of models on questions: import, inspect, check, merge, export.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(records_app, name="records")

FolderArgument = Annotated[Path, typer.Argument(help="Folder of records.", metavar="FOLDER")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder for the records.")]
ReplaceOption = Annotated[
    bool, typer.Option("--replace", help="Replace the records that --output holds.")
]
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
    max_score: Annotated[
        float | None,
        typer.Option(help="Best possible score, such as 100: scores are divided by it."),
    ] = None,
    replace: ReplaceOption = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse on any serious finding of lint.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Read outcomes in any known format, check them, and write them as a folder of records.

    Who the experts are is printed, and which columns were left out, where a table has its own.
    What lint finds is printed on every import, with questions that leak across the source's own
    split. With --strict nothing is written where a finding is serious: misaligned, leak,
    duplicates, no text, constant experts.

    Example: coterie records import results.csv -o imported --map text=question
    """
    from coterie import formats
    from coterie.lint import lint

    columns = columns_of(map or ()) | ({} if max_score is None else {"max_score": f"{max_score!r}"})
    check_records(output, replace, source)
    name = format or formats.detect(source)
    records = formats.read_records(source, name, columns or None)
    parts = formats.read_split(source, name, columns or None)
    unmapped = formats.read_unmapped(source, name, columns or None)
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
        "columns_left_out": list(unmapped.left_out),
        "observed": observed(records),
        "findings": [_plain(finding) for finding in findings],
        "path": None if refused else str(output),
    }
    read = f"{source}: {name}, {len(records)} queries, {len(records.experts)} experts"
    lines = [read, *_table_lines(records, unmapped), *_finding_lines(findings)]
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
    replace: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Join records on query id: experts and queries are united, open cells filled.

    Two folders that say different things of one query, expert or cell are an error that names both.

    Example: coterie records merge first second -o both
    """
    from coterie.merging import merge as merged
    from coterie.records import Records

    check_records(output, replace, *folders)
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

    check_file(output, "--output", folder)
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
        check_file(output, "--output", folder)
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


def _table_lines(records: Records, unmapped: Unmapped) -> list[str]:
    """Who the experts are, and what of the table went another way than it may have been meant."""
    lines = [f"experts: {_some(records.experts)}"]
    if unmapped.guessed:
        hint = "--map 'scores=a,b' says which are scores"
        lines.append(f"every column without a usual name counts as an expert; {hint}")
    if unmapped.left_out:
        hint = "--map FIELD=COLUMN says what one holds"
        lines.append(f"columns left out: {_some(unmapped.left_out)}; {hint}")
    return lines


def _some(names: Sequence[str]) -> str:
    """The first ten, and how many more there are."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _finding_lines(findings: Sequence[Finding]) -> list[str]:
    """One line a finding, with some of what it was found in, unless the message lists it."""
    lines = []
    for finding in findings:
        told = any(mark.join(finding.examples) in finding.message for mark in (", ", "; "))
        shown = "" if told else f" For example: {_first(finding.examples)}"
        lines.append(f"lint: {finding.check}: {finding.message}{shown}")
    return lines or ["lint: nothing found"]


def _first(examples: Sequence[str]) -> str:
    """As many as fit into a hundred characters, and one at least."""
    ends = accumulate(len(example) + 2 for example in examples)
    return ", ".join(examples[: max(1, sum(end <= 102 for end in ends))])


def _show_description(facts: dict[str, Any]) -> None:
    """Three tables on standard output."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = Console(highlight=False)
    experts = Table("expert", "queries", "score", "cost")
    for row in facts["per_expert"]:
        numbers = _short(row["score"]), _short(row["cost"])
        experts.add_row(Text(row["expert"]), str(row["queries"]), *numbers)
    size = f"{facts['queries']} queries, {facts['experts']} experts"
    out.print(f"{size}, {facts['observed']} cells ({facts['density']:.1%})", soft_wrap=True)
    for table in (_figures_table(facts["figures"]), experts, _category_table(facts)):
        out.print(table)
    if facts["figures"]["complete"] != facts["figures"]["observed"]:
        out.print(UNLIKE, soft_wrap=True)


UNLIKE = (
    "Not every expert answered every question. Means over different questions do not compare: in "
    "'all observed' and in categories marked * (no question there has every expert's score) the "
    "best single may stand above the oracle. Other categories count complete rows only."
)


def _category_table(facts: dict[str, Any]) -> Any:
    """Categories on their complete rows; on all that was observed, with a star, without any."""
    from rich.table import Table
    from rich.text import Text

    table = Table("category", "queries", "random", "best single", "oracle", "which")
    table.columns[-1].overflow = "fold"
    for row in facts["per_category"]:
        shown, mark = row["complete"] or row, "" if row["complete"] else " *"
        best, queries = shown["best_single"], f"{shown['queries']}{mark}"
        numbers = (_short(v) for v in (shown["random"], best["quality"], shown["oracle"]))
        table.add_row(Text(row["category"] or "-"), queries, *numbers, Text(best["expert"]))
    return table


def _figures_table(figures: dict[str, Any]) -> Any:
    """Figures on all that was observed and, where that differs, on the complete rows."""
    from rich.table import Table
    from rich.text import Text

    shown = {"all observed": figures["observed"]}
    if figures["complete"] != figures["observed"]:
        shown["complete rows"] = figures["complete"]
    kept = {name: values for name, values in shown.items() if values}
    table = Table("mean score", *kept)
    for key in ("queries", "random", "best_single", "category_best", "oracle", "headroom"):
        cells = (Text(_figure(values[key])) for values in kept.values())
        table.add_row(key.replace("_", " "), *cells)
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
