"""Imports point one way: a module may import only what is above it in this list."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import coterie

ROOT = Path(coterie.__file__).parent
ORDER = """
types errors files paging plugins answers folds questions dense columns native records merging
describing exports lint formats artifacts features layout trees vectors index agreement encoders
skills routers policies aggregators votes scorers thresholds gates compositions traces residency
experts pool settings config store caching drivers profiling aggregator_benchmark metrics evaluation
rasch panel learning views holdouts perturbations suggesting newcomers selection scaling synthetic
simulation deciding runs offpolicy gateway study figures page report panel_report demo console
testing cli
""".split()  # noqa: SIM905 (a list of this length is better read as text)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


PATHS = {module_of(p): p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py"}


def at_import_time(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports that run when the module does: not those in functions or for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from at_import_time(node)


def ours(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """Modules of ours that this statement imports, without the package's name."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        base = node.module or ""
        names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
    inside = (name.removeprefix("coterie.") for name in names if name.startswith("coterie."))
    return (name for name in inside if name in PATHS)


def imports(source: str) -> set[str]:
    return {name for node in at_import_time(ast.parse(source)) for name in ours(node)}


GRAPH = {module: imports(path.read_text()) for module, path in PATHS.items()}


def layer(module: str) -> int:
    return ORDER.index(module.partition(".")[0])


def test_every_module_has_its_place() -> None:
    assert {module.partition(".")[0] for module in PATHS} <= set(ORDER)
    assert len(ORDER) == len(set(ORDER))


@pytest.mark.parametrize("module", GRAPH)
def test_no_import_points_forward(module: str) -> None:
    forward = [name for name in GRAPH[module] if layer(name) > layer(module)]
    assert forward == []


def test_there_are_no_cycles() -> None:
    assert len(list(TopologicalSorter(GRAPH).static_order())) == len(PATHS)


def test_the_graph_is_read_from_the_sources() -> None:
    assert {"types", "store", "drivers.conversation"} <= GRAPH["drivers.batch"]
    assert GRAPH["types"] == GRAPH["errors"] == set()
    source = """
from typing import TYPE_CHECKING
from coterie import pool
if TYPE_CHECKING:
    from coterie import records
try:
    import coterie.store
except ImportError:
    pass
def later():
    from coterie import config
class Now:
    from coterie.errors import CoterieError
"""
    assert imports(source) == {"pool", "store", "errors"}
