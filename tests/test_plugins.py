import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coterie import plugins
from coterie.errors import PluginError
from coterie.routers.neighbors import KNN


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory of one's own, forgotten by the importer afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_registered_name_gives_the_object() -> None:
    assert plugins.load("routers", "knn") is KNN
    assert plugins.names("routers") == sorted(plugins.names("routers"))


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_everything_we_register_can_be_loaded(kind: str) -> None:
    assert plugins.names(kind)
    assert all(callable(plugins.load(kind, name)) for name in plugins.names(kind))


def test_a_misspelt_name_brings_the_nearest_one() -> None:
    with pytest.raises(PluginError, match="no router called 'knnn'; did you mean 'knn'"):
        plugins.load("routers", "knnn")


def test_a_foreign_name_brings_all_names() -> None:
    known = "budget, certified, .*, utility$"
    with pytest.raises(PluginError, match=f"no policy called 'zzz'; there are {known}"):
        plugins.load("policies", "zzz")


def test_module_and_attribute_are_imported_from_where_the_user_is(here: Path) -> None:
    (here / "my_routers.py").write_text("class Mine: pass\n")
    mine = plugins.load("routers", "my_routers:Mine", allow_import=True)
    assert mine.__name__ == "Mine"


def test_module_and_attribute_are_refused_where_nobody_typed_them(here: Path) -> None:
    (here / "my_trap.py").write_text("raise SystemExit('imported')\n")
    with pytest.raises(PluginError, match="only from a local user"):
        plugins.load("routers", "my_trap:Mine")
    assert "my_trap" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Mine", "there is no module 'no_such_module'"),
        ("json.nothing:Mine", "there is no module 'json.nothing'"),
        ("json:Mine", "module 'json' has no 'Mine'"),
        ("json:", "module 'json' has no ''"),
        (":Mine", "expected module:Attr"),
        (".relative:Mine", "expected module:Attr"),
    ],
)
def test_an_import_that_leads_nowhere_says_why(name: str, message: str, here: Path) -> None:
    with pytest.raises(PluginError, match=message):
        plugins.load("routers", name, allow_import=True)


def test_a_module_that_lacks_something_itself_keeps_its_own_error(here: Path) -> None:
    (here / "my_broken.py").write_text("import no_such_dependency\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        plugins.load("routers", "my_broken:Mine", allow_import=True)
