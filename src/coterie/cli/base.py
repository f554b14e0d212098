"""What all commands share: the application, common options, printing, and how errors end."""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from coterie import __version__
from coterie.errors import CoterieError

INTERRUPTED = 130  # exit code after Ctrl-C

app = typer.Typer(
    name="coterie",
    help="Many language models answer as one.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_debug = False
_kept = ""  # the journal of the command that runs, for what Ctrl-C says

PoolArgument = Annotated[
    str,
    typer.Argument(help="Pool file (TOML), or 'embedded' for the pool that ships with Coterie."),
]
QuestionsArgument = Annotated[
    str, typer.Argument(help="Questions, one JSON object a line; '-' reads standard input.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of everything drawn at random.")]
AnnotatorOption = Annotated[
    str | None,
    typer.Option(help="Expert that names each question's skills (five samples a question)."),
]


def print_version(wanted: bool) -> None:
    """Print the version and end, whether or not a command is given."""
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=print_version, is_eager=True),
    ] = False,
) -> None:
    """Many language models answer as one."""
    global _debug
    _debug = debug


def keep(journal: str) -> None:
    """Remember the journal that Ctrl-C is to mention."""
    global _kept
    _kept = journal


def show(facts: dict[str, Any], as_json: bool, text: str) -> None:
    """Print the text for people or the facts as JSON."""
    print(json.dumps(facts, indent=1, ensure_ascii=False) if as_json else text)


def check_file(output: str | Path, option: str, *inputs: str | Path) -> None:
    """Raise CoterieError where a file to write is a folder, an input, or lies in one's folder.

    ``-``, standard output, is neither. ``option`` is how the command line names the file.
    """
    if str(output) == "-":
        return
    if Path(output).is_dir():
        raise CoterieError(f"{output} is a folder; {option} is the name of a file")
    _check_apart(output, option, inputs)


def check_records(output: Path, replace: bool, *inputs: Path) -> None:
    """Raise CoterieError where records would replace an input, or others without ``--replace``."""
    _check_apart(output, "--output", inputs)
    if _holds_records(output) and not replace:
        hint = "--replace replaces them, another --output keeps them"
        raise CoterieError(f"{output} holds records already; {hint}")


def check_router(output: Path, records: Path) -> None:
    """Raise CoterieError where a router's files would be mixed with those of records."""
    _check_apart(output, "--output", (records,))
    if _holds_records(output):
        raise CoterieError(f"{output} holds records; choose another --output for the router")


def check_profile(output: Path, journal: str | Path) -> None:
    """Raise CoterieError where the folder holds records that no run with this journal made."""
    if _holds_records(output) and not Path(journal).exists():
        message = f"{output} holds records of another origin (there is no {journal})"
        raise CoterieError(f"{message}; move it away or choose another --output")


def _holds_records(folder: Path) -> bool:
    return (folder / "records.parquet").exists()


def _check_apart(output: str | Path, option: str, inputs: Iterable[str | Path]) -> None:
    target = Path(os.path.realpath(output))
    for path in inputs:
        source = Path(os.path.realpath(path))
        if target.is_relative_to(source):
            where = "is one of the inputs" if target == source else f"lies in the input {path}"
            raise CoterieError(f"{output} {where}; choose another {option}")


def main() -> None:
    """Entry point: errors of ours are one line on stderr and exit code 1, without a traceback."""
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (open as long as this process)
    if isinstance(sys.stdout, io.TextIOWrapper):  # JSON is UTF-8, whatever the terminal's language
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        try:
            app(prog_name="coterie")
        finally:
            sys.stdout.flush()  # a full disk shows here, while it can still be told
    except SystemExit as end:
        if end.code == INTERRUPTED:
            kept = f"; {_kept} keeps what was done, run it again to go on" if _kept else ""
            _fail(f"interrupted{kept}", INTERRUPTED)
        raise
    except CoterieError as error:
        _fail(f"error: {error}", 1)
    except BrokenPipeError:
        _drop_output()
        sys.exit(1)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except OSError as error:
        _drop_output()
        _fail(f"error: {error}", 1)
    except Exception as error:  # not foreseen: one line all the same
        _fail(f"error: unexpected {type(error).__name__}: {error}; --debug shows where", 1)


def _drop_output() -> None:
    """Send what is still unwritten nowhere, or Python tries again on exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def _fail(message: str, code: int) -> NoReturn:
    if _debug:
        traceback.print_exc()
    print(message, file=sys.stderr)
    sys.exit(code)
