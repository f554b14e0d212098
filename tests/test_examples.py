"""The example package: a router from outside is found by its name, fitted, judged and served."""

import importlib
import importlib.metadata
import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_world import Project

from coterie import plugins
from coterie.routers.base import load_router
from coterie.testing import ROUTER_CHECKS, make_records

EXAMPLE = Path(__file__).parents[1] / "examples" / "my-router"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What an installer would write for the example, on the path, without a network."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    target = tmp_path / "site"
    facts = target / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    facts.mkdir(parents=True)
    header = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (facts / "METADATA").write_text(header)
    groups = project["entry-points"].items()
    lines = [f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in g.items()) for group, g in groups]
    (facts / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for module in EXAMPLE.glob("my_router.py"):
        (target / module.name).write_text(module.read_text())
    monkeypatch.syspath_prepend(str(target))
    yield target
    sys.modules.pop("my_router", None)
    importlib.invalidate_caches()


def test_the_package_says_what_it_holds() -> None:
    facts = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())
    assert facts["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"] == ["my_router.py"]
    assert facts["project"]["dependencies"] == ["coterie"]


def test_an_installed_router_is_found_by_its_name(installed: Path) -> None:
    assert "length" in plugins.names("routers")
    assert plugins.load("routers", "length").__module__ == "my_router"


def test_without_it_the_name_is_unknown() -> None:
    assert "length" not in plugins.names("routers")


@pytest.mark.parametrize("check", ROUTER_CHECKS)
def test_the_example_keeps_the_contract(check: Any, installed: Path) -> None:
    check(plugins.load("routers", "length"))


def test_the_command_line_fits_judges_and_reloads_it(installed: Path, tmp_path: Path) -> None:
    make_records(40).write(tmp_path / "records")
    project = Project(tmp_path)
    fitted = project.main("fit", "records", "-o", "router", "--router", "length")
    assert fitted.returncode == 0, fitted.stderr
    assert load_router(tmp_path / "router").name == "length"
    args = ("--routers", "length(parts=3)", "--folds", "2", "--json", "-")
    judged = project.main("evaluate", "records", *args)
    assert "length(parts=3)" in [row["name"] for row in json.loads(judged.stdout)["panel"]]


def test_the_examples_own_tests_pass(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    own = importlib.import_module("test_my_router")
    own.test_short_and_long_questions_go_to_different_experts()
    assert own.ROUTER_CHECKS is ROUTER_CHECKS
    del sys.modules["test_my_router"]
