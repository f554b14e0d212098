"""Importing costs CPU time on every start, so it has a budget."""

import json
import subprocess
import sys

IMPORT, HELP = 0.3, 0.5  # seconds of CPU time, the interpreter's own start included


def fastest(*args: str) -> float:
    """CPU seconds of the fastest of three runs of this Python with ``args``."""
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], capture_output=True,"
        " check=True); used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        " print(used.ru_utime + used.ru_stime)"
    )
    command = [sys.executable, "-c", script, sys.executable, *args]
    return min(float(subprocess.check_output(command)) for _ in range(3))


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a statement loads beyond the standard library and ours."""
    script = f"{statement}; import json, sys; print(json.dumps([*sys.modules]))"
    modules = json.loads(subprocess.check_output([sys.executable, "-c", script]))
    known = {*sys.stdlib_module_names, "coterie", "__main__", "sitecustomize"}
    return {name.partition(".")[0] for name in modules} - known - loaded_at_start()


def loaded_at_start() -> set[str]:
    """What this installation loads by itself, such as editable-install hooks."""
    script = "import json, sys; print(json.dumps([*sys.modules]))"
    modules = json.loads(subprocess.check_output([sys.executable, "-c", script]))
    return {name.partition(".")[0] for name in modules}


def test_importing_coterie_is_quick() -> None:
    assert fastest("-c", "import coterie") <= IMPORT


def test_importing_coterie_loads_at_most_numpy() -> None:
    assert loaded_by("import coterie") <= {"numpy"}


def test_the_values_need_numpy_alone() -> None:
    names = "Query, Call, Completion, Decision, Expert, single, recruit, Majority, replay, Skills"
    assert loaded_by(f"from coterie import {names}") == {"numpy"}


def test_the_help_is_quick() -> None:
    assert fastest("-m", "coterie.cli", "--help") <= HELP


def test_the_help_loads_no_numerics() -> None:
    assert not loaded_by("import coterie.cli") & {"numpy", "pyarrow", "plotly", "pydantic"}
