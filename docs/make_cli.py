"""Writes docs/cli.md from the command line's own help: ``make docs``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from coterie.cli import app

PAGE = Path(__file__).with_name("cli.md")
INTRODUCTION = """# The command line

What `coterie --help` and every command's `--help` say; `make docs` writes this page anew.

Exit codes: 0, all is done; 1, something failed and the last line on standard error says what and
what to do; 2, the command line itself is wrong; 130, interrupted. `coterie --debug COMMAND` adds
the traceback.
"""


def commands(group: Any = None, *above: str) -> Iterator[tuple[str, ...]]:
    """Every command, those of groups included, in the order in which the help lists them."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        yield (*above, name)
        if hasattr(command, "commands"):
            yield from commands(command, *above, name)


def help_of(*command: str) -> str:
    """What ``coterie COMMAND --help`` prints, at a fixed width."""
    arguments = [*command, "--help"]
    shown = CliRunner().invoke(app, arguments, prog_name="coterie", terminal_width=88)
    lines = [line.rstrip() for line in shown.stdout.strip().splitlines()]
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION, f"```\n{help_of()}\n```\n"]
    for names in commands():
        parts.append(f"## coterie {' '.join(names)}\n\n```\n{help_of(*names)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
