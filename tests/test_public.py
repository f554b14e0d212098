"""The public surface is what ``__all__`` says: all of it resolves, nothing else leaks."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import coterie


@pytest.mark.parametrize("name", coterie.__all__)
def test_a_public_name_resolves(name: str) -> None:
    value = getattr(coterie, name)
    assert value is getattr(sys.modules[f"coterie.{coterie._HOME[name]}"], name)


def test_nothing_else_is_public() -> None:
    script = "import coterie; print(*(n for n in vars(coterie) if not n.startswith('_')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["annotations", "import_module", "TYPE_CHECKING", "Any"]
    assert set(coterie.__all__) == set(coterie._HOME)


def test_all_names_are_offered_for_completion_and_star() -> None:
    assert set(coterie.__all__) <= set(dir(coterie))
    names: dict[str, object] = {}
    exec("from coterie import *", names)
    assert set(names) - {"__builtins__"} == set(coterie.__all__)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(coterie.__file__).read_text())
    (block,) = (n for n in tree.body if isinstance(n, ast.If) and "CHECKING" in ast.unparse(n.test))
    seen = {
        alias.name: str(node.module).removeprefix("coterie.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == coterie._HOME


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'coterie' has no attribute 'Cotrie'"):
        _ = coterie.Cotrie


def test_the_list_is_sorted_and_without_repetition() -> None:
    assert len(coterie.__all__) == len(set(coterie.__all__))
    kinds = [[n for n in coterie.__all__ if n[0].isupper() == upper] for upper in (True, False)]
    assert all(names == sorted(names, key=lambda n: (not n.isupper(), n)) for names in kinds)
